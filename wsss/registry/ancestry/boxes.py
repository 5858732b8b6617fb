"""What a lineage is made of: things in layers, each with what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wsss.tracking.query import RunRecord

RUN, MODEL, LABELS, DATA = "run", "model", "labels", "data"
"""What has a lineage, as an address calls it."""


@dataclass(frozen=True)
class Box:
    """Something in a lineage.

    Attributes:
        kind: one of `RUN`, `MODEL`, `LABELS`, `DATA`, which `name` is known by; or "step", "settings", "code", "act".
        title: for people.
        name: a run's id, "NAME/VERSION", or an md5; empty for what has no lineage of its own.
        facts: what is known of it, by name.
        folded: more of it, that few ask for.
        runs: those that it speaks of, by what they are called: "computed by", "reused by".
    """

    kind: str
    title: str
    name: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    folded: Mapping[str, str] = field(default_factory=dict)
    runs: Mapping[str, Sequence[RunRecord]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """Things that stand side by side.

    Attributes:
        title: for people.
        boxes: what is in it.
        older: where there is more of it, older than this, in milliseconds since 1970; else None.
    """

    title: str
    boxes: Sequence[Box]
    older: int | None = None


@dataclass(frozen=True)
class Ancestry:
    """A lineage.

    Attributes:
        subject: whose.
        back: what it was made from, nearest first.
        forward: what stands on it, nearest first.
    """

    subject: Box
    back: Sequence[Layer]
    forward: Sequence[Layer]


def run_box(run: RunRecord, what: str = "") -> Box:
    """A method's run, or what is drawn of it."""
    of = f"{run.method}, {run.preset}, {run.dataset}, rng {run.rng}"
    facts = {"state": run.status.lower(), "begun": f"{run.start:%Y-%m-%d %H:%M} UTC"}
    if run.supervision:
        facts["supervision beyond tags"] = ", ".join(sorted(run.supervision))
    return Box(RUN, f"{what} of {of}" if what else of, run.id, facts)
