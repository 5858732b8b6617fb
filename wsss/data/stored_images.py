"""What image files hold, as stored: read by Pillow, or by tifffile where Pillow would leave bands out."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from wsss.errors import UserError

warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of half of what is refused: large pictures are meant

if TYPE_CHECKING:
    import tifffile

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
MAX_BANDS = 512
ORIENTATION = 0x0112


class Stored(NamedTuple):
    """What a file holds, known from its header.

    Attributes:
        kind: in words, such as "RGB" or "4 bands of 16 bits".
        height, width: in px, as stored.
        bands: how many.
        deep: its values have more than 8 bits.
        orientation: the EXIF flag, 1 to 8.
    """

    kind: str
    height: int
    width: int
    bands: int
    deep: bool
    orientation: int

    @property
    def plain(self) -> bool:
        """It needs no conversion."""
        return self.kind == "RGB" and self.orientation == 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width when it is turned as the flag says."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


_KINDS = {"L": "grey", "1": "black and white", "P": "palette", "LA": "transparent", "PA": "transparent"} | {
    "RGBA": "transparent", "RGB": "RGB", "CMYK": "CMYK", "I;16": "grey of 16 bits", "I;16B": "grey of 16 bits"
}  # fmt: skip


def stored(file: Path | bytes, *, decode: bool = False) -> Stored:
    """What an image file holds.

    Args:
        file: its path, or its bytes.
        decode: read all pixels too, of RGB of 8 bits.

    Raises:
        One of `UNREADABLE`: it is damaged or too large.
        UserError: its kind is none that is read.
    """
    bits = 8
    try:
        with Image.open(source(file)) as image:
            mode, (width, height), flag = image.mode, image.size, int(image.getexif().get(ORIENTATION, 1))
            if image.format == "PNG":
                bits = _beginning(file, 25)[24]
            elif image.format == "TIFF":
                tags = image.tag_v2  # type: ignore[attr-defined]
                bits = max(np.atleast_1d(tags.get(258, 8)))
                if tags.get(277, 1) != len(image.getbands()) and mode != "P":
                    return _stored_bands(file)  # of which Pillow would leave some out
                if 5 <= flag <= 8:  # Pillow turns TIFFs by itself, and says so beforehand
                    width, height = height, width
            bands = len(image.getbands())
            if decode and mode == "RGB" and bits == 8:
                # A JPEG's data are all read at any scale, and at an eighth little has to be computed of them.
                image.draft(mode, (1, 1))
                image.load()
    except UNREADABLE:
        if not _begins_as_tiff(_beginning(file, 4)):
            raise
        return _stored_bands(file)
    orientation = flag if 1 <= flag <= 8 else 1
    if mode not in _KINDS:
        raise UserError(f"is of mode {mode}, which is not read; save it with 8 or 16 bits a band")
    if mode == "RGB" and bits > 8:
        return Stored("RGB of 16 bits", height, width, 3, True, orientation)
    return Stored(_KINDS[mode], height, width, bands, mode.startswith("I;16"), orientation)


def source(file: Path | bytes) -> Path | io.BytesIO:
    """What Pillow and tifffile open."""
    return io.BytesIO(file) if isinstance(file, bytes) else file


def _beginning(file: Path | bytes, count: int) -> bytes:
    if isinstance(file, bytes):
        return file[:count]
    with file.open("rb") as opened:
        return opened.read(count)


def _begins_as_tiff(data: bytes) -> bool:
    return data in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _stored_bands(stored_file: Path | bytes) -> Stored:
    import tifffile

    with tifffile.TiffFile(source(stored_file)) as file:
        series, flag = _checked_series(file), file.pages.first.tags.valueof(ORIENTATION, 1)
        sizes = dict(zip(series.axes, series.shape, strict=True))
        bands, bits = next((n for axis, n in sizes.items() if axis not in "YX"), 1), 8 * series.dtype.itemsize
    kind = f"{bands} bands of {bits} bits"
    return Stored(kind, sizes["Y"], sizes["X"], bands, bits > 8, int(flag) if 1 <= int(flag) <= 8 else 1)


def _checked_series(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    series = file.series[0]
    others = [axis for axis in series.axes if axis not in "YX"]
    if not {"Y", "X"} <= {*series.axes} or len(others) > 1:
        raise UserError(f"has {len(file.pages)} pictures (axes {series.axes}); one is read")
    if series.dtype not in (np.uint8, np.uint16):
        raise UserError(f"holds numbers of the type {series.dtype}; save it with whole numbers of 8 or 16 bits")
    sides = dict(zip(series.axes, series.shape, strict=True))
    height, width, bands = sides["Y"], sides["X"], sides[others[0]] if others else 1
    if height * width > 2 * (Image.MAX_IMAGE_PIXELS or 0) or bands > MAX_BANDS:
        raise ValueError(f"it has {width:,} x {height:,} px of {bands} bands, more than is read")
    return series


def samples(file: Path | bytes, formats: tuple[str, ...] | None = None) -> tuple[np.ndarray, int]:
    """All bands as stored, uint8 or uint16 H x W x B, and the EXIF flag.

    Raises:
        One of `UNREADABLE`: it is damaged or too large.
        UserError: numbers of another type, or several pictures.
    """
    import tifffile

    if _begins_as_tiff(_beginning(file, 4)):
        with tifffile.TiffFile(source(file)) as tiff:
            series, flag = _checked_series(tiff), int(tiff.pages.first.tags.valueof(ORIENTATION, 1))
            array = series.asarray()
            other = next((place for place, axis in enumerate(series.axes) if axis not in "YX"), None)
        return array[..., None] if other is None else np.moveaxis(array, other, 2), flag
    with Image.open(source(file), formats=formats) as image:
        flag = int(image.getexif().get(ORIENTATION, 1))
        array = np.array(image.convert("RGB") if image.mode == "P" else image)
    if array.dtype not in (np.uint8, np.uint16, bool):
        raise UserError(f"holds numbers of the type {array.dtype}; save it with whole numbers of 8 or 16 bits")
    array = array * np.uint8(255) if array.dtype == bool else array
    return array[..., None] if array.ndim == 2 else array, flag
