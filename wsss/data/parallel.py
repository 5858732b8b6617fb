"""Many small jobs on files, a few at a time, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from wsss.errors import UserError
from wsss.process import own_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
_AT_ONCE = 64


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


def some(items: Sequence[str], limit: int = 10) -> str:
    """The first items, separated by commas, and how many more there are."""
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
