"""What a search can make good: the metrics that the steps of a plan declare, where there are masks for them."""

from __future__ import annotations

from dataclasses import dataclass

from wsss.data import Dataset
from wsss.errors import UserError
from wsss.run.plan import Plan
from wsss.scores import Masks, metric_names
from wsss.scores.scored import SCORED

SPLIT = "dev"


@dataclass(frozen=True)
class Objective:
    """A metric that every trial gives.

    Attributes:
        metric: its name.
        step: the key of the step that gives it; of two that do, such as "train/loss", the last one.
        until: the stage after which it is known.
    """

    metric: str
    step: str
    until: str

    @property
    def mode(self) -> str:
        """A loss is made small ("min"), everything else large ("max")."""
        return metric_names.mode(self.metric)


def objectives(plan: Plan, dataset: Dataset) -> dict[str, Objective]:
    """The metrics that a run of the plan really gives and a search may look at, by name, in the order of the steps.

    These are the mean IoU on dev of what the steps give, where dev has masks, and what they declare in `Step.metrics`,
    all but that of val.
    """
    known: dict[str, Objective] = {}
    for planned in plan.steps:
        until = planned.stage
        metrics = [metric for metric in planned.step.metrics if not metric.startswith("val/")]
        if not dataset.splits.get(SPLIT):
            metrics = [metric for metric in metrics if not metric.startswith(f"{SPLIT}/")]
        scored = SCORED.get(planned.step.name) if planned.stage == "evaluate" else None
        if scored and SPLIT in scored.splits and Masks(dataset).ids(SPLIT):
            until = planned.inputs["maps"].partition(".")[0]
            metrics.append(metric_names.metric(SPLIT, scored.what, metric_names.MIOU))
        known |= {metric: Objective(metric, planned.key, until) for metric in metrics}
    return known


def choose_objective(plan: Plan, dataset: Dataset, name: str | None) -> Objective:
    """The objective of that name; by default the mean IoU on dev of the labels after the CRF, or of the last maps.

    Raises:
        UserError: no run gives it, it looks at val, or it needs masks on dev where there are none (names those that can
            be).
    """
    known = objectives(plan, dataset)
    allowed = f"with --objective it can have {', '.join(known)}" if known else "its steps give nothing else"
    scored = [
        planned.step.name for planned in plan.steps if planned.stage == "evaluate" and planned.step.name in SCORED
    ]
    if name is None:
        what = "labels_crf" if "labels_crf" in scored else scored[-1]
        name = metric_names.metric(SPLIT, what, metric_names.MIOU)
    if name in known:
        return known[name]
    split, _, rest = name.partition("/")
    of_masks = rest.partition("/")[0] in SCORED
    if split == "val" or (of_masks and split in dataset.splits and split != SPLIT):
        raise UserError(
            f"the objective {name} looks at {split}; a search may look at the masks of {SPLIT} alone: {allowed}"
        )
    if rest.partition("/")[0] in scored and not Masks(dataset).ids(SPLIT):
        raise UserError(
            f"dataset {dataset.name} has no masks for its split {SPLIT}, so no trial would know {name}; add masks for "
            f"a {SPLIT} list, or name another objective: {allowed}"
        )
    if split == SPLIT and not dataset.splits.get(SPLIT):
        raise UserError(f"no trial would know {name}, since {without_dev(dataset)}: {allowed}")
    raise UserError(f"unknown objective {name!r} of method {plan.method.name}: {allowed}")


def without_dev(dataset: Dataset) -> str:
    """What is said of a dataset without images in dev, and how to have some."""
    return (
        f"dataset {dataset.name} has no images there, as {SPLIT} is a part of the training images with masks; add it "
        f"with some masks, or with a list of ids for {SPLIT} (--dev-list)"
    )
