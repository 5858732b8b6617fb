"""Uploaded pictures: what one may be, known from its header, and its pixels."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from fastapi import HTTPException
from PIL import Image

from wsss.data.pixels import Pixels, convert
from wsss.errors import UserError
from wsss.serving.headers import Picture, unreadable
from wsss.serving.memory import LabellingMemory
from wsss.serving.networks import Saliency
from wsss.serving.segmenter import Segmenter
from wsss.serving.uploads import limit_of, max_bytes

MEGAPIXELS = "WSSS_UPLOAD_MEGAPIXELS"
MAX_PIXELS = 16 * 2**20
"""By default; WSSS_UPLOAD_MEGAPIXELS allows other numbers, up to what Pillow decodes."""
_MOST_MEGAPIXELS = 170
MAX_SIDE = 2**15
MAX_SCORES = 2**30
"""Pixels times classes: what the time of an answer grows with."""
MEMORY = 2**30
"""Bytes above what the idle server holds that answers take at most, together; of these,"""
_RESERVED = 448 * 2**20
"""are for bodies that wait, for connections, and for what allocators keep; the rest is for the images at work."""
_SMALL = 2**16
"""Pixels for which, without a CRF, no network wants so much memory that it is worth a measurement of each size;"""
_SMALL_BYTES, _PADDING = 1024, 32
"""they are taken to need so many bytes a pixel, so many pixels more a side."""
_MODES = {"L": "grey", "LA": "grey with transparency", "I;16": "grey of 16 bits", "I": "grey of 32 bits"} | {
    "1": "black and white", "P": "a palette", "RGBA": "with transparency", "CMYK": "in colours of print"
}  # fmt: skip


class Limits:
    """What an image may be, known before it is decoded.

    Args:
        segmenter: the model that labels it.
        memory: the bytes that answers may take together, above what the idle server holds.
    """

    def __init__(self, segmenter: Segmenter, memory: int = MEMORY) -> None:
        self._work = memory - _RESERVED
        max_pixels(), max_bytes()  # refused before any upload is
        # A CRF, and gradients, take more than what a small image is allowed.
        self._measured = segmenter.inference.crf is not None or isinstance(segmenter.module, Saliency)
        self._classes = len(segmenter.classes.with_background)
        self._labelling = LabellingMemory(segmenter.module, self._classes if segmenter.inference.crf else 0)

    def check(self, picture: Picture) -> int:
        """The bytes of memory that decoding and labelling an image take.

        Raises:
            HTTPException: 413 for more pixels than `max_pixels` (or `MAX_SCORES` of pixels times classes), `MAX_SIDE`
                px a side, or more memory than is left for one image.
        """
        pixels, sides = picture.width * picture.height, f"{picture.width} x {picture.height} px"
        # Whoever allows more pixels allows as many times the time.
        allowed = max_pixels()
        scores = int(MAX_SCORES * max(1, allowed / MAX_PIXELS))
        if pixels > (most := min(allowed, scores // self._classes)):
            raise _too_large(f"has {sides}, at most {most:,} pixels are taken (the server's {MEGAPIXELS} allows more)")
        if max(picture.width, picture.height) > MAX_SIDE:
            raise _too_large(f"has {sides}, at most {MAX_SIDE:,} px a side are taken")
        needed = picture.memory
        if needed <= self._work and (pixels > _SMALL or self._measured):
            needed = max(needed, 3 * pixels + self._labelling.bytes(picture.height, picture.width))
        if needed > self._work:
            raise _too_large(
                f"of {sides} would take {needed / 2**20:,.0f} MiB of memory, padding included, at most "
                f"{self._work / 2**20:,.0f} MiB are given to one (the server's --memory allows more)"
            )
        if pixels <= _SMALL and not self._measured:
            padded = (picture.width + _PADDING) * (picture.height + _PADDING)
            needed = min(max(needed, _SMALL_BYTES * padded), self._work)
        return needed


def max_pixels() -> int:
    """The pixels that an image may have: WSSS_UPLOAD_MEGAPIXELS millions, else `MAX_PIXELS`.

    Raises:
        UserError: it is no number of megapixels that can be decoded.
    """
    megapixels = limit_of(MEGAPIXELS, _MOST_MEGAPIXELS, "megapixels")
    return MAX_PIXELS if megapixels is None else int(megapixels * 1e6)


class WorkingMemory:
    """The memory that images at work share; in the order in which they ask. Used by the event loop alone.

    Args:
        memory: as in `Limits`.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._left = memory - _RESERVED
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, needed: int) -> AsyncIterator[None]:
        """Wait until so many bytes are free, and hold them; not more than `Limits.check` allows one image."""
        if self._waiting or needed > self._left:
            turn = (needed, asyncio.get_running_loop().create_future())
            self._waiting.append(turn)
            try:
                await turn[1]
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._left += needed
                self._hand_out()
                raise
        else:
            self._left -= needed
        try:
            yield
        finally:
            self._left += needed
            self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._left:
            needed, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._left -= needed
                turn.set_result(None)


def decode(picture: Picture, pixels: Pixels | None = None) -> np.ndarray:
    """An uploaded image as uint8 H x W x 3.

    Args:
        picture: the upload.
        pixels: the conversion that the model's images went through. Without one, pixels are taken as stored, and an
            EXIF orientation is not applied.

    Raises:
        HTTPException: 422 for a damaged image, or one that is not RGB, or not what the conversion is for.
    """
    try:
        if pixels is not None:
            return convert(picture.body, pixels, formats=(picture.format,), orientation=picture.orientation)
        with Image.open(io.BytesIO(picture.body), formats=(picture.format,)) as image:
            if image.size != (picture.width, picture.height):
                raise unreadable()
            if image.mode != "RGB":
                kind = f" ({_MODES[image.mode]})" if image.mode in _MODES else ""
                raise HTTPException(422, f"the image is of mode {image.mode}, not RGB{kind}; convert it first")
            return np.array(image)
    except HTTPException:
        raise
    except UserError as error:
        raise HTTPException(422, f"the image {error}") from None
    except Exception:  # Of hostile bytes, decoders raise whatever they stumble over.
        raise unreadable() from None


def _too_large(what: str) -> HTTPException:
    return HTTPException(413, f"the image {what}; scale it down first")
