"""What is reached: from what somebody still needs, along what refers to what. Everything else may go."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import NamedTuple


class Thing(NamedTuple):
    """Something that is kept.

    Attributes:
        kind: "version", "model", "run", "labels", "output", "cache" or "scratch".
        name: "NAME/3", "m-...", a run's id, an md5, or STEP/FINGERPRINT.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def reached(roots: Collection[Thing], references: Mapping[Thing, Collection[Thing]]) -> dict[Thing, Thing | None]:
    """Everything that can be reached, with what it was first reached from: None for a root.

    Args:
        roots: what is needed for itself.
        references: from a thing to those that it needs; circles are no harm.
    """
    found: dict[Thing, Thing | None] = dict.fromkeys(roots)
    waiting = deque(roots)
    while waiting:
        thing = waiting.popleft()
        for needed in references.get(thing, ()):
            if needed not in found:
                found[needed] = thing
                waiting.append(needed)
    return found


def chain(thing: Thing, found: Mapping[Thing, Thing | None]) -> list[Thing]:
    """A thing that is reached, what it was reached from, and so on to a root."""
    links = [thing]
    while (before := found[links[-1]]) is not None:
        links.append(before)
    return links
