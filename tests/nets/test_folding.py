"""Folded networks give what the networks give: every backbone, blocks that normalise first, half precision too."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from wsss.nets import folding
from wsss.nets.backbones import Backbone, build_backbone
from wsss.nets.folding import PACKED, FusedConv, folded

RESIDUAL = "pre-activation"
NETWORKS = ("tiny", "resnet18", "resnet50", "mobilenet_v2", RESIDUAL)


class PreActivation(nn.Module):
    """A block as in ResNet38: it normalises and rectifies before it convolves, and nothing rectifies the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(6)
        self.conv1, self.conv2 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.Conv2d(6, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv2(self.relu(self.second(self.conv1(self.relu(self.first(maps))))))


def network(name: str) -> Backbone:
    """A backbone whose batch norm does something."""
    torch.manual_seed(0)
    if name == RESIDUAL:
        levels = [nn.Conv2d(3, 4, 1), PreActivation(), PreActivation(), nn.Sequential(PreActivation(), nn.ReLU())]
        backbone = Backbone(levels, (4, 4, 4), 8)
    else:
        backbone = build_backbone(name, "none", 16)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.7, 1.3)
            for values in (layer.bias, layer.running_mean):
                nn.init.uniform_(values, -0.2, 0.2)  # type: ignore[arg-type]
    return backbone.eval()


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def kinds(module: nn.Module) -> set[type]:
    return {type(layer) for layer in module.modules()}


@torch.inference_mode()
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_a_folded_network_gives_what_it_gave(name: str, dtype: torch.dtype, limit: float) -> None:
    backbone, images = network(name), torch.randn(2, 3, 49, 65)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    fast = folded(backbone, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        found = fast(images)
    assert all(error(*pair) < limit for pair in zip(found, backbone(images), strict=True))
    assert all(value.equal(before[key]) for key, value in backbone.state_dict().items())


class Capped(nn.Module):
    """A block whose sum is rectified and capped."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.cap = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU6()

    def forward(self, maps: Tensor) -> Tensor:
        return self.cap(maps + self.conv(maps))


@torch.inference_mode()
def test_a_capped_sum_stays_what_it_is() -> None:
    torch.manual_seed(0)
    levels = [nn.Conv2d(3, 4, 1), Capped(), Capped(), nn.Sequential(Capped())]
    backbone, images = Backbone(levels, (4, 4, 4), 8).eval(), 5 * torch.randn(1, 3, 17, 9)
    assert error(folded(backbone)(images)[-1], backbone(images)[-1]) < 1e-5


@torch.inference_mode()
def test_images_of_many_sizes_pass_through_one_folded_network() -> None:
    backbone = network("tiny")
    fast = folded(backbone)
    for side in [*range(33, 33 + 8 * (PACKED + 3), 8), 33]:
        images = torch.randn(1, 3, side, 41)
        assert error(fast(images)[-1], backbone(images)[-1]) < 1e-5


@pytest.mark.skipif(not folding.fuses(torch.float32), reason="this build of PyTorch has no fused convolutions")
def test_no_norm_and_no_rectifier_is_left_where_they_follow_a_convolution() -> None:
    for name in set(NETWORKS) - {RESIDUAL}:
        assert not kinds(folded(network(name))) & {nn.BatchNorm2d, nn.ReLU, nn.ReLU6}, name
    block = folded(network(RESIDUAL)).levels[1]
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in block.modules()) == 1
    assert sum(isinstance(layer, FusedConv) for layer in block.modules()) == 2


def without(*gone: str) -> SimpleNamespace:
    """PyTorch's oneDNN operators, without some."""
    own = torch.ops.mkldnn
    names = ("_convolution_pointwise", "_reorder_convolution_weight", "_is_mkldnn_bf16_supported")
    return SimpleNamespace(**{name: getattr(own, name) for name in names if name not in gone})


def broken(*arguments: object) -> Tensor:
    raise RuntimeError("the operator's arguments are other ones now")


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "operators",
    [
        SimpleNamespace(),
        without("_convolution_pointwise"),
        without("_reorder_convolution_weight"),
        SimpleNamespace(**{**vars(without()), "_reorder_convolution_weight": broken}),
        SimpleNamespace(**{**vars(without()), "_reorder_convolution_weight": lambda weight, *_: weight * 2}),
    ],
    ids=["none", "no convolution", "no order", "raises", "wrong"],
)
def test_without_working_operators_convolutions_are_plain(
    operators: SimpleNamespace, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, images = network("tiny"), torch.randn(1, 3, 33, 41)
    monkeypatch.setattr(torch.ops, "mkldnn", operators)
    folding.fuses.cache_clear()
    try:
        fast = folded(backbone, dtype)
    finally:
        folding.fuses.cache_clear()
    assert FusedConv not in kinds(fast) and nn.BatchNorm2d not in kinds(fast)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        assert error(fast(images)[-1], backbone(images)[-1]) < 0.03


def test_only_backbones_are_folded() -> None:
    model = nn.ModuleDict({"backbone": network("tiny"), "head": nn.Sequential(nn.Conv2d(96, 3, 1), nn.BatchNorm2d(3))})
    fast = folded(model.eval())
    assert nn.BatchNorm2d in kinds(fast["head"]) and nn.BatchNorm2d not in kinds(fast["backbone"])
    assert fast["backbone"].output_stride == 16


def test_other_devices_keep_plain_convolutions() -> None:
    fast = folded(network("tiny").to("meta"))
    assert FusedConv not in kinds(fast) and nn.BatchNorm2d not in kinds(fast)


def test_a_network_that_runs_in_another_thread_does_not_notice() -> None:
    """A server folds the next model while the present one answers."""
    running, images = network("tiny").eval(), torch.rand(1, 3, 33, 33)
    expected, answers = running(images)[-1], []
    call = nn.Module.__call__

    class Traced(nn.Conv2d):
        def forward(self, maps: Tensor) -> Tensor:
            return maps

    class Level(nn.Module):
        """While it is traced, the other network runs."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = Traced(3, 3, 1)

        def forward(self, maps: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: answers.append(running(images)[-1]))
            thread.start()
            thread.join()
            return self.conv(maps)

    folded(Backbone([Level()], (3,), 8).eval())
    assert len(answers) == 1 and torch.equal(answers[0], expected) and nn.Module.__call__ is call
