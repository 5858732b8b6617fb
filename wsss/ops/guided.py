"""Guided back-propagation (Springenberg et al., ICLR-W 2015): rectifiers pass positive gradients alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class GuidedRelu(torch.autograd.Function):
    """min(max(x, 0), top) whose backward passes a gradient where 0 < x < top and the gradient is above 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float) -> Tensor:
        out = x.clamp(0, top)
        ctx.save_for_backward(out)
        ctx.top = top
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        passes = out > 0 if ctx.top == torch.inf else (out > 0) & (out < ctx.top)
        return gradients[0].clamp(min=0) * passes, None


class Guided(TorchFunctionMode):
    """Within `with Guided():` every ReLU and ReLU6 of a network is guided, whichever module or function it comes from.

    In-place ones work out of place, so that no tensor that a gradient is wanted for is overwritten. Batch norm in eval
    mode is the affine map that it is: its gradient needs no statistics, and `class_gradients` is faster for it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _RELUS:
            return GuidedRelu.apply(args[0], _RELUS[func])
        if func is F.hardtanh and kwargs.get("min_val", -1.0) == 0:
            return GuidedRelu.apply(args[0], kwargs["max_val"])
        if func is F.batch_norm and not kwargs["training"] and kwargs["weight"] is not None:
            return _affine(*args, **kwargs)
        return func(*args, **kwargs)


_RELUS: dict[Callable[..., Any], float] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_), torch.inf),
    F.relu6: 6.0,
}


def _affine(
    x: Tensor, mean: Tensor, variance: Tensor, *, weight: Tensor, bias: Tensor, eps: float, **_: object
) -> Tensor:
    scale = weight * torch.rsqrt(variance + eps)
    return torch.addcmul((bias - mean * scale)[:, None, None], x, scale[:, None, None])


def class_gradients(scores: Tensor, inputs: Sequence[Tensor], classes: Tensor) -> tuple[Tensor, ...]:
    """The gradients of several classes' scores, in one batched backward.

    Args:
        scores: B x C x h x w, computed from `inputs` within `with Guided():`.
        inputs: tensors B x c x h' x w' of the graph.
        classes: int64 B x K, the classes wanted of each image.

    Returns:
        For each input K x B x c x h' x w': the gradient of the sum over all cells of the score of the k-th class.
    """
    images, wanted = classes.shape
    seeds = scores.new_zeros(wanted, *scores.shape)
    seeds[torch.arange(wanted)[:, None], torch.arange(images), classes.T] = 1
    return torch.autograd.grad(scores, inputs, seeds, is_grads_batched=True)
