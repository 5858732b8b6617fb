"""Backbones: cells on nodes, sizes as published, ResNet38 written out once more, its published file read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.nets import resnet38
from wsss.nets.backbones import BACKBONES, build_backbone, check_weights

LIGHT = tuple(name for name in BACKBONES if name != "resnet38")
CLASSIFIERS = {
    "resnet18": 512 * 1000 + 1000,
    "resnet50": 2048 * 1000 + 1000,
    "resnet101": 2048 * 1000 + 1000,
    "mobilenet_v2": 1280 * 1000 + 1000,
    "vgg16": 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000,
}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ResNet38 of a sixteenth of the channels."""
    monkeypatch.setattr(resnet38, "STEM", 4)
    monkeypatch.setattr(
        resnet38, "WIDTHS", {level: tuple(w // 16 for w in widths) for level, widths in resnet38.WIDTHS.items()}
    )


def lively(net: nn.Module) -> nn.Module:
    """Batch norms that do something."""
    torch.manual_seed(0)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low, high in (
                (layer.weight, 0.8, 1.2),
                (layer.bias, -0.2, 0.2),
                (layer.running_mean, -0.2, 0.2),
            ):
                nn.init.uniform_(values, low, high)  # type: ignore[arg-type]
    return net.eval()


def mirrored(net: nn.Module) -> None:
    """Every kernel as seen in a mirror."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.flip(3)


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_mirrored_network_sees_a_mirrored_image_as_the_network_sees_the_image(name: str, output_stride: int) -> None:
    assert_mirror_symmetry(name, output_stride)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_resnet38_is_as_symmetric(output_stride: int, narrow: None) -> None:
    assert_mirror_symmetry("resnet38", output_stride)


def assert_mirror_symmetry(name: str, output_stride: int) -> None:
    net = lively(build_backbone(name, "none", output_stride))
    images = torch.rand(1, 3, 2 * output_stride + 1, 4 * output_stride + 1)
    with torch.inference_mode():
        plain = net(images)
        mirrored(net)
        for expected, found in zip(plain, net(images.flip(3)), strict=True):
            assert torch.allclose(expected, found.flip(3), atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_parameters_are_those_torchvision_states_less_the_classifier(name: str) -> None:
    stated = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]
    with torch.device("meta"):
        net = build_backbone(name, "none", 8)
    assert sum(p.numel() for p in net.parameters()) == stated - CLASSIFIERS[name]


def test_resnet38_has_105_million_parameters() -> None:
    def norms(*channels: int) -> int:
        return 2 * sum(channels)

    wide = {2: (64, 128, 128, 3), 3: (128, 256, 256, 3), 4: (256, 512, 512, 6), 5: (512, 512, 1024, 3)}
    total = 9 * 3 * 64
    for inputs, middle, outputs, blocks in wide.values():
        total += norms(inputs, middle) + 9 * inputs * middle + 9 * middle * outputs + inputs * outputs
        total += (blocks - 1) * (norms(outputs, middle) + 9 * outputs * middle + 9 * middle * outputs)
    for inputs, first, second, outputs in ((1024, 512, 1024, 2048), (2048, 1024, 2048, 4096)):
        total += norms(inputs, first, second)
        total += inputs * first + 9 * first * second + second * outputs + inputs * outputs
    total += norms(4096)
    with torch.device("meta"):
        net = build_backbone("resnet38", "none", 8)
    assert sum(p.numel() for p in net.parameters()) == total == 105_070_912


def written_out(weights: dict[str, Tensor], images: Tensor, output_stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """ResNet38 from its description, block by block, with weights by their published names."""

    def rectified(x: Tensor, name: str) -> Tensor:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.relu(F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"]))

    def conv(x: Tensor, name: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = weights[f"{name}.weight"]
        padding = 0 if weight.shape[2] == 1 else dilation
        return F.conv2d(x, weight, stride=stride, padding=padding, dilation=1 if weight.shape[2] == 1 else dilation)

    fine = output_stride == 8
    x = conv(images, "conv1a")
    kept = []
    for level, blocks in {2: 3, 3: 3, 4: 6, 5: 3, 6: 1, 7: 1}.items():
        stride = {2: 2, 3: 2, 4: 2, 5: 1 if fine else 2}.get(level, 1)
        dilation = {5: 2 if fine else 1, 6: 4 if fine else 2, 7: 4 if fine else 2}.get(level, 1)
        for name in [f"{level}a", *(f"{level}b{i}" for i in range(1, blocks))]:
            first = name.endswith("a")
            active = rectified(x, f"bn{name}_branch2a")
            if first:
                kept.append(active)
            around = conv(active, f"res{name}_branch1", stride) if first else x
            branch = conv(active, f"res{name}_branch2a", stride if first else 1, 1 if first else dilation)
            branch = conv(rectified(branch, f"bn{name}_branch2b1"), f"res{name}_branch2b1", dilation=dilation)
            if level >= 6:
                branch = conv(rectified(branch, f"bn{name}_branch2b2"), f"res{name}_branch2b2")
            x = around + branch
    return kept[3], kept[4], rectified(x, "bn7")


@pytest.mark.parametrize("output_stride", [8, 16])
def test_resnet38_is_its_description(output_stride: int, narrow: None) -> None:
    layers, levels = resnet38.resnet38(output_stride)
    lively(layers)
    x = torch.rand(2, 3, 33, 49)
    expected = written_out(layers.state_dict(), x, output_stride)
    with torch.inference_mode():
        for number, level in enumerate(levels):
            x = level.eval()(x)
            if number:
                assert torch.allclose(x, expected[number - 1], atol=1e-4)


def published(weights: dict[str, Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    """Weights under the names of the published file, with its classifier."""
    for key, values in weights.items():
        layer, _, kind = key.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        norm = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
        name = f"{layer}_{norm[kind]}" if layer.startswith("bn") else f"{layer}_weight"
        yield ("aux:" if kind.startswith("running") else "arg:") + name, values.numpy()
    yield "arg:linear1000_weight", np.zeros((1000, 256), np.float32)


def params_file(arrays: dict[str, np.ndarray], version: int) -> bytes:
    """What MXNet's `nd.save` writes: `version` 0 before 0.9.5, 1 up to 0.12, 2 since."""
    parts = [struct.pack("<QQQ", 0x112, 0, len(arrays))]
    for values in arrays.values():
        if version == 2:
            parts.append(struct.pack("<Ii", 0xF993FAC9, 0))
        elif version == 1:
            parts.append(struct.pack("<I", 0xF993FAC8))
        parts.append(struct.pack(f"<I{values.ndim}{'q' if version else 'I'}", values.ndim, *values.shape))
        kind = {"float32": 0, "float64": 1, "float16": 2}[values.dtype.name]
        parts.append(struct.pack("<iii", 1, 0, kind) + values.tobytes())
    parts.append(struct.pack("<Q", len(arrays)))
    parts += [struct.pack("<Q", len(name)) + name.encode() for name in arrays]
    return b"".join(parts)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_params_file_is_read_without_mxnet(version: int, tmp_path: Path) -> None:
    arrays = {
        "arg:one": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "aux:two": np.array([1.5], np.float64),
        "three": np.ones((2, 1, 1, 2), np.float16),
    }
    path = tmp_path / "some.params"
    path.write_bytes(params_file(arrays, version))
    found = resnet38.read_params(path)
    assert list(found) == list(arrays)
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype and (found[name] == values).all()


@pytest.mark.parametrize("cut", [0, 10, 40, -1])
def test_a_file_that_is_none_or_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.params"
    path.write_bytes(params_file({"one": np.zeros((2, 3), np.float32)}, 2)[:cut])
    with pytest.raises(UserError, match=r"cut\.params is not a \.params file of MXNet, or it is cut short"):
        resnet38.read_params(path)


def test_the_published_file_becomes_weights(narrow: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = lively(resnet38.resnet38(8)[0])
    (tmp_path / "in.params").write_bytes(params_file(dict(published(layers.state_dict())), 1))
    out = str(tmp_path / "out.safetensors")
    assert resnet38.main([str(tmp_path / "in.params"), out]) == 0
    found = build_backbone("resnet38", out, 16).state_dict()
    images = torch.rand(1, 3, 33, 33)
    with torch.inference_mode():
        features = build_backbone("resnet38", out, 8).eval()(images)
    for expected, feature in zip(written_out(layers.state_dict(), images, 8), features, strict=True):
        assert torch.allclose(expected, feature, atol=1e-4)
    assert len(found) == len(layers.state_dict())

    (tmp_path / "in.params").write_bytes(params_file({"arg:conv1a_weight": np.zeros((4, 3, 3, 3), np.float32)}, 1))
    assert resnet38.main([str(tmp_path / "in.params"), out]) == 2
    assert "not the weights of ResNet38: bn2a_branch2a.weight is missing" in capsys.readouterr().err


def test_imagenet_weights_of_resnet38_are_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"convert them once with `python -m wsss\.nets\.resnet38 FILE\.params"):
        check_weights("resnet38", "imagenet")
