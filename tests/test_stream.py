"""Many items through a function: in order, on threads, bounded, and not beyond an error."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from wsss.stream import ordered_map


def test_results_come_in_order_whichever_is_ready_first() -> None:
    last_is_ready = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert last_is_ready.wait(10)
        if number == 3:
            last_is_ready.set()
        return number**2

    assert list(ordered_map(work, range(4), workers=2)) == [0, 1, 4, 9]


def test_only_a_few_items_are_on_the_way() -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        while drawn < 1000:
            drawn += 1
            yield drawn

    results = ordered_map(lambda item: item, items(), workers=2)
    for number, _ in zip(range(1, 50), results, strict=False):
        assert drawn - number <= 4


def test_chained_streams_work_at_the_same_time() -> None:
    """The first item is refined only once the third is read: with one after the other, that would never be."""
    third_is_read = threading.Event()

    def read(item: int) -> int:
        if item == 2:
            third_is_read.set()
        return item

    def refine(item: int) -> bool:
        return third_is_read.wait(10)

    assert all(ordered_map(refine, map(abs, ordered_map(read, range(3), workers=1)), workers=1))


def test_an_error_comes_out_and_later_items_are_not_begun() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        return 1 // (item - 5)

    with pytest.raises(ZeroDivisionError):
        list(ordered_map(work, range(100), workers=1))
    assert max(begun) <= 8


@pytest.mark.parametrize("consumed", [1, 10])
def test_torch_has_one_thread_in_each_worker_and_its_own_number_here(consumed: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        results = ordered_map(lambda _: torch.get_num_threads(), range(10), workers=2)
        assert [next(results) for _ in range(consumed)] == [1] * consumed
        assert torch.get_num_threads() == 2
        results.close()  # type: ignore[attr-defined]
        elsewhere: list[int] = []
        thread = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert elsewhere == [2]
    finally:
        torch.set_num_threads(before)
