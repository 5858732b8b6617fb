"""What a search says while it runs, and its end when the time is up."""

from __future__ import annotations

import math
import signal
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import tune

VALUE = "value"
_SILENCE_S = 60


class Progress(tune.Callback):
    """A line for each trial that ends, and while none can start; an orderly end after the deadline.

    Ray restores an interrupted search's callbacks as they were: what is this process's stands in the class.
    """

    deadline: ClassVar[float] = math.inf
    """When the search ends, by `time.monotonic`: the trials that run are stopped, a later search goes on with them."""

    _busy: ClassVar[float] = 0.0

    def __init__(self, objective: str) -> None:
        self._objective = objective

    @classmethod
    def begin(cls, max_seconds: float | None) -> None:
        """The time runs from now on."""
        cls._busy = time.monotonic()
        cls.deadline = cls._busy + max_seconds if max_seconds else math.inf

    @classmethod
    def time_is_up(cls) -> bool:
        return time.monotonic() >= cls.deadline

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.time_is_up() and threading.current_thread() is threading.main_thread():
            # Ray's own way to end in order, with its state written; a restored search keeps the limit it began with.
            signal.raise_signal(signal.SIGINT)
        waiting = [trial for trial in trials if trial.status == "PENDING"]
        if not waiting or any(trial.status == "RUNNING" for trial in trials):
            Progress._busy = time.monotonic()
        elif time.monotonic() - self._busy > _SILENCE_S:
            Progress._busy = time.monotonic()
            asked = waiting[0].placement_group_factory.required_resources
            free = {name: ray.available_resources().get(name, 0.0) for name in ("CPU", "GPU")}
            print(f"no trial can start: each asks for {_resources(asked)}, free are {_resources(free)}", flush=True)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._print(trials, trial, f"{self._objective} {trial.last_result[VALUE]:.4f}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._print(trials, trial, f"failed ({reason(Path(trial.error_file).read_text(encoding='utf-8'))})")

    def _print(self, trials: list[Any], trial: Any, outcome: str) -> None:
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in trial.config.items()}
        settings = " ".join(f"{key}={value}" for key, value in shown.items())
        print(f"trial {trials.index(trial) + 1}: {outcome}   {settings}", flush=True)


def reason(error: str) -> str:
    """The last line of an error of Ray's: that of the trial, such as a sentence of ours."""
    return error.strip().splitlines()[-1].removeprefix("wsss.errors.UserError: ")


def _resources(amounts: Any) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items()) or "nothing"
