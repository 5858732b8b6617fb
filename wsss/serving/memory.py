"""How much memory labelling an image takes, known from its size alone."""

from __future__ import annotations

import copy
import ctypes
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wsss.serving.segmenter import DeployedSegmenter, label


class _Live(TorchDispatchMode):
    """Adds up the bytes of the tensors that are alive; `most` is their highest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(results):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in before:
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        # oneDNN reads and writes copies of its own, in another order.
        copies = args[0].nbytes + results.nbytes if func is torch.ops.aten.convolution.default else 0
        self.most = max(self.most, self.now + copies)
        return results

    def _free(self, size: int) -> None:
        self.now -= size


class LabellingMemory:
    """What a network needs for images of any size; nothing is computed, and no pixel is held.

    Args:
        module: the network; a copy of it without weights is made when it is first asked for.
    """

    def __init__(self, module: DeployedSegmenter) -> None:
        self._source = module
        self.bytes = lru_cache(1024)(self._bytes)

    @cached_property
    def _module(self) -> DeployedSegmenter:
        return copy.deepcopy(self._source).to("meta")

    def _bytes(self, height: int, width: int) -> int:
        """The tensors that are alive at the same time while an image of this size is labelled, in bytes."""
        with torch.no_grad(), _Live() as live:
            label(self._module, torch.empty(height, width, 3, dtype=torch.uint8, device="meta"))
        return live.most


def return_memory() -> None:
    """Give the free memory that the C library keeps back to the system, where it can (glibc).

    Of tensors of ever other sizes, it keeps pieces that add up to hundreds of megabytes.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
