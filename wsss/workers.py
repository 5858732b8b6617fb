"""One training in several processes: which of them this is, its part of each batch, and sums over all of them.

Every process runs the same step. What they exchange, by `torch.distributed`, are gradients and losses; where no process
group was made there is one worker, and nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsss.errors import OutOfTimeError, UserError
from wsss.interface import StepContext

Item = TypeVar("Item")


@dataclass(frozen=True)
class Workers:
    """Those that train a network together.

    Attributes:
        device: where they compute.
        rank: which one this process is, from 0; the first writes what there is to write.
        count: how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @classmethod
    def of_this_process(cls, device: torch.device) -> Workers:
        """Those of the process group; without one, this process alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls(device)
        return cls(device, distributed.get_rank(), distributed.get_world_size())

    def own(self, batch: Sequence[Item]) -> Sequence[Item]:
        """This worker's part of a batch: of equal size but for one, empty where there are more workers than items."""
        begin, end = (-(-len(batch) * rank // self.count) for rank in (self.rank, self.rank + 1))
        return batch[begin:end]

    def check(self, model: nn.Module) -> None:
        """Refuse what would not learn the same in parts.

        Raises:
            UserError: a batch norm in training mode would see a part of the batch.
        """
        if self.count > 1 and any(isinstance(layer, _BatchNorm) and layer.training for layer in model.modules()):
            raise UserError(
                f"batch norm that learns sees whole batches, and {self.count} workers have parts of them; set "
                "freeze_bn=true, which needs pretrained weights, or train with one worker"
            )

    def add(self, parameters: Iterable[nn.Parameter], losses: Sequence[float]) -> list[float]:
        """Add up over the workers: gradients in place, losses as they are returned.

        A parameter that has a gradient with no worker has none afterwards.
        """
        if self.count == 1:
            return list(losses)
        those = [parameter for parameter in parameters if parameter.requires_grad]
        has = self._sum(torch.tensor([float(each.grad is not None) for each in those], device=self.device))
        used = [each for each, count in zip(those, has.tolist(), strict=True) if count]
        parts = [(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in used]
        total = self._sum(torch.cat([*parts, torch.tensor(losses, device=self.device)]))
        *gradients, summed = total.split([*(part.numel() for part in parts), len(losses)])
        for parameter, gradient in zip(used, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        return [float(value) for value in summed]

    def time_for(self, context: StepContext, seconds: float) -> None:
        """`StepContext.time_for`, and all workers stop where one has to.

        Raises:
            OutOfTimeError: there is no time.
        """
        late: OutOfTimeError | None = None
        try:
            context.time_for(seconds)
        except OutOfTimeError as error:
            late = error
        anybody = bool(late) if self.count == 1 else bool(self._sum(torch.tensor([float(bool(late))]).to(self.device)))
        if anybody:
            raise late or OutOfTimeError("another worker has no time left")

    def _sum(self, values: Tensor) -> Tensor:
        distributed.all_reduce(values)
        return values
