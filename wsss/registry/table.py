"""The ledger and the gate's questions as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.table import Table

from wsss.registry.gate import Look
from wsss.registry.promotion import CANDIDATE_MIOU, CHALLENGE, CHAMPION_MIOU, PromotionRecord

_PASSED = {True: "yes", False: "NO", None: ""}


def as_table(records: Sequence[PromotionRecord]) -> Table:
    """A row for each record: what asked, the champion (from > to), mIoU in percent of both."""
    table = Table(title=records[0].model, box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("", "when", "who", "asked", "champion", "mIoU", "what and why"):
        table.add_column(name, no_wrap=name == "when")
    for record in records:
        mious = [record.metrics.get(metric) for metric in (CANDIDATE_MIOU, CHAMPION_MIOU)]
        kind = f"challenge (version {record.challenger})" if record.kind == CHALLENGE else record.kind
        table.add_row(
            str(record.number or ""),
            record.time.strftime("%Y-%m-%d %H:%M"),
            record.who.partition("@")[0],
            record.candidate.removeprefix(f"{record.model}-"),
            f"{record.from_ or '-'} > {record.to}" if record.promoted else record.to or "-",
            " / ".join("-" if miou is None else f"{100 * miou:.1f}" for miou in mious),
            f"{kind}: {record.why}" if record.why else kind,
        )
    return table


def verdict_table(look: Look) -> Table:
    """What the gate asked: a row for each question."""
    record = look.record
    champion = f"champion (version {record.from_})" if record.from_ else "no champion"
    table = Table(title=f"{record.asked} for {record.model}", box=SIMPLE, padding=(0, 1, 0, 0))
    for name in ("", "candidate", champion, "asked", "given"):
        table.add_column(name)
    for check in look.checks:
        table.add_row(check.what, check.candidate, check.champion, check.asked, _PASSED[check.passed])
    return table


def looks_sentence(look: Look) -> str:
    """How often the evaluation set has been looked at, and what that means; empty where nobody looked."""
    record = look.record
    if not record.looks:
        return ""
    confidence = record.rule["confidence"]
    text = f"look {record.looks} of the gate at the evaluation set {record.dataset}/{record.split} {record.masks[:12]}"
    if record.looks > 1:
        text += (
            f": of {record.looks} candidates that are no better than their champions, one passes by chance with a "
            f"probability of up to {1 - confidence**record.looks:.0%}"
        )
    return f"{text}; {look.changed}" if look.changed else text
