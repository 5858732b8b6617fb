"""The model card: what a model is, what it has seen, how good it is, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping

from wsss.data import Dataset
from wsss.run.plan import Plan
from wsss.scores import metric_names


def model_card(plan: Plan, dataset: Dataset, run_id: str, metrics: Mapping[str, float]) -> str:
    """A model card in Markdown.

    Args:
        plan: how the model was made.
        dataset: what it was made from.
        run_id: of the MLflow run that made it, which has its settings.
        metrics: metrics by name; every "<split>/<what>/miou" becomes a row.
    """
    sizes = ", ".join(f"{len(ids)} in {split}" for split, ids in dataset.splits.items())
    end = f"/{metric_names.MIOU}"
    means = {key.removesuffix(end): value for key, value in metrics.items() if key.endswith(end)}
    rows = "\n".join(f"| {what} | {100 * value:.1f} |" for what, value in means.items())
    return _CARD.format(
        method=plan.method,
        preset=plan.preset,
        run_id=run_id,
        dataset=dataset,
        classes=", ".join(dataset.classes.names),
        sizes=sizes,
        supervision=", ".join(["image-level tags", *sorted(plan.supervision)]),
        metrics=f"| split/label maps | mIoU, % |\n| --- | ---: |\n{rows}"
        if rows
        else "None: the dataset has no masks.",
    )


_CARD = """\
# {method.title} segmenter for {dataset.name}

A semantic segmentation network trained with {method.title} ({method.citation}), preset `{preset}`; its settings are
those of run `{run_id}`. {method.summary}

- Classes: background, {classes}
- Data: `{dataset.name}`, images: {sizes}; sha256 `{dataset.digest}`
- Supervision: {supervision}; the tags come from: {dataset.tags_source}
- Input: float32 B x 3 x H x W, RGB in [0, 1], any size. Output: class probabilities, float32 B x (C + 1) x H x W

## Figures

Mean IoU over the classes, background included. `cam` to `labels_crf` are label maps made with the tags, on which the
network was trained; `pred` is the network's prediction at several scales, `pred_crf` that with a CRF. The packaged
model predicts at one scale and without a CRF, which is usually a little below `pred`.

{metrics}

## Use and limits

Made for images like those it was trained on: the same classes, kind of camera and kind of scene. It tells only these
classes apart; anything else is background or mistaken for one of them. Outlines were learnt without a single drawn
mask, unless the supervision says otherwise: expect mistakes on thin parts and between objects that always appear
together. Not for decisions about people, or where a mistake can hurt someone.

`model.json` and `model.safetensors` beside this card hold the network and its weights.
"""
