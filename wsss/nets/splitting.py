"""A batch that is too large for a GPU's memory goes through it in parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch

from wsss.errors import UserError
from wsss.progress import say

Result = TypeVar("Result")


class Splitting:
    """How many items of a batch go through a network at once: all, until the memory was too little for so many.

    Attributes:
        what: what the sentence calls the items, such as "images in localize.train".
        most: items at once.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.most = 2**30

    def parts(self, count: int) -> list[slice]:
        """Where the parts of a batch lie, as few and as equal as can be."""
        number = max(1, math.ceil(count / self.most))
        ends = [round(count * part / number) for part in range(number + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def attempt(self, count: int, work: Callable[[], Result]) -> Result:
        """What `work()` makes of batches of `count` items at most, in their `parts`; again in smaller ones if need be.

        Raises:
            UserError: it is too little for one item.
        """
        while True:
            largest = min(count, self.most)
            try:
                return work()
            except torch.OutOfMemoryError as error:
                problem = str(error).split(".", 1)[0]
            # Only here, outside of the handler, is what the failed attempt held free.
            if largest == 1:
                raise UserError(
                    f"the GPU's memory is too little for one of the {self.what} ({problem}); make room on it, or "
                    "choose a smaller crop, a smaller backbone or --device cpu"
                )
            if self.most > count:
                say(f"the GPU's memory is too little for {count} {self.what} at once; they go through it in parts")
            self.most = math.ceil(largest / 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def split(batch: Mapping[str, Any], parts: Sequence[slice], count: int) -> Iterator[dict[str, Any]]:
    """The parts of a batch: whatever in it has `count` items is cut, the rest is in every part."""
    for part in parts:
        yield {
            key: value[part] if isinstance(value, torch.Tensor | list) and len(value) == count else value
            for key, value in batch.items()
        }
