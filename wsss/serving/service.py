"""From bytes to answers: decoded in a few threads, labelled in groups, encoded in threads again, memory bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from fastapi import HTTPException

from wsss.data.palette_png import encode_palette_png
from wsss.process import own_cores
from wsss.serving import answers
from wsss.serving.batching import Batcher
from wsss.serving.headers import Picture, read_header
from wsss.serving.live import Served
from wsss.serving.memory import return_memory
from wsss.serving.metrics import Metrics
from wsss.serving.multipart import File, files_of, is_form
from wsss.serving.pictures import MEMORY, WorkingMemory, decode
from wsss.serving.segmenter import Segmenter, fused
from wsss.serving.shadow import Offer, Shadow
from wsss.serving.uploads import Admission, Turns

ANSWER_S = 120
"""Within which images that have arrived are answered."""
QUIET_S = 0.01
"""Without a request before a challenger works: who asks one after the other is not held up."""
_LARGE = 64 * 2**20
"""Bytes of memory after which the allocator is asked for what it keeps."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """What goes back.

    Attributes:
        content: PNG or JPEG bytes, or what becomes JSON.
        warning: what to know of the picture's size; empty for nothing.
        offers: what the challenger is offered when the answer has left.
    """

    content: Any
    warning: str
    offers: list[Offer]


class MaskService:
    """The model that answers, and what its answers share.

    Args:
        segmenter: the first model.
        memory: as in `wsss.serving.pictures.Limits`.
        device: that models are on.
        shadow_share: of the requests that a challenger answers too; 0 for no shadow.
        fuse: run convolutions with what follows them; see `wsss.serving.segmenter.fused`.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        memory: int = MEMORY,
        device: torch.device | None = None,
        shadow_share: float = 0.0,
        fuse: bool = False,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.metrics, self.admission, self.turns = Metrics(), Admission(), Turns()
        self._fuse, self._memory, self._working = fuse, memory, WorkingMemory(memory)
        self._threads = ThreadPoolExecutor(max(2, own_cores()), "pictures")
        self.batcher = Batcher(self.device, self.metrics.group.observe)
        self.current = self._served(segmenter)
        self.metrics.model.info({"version": self.current.name})
        self.shadow = Shadow(shadow_share, self._busy, self.metrics) if shadow_share else None

    def take(self, segmenter: Segmenter | None) -> None:
        """Have another model answer from the next request on; those under way are answered by the one before."""
        if segmenter is not None:
            self.current = self._served(segmenter)
            self.metrics.model.info({"version": self.current.name})
            self.metrics.swaps.inc()

    def _busy(self) -> bool:
        return not self.admission.quiet(QUIET_S)

    def _served(self, segmenter: Segmenter) -> Served:
        return Served.of(fused(segmenter) if self._fuse else segmenter, self._memory)

    def close(self) -> None:
        """End the threads."""
        self.batcher.close()
        self._threads.shutdown(wait=False)
        if self.shadow:
            self.shadow.close()

    async def answer(self, body: bytearray, content_type: str, media_type: str, served: Served) -> Answer:
        """Label one picture, or several, which are answered in JSON.

        Args:
            body: of the request; emptied.
            content_type: of the body: an image or a form.
            media_type: one of `answers.OFFERED`.
            served: the model.

        Raises:
            HTTPException: 413 or 422, an image is refused, of several with its place and name; 503, it took too long.
        """
        answering = asyncio.ensure_future(self._answer(body, content_type, media_type, served))
        try:
            await asyncio.wait([answering], timeout=ANSWER_S)
        except asyncio.CancelledError:
            answering.cancel()
            await asyncio.wait([answering])
            raise
        if not answering.done():
            # What has begun goes on to its end, and holds its memory until then.
            answering.cancel()
            sentence = f"the image was not labelled within {ANSWER_S} s; send it again later, or a smaller one"
            raise HTTPException(503, sentence, {"Retry-After": "10"})
        return answering.result()

    async def _answer(self, body: bytearray, content_type: str, media_type: str, served: Served) -> Answer:
        files = await self._in_thread(_files, body, content_type)
        if len(files) == 1 and media_type != answers.JSON:
            return await self._label(files.pop(), media_type, served)
        done = await self._label_all(files, served)
        warning = next((answer.warning for answer in done if answer.warning), "")
        offers = [offer for answer in done for offer in answer.offers]
        content = {"model": served.name, "images": [answer.content for answer in done]}
        return Answer(content, warning, offers)

    async def _label_all(self, files: list[File], served: Served) -> list[Answer]:
        tasks = [asyncio.ensure_future(self._label(file, answers.JSON, served)) for file in files]
        names = [file.name for file in files]
        files.clear()
        try:
            for number, task in enumerate(tasks):
                try:
                    await task
                except HTTPException as error:
                    if len(tasks) == 1:
                        raise
                    raise HTTPException(
                        error.status_code, f"image {number + 1} ({names[number]}): {error.detail}", error.headers
                    ) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [task.result() for task in tasks]

    async def _label(self, file: File, media_type: str, served: Served) -> Answer:
        picture, needed = await self._in_thread(_admit, file, served)
        async with self._working.hold(needed):
            image = await self._in_thread(decode, picture, served.segmenter.inference.pixels)
            self.metrics.images.inc()
            labels = await _settled(self.batcher.submit(served.segmenter, image))
            content = await self._in_thread(_encode, file.name, image, labels, media_type, served)
            if needed > _LARGE:
                await self._in_thread(return_memory)
        sampled = self.shadow is not None and self.shadow.sampled(labels.size)
        return Answer(
            content,
            served.segmenter.far_from_training(*labels.shape),
            [Offer(image, labels, served)] if sampled else [],
        )

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await _settled(self._threads.submit(function, *arguments))


async def _settled(future: Future[Result]) -> Result:
    """A thread's result. A wait that is cancelled ends when what has begun is done, as it holds memory until then."""
    wrapped = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(wrapped)
    except asyncio.CancelledError:
        if not future.cancel():
            await asyncio.wait([wrapped])
        raise


def _files(body: bytearray, content_type: str) -> list[File]:
    data = bytes(body)
    body.clear()
    return files_of(content_type, data) if is_form(content_type) else [File("", data)]


def _admit(file: File, served: Served) -> tuple[Picture, int]:
    """The header of a picture and the memory that it takes; what is not pixels is let go."""
    picture = read_header(file.data)
    file.data = b""
    return picture, served.limits.check(picture)


def _encode(name: str, image: np.ndarray, labels: np.ndarray, media_type: str, served: Served) -> Any:
    if media_type == answers.JSON:
        return answers.as_json(name, labels, served.segmenter.classes.with_background)
    return answers.overlay(image, labels) if media_type == answers.JPEG else encode_palette_png(labels)
