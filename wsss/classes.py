"""Class names, the palette and the ignore index.

The only place that knows what the classes of PASCAL VOC are. Everything else asks a `Classes` for its number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsss.errors import UserError

IGNORE = 255
BACKGROUND = "background"
NO_CLASS = ""
"""What index 0 is called where there is no background: no class has such a name."""

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """The foreground classes of a dataset, in the order of their indices 1..C; index 0 is the background.

    Attributes:
        names: of the C classes.
        background: whether there is one; without, index 0 is no class and occurs in no mask, label map or prediction.

    Raises:
        UserError: no class, more than 254 classes, a name that is empty, doubled or taken ("background").
    """

    names: tuple[str, ...]
    background: bool = True

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE - 1:
            raise UserError(f"a dataset needs 1 to {IGNORE - 1} classes, these are {len(self.names)}")
        seen: set[str] = set()
        for name in self.names:
            if not name.strip() or name == BACKGROUND or name in seen:
                raise UserError(
                    f"class name {name!r} is empty, doubled or reserved; every class needs a name of its own"
                )
            seen.add(name)

    def __len__(self) -> int:
        """C, the number of foreground classes."""
        return len(self.names)

    @property
    def with_background(self) -> tuple[str, ...]:
        """The C + 1 names by label-map index; the first is `NO_CLASS` where there is no background."""
        return (BACKGROUND if self.background else NO_CLASS, *self.names)

    @property
    def occurring(self) -> tuple[str, ...]:
        """The names of what occurs in label maps: the background, if there is one, and the C classes."""
        return self.with_background[0 if self.background else 1 :]

    @property
    def indices(self) -> range:
        """The label-map indices of `occurring`."""
        return range(0 if self.background else 1, len(self.names) + 1)

    def index(self, name: str) -> int:
        """The label-map index (1..C) of a class name.

        Raises:
            UserError: the name is not one of the classes.
        """
        try:
            return self.names.index(name) + 1
        except ValueError:
            raise UserError(f"unknown class {name!r}; choose from {', '.join(self.names)}") from None


def palette() -> np.ndarray:
    """The VOC colour map: uint8 256 x 3; row i colours label-map index i, row 255 the ignore index.

    Bit k of the colour of index i comes from bits 3j, 3j + 1, 3j + 2 of i, as in the VOC development kit.
    """
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours
