"""How a search ends before its trials are through: by Ctrl-C or its deadline; in order, so that it can go on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from ray import tune


class NotKept:
    """Of what Ray is handed it writes down the state, to go on from; a search goes on from its study instead."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: Any) -> Self:
        return self


class Ending(NotKept, tune.Stopper):
    """Tells Ray to stop the trials, which stay unfinished in the study.

    Args:
        deadline: on the clock of `time.monotonic`.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._pressed = self._orderly = False
        self._before: Any = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Whether it is over."""
        return self._pressed or time.monotonic() >= self.deadline

    def raise_if_interrupted(self) -> None:
        """Go on with an interrupt that was held back.

        Raises:
            KeyboardInterrupt: there was one.
        """
        if self._pressed:
            raise KeyboardInterrupt

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """While trials run, the first interrupt ends them in order; the second one at once."""
        self._orderly = True
        try:
            yield
        finally:
            self._orderly = False

    def __enter__(self) -> Ending:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self._orderly and not self._pressed:
            self._pressed = True
            print("the trials that run are stopped; once more ends at once", flush=True)
            return
        raise KeyboardInterrupt
