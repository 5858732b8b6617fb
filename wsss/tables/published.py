"""What others published of the methods, with its sources."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wsss.classes import BACKGROUND, VOC


@dataclass(frozen=True)
class Published:
    """A published result on PASCAL VOC 2012.

    Attributes:
        method: the name of the method here, as far as there is one.
        title: what it is called where it was published, often with its network.
        split: "val" or "test"; empty where the source does not say.
        supervision: what was seen.
        source: authors, place, year.
        read_from: where the number was read.
        miou: in percent, 21 classes.
        iou: class name to percent, as far as known.
    """

    method: str
    title: str
    split: str
    supervision: str
    source: str
    read_from: str
    miou: float
    iou: dict[str, float]


@cache
def published() -> tuple[Published, ...]:
    """All published results of `published.csv`."""
    with Path(__file__).with_name("published.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            Published(
                method=row["method"],
                title=row["title"],
                split=row["split"],
                supervision=row["supervision"],
                source=row["source"],
                read_from=row["read_from"],
                miou=float(row["miou"]),
                iou={name: float(row[name]) for name in (BACKGROUND, *VOC) if row[name]},
            )
            for row in csv.DictReader(file)
        )
