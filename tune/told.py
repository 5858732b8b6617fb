"""What a process of Ray's tells the driver while it works: a generator that gives news, then what came out."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wsss.interface import Reporter

_EVERY_S = 2.0


@dataclass(frozen=True)
class News:
    """How far a step is; the words of `Reporter.progress`."""

    step: str
    done: int
    total: int
    unit: str
    note: str


def told(work: Callable[[Callable[[str], Reporter]], Any]) -> Iterator[News | Any]:
    """Work in a thread, so that its news can be given meanwhile; what it returns is the last of what is given.

    Args:
        work: is handed what makes the reporter of a step by its key.

    Raises:
        Exception: what the work raises.
    """
    given: queue.SimpleQueue[News | None] = queue.SimpleQueue()
    came: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            came.append(work(lambda step: _Telling(step, given)))
        except BaseException as error:  # whatever it is, it is raised where the driver hears it
            failed.append(error)
        finally:
            given.put(None)

    threading.Thread(target=run, daemon=True).start()
    while (news := given.get()) is not None:
        yield news
    if failed:
        raise failed[0]
    yield came[0]


class _Telling:
    """A `wsss.interface.Reporter` that gives news now and then."""

    def __init__(self, step: str, given: queue.SimpleQueue[News | None]) -> None:
        self._step, self._given = step, given
        self._last = time.monotonic()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """The driver has them from the step's output."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Give news, at most every two seconds."""
        now = time.monotonic()
        if now - self._last > _EVERY_S:
            self._last = now
            self._given.put(News(self._step, done, total, unit, note))
