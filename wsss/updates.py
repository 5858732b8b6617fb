"""The gradients of one update: those of its batches, added up, each batch in as many parts as the memory asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wsss.batches import Sample
from wsss.errors import UserError
from wsss.nets.kernels import without_plans
from wsss.nets.splitting import Splitting, split

Loss = Callable[[dict[str, Any]], tuple[Tensor, dict[str, float]]]
"""From a batch (tensors on the device, "id" a list, "epoch" the number of the pass) to the loss and its named parts."""


@dataclass(frozen=True)
class Gradients:
    """What makes the gradients of updates.

    Attributes:
        optimizer: whose parameters get them.
        loss: of a batch.
        device: where the network is.
        precision: the number format of the forward pass.
        usual: how many images this worker has of a whole batch.
        short_alone: what has fewer images is computed by torch itself, see `without_plans`.
    """

    optimizer: torch.optim.Optimizer
    loss: Loss
    device: torch.device
    precision: torch.dtype
    usual: int
    short_alone: bool
    _splitting: Splitting = field(default_factory=lambda: Splitting("images in training"))

    def add_up(
        self, batches: Sequence[Sample], sizes: Sequence[int], where: str
    ) -> tuple[list[float], dict[str, float]]:
        """Add up the gradients of this worker's part of an update's batches, in place of those of before.

        Args:
            batches: this worker's images of each batch, on the CPU.
            sizes: how many images each batch has on all workers.
            where: which update it is, for the error.

        Returns:
            This worker's share of each batch's mean loss, and the named parts of the last loss.

        Raises:
            UserError: a loss that is not a number (names the images), or too little memory for one image.
        """
        return self._splitting.attempt(self.usual, lambda: self._add_up(batches, sizes, where))

    def _add_up(
        self, batches: Sequence[Sample], sizes: Sequence[int], where: str
    ) -> tuple[list[float], dict[str, float]]:
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[float] = []
        scalars: dict[str, float] = {}
        for batch, size in zip(batches, sizes, strict=True):
            own, total_loss = len(batch["id"]), 0.0
            for part in split(batch, self._splitting.parts(own) if own else [], own):
                share = len(part["id"]) / size
                with without_plans() if self.short_alone and len(part["id"]) < self.usual else nullcontext():
                    value, scalars = self._loss(part, where)
                    (value * share / len(batches)).backward()
                total_loss += share * value.item()
            losses.append(total_loss)
        return losses, scalars

    def _loss(self, part: dict[str, Any], where: str) -> tuple[Tensor, dict[str, float]]:
        part = {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in part.items()}
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            value, scalars = self.loss(part)
        if not torch.isfinite(value):
            raise UserError(
                f"the loss became {value.item()} at {where}, on the images {', '.join(part['id'])}; lower the learning "
                "rate or look at these images"
            )
        return value, scalars
