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


def each(work: Callable[[Item], Result], items: Sequence[Item], what: str) -> list[Result]:
    """`[work(item) for item in items]` on threads; a bar on a terminal, labelled `what`, once it takes a second.

    Raises:
        UserError: the work raised it for one item or more; the first ten messages, and how many more there are.
    """
    problems: list[str] = []

    def attempt(item: Item) -> list[Result]:
        try:
            return [work(item)]
        except UserError as error:
            problems.append(str(error))
            return []

    with ThreadPoolExecutor(min(16, 2 * own_cores())) as pool:
        tries = tqdm(pool.map(attempt, items), total=len(items), desc=what, disable=None, delay=1, leave=False)
        results = [result for found in tries for result in found]
    if problems:
        raise UserError(some(sorted(problems)))
    return results


def some(items: Sequence[str], limit: int = 10) -> str:
    """The first items, separated by commas, and how many more there are."""
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
