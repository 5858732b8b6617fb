"""Backbones at output stride 8 or 16, with or without pretrained weights.

All of them sample on a grid of nodes: an input of s * k + 1 px gives maps of k + 1 cells at output stride s, cell i
lying exactly on pixel s * i. So maps are resized with `align_corners=True` everywhere, and a mirrored image gives
mirrored maps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wsss.commands import command
from wsss.errors import UserError, unknown
from wsss.nets import resnet38


class Backbone(nn.Module):
    """A feature extractor cut into four levels.

    Attributes:
        channels: the channels of the last three levels' outputs.
        output_stride: of the last level.
    """

    def __init__(self, levels: list[nn.Module], channels: tuple[int, int, int], output_stride: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        self.channels = channels
        self.output_stride = output_stride

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last three levels' features of float B x 3 x H x W ImageNet-normalised images."""
        features = []
        for level in self.levels:
            images = level(images)
            features.append(images)
        return features[-3], features[-2], features[-1]


def _conv(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _torchvision() -> Any:
    """Torchvision's models, which take seconds to import and which few steps build."""
    import torchvision

    return torchvision.models


def _tiny(output_stride: int) -> Backbone:
    """Eight 3 x 3 convolutions, 0.3 M parameters: what trains from scratch in a minute on two cores."""
    last = 2 if output_stride == 16 else 1
    levels: list[nn.Module] = [
        nn.Sequential(_conv(3, 32, stride=2), _conv(32, 32)),
        nn.Sequential(_conv(32, 64, stride=2), _conv(64, 64)),
        nn.Sequential(_conv(64, 96, stride=2), _conv(96, 96)),
        nn.Sequential(_conv(96, 96, stride=last), _conv(96, 96, dilation=2)),
    ]
    return Backbone(levels, (64, 96, 96), output_stride)


def _resnet(name: str, output_stride: int, channels: tuple[int, int, int]) -> tuple[nn.Module, Backbone]:
    net = getattr(_torchvision(), name)(weights=None)
    if output_stride == 8:
        _dilate(net.layer3, 2)
        _dilate(net.layer4, 4)
    else:
        _dilate(net.layer4, 2)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
    return net, Backbone([stem, net.layer2, net.layer3, net.layer4], channels, output_stride)


def _mobilenet_v2(output_stride: int) -> tuple[nn.Module, Backbone]:
    net = _torchvision().mobilenet_v2(weights=None)
    blocks = net.features
    if output_stride == 8:
        _dilate(blocks[7:14], 2)
        _dilate(blocks[14:18], 4)
    else:
        _dilate(blocks[14:18], 2)
    levels = [blocks[:4], blocks[4:7], blocks[7:14], blocks[14:]]
    return net, Backbone(levels, (32, 96, 1280), output_stride)


def _vgg16(output_stride: int) -> tuple[nn.Module, Backbone]:
    """VGG16 to conv5_3, its pools made 3 x 3 with padding 1 as in DeepLab so that cells stay on nodes."""
    net = _torchvision().vgg16(weights=None)
    layers = list(net.features)[:-1]
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    for number, i in enumerate(pools, 1):
        stride = 1 if output_stride == 8 and number == 4 else 2
        layers[i] = nn.MaxPool2d(3, stride=stride, padding=1)
    levels = [nn.Sequential(*layers[a:b]) for a, b in zip([0, *pools[1:]], [*pools[1:], None], strict=True)]
    if output_stride == 8:
        _dilate(levels[-1], 2)
    return net, Backbone(list(levels), (256, 512, 512), output_stride)


def _resnet38(output_stride: int) -> tuple[nn.Module, Backbone]:
    layers, levels = resnet38.resnet38(output_stride)
    return layers, Backbone(levels, resnet38.channels(), output_stride)


def _dilate(module: nn.Module, dilation: int) -> None:
    """Take the stride out of a level and dilate its 3 x 3 convolutions, so that its weights see what they saw.

    The convolution that had the stride still reads the finer grid before it, with half the dilation of those after it.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            reach = dilation // 2 if layer.stride == (2, 2) else dilation
            layer.stride = (1, 1)
            if layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (reach, reach)


_BUILDERS: dict[str, Callable[[int], tuple[nn.Module, Backbone]]] = {
    "resnet18": lambda stride: _resnet("resnet18", stride, (128, 256, 512)),
    "resnet50": lambda stride: _resnet("resnet50", stride, (512, 1024, 2048)),
    "resnet101": lambda stride: _resnet("resnet101", stride, (512, 1024, 2048)),
    "resnet38": _resnet38,
    "mobilenet_v2": _mobilenet_v2,
    "vgg16": _vgg16,
}

BACKBONES = ("tiny", *_BUILDERS)


def build_backbone(name: str, weights: str, output_stride: int) -> Backbone:
    """Make a backbone.

    Args:
        name: one of `BACKBONES`.
        weights: "imagenet" (torchvision's file, downloaded once and checked), the path of a .safetensors or .pth file
            with torchvision's key names (those that `wsss.nets.resnet38` converts for ResNet38), or "none".
        output_stride: 8 or 16.

    Raises:
        UserError: an unknown name, weights that can't be had, read, or that don't fit.
    """
    if name not in BACKBONES:
        raise unknown("backbone", name, BACKBONES)
    check_weights(name, weights)
    if name == "tiny":
        backbone = _tiny(output_stride)
        net: nn.Module = backbone
    else:
        net, backbone = _BUILDERS[name](output_stride)
    if weights != "none":
        _fit(net, read_weights(name, weights), f"torchvision's {name}" if weights == "imagenet" else weights)
    return backbone


def read_weights(name: str, weights: str) -> dict[str, Tensor]:
    """Every tensor of a backbone's weights ("imagenet" or a file) by torchvision's key, the 1,000-way rows included.

    Raises:
        UserError: weights that can't be had or read.
    """
    return _download(name) if weights == "imagenet" else _read(Path(weights))


def check_weights(backbone: str, weights: str) -> None:
    """Refuse weights that there can't be, without reading any.

    Raises:
        UserError: pretrained weights of a backbone that has none.
    """
    if backbone == "tiny" and weights == "imagenet":
        raise UserError('backbone "tiny" has no pretrained weights; set its weights to "none"')
    if backbone == "resnet38" and weights == "imagenet":
        raise UserError(
            "the ImageNet weights of resnet38 are published for MXNet alone; convert them once with "
            f"`{command('python', '-m', 'wsss.nets.resnet38', 'FILE.params', 'resnet38.safetensors')}` and give that "
            "file as the weights"
        )


def _download(name: str) -> dict[str, Tensor]:
    url = _torchvision().get_model_weights(name)["IMAGENET1K_V1"].url
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"could not download the ImageNet weights of {name} from {url} ({error}); "
            "without internet, put the file on this machine and give its path as the weights"
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    except Exception as error:  # each format has its own errors for a file that is not of it
        raise UserError(f"could not read the weights in {path}: {str(error).splitlines()[0]}") from None


def _fit(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load the convolutional part; the ImageNet classifier is not used and may be missing."""
    own = {k: v for k, v in net.state_dict().items() if not k.startswith(("fc.", "classifier."))}
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    wrong = [
        f"{key} ({'missing' if key not in state else f'{tuple(state[key].shape)} for {tuple(value.shape)}'})"
        for key, value in own.items()
        if key not in optional and (key not in state or state[key].shape != value.shape)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"the weights in {source} don't fit the backbone: {', '.join(wrong[:3])}{more}")
    net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep the batch norm of pretrained weights: stored statistics, no gradient for scale and shift.

    Call it after every `train()`.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
            for parameter in layer.parameters():
                parameter.requires_grad_(False)
