"""One step in several processes of a Ray cluster, by Ray Train: every worker runs it, the first one writes.

The step's folder must be the same on all machines. A worker that is lost takes the others with it; all begin anew and
go on from the checkpoint of the last epoch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Queue

from wsss import storage
from wsss.data.image_memory import memory_for_images
from wsss.errors import OutOfTimeError, UserError
from wsss.interface import StepContext
from wsss.run.cluster import Machine, Share, connected, machines, slots_of
from wsss.training import CHECKPOINT

_ATTEMPTS = 3
_PROGRESS_S = 0.5
_ENDS: Mapping[str, type[Exception]] = {each.__name__: each for each in (UserError, OutOfTimeError)}


@dataclass(frozen=True)
class _Letter:
    """What a worker is told.

    Attributes:
        run: the step's work.
        context: its context, without a reporter.
        left: seconds until the deadline.
        folder: where the run is.
        share: what the worker is given.
        queue: to whom the first one reports.
        refusals: what ended the step for good: the name of the exception, and what it says.
    """

    run: Callable[[StepContext], None]
    context: StepContext
    left: float
    folder: Path
    share: Share
    queue: Queue
    refusals: Queue


class _Reports:
    """The reporter of a worker: the first one's reports go to the driver."""

    def __init__(self, queue: Queue | None) -> None:
        self._queue, self._last = queue, -math.inf

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if self._queue is not None:
            self._queue.put(("metrics", (dict(values), step)))

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        if self._queue is not None and (done >= total or time.monotonic() - self._last > _PROGRESS_S):
            self._last = time.monotonic()
            self._queue.put(("progress", (done, total, unit, note)))


def run_together(run: Callable[[StepContext], None], context: StepContext, count: int, address: str) -> None:
    """Run a training step in several workers.

    Args:
        run: the step's work; its `fit` divides every batch among them.
        context: the step's; its folder ends as one worker would have left it.
        count: how many workers.
        address: of a Ray cluster, "local" for one made of this process's cores for the time.

    Raises:
        OutOfTimeError: the context's deadline came; the checkpoint is there.
        UserError: what the step refuses, no cluster, too few cores or GPUs, or workers that were lost again and again.
    """
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with connected(address), storage.temporary_folder() as notes:
        cores = _cores(machines(), count, context.device)
        queue, refusals = (Queue(actor_options={"num_cpus": 0}) for _ in range(2))
        letter = _Letter(
            run,
            replace(context, report=_Reports(None), out=context.out.absolute(), inputs=_absolute(context.inputs)),
            context.deadline - time.monotonic(),
            Path.cwd(),
            Share.of(slots_of([{"CPU": cores}])),
            queue,
            refusals,
        )

        def listen() -> None:
            while (said := queue.get()) is not None:
                kind, content = said
                getattr(context.report, kind)(*content)

        listener = threading.Thread(target=listen, name="together", daemon=True)
        listener.start()
        trainer = ray.train.torch.TorchTrainer(
            _work,
            train_loop_config={"letter": letter},
            scaling_config=ray.train.ScalingConfig(
                num_workers=count, use_gpu=context.device.type == "cuda", resources_per_worker={"CPU": cores}
            ),
            run_config=ray.train.RunConfig(
                name="step",
                storage_path=str(notes),
                failure_config=ray.train.FailureConfig(max_failures=_ATTEMPTS - 1),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            if refusals.empty():
                raise UserError(
                    f"the {count} workers were lost or failed {_ATTEMPTS} times ({_cause(error)}); the same command "
                    "goes on from the last epoch"
                ) from error
        finally:
            queue.put(None)
            listener.join()
        if not refusals.empty():
            kind, sentence = refusals.get()
            raise _ENDS[kind](sentence)


def _work(config: Mapping[str, Any]) -> None:
    """A worker: the step, in the step's folder for the first and in one of its own for the others."""
    letter: _Letter = config["letter"]
    if not letter.refusals.empty():
        return
    letter.share.take()
    os.chdir(letter.folder)
    context = letter.context
    first = ray.train.get_context().get_world_rank() == 0
    with contextlib.ExitStack() as stack:
        out = context.out
        if not first:
            out = stack.enter_context(storage.temporary_folder())
            if (context.out / CHECKPOINT).exists():
                (out / CHECKPOINT).symlink_to(context.out / CHECKPOINT)
        context = replace(
            context,
            out=out,
            dataset=context.dataset.in_memory(memory_for_images()),
            device=torch.device(ray.train.torch.get_device()) if context.device.type == "cuda" else context.device,
            report=_Reports(letter.queue if first else None),
            deadline=time.monotonic() + letter.left if first else math.inf,
        )
        try:
            letter.run(context)
        except OutOfTimeError as error:  # all workers have it at once
            letter.refusals.put((OutOfTimeError.__name__, str(error)))
        except UserError as error:  # perhaps one has it, and the others wait for its gradients
            letter.refusals.put((UserError.__name__, str(error)))
            raise


def _cores(there: list[Machine], count: int, device: torch.device) -> float:
    """The cores of each worker.

    Raises:
        UserError: there are not enough.
    """
    cuda = device.type == "cuda"
    if cuda:
        slots = slots_of(there, "cuda")
        if slots.count >= count:
            return slots.cores
    else:
        owned = [int(machine.get("CPU", 0.0)) for machine in there]
        for cores in range(max(owned, default=0), 0, -1):
            if sum(each // cores for each in owned) >= count:
                return float(cores)
    what = "GPU" if cuda else "core"
    raise UserError(
        f"{count} workers need a {what} each, and there are fewer; lower --workers or name a larger cluster"
    )


def _absolute(inputs: Mapping[str, Path]) -> dict[str, Path]:
    return {name: folder.absolute() for name, folder in inputs.items()}


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
