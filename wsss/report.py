"""What a finished run prints: its table, and what to try next."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from wsss.run import Outcome
from wsss.tracking import names
from wsss.tracking.query import runs

_ROWS = (
    ("cam", "train", "cam", "score maps of the classifier, best threshold on dev"),
    ("refined", "train", "labels", "label maps after refining, before the CRF"),
    ("labels", "train", "labels_crf", "label maps after the CRF: what the segmenter learns from"),
    ("labels", names.TRAIN_AND_DEV, "labels_crf", "the same over all masked training images, as published"),
    ("direct", "val", "direct_crf", "the localizer alone, tags unknown"),
    ("prediction", "val", "pred_crf", "the trained segmenter, tags unknown"),
)


def print_outcome(outcome: Outcome, *, method: str, preset: str, data: str, rng: int) -> None:
    """Print a run's figures, the bound's beside them where it was run, and what to try next."""
    table = Table("figure", "split", "mIoU", "what it is", title=f"{method}, preset {preset}, on {data} (rng {rng})")
    for label, split, what, meaning in _ROWS:
        value = outcome.metrics.get(names.metric(split, what, names.MIOU))
        if value is not None:
            table.add_row(label, split, f"{value:.1%}", meaning)
    bound = _bound(preset, data, rng)
    if bound is not None and method != "bound":
        table.add_row("bound", "val", f"{bound:.1%}", "the same segmenter trained on masks")
    if table.row_count:
        Console().print(table)
    print(f"run {outcome.run_id}" + (f", model {outcome.model}" if outcome.model else ""))
    print("\nNext:")
    print("  wsss compare                          the table of all runs")
    if outcome.model:
        print(f"  wsss promote {outcome.run_id}   make it the champion, if it is better on val")
        print(f"  wsss serve {outcome.model}            answer images with masks, on http://127.0.0.1:8000")


def _bound(preset: str, data: str, rng: int) -> float | None:
    """The bound's mIoU on val, of the newest run with the same preset, dataset and rng."""
    for record in runs(dataset=data, method="bound"):
        if record.preset == preset and record.rng == rng:
            return record.metrics.get(names.metric("val", "pred_crf", names.MIOU))
    return None
