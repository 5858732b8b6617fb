"""Reading images, and what can be wrong with an image file.

Pixels are taken as they are stored, which is what masks are drawn on in VOC and SBD: an EXIF orientation flag is never
applied. A folder of somebody's own photographs is checked for such flags, since there the flag is usually meant.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from wsss.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

_ORIENTATION = 0x0112


def read_image(path: str | Path) -> np.ndarray:
    """An image file as uint8 H x W x 3, RGB.

    Raises:
        UserError: the file is missing, damaged or not RGB.
    """
    problem = "is missing"
    if Path(path).is_file():
        try:
            with Image.open(path) as image:
                if image.mode == "RGB":
                    return np.array(image)
                problem = _not_rgb(image)
        except UNREADABLE as error:
            problem = f"can't be read ({error})"
    raise UserError(f"image {path} {problem}")


def image_size(path: Path) -> tuple[int, int]:
    """Height and width, from the file's header.

    Raises:
        UserError: the file is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except UNREADABLE as error:
        raise UserError(f"image {path} can't be read ({error})") from None


def image_problem(path: Path, *, decode: bool, upright: bool) -> str | None:
    """What is wrong with an image file, or None.

    Args:
        path: the file.
        decode: read all of its pixels, not only the header.
        upright: an orientation flag other than "as stored" is a problem.
    """
    if not path.is_file():
        return "is missing"
    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                return _not_rgb(image)
            if upright and image.getexif().get(_ORIENTATION, 1) != 1:
                return "carries an EXIF orientation flag (rotate the pixels and drop the flag)"
            if decode:
                image.load()
    except UNREADABLE as error:
        return f"can't be read ({error})"
    return None


def _not_rgb(image: Image.Image) -> str:
    return f"is of mode {image.mode}, not RGB (convert it, for instance with ImageMagick's `-type TrueColor`)"
