"""From the pixels that a file holds to RGB of 8 bits: one declared conversion, the same wherever an image is read.

A dataset of plain RGB pictures declares none. Else its manifest says what is done, in this order: the bands are taken,
their values are stretched to 0..255, grey is repeated, transparency is laid on white, a palette and colours of print
become colours, and the picture is turned as its EXIF orientation says.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsss.data.parallel import each
from wsss.data.stored_images import MAX_BANDS, ORIENTATION, UNREADABLE, Stored, samples
from wsss.errors import UserError

_WHITE = 255
_LEVELS = 1 << 16
_AT_ONCE = 64
"""Images whose histograms are in memory together."""


@dataclass(frozen=True)
class Pixels:
    """The conversion of a dataset's images.

    Attributes:
        bands: the numbers, from 1, of the bands that become red, green and blue, or of the one that becomes grey; None
            for pictures that have colours.
        percentiles: of the training images' values, those that become 0 and 255; None without a stretch.
        limits: of each band the values at these percentiles; values beyond them are cut off.
    """

    bands: tuple[int, ...] | None = None
    percentiles: tuple[float, float] | None = None
    limits: tuple[tuple[float, float], ...] | None = None

    @classmethod
    def of_words(cls, bands: str | None, stretch: str | None) -> Pixels | None:
        """From the words of the command line, without the limits; None where they say nothing.

        Raises:
            UserError: no list of one or three numbers from 1, or no two percentiles.
        """
        if bands is None and stretch is None:
            return None
        numbers: tuple[int, ...] | None = None
        if bands is not None:
            words = bands.split(",")
            if len(words) not in (1, 3) or not all(w.strip().isdecimal() and 1 <= int(w) <= MAX_BANDS for w in words):
                raise UserError(f"--bands {bands} is not one band or three, counted from 1; such as 4,3,2")
            numbers = tuple(map(int, words))
        percentiles: tuple[float, float] | None = None
        if stretch is not None:
            try:
                low, high = map(float, stretch.split(","))
            except ValueError:
                low, high = 1.0, 0.0
            if not 0 <= low < high <= 100:
                raise UserError(f"--stretch {stretch} is not LOW,HIGH, two percentiles of 0 to 100; such as 2,98")
            percentiles = (low, high)
        return cls(numbers, percentiles)

    @classmethod
    def of_record(cls, record: Mapping[str, Any] | None) -> Pixels | None:
        """What `record` gave; None of None.

        Raises:
            ValueError, TypeError, KeyError: something else.
        """
        if record is None:
            return None
        bands, stretch = record["bands"], record["stretch"]
        if bands is not None and not (len(bands) in (1, 3) and all(1 <= int(b) <= MAX_BANDS for b in bands)):
            raise ValueError(f"bands {bands}")
        if stretch is None:
            return cls(bands and tuple(map(int, bands)))
        low, high = map(float, stretch["percentiles"])
        limits = tuple((float(a), float(b)) for a, b in stretch["values"])
        if len(limits) not in (1, 3) or not all(0 <= a < b <= _LEVELS for a, b in limits):
            raise ValueError(f"values {limits}")
        return cls(bands and tuple(map(int, bands)), (low, high), limits)

    def record(self) -> dict[str, Any]:
        """JSON-ready, for a manifest or a package."""
        stretch = self.limits and {
            "percentiles": list(self.percentiles or ()),
            "values": [list(v) for v in self.limits],
        }
        return {"bands": self.bands and list(self.bands), "stretch": stretch or None}

    def __str__(self) -> str:
        words = [f"bands {', '.join(map(str, self.bands))}"] if self.bands else []
        if self.percentiles:
            low, high = self.percentiles
            values = ", ".join(f"{a:g} to {b:g}" for a, b in self.limits or ())
            words += [
                f"stretched from percentiles {low:g} to {high:g} of the training images"
                + (f" ({values})" if values else "")
            ]
        words += [] if self.bands else ["grey repeated, transparency on white, palettes and CMYK as colours"]
        return "; ".join([*words, "turned as EXIF says"])


def convert(
    file: Path | bytes, pixels: Pixels, *, formats: tuple[str, ...] | None = None, orientation: int | None = None
) -> np.ndarray:
    """An image as uint8 H x W x 3, RGB.

    Args:
        file: its path, or its bytes.
        pixels: the conversion, with its limits where it stretches.
        formats: of Pillow's, those that are read; all by default.
        orientation: the EXIF flag where the bytes no longer hold it.

    Raises:
        One of `UNREADABLE`: it is damaged or too large.
        UserError: it has other bands, or other numbers, than the conversion is for.
    """
    if pixels.bands is None and pixels.percentiles is None:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats) as image:
            if orientation is None:  # Pillow turns TIFFs by itself
                orientation = 1 if image.format == "TIFF" else int(image.getexif().get(ORIENTATION, 1))
            return turned(_coloured(image), orientation)
    values, flag = samples(file, formats)
    values = _chosen(values, pixels)
    if pixels.limits is not None:
        low, high = np.array(pixels.limits, np.float32).T
        scale = np.float32(255) / (high - low)
        values = np.rint(((values.astype(np.float32) - low) * scale).clip(0, 255)).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise UserError("has 16 bits, and no stretch was declared")
    values = np.broadcast_to(values, (*values.shape[:2], 3)) if values.shape[2] == 1 else values
    return turned(values, flag if orientation is None else orientation)


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image H x W x 3 as its EXIF flag says that it is to be shown; other flags than 2 to 8 leave it."""
    match orientation:
        case 2:
            image = image[:, ::-1]
        case 3:
            image = image[::-1, ::-1]
        case 4:
            image = image[::-1]
        case 5:
            image = image.transpose(1, 0, 2)
        case 6:
            image = image.transpose(1, 0, 2)[:, ::-1]
        case 7:
            image = image[::-1, ::-1].transpose(1, 0, 2)
        case 8:
            image = image.transpose(1, 0, 2)[::-1]
    return np.ascontiguousarray(image)


