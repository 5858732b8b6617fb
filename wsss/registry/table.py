"""The ledger as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from wsss.registry.ledger import CANDIDATE_MIOU, CHAMPION_MIOU, PromotionRecord


def as_table(records: Sequence[PromotionRecord]) -> Table:
    """A row for each record: the version that asked, the champion (from > to), mIoU in percent of both."""
    table = Table(title=records[0].model, box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("", "when", "who", "asked", "champion", "mIoU", "what and why"):
        table.add_column(name, no_wrap=name == "when")
    for record in records:
        mious = [record.metrics.get(metric) for metric in (CANDIDATE_MIOU, CHAMPION_MIOU)]
        table.add_row(
            str(record.number or ""),
            record.time.strftime("%Y-%m-%d %H:%M"),
            record.who.partition("@")[0],
            record.candidate,
            f"{record.from_ or '-'} > {record.to}" if record.promoted else record.to or "-",
            " / ".join("-" if miou is None else f"{100 * miou:.1f}" for miou in mious),
            f"{record.kind}: {record.why}" if record.why else record.kind,
        )
    return table
