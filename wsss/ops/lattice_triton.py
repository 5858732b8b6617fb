"""The sums of `wsss.ops.lattice` as Triton kernels: each row is read as it lies in the cache, each sum written once."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

ROWS_OF_SUMS, ROWS_OF_BLUR = 64, 32
"""Rows that a program makes where a sum has few terms; what an H200 took least time with, as `WIDE` is."""
WIDE = 8
"""Rows where a sum may have dozens of terms: the longest of them decides how long all take."""


@triton.jit
def _sums(  # type: ignore[no-untyped-def]
    out,
    values,
    index,
    starts,
    weights,
    count,
    labels,
    indexed: tl.constexpr,
    weighted: tl.constexpr,
    rows_at_once: tl.constexpr,
    columns_at_once: tl.constexpr,
):
    rows = tl.program_id(0) * rows_at_once + tl.arange(0, rows_at_once)
    columns = tl.arange(0, columns_at_once)
    there = (columns < labels)[None, :]
    first = tl.load(starts + rows, mask=rows < count, other=0)
    last = tl.load(starts + rows + 1, mask=rows < count, other=0)
    total = tl.zeros((rows_at_once, columns_at_once), tl.float32)
    for step in range(tl.max(last - first, 0)):
        at = first + step
        row = tl.load(index + at, mask=at < last, other=0) if indexed else at
        places = row.to(tl.int64)[:, None] * labels + columns[None, :]
        terms = tl.load(values + places, mask=(at < last)[:, None] & there, other=0.0)
        if weighted:
            terms *= tl.load(weights + at, mask=at < last, other=0.0)[:, None]
        total += terms
    places = rows.to(tl.int64)[:, None] * labels + columns[None, :]
    tl.store(out + places, total, mask=(rows < count)[:, None] & there)


@triton.jit
def _blur(  # type: ignore[no-untyped-def]
    out, values, pairs, count, labels, rows_at_once: tl.constexpr, columns_at_once: tl.constexpr
):
    rows = tl.program_id(0) * rows_at_once + tl.arange(0, rows_at_once)
    columns = tl.arange(0, columns_at_once)[None, :]
    inside = (rows < count)[:, None] & (columns < labels)
    following = tl.load(pairs + 2 * rows, mask=rows < count, other=0).to(tl.int64)[:, None]
    previous = tl.load(pairs + 2 * rows + 1, mask=rows < count, other=0).to(tl.int64)[:, None]
    own = rows.to(tl.int64)[:, None] * labels + columns
    both = tl.load(values + following * labels + columns, mask=inside, other=0.0)
    both += tl.load(values + previous * labels + columns, mask=inside, other=0.0)
    tl.store(out + own, tl.load(values + own, mask=inside, other=0.0) + 0.5 * both, mask=inside)


def weighted_sums(
    values: torch.Tensor,
    index: torch.Tensor | None,
    starts: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    many: bool = False,
) -> torch.Tensor:
    """Row b is the sum of weights[i] values[index[i]] over starts[b] <= i < starts[b + 1], in this order.

    Args:
        values: float32 N x K.
        index: int32; None for i itself.
        starts: int32 B + 1.
        weights: float32; None for ones.
        many: sums have up to dozens of terms.
    """
    values = values.contiguous()
    count, labels = len(starts) - 1, values.shape[1]
    out = values.new_empty(count, labels)
    rows, columns = WIDE if many else ROWS_OF_SUMS, max(2, triton.next_power_of_2(labels))
    rows = max(1, min(rows, 4096 // columns))
    _sums[(triton.cdiv(count, rows),)](
        out,
        values,
        starts if index is None else index,
        starts,
        values if weights is None else weights,
        count,
        labels,
        index is not None,
        weights is not None,
        rows,
        columns,
        num_warps=min(4, max(1, rows * columns // 32)) if many else 1,
    )
    return out


def blurred(values: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Row m (float32) plus half of the rows pairs[2 m] and pairs[2 m + 1] (int32)."""
    count, labels = values.shape
    out = torch.empty_like(values)
    columns = max(2, triton.next_power_of_2(labels))
    rows = max(1, min(ROWS_OF_BLUR, 4096 // columns))
    _blur[(triton.cdiv(count, rows),)](out, values, pairs, count, labels, rows, columns, num_warps=2)
    return out


def works() -> bool:
    """Whether Triton can compile for this GPU: it needs a C compiler, and a card of compute capability 7 or more."""
    try:
        ones: Any = torch.ones(1, 1, device="cuda")
        return bool(blurred(ones, torch.zeros(2, dtype=torch.int32, device="cuda")).item() == 2.0)
    except Exception:  # whatever stands in the way, torch's own kernels do it too
        return False
