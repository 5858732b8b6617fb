"""What of a method's outputs is scored, on which splits, and which of these stand in tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Scored:
    """An output that is scored against masks.

    Attributes:
        what: its name, in metrics, artifacts, panels and pages alike.
        splits: what it is scored on.
        reported: those of them that tables show, the most telling one last. Label maps are judged where they were made,
            predictions where none were.
        meaning: for people.
    """

    what: str
    splits: tuple[str, ...]
    reported: tuple[str, ...]
    meaning: str


SCORED = {
    scored.what: scored
    for scored in (
        Scored("cam", ("train", "dev"), ("train",), "score maps of the localizer, best threshold on dev"),
        Scored("labels", ("train", "dev"), ("train",), "label maps after refining, before the CRF"),
        Scored("labels_crf", ("train", "dev"), ("train",), "label maps that the segmenter learns from, after the CRF"),
        Scored("direct", ("dev", "val"), ("val",), "the localizer alone, tags unknown"),
        Scored("direct_crf", ("dev", "val"), ("val",), "the same after a CRF"),
        Scored("pred", ("dev", "val"), ("dev", "val"), "the trained segmenter, tags unknown"),
        Scored("pred_crf", ("dev", "val"), ("dev", "val"), "the same after a CRF"),
    )
}


def reported() -> Iterator[tuple[str, str]]:
    """Split and what is scored, in the order in which tables show them."""
    for split in ("train", "dev", "val"):
        yield from ((split, scored.what) for scored in SCORED.values() if split in scored.reported)
