"""The fully supervised bound: the same segmentation network and recipe, trained on the ground-truth masks."""

from __future__ import annotations

from wsss.interface import Method
from wsss.stages.segment import SUPERVISED

METHOD = Method(
    name="bound",
    title="Fully supervised bound",
    year=2018,
    citation="Chen, Papandreou, Kokkinos, Murphy, Yuille: DeepLab, TPAMI 2018",
    summary="What the segmentation network reaches when it is trained on masks; the ceiling of every table.",
    stages={"segment": SUPERVISED},
    role="bound",
)
