"""What a finished run prints: its table, and what to try next."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from wsss.commands import command
from wsss.console import show
from wsss.run.method import Outcome
from wsss.run.preset import read_preset
from wsss.scores import metric_names
from wsss.scores.scored import SCORED, reported
from wsss.tables.catalogue import roles
from wsss.tracking.query import runs


def print_outcome(
    outcome: Outcome, *, method: str, preset: str, data: str, rng: int, offline: Path | None = None
) -> None:
    """Print a run's figures, the bound's beside them where it was run, and what to try next.

    Args:
        outcome: what the run left.
        method, preset, data, rng: what was run.
        offline: the folder of its record; None for a run in MLflow, which is asked for the bound.
    """
    table = Table("scored", "split", "mIoU", "what it is", title=f"{method}, preset {preset}, on {data} (rng {rng})")
    for scored in SCORED.values():
        for split in (*scored.reported, metric_names.TRAIN_AND_DEV):
            value = outcome.metrics.get(metric_names.metric(split, scored.what, metric_names.MIOU))
            if value is not None:
                table.add_row(scored.what, split, f"{value:.1%}", scored.meaning)
    bound = _bound(read_preset(preset).name, data, rng) if offline is None else None
    if bound is not None and roles().get(method) != "bound":
        table.add_row("bound", "val", f"{bound:.1%}", "the same segmenter trained on masks")
    if table.row_count:
        show(table)
    print(f"run {outcome.run_id}" + (f", model {outcome.model}" if outcome.model else ""))
    if outcome.model:
        print(
            "    it predicts as `pred` above, at the same scales and without the CRF of `pred_crf`; see its README.md"
        )
    print("\nNext:")
    if offline is not None:
        _suggest("the record as a few archives, where little may leave", "pack", str(offline), "--to", "DIR")
        _suggest("where MLflow is: bring the record in", "import", str(offline))
        return
    _suggest("the table of all runs", "compare")
    _suggest("pages that show where it fails and why, on http://127.0.0.1:8050", "dashboard")
    if outcome.model:
        _suggest("make it the champion, if the gate finds it better on val", "promote", outcome.run_id)
        _suggest("answer images with masks, on http://127.0.0.1:8000", "serve", outcome.model)


def _suggest(purpose: str, *arguments: str) -> None:
    print(f"  {command('wsss', *arguments)}\n      {purpose}")


def _bound(preset: str, data: str, rng: int) -> float | None:
    """The bound's mIoU on val, of the newest run with the same preset, dataset and rng."""
    split, what = [*reported()][-1]
    for record in runs(dataset=data):
        if roles().get(record.method) == "bound" and (record.preset, record.rng) == (preset, rng):
            return record.metrics.get(metric_names.metric(split, what, metric_names.MIOU))
    return None