def declared(found: Mapping[str, Stored | None], said: Pixels | None) -> tuple[Pixels | None, dict[str, int]]:
    """The conversion that a folder of images needs, and how many images of each kind there are.

    Args:
        found: id to what its file holds; None where that can't be read.
        said: what the user says, without the limits of a stretch.

    Returns:
        None for the conversion where all are plain RGB and nothing is said; files that can't be read count as
        "unreadable", and are named when they are checked.

    Raises:
        UserError: images of 16 bits without a stretch, of several bands without a choice, or without the chosen bands.
    """
    kinds: dict[str, int] = {}
    for holds in found.values():
        name = "unreadable" if holds is None else holds.kind + (", rotated" if holds.orientation > 1 else "")
        kinds[name] = kinds.get(name, 0) + 1
    known = {id: holds for id, holds in found.items() if holds is not None}
    if said is None and all(holds.plain for holds in known.values()):
        return None, kinds
    said = said or Pixels()
    many = [id for id, holds in known.items() if holds.kind.split()[0].isdigit() and holds.bands not in (1, 3)]
    if many and said.bands is None:
        raise UserError(
            f"the images are {kinds_of(kinds)} (such as {many[0]}); say which bands to see with --bands R,G,B"
        )
    if said.percentiles is None and (deep := [id for id, holds in known.items() if holds.deep]):
        raise UserError(
            f"the images are {kinds_of(kinds)} (such as {deep[0]}); say how 16 bits become 8 with --stretch LOW,HIGH, "
            "the percentiles of the training images' values that become black and white, such as 2,98"
        )
    wanted = max(said.bands or (1,))
    if few := [id for id, holds in known.items() if holds.bands < wanted and holds.kind != "palette"]:
        raise UserError(
            f"--bands asks for band {wanted}, which {len(few):,} images don't have, such as {few[0]}; they are "
            f"{kinds_of(kinds)}"
        )
    return said, kinds


def kinds_of(kinds: Mapping[str, int]) -> str:
    """Kinds of images with their counts, the commonest first."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items(), key=lambda pair: -pair[1]))


def with_limits(
    pixels: Pixels | None, paths: Sequence[Path], read: Callable[[Path], Path | bytes] = lambda path: path
) -> Pixels | None:
    """A stretch with the values at its percentiles, over all pixels of the training images.

    The value at a percentile is the smallest that at least so many of the pixels don't exceed.

    Args:
        pixels: the conversion.
        paths: of the images.
        read: gives what an image is read from, where that is not its path.

    Raises:
        UserError: an image that can't be read.
    """
    if pixels is None or pixels.percentiles is None:
        return pixels
    total = np.zeros((3, _LEVELS), np.int64)
    count = partial(_histogram, pixels=pixels, read=read)
    for start in range(0, len(paths), _AT_ONCE):
        total += sum(each(count, paths[start : start + _AT_ONCE], "measuring values"))
    bands = 1 if pixels.bands and len(pixels.bands) == 1 else 3
    limits = []
    for counts in total[:bands]:
        reached = np.cumsum(counts)
        low, high = (int(np.searchsorted(reached, max(1, p / 100 * reached[-1]))) for p in pixels.percentiles)
        limits.append((float(low), float(max(high, low + 1))))
    return replace(pixels, limits=tuple(limits))


def _histogram(path: Path, pixels: Pixels, read: Callable[[Path], Path | bytes]) -> np.ndarray:
    """How often each value occurs in each of three bands: int64 3 x 65,536."""
    try:
        values = _chosen(samples(read(path))[0], pixels)
    except UserError as error:
        raise UserError(f"image {path} {error}") from None
    except UNREADABLE as error:
        raise UserError(f"image {path} can't be read ({error})") from None
    values = np.broadcast_to(values, (*values.shape[:2], 3)) if values.shape[2] == 1 else values
    return np.stack([np.bincount(band.ravel(), minlength=_LEVELS) for band in np.moveaxis(values, 2, 0)])


def _chosen(values: np.ndarray, pixels: Pixels) -> np.ndarray:
    """The chosen bands of H x W x B: H x W x 1 or 3."""
    if pixels.bands is not None:
        if max(pixels.bands) > values.shape[2]:
            raise UserError(f"has {values.shape[2]} bands, and band {max(pixels.bands)} is asked for")
        return values[..., [band - 1 for band in pixels.bands]]
    if values.shape[2] in (2, 4) and values.dtype == np.uint8:
        values = values[..., :-1]
    if values.shape[2] not in (1, 3):
        raise UserError(f"has {values.shape[2]} bands, and none were chosen")
    return values


def _coloured(image: Image.Image) -> np.ndarray:
    """A Pillow image of 8 bits as uint8 H x W x 3, transparency on white."""
    if image.mode.startswith(("I", "F")):
        raise UserError(f"is of mode {image.mode}, which takes a stretch that was not declared")
    if image.mode in ("LA", "PA", "RGBA") or (image.mode in ("P", "L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (_WHITE,) * 4)
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))
