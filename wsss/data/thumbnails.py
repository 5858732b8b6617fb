"""Small pictures of images and masks, for lists of examples."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from wsss.data.dataset import Dataset
from wsss.data.palette_png import encode_palette_png
from wsss.data.stored_images import UNREADABLE, source
from wsss.errors import UserError

SIDE = 160
"""The longer side of a small picture in px."""


def image_thumbnail(dataset: Dataset, id: str, side: int = SIDE) -> bytes:
    """A JPEG of an image, smaller, converted as the dataset has it.

    Raises:
        UserError: no such image, or its file can't be read.
    """
    path = dataset.image_path(id)
    try:
        if dataset.pixels is None:
            with Image.open(source(dataset.image_file(id))) as image:
                image.draft("RGB", (side, side))
                small = image.convert("RGB")
        else:
            small = Image.fromarray(dataset.image(id))
        small.thumbnail((side, side))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=80)
    except UNREADABLE as error:
        raise UserError(f"image {path} can't be read ({error})") from None
    return file.getvalue()


def mask_thumbnail(mask: np.ndarray, side: int = SIDE) -> bytes:
    """A palette PNG of a mask (uint8 H x W), of fewer pixels: each is one of the mask's, none is a mixture."""
    small = Image.fromarray(mask)
    small.thumbnail((side, side), Image.Resampling.NEAREST)
    return encode_palette_png(np.asarray(small))
