"""Images on their way through the network: those of equal network size that wait together go together.

One thread takes them. A GPU is given a group as one batch; the cores of a processor are given its images, one to each,
since a larger batch leaves its caches, and threads within one image wait for each other. An image that is alone is
labelled at once with all cores: nobody waits for company.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from wsss.process import own_cores
from wsss.serving.segmenter import Segmenter

MOST = 8
"""Images of a group."""


@dataclass
class _Job:
    segmenter: Segmenter
    image: np.ndarray
    key: Hashable
    labels: Future[np.ndarray] = field(default_factory=Future)


class Batcher:
    """Labels images in a thread of its own, in groups; the first to come is in the next group.

    Args:
        device: that the models are on.
        seen: is told the number of images of each group.
    """

    def __init__(self, device: torch.device, seen: Callable[[int], object] = lambda _: None) -> None:
        self._one_batch, self._seen = device.type != "cpu", seen
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._cores = ThreadPoolExecutor(own_cores(), "segment", torch.set_num_threads, (1,))
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images that no group has taken yet."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether the thread works."""
        return self._thread.is_alive()

    def submit(self, segmenter: Segmenter, image: np.ndarray) -> Future[np.ndarray]:
        """The label map to come (uint8 H x W) of an image (uint8 H x W x 3); what is cancelled is not labelled."""
        job = _Job(segmenter, image, (id(segmenter), segmenter.network_size(*image.shape[:2])))
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.labels

    def close(self) -> None:
        """End the thread when the group at work is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._cores.shutdown(wait=False)

    def _work(self) -> None:
        while group := self._next():
            self._label(group)
            del group

    def _next(self) -> list[_Job]:
        """The job that has waited longest, and those of its size."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if self._closed:
                return []
            group: list[_Job] = []
            others: deque[_Job] = deque()
            while self._jobs and len(group) < MOST:
                job = self._jobs.popleft()
                fits = not group or job.key == group[0].key
                (group if fits else others).append(job)
            self._jobs.extendleft(reversed(others))
            return group

    def _label(self, group: list[_Job]) -> None:
        group = [job for job in group if job.labels.set_running_or_notify_cancel()]
        if group:
            self._seen(len(group))
        if self._one_batch and group:
            _answer_together(group)
        elif len(group) == 1:
            # A part of what this sets is the process's (MKL's share), and other threads have set it to 1.
            torch.set_num_threads(own_cores())
            _answer_alone(group[0])
        elif group:
            torch.set_num_threads(1)
            for done in [self._cores.submit(_answer_alone, job) for job in group]:
                done.result()


def _answer_alone(job: _Job) -> None:
    with _failures([job]):
        job.labels.set_result(job.segmenter(job.image))


def _answer_together(group: list[_Job]) -> None:
    with _failures(group):
        maps = group[0].segmenter.segment_batch([job.image for job in group])
        for job, labels in zip(group, maps, strict=True):
            job.labels.set_result(labels)


@contextmanager
def _failures(group: list[_Job]) -> Iterator[None]:
    """What the network raises is raised where the labels are waited for."""
    try:
        yield
    except Exception as error:
        for job in group:
            if not job.labels.done():
                job.labels.set_exception(error)
