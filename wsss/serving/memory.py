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

from wsss.ops.native.mean_field import BYTES_OF_PIXEL, BYTES_OF_VERTEX
from wsss.serving.deployed import Deployed, brought, rows_at_once, rows_at_size
from wsss.serving.networks import Saliency

CRF_PLANES = 12
"""Copies of all labels' probabilities at the size of the CRF that are there at once: 8 to 11 were measured."""
CRF_VERTICES = 6
"""Of the colour lattice, for a pixel: its corners, none of which another pixel shares in the worst of pictures."""


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
        crf_labels: how many labels the CRF tells apart that decides in the end; 0 without one.
    """

    def __init__(self, module: Deployed, crf_labels: int = 0) -> None:
        self._source, self._crf_labels = module, crf_labels
        self._live = _Live()
        self._lock = Lock()
        self.bytes = lru_cache(1024)(self._bytes)

    @cached_property
    def _module(self) -> Deployed:
        module = copy.deepcopy(self._source).to("meta")
        if not isinstance(module, Saliency):
            module.net = _MeteredNet(module.net, self._live)
        return module

    def _bytes(self, height: int, width: int) -> int:
        """The tensors that are alive at the same time while an image of this size is labelled, in bytes."""
        with self._lock, torch.no_grad():
            size, model, live = (height, width), self._module, self._live
            learned = model.learned_size(size)
            live.now = live.most = 0
            with live:
                image = torch.empty(height, width, 3, dtype=torch.uint8, device="meta")
                maps = model.coarse([brought(image, learned)])
                labels = torch.empty(size, dtype=torch.uint8, device="meta")
                # Every other piece of the rows takes the same.
                rows = min(rows_at_once(maps, size), height)
                labels[:rows] = rows_at_size(maps, size, 0, rows)[0].max(0).indices
            # They go now, while they are counted.
            del image, maps, labels
            return live.most + crf_bytes(learned[0] * learned[1], self._crf_labels)


def crf_bytes(pixels: int, labels: int) -> int:
    """What a CRF over so many pixels and labels takes at most, whatever the picture; 0 without labels."""
    if not labels:
        return 0
    lattice = BYTES_OF_PIXEL + CRF_VERTICES * BYTES_OF_VERTEX
    # Inference holds two values for each vertex and label.
    return pixels * (lattice + 4 * labels * (CRF_PLANES + 2 * CRF_VERTICES))


def return_memory() -> None:
    """Give the free memory that the C library keeps back to the system, where it can (glibc).

    Of tensors of ever other sizes, it keeps pieces that add up to hundreds of megabytes.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
