"""Ground-truth masks, confusion matrices, and every metric that comes from them."""

from wsss.scores.bootstrap import bootstrap
from wsss.scores.confusion import Scores, confusion
from wsss.scores.evaluation import Evaluation
from wsss.scores.masks import Masks
from wsss.scores.ranking import mean_average_precision
from wsss.scores.thresholds import ThresholdSweep, levels_of

__all__ = [
    "Evaluation",
    "Masks",
    "Scores",
    "ThresholdSweep",
    "bootstrap",
    "confusion",
    "levels_of",
    "mean_average_precision",
]
