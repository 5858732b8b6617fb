"""The model card: what a model is, what it has seen, how good it is, and what it is not for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wsss.data import Dataset
from wsss.run.plan import Plan
from wsss.scores import Evaluation, metric_names
from wsss.scores.bootstrap import bootstrap
from wsss.serving.learned import Cost
from wsss.serving.networks import OF_GRADIENTS, SEGMENTER
from wsss.serving.segmenter import Inference
from wsss.tracking import names

_DRAWS = 200
"""Of the bootstrap, for each class."""
_VERSIONS = {
    "Data, DVC version": names.DATA_MD5,
    "Label maps, DVC version": names.LABELS_MD5,
    "Code, commit": names.GIT_COMMIT,
    "Other changes in the code": names.GIT_DIRTY,
    "Fingerprint": names.FINGERPRINT,
    "rng": names.RNG,
}
"""What of a run's tags stands in the card."""


def model_card(
    plan: Plan,
    dataset: Dataset,
    run_id: str,
    metrics: Mapping[str, float],
    inference: Inference | None = None,
    *,
    cost: Cost | None = None,
    evaluations: Sequence[Evaluation] = (),
    lineage: Mapping[str, str] | None = None,
    kind: str = SEGMENTER,
) -> str:
    """A model card in Markdown.

    Args:
        plan: how the model was made.
        dataset: what it was made from.
        run_id: of the MLflow run that made it, which has its settings.
        metrics: metrics by name; every "<split>/<what>/miou" becomes a row.
        inference: how the package predicts; by default at one scale.
        cost: what its scales and mirrored copies cost and gain.
        evaluations: of its predictions on dev and val, for the intervals of each class; without, the IoUs in `metrics`
            stand alone.
        lineage: the run's tags, of which the versions of data, labels and code are named.
        kind: the network, one of `wsss.serving.networks.NETWORKS`.
    """
    how, tags = inference or Inference(), lineage or {}
    noun, what, figures = _PRED if kind == SEGMENTER else _DIRECT
    versions = "".join(f"- {what}: `{tags[name]}`\n" for what, name in _VERSIONS.items() if tags.get(name))
    return _CARD.format(
        noun=noun,
        what=what,
        figures=figures.format(how=how),
        files=_NO_GRAPH if kind == OF_GRADIENTS else _GRAPH,
        method=plan.method,
        preset=plan.preset,
        run_id=run_id,
        dataset=dataset,
        classes=", ".join(dataset.classes.occurring),
        zero="0 is the background" if dataset.has_background else "never 0, as there is no background",
        mean=", background included" if dataset.has_background else "; there is no background",
        else_="background or mistaken for" if dataset.has_background else "taken for",
        pixels="" if how.pixels is None else f"- Before that, files are read so: {how.pixels}\n",
        sizes=", ".join(f"{len(ids)} in {split}" for split, ids in dataset.splits.items()),
        supervision=", ".join(["image-level tags", *sorted(plan.supervision)]),
        versions=versions,
        how=how,
        sides=_sides(how),
        cost=_cost(cost),
        metrics=_means(metrics) or "None: the dataset has no masks.",
        by_class=_by_class(dataset, metrics, evaluations, "pred" if kind == SEGMENTER else "direct"),
    )


def _sides(how: Inference) -> str:
    low, high = how.sides
    if how.sides == Inference.sides:
        return f"It is not known at what sizes it learned: images are taken as they are, up to {high} px."
    seen = f"{low} px" if low == high else f"{low} to {high} px"
    return f"The longer sides of its training images are {seen}; other images are brought to the nearer end first."


def _cost(cost: Cost | None) -> str:
    if cost is None:
        return ""
    (one, every), (before, after) = cost.seconds, cost.miou
    return (
        f"On {cost.images} images of dev, this takes {every / one:.1f} times as long as one scale without mirrored "
        f"copies, and changes the mean IoU from {before:.1%} to {after:.1%}.\n"
    )


