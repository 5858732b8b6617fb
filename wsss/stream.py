"""Many items through a function on all cores: results in order, a bounded number of items on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from wsss.process import own_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def use_own_cores() -> None:
    """Keep torch from taking more threads than this process has cores."""
    torch.set_num_threads(min(torch.get_num_threads(), own_cores()))


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Apply a function in threads, as many as this process has cores; results in order, at most a few waiting.

    The items are drawn in the calling thread while the threads work on those before them, so that streams chain:
    `ordered_map(refine, map(network, ordered_map(read, files)))` reads, infers and refines at the same time. In each
    thread torch works with one thread of its own: cores share the items, so none waits for another inside one, and
    results don't depend on the number of cores.

    Args:
        function: may be called from several threads at once.
        items: any number of them.
        workers: how many threads instead.

    Raises:
        Exception: what the function or the items raised; items after it are not begun.
    """
    workers = workers or own_cores()
    own_threads = torch.get_num_threads()
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(own_threads)
