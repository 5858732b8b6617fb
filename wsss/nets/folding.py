"""Networks made ready for inference: batch norm goes into the convolution before it, and what follows along with it."""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsss.nets.backbones import Backbone
from wsss.nets.kernels import of_any_shape

Network = TypeVar("Network", bound=nn.Module)

_RECTIFIERS: dict[type, tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
}


PACKED = 8
"""Input shapes for which a convolution keeps its weights in oneDNN's order: those of a few scales of one image size."""


class FusedConv(nn.Module):
    """A convolution, the addition of other maps and a rectifier in one pass over memory, by oneDNN on a CPU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.rectifier: tuple[str, list[float]] = ("none", [])
        self._packed: dict[torch.Size, Tensor] = {}

    def forward(self, maps: Tensor, others: Tensor | None = None) -> Tensor:
        """`rectifier(conv(maps) + others)`, in the number format of the weights."""
        maps = maps.to(self.weight.dtype)
        weight, (name, bounds) = self._packed_for(maps.shape), self.rectifier
        if others is None:
            return torch.ops.mkldnn._convolution_pointwise(maps, weight, self.bias, *self.geometry, name, bounds, "")
        after = None if name == "none" else name
        return torch.ops.mkldnn._convolution_pointwise.binary(
            maps, others, weight, self.bias, *self.geometry, "add", 1.0, after, bounds, ""
        )

    def _packed_for(self, shape: torch.Size) -> Tensor:
        """The weights as oneDNN wants them for inputs of a shape, which else it would do over at every call."""
        packed = self._packed.get(shape)
        if packed is None:
            packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self.geometry, list(shape))
            # A new dictionary, since other threads may be reading the one that is there.
            self._packed = dict([*self._packed.items(), (shape, packed)][-PACKED:])
        return packed


def folded(model: Network, dtype: torch.dtype = torch.float32, *, fuse: bool = True) -> Network:
    """A copy of a network for inference alone, its backbone folded and in channels-last order.

    Args:
        model: in eval mode, on the device where it will run; every `Backbone` in it is folded, nothing else.
        dtype: of the backbone's convolutions; with bfloat16, run the copy under autocast.
        fuse: let oneDNN run a convolution with what follows it, where it can; without, the copy can be exported.

    Returns:
        The copy, with the same outputs up to rounding.
    """
    model = copy.deepcopy(model).requires_grad_(False).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, Backbone):
            module.levels = nn.ModuleList(_fold(level, dtype, fuse) for level in module.levels)
    return model


def _fold(level: nn.Module, dtype: torch.dtype, fuse: bool) -> nn.Module:
    traced = _traced(level)
    layers = dict(traced.named_modules())
    nodes = list(traced.graph.nodes)
    for node in nodes:
        conv = _layer(node, layers)
        if not isinstance(conv, nn.Conv2d):
            continue
        norm = _layer(_only_user(node), layers)
        if isinstance(norm, nn.BatchNorm2d):
            conv = fuse_conv_bn_eval(conv, norm)
            _absorb_user(node)
        conv = conv.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        layer: nn.Module = conv
        if fuse and _fusible(conv):
            layer = _fuse(conv, node, nodes, layers)
        elif conv.weight.is_cuda:
            layer = of_any_shape(conv)
        traced.set_submodule(str(node.target), layer)
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


_TRACING = threading.Lock()
"""Held while a network is traced: torch then replaces how every module is called, which two can't undo in any order."""


class _Tracer(fx.Tracer):
    """Traces what its own thread calls; the networks of other threads run as they do, such as those that serve."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


def _traced(level: nn.Module) -> fx.GraphModule:
    with _TRACING:
        return fx.GraphModule(level, _Tracer().trace(level))


def _fuse(conv: nn.Conv2d, node: fx.Node, nodes: list[fx.Node], layers: dict[str, nn.Module]) -> FusedConv:
    """A convolution with the addition and the rectifier that follow its node."""
    fused = FusedConv(conv)
    total = _only_user(node)
    if total is not None and total.target in (operator.add, operator.iadd):
        others = [each for each in total.args if isinstance(each, fx.Node) and each is not node]
        if len(others) == 1 and nodes.index(others[0]) < nodes.index(node):
            node.args = (*node.args, others[0])
            _absorb_user(node)
    rectifier = type(_layer(_only_user(node), layers))
    if rectifier is nn.ReLU or (rectifier in _RECTIFIERS and len(node.args) == 1):  # no sum is capped in one pass
        fused.rectifier = _RECTIFIERS[rectifier]
        _absorb_user(node)
    return fused


def _layer(node: fx.Node | None, layers: dict[str, nn.Module]) -> nn.Module | None:
    return layers[str(node.target)] if node is not None and node.op == "call_module" else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _absorb_user(node: fx.Node) -> None:
    """Let a node stand for its only user."""
    (user,) = node.users
    user.replace_all_uses_with(node)
    node.graph.erase_node(user)


def _fusible(conv: nn.Conv2d) -> bool:
    """Whether oneDNN can run this convolution with what follows it."""
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return plain and conv.weight.device.type == "cpu" and fuses(conv.weight.dtype)


@cache
@torch.inference_mode()
def fuses(dtype: torch.dtype) -> bool:
    """Whether fused convolutions work here in a number format: oneDNN's operators are no public part of PyTorch.

    They are tried once, and must give what the plain operations give.
    """
    conv = nn.Conv2d(2, 2, 3, padding=1).to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        maps, others, weight, bias = (torch.randn(shape) for shape in ((1, 2, 4, 4), (1, 2, 4, 4), (2, 2, 3, 3), (2,)))
    conv.weight.copy_(weight)
    conv.bias.copy_(bias)
    expected = F.conv2d(maps, weight, bias, padding=1)
    fused = FusedConv(conv)
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        found = [fused(maps), fused(maps, others.to(dtype))]
        fused.rectifier = _RECTIFIERS[nn.ReLU6]
        found.append(fused(maps))
        fused.rectifier = _RECTIFIERS[nn.ReLU]
        found.append(fused(maps, others.to(dtype)))
    except (AttributeError, RuntimeError, TypeError):
        return False
    wanted = [expected, expected + others, F.relu6(expected), F.relu(expected + others)]
    return torch.stack(found).float().allclose(torch.stack(wanted), rtol=0.05, atol=0.1)
