"""How much memory labelling an image takes, known from its size alone."""

from __future__ import annotations

import copy
import ctypes
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wsss.serving.deployed import Deployed, brought, rows_at_once, rows_at_size


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


class _MeteredNet(nn.Module):
    """A network on the device "meta" that is run once for each shape of images: what it took then, it takes again."""

    def __init__(self, net: nn.Module, live: _Live) -> None:
        super().__init__()
        self.net, self.live = net, live
        self.known: dict[torch.Size, tuple[torch.Size, int]] = {}

    def forward(self, images: Tensor) -> Tensor:
        live, before = self.live, self.live.now
        if images.shape not in self.known:
            most, live.most = live.most, before
            scores = self.net(images)
            self.known[images.shape] = scores.shape, live.most - before
            live.most = max(most, live.most)
            return scores
        shape, extra = self.known[images.shape]
        live.most = max(live.most, before + extra)
        return images.new_empty(shape)


class LabellingMemory:
    """What a network needs for images of any size; nothing is computed, and no pixel is held.

    Args:
        module: the network; a copy of it without weights is made when it is first asked for.
    """

    def __init__(self, module: Deployed) -> None:
        self._source = module
        self._lock = Lock()
        self.bytes = lru_cache(1024)(self._bytes)

    @cached_property
    def _module(self) -> Deployed:
        module = copy.deepcopy(self._source).to("meta")
        module.net = _MeteredNet(module.net, _Live())
        return module

    def _bytes(self, height: int, width: int) -> int:
        """The tensors that are alive at the same time while an image of this size is labelled, in bytes."""
        with self._lock, torch.no_grad():
            size, model = (height, width), self._module
            assert isinstance(model.net, _MeteredNet)
            live = model.net.live
            live.now = live.most = 0
            with live:
                image = torch.empty(height, width, 3, dtype=torch.uint8, device="meta")
                maps = model.coarse([brought(image, model.learned_size(size))])
                labels = torch.empty(size, dtype=torch.uint8, device="meta")
                # Every other piece of the rows takes the same.
                rows = min(rows_at_once(maps, size), height)
                labels[:rows] = rows_at_size(maps, size, 0, rows)[0].max(0).indices
            # They go now, while they are counted.
            del image, maps, labels
            return live.most


def return_memory() -> None:
    """Give the free memory that the C library keeps back to the system, where it can (glibc).

    Of tensors of ever other sizes, it keeps pieces that add up to hundreds of megabytes.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
