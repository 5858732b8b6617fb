"""Reading images, and what can be wrong with an image file.

Without a declared conversion (`wsss.data.pixels`) an image must be RGB of 8 bits, and its pixels are taken as they are
stored, which is what masks are drawn on in VOC and SBD: an EXIF orientation flag is not applied.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsss.data.pixels import Pixels, convert
from wsss.data.stored_images import ORIENTATION, UNREADABLE, source, stored
from wsss.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def read_image(file: str | Path | bytes, pixels: Pixels | None = None, name: str = "") -> np.ndarray:
    """An image file as uint8 H x W x 3, RGB.

    Args:
        file: its path, or its bytes.
        pixels: the declared conversion, `Dataset.pixels`; without one the file must be RGB.
        name: what messages call it; by default its path.

    Raises:
        UserError: the file is missing, damaged, not RGB, or not what the conversion is for.
    """
    problem = "is missing"
    file = Path(file) if isinstance(file, str) else file
    if isinstance(file, bytes) or file.is_file():
        try:
            if pixels is not None:
                return convert(file, pixels)
            with Image.open(source(file)) as image:
                if image.mode == "RGB":
                    return np.array(image)
                problem = _not_rgb(image)
        except UserError as error:
            problem = str(error)
        except UNREADABLE as error:
            problem = _why(file, error)
    raise UserError(f"image {name or file!s} {problem}")


def image_size(file: Path | bytes, pixels: Pixels | None = None, name: str = "") -> tuple[int, int]:
    """Height and width of what `read_image` gives, from the file's header.

    Args:
        file, pixels, name: as there.

    Raises:
        UserError: the file is missing or not an image.
    """
    try:
        if pixels is not None:
            return stored(file).size
        with Image.open(source(file)) as image:
            return image.height, image.width
    except UserError as error:
        raise UserError(f"image {name or file!s} {error}") from None
    except UNREADABLE as error:
        raise UserError(f"image {name or file!s} {_why(file, error)}") from None


def image_problem(file: Path | bytes, *, decode: bool, upright: bool, pixels: Pixels | None = None) -> str | None:
    """What is wrong with an image file, or None.

    Args:
        file: its path, or its bytes.
        decode: read all of its pixels, not only the header.
        upright: an orientation flag other than "as stored" is a problem, where no conversion turns the image.
        pixels: the declared conversion.
    """
    if isinstance(file, Path) and not file.is_file():
        return "is missing"
    try:
        if pixels is not None:
            convert(file, pixels) if decode else stored(file)
            return None
        with Image.open(source(file)) as image:
            if image.mode != "RGB":
                return _not_rgb(image)
            if upright and image.getexif().get(ORIENTATION, 1) != 1:
                return "carries an EXIF orientation flag (rotate the pixels and drop the flag)"
            if decode:
                image.load()
    except UserError as error:
        return str(error)
    except UNREADABLE as error:
        return _why(file, error)
    return None


def _why(file: Path | bytes, error: Exception) -> str:
    """Why an image file can't be read."""
    why: object = error
    if file == b"" or (isinstance(file, Path) and file.is_file() and not file.stat().st_size):
        why = "it is empty, 0 bytes; copy it again, or take it out"
    elif isinstance(error, Image.DecompressionBombError):
        why = f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, as no image may; cut it into several"
    elif isinstance(error, UnidentifiedImageError):
        why = "it holds no image of a known kind"
    return f"can't be read ({why})"


def _not_rgb(image: Image.Image) -> str:
    return f"is of mode {image.mode}, not RGB (convert it, for instance with ImageMagick's `-type TrueColor`)"