def _means(metrics: Mapping[str, float]) -> str:
    end = f"/{metric_names.MIOU}"
    means = {key.removesuffix(end): value for key, value in metrics.items() if key.endswith(end)}
    rows = "\n".join(f"| {what} | {100 * value:.1f} |" for what, value in means.items())
    return f"| split/label maps | mIoU, % |\n| --- | ---: |\n{rows}" if rows else ""


def _by_class(dataset: Dataset, metrics: Mapping[str, float], evaluations: Sequence[Evaluation], what: str) -> str:
    """The IoU of each class on dev and val, in percent, with 95 % intervals over images where they can be drawn."""
    columns = {e.split: _with_intervals(e) for e in evaluations if e.split in ("dev", "val")}
    for split in ("dev", "val"):
        keys = [metric_names.metric(split, what, metric_names.IOU, name) for name in dataset.classes.occurring]
        if split not in columns and any(key in metrics for key in keys):
            columns[split] = [_percent(metrics.get(key, math.nan)) for key in keys]
    if not columns:
        return ""
    rows = [
        f"| {name} | {' | '.join(cells)} |"
        for name, *cells in zip(dataset.classes.occurring, *columns.values(), strict=True)
    ]
    head = f"| class | {' | '.join(f'{split}, IoU in %' for split in columns)} |"
    return "\n".join(["", head, f"| --- |{' ---: |' * len(columns)}", *rows, ""])


def _with_intervals(evaluation: Evaluation) -> list[str]:
    cells = []
    for index in evaluation.indices or range(len(evaluation.classes)):
        iou = evaluation.scores.iou[index]
        cell = _percent(float(iou))
        if not math.isnan(iou):
            low, high = bootstrap(evaluation.matrices, classes=[index], groups=evaluation.groups, samples=_DRAWS)
            cell += f" ({100 * low:.1f} to {100 * high:.1f})"
        cells.append(cell)
    return cells


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


_PRED = (
    "segmenter",
    "A semantic segmentation network trained with",
    """\
`cam` to `labels_crf` are label maps made with the tags, on which the
network was trained; `pred` is the network's prediction at several scales, `pred_crf` that with a CRF. This package
predicts: {how}. Where these are the scales of the run's settings and there is no CRF, its figure is that of `pred`.""",
)
_DIRECT = (
    "localizer",
    "A network that learned from tags and predicts without a segmentation network, trained with",
    """\
`direct` is what this package predicts, in
float32; `direct_crf` is the same after a CRF, which it is without. `pred` and `pred_crf` are the run's segmenter's.""",
)
"""What it is called, what it is, and what the figures are: of a segmenter, and of a localizer."""
_GRAPH = """\
`model.py` and
`artifacts/model.pt2` are the same for those who have only MLflow and PyTorch, without a CRF."""
_NO_GRAPH = """\
It labels by
gradients, which can't be exported: wsss alone loads it, `mlflow models serve` and `mlflow.pyfunc` do not."""
_CARD = """\
# {method.title} {noun} for {dataset.name}

{what} {method.title} ({method.citation}), preset `{preset}`; its settings are
those of run `{run_id}`. {method.summary}

- Classes: {classes}
- Data: `{dataset.name}`, images: {sizes}; sha256 `{dataset.digest}`
- Supervision: {supervision}; the tags come from: {dataset.tags_source}
{versions}- Input: RGB images, uint8 H x W x 3, any size. Output: label maps, uint8 H x W, {zero}
{pixels}
## How it predicts

{how}. {sides}
{cost}
## Figures

Mean IoU over the classes{mean}. {figures}

{metrics}
{by_class}
## Use and limits

Made for images like those it was trained on: the same classes, kind of camera and kind of scene. It tells only these
classes apart; anything else is {else_} one of them. Outlines were learnt without a single drawn
mask, unless the supervision says otherwise: expect mistakes on thin parts and between objects that always appear
together. Not for decisions about people, or where a mistake can hurt someone.

`model.json` and `model.safetensors` beside this card hold the network and its weights. {files}
"""
