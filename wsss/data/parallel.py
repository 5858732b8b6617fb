"""Many small jobs on files, a few at a time, with a progress bar."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from wsss.errors import UserError
from wsss.process import own_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
_AT_ONCE = 64
_WORTH_PROCESSES = 512
"""Fewer jobs are done on threads before processes would have begun."""


def each(work: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """`[work(item) for item in items]` on threads; a bar on a terminal, labelled `what`, once it takes a second.

    Raises:
        UserError: the work raised it for one item or more; the first ten messages, and how many more there are.
    """
    problems: list[str] = []
    threads = min(16, 2 * own_cores())
    # A job of its own for each small file costs as much as reading it.
    size = max(1, min(_AT_ONCE, len(items) // (8 * threads)))
    batches = [items[start : start + size] for start in range(0, len(items), size)]

    def attempt(batch: Sequence[Item]) -> list[Result]:
        done = []
        for item in batch:
            try:
                done.append(work(item))
            except UserError as error:
                problems.append(str(error))
        return done

    results: list[Result] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(items), desc=what, disable=None, delay=1, leave=False) as bar,
    ):
        for batch, done in zip(batches, pool.map(attempt, batches), strict=True):
            results += done
            bar.update(len(batch))
    if problems:
        raise UserError(some(sorted(problems)))
    return results


def in_batches(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], what: str, threads: int = 0
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Some items at a time, in their order, and `work(...)` of them; in a process for each core where that is worth it.

    Jobs that are mostly Python, such as those on small images, stand in each other's way on threads.

    Args:
        work: a function of a module.
        items: of which it is called with some.
        what: the label of the progress bar.
        threads: so many instead of processes, for work that waits for others.

    Raises:
        UserError: the work raised it first, or the system ended one of the processes.
    """
    workers = threads or own_cores()
    apart = not threads and sys.platform == "linux" and workers > 1 and len(items) >= _WORTH_PROCESSES
    size = max(1, min(_AT_ONCE, len(items) // (8 * workers)))
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    pool: Executor = (
        ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _follow, (os.getpid(),))
        if apart
        else ThreadPoolExecutor(threads or min(16, 2 * workers))
    )
    try:
        with tqdm(total=len(items), desc=what, disable=None, delay=1, leave=False) as bar:
            for batch, done in zip(batches, pool.map(work, batches), strict=True):
                yield batch, done
                bar.update(len(batch))
    except BrokenProcessPool:
        raise UserError(
            f"{what} was broken off: the system ended a process that did it, mostly as memory ran out; run the same "
            "command again with more memory, or fewer cores (WSSS_CORES)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _follow(parent: int) -> None:
    """Leave interrupts to the process that began this one, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what it was born with is looked through never again

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def uncollected() -> Iterator[None]:
    """Put off Python's search for objects that hold each other: among those of a large dataset there are none.

    They are made by the million, and each time their number has grown by a quarter all would be looked through again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def some(items: Sequence[str], limit: int = 10) -> str:
    """The first items, separated by commas, and how many more there are."""
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
