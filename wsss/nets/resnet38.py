"""ResNet38, the wide residual network of AffinityNet and many after it (Wu, Shen, van den Hengel, arXiv 1611.10080).

It is the authors' model A1, dilated for dense maps as in AffinityNet's released code. Its ImageNet weights are
published in MXNet's format alone; this makes a file of them that `weights` takes, without MXNet:

    python -m wsss.nets.resnet38 ilsvrc-cls_rna-a1_cls1000_ep-0001.params resnet38.safetensors
"""

from __future__ import annotations

import math
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wsss.commands import command
from wsss.errors import UserError

STEM = 64
WIDTHS = {2: (128, 128), 3: (256, 256), 4: (512, 512), 5: (512, 1024), 6: (512, 1024, 2048), 7: (1024, 2048, 4096)}
"""The channels of a block's convolutions, by level; two are 3 x 3, three are 1 x 1, 3 x 3, 1 x 1."""
BLOCKS = {2: 3, 3: 3, 4: 6, 5: 3, 6: 1, 7: 1}
DROPOUT = {6: 0.3, 7: 0.5}
"""Shares of channels dropped before a block's second and third convolution, by level; from AffinityNet's code."""

_LIST, _V1, _V2 = 0x112, 0xF993FAC8, 0xF993FAC9
_TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
_SUFFIXES = {
    "weight": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"
}  # fmt: skip


class Residual(nn.Module):
    """What a branch of layers adds to its input, or to what `around` makes of it."""

    def __init__(self, branch: nn.Module, around: nn.Module) -> None:
        super().__init__()
        self.branch, self.around = branch, around

    def forward(self, features: Tensor) -> Tensor:
        return self.around(features) + self.branch(features)


def resnet38(output_stride: int) -> tuple[nn.ModuleDict, list[nn.Module]]:
    """The layers by their published names, and the same layers joined to four levels.

    Every block normalises and rectifies before it convolves. A level's first block uses its input in that form alone,
    so the BN and ReLU before it end the level before. The outputs of the last three levels are conv4, conv5 and conv6
    of AffinityNet's code: 512, 1024 and 4096 channels at strides 8, `output_stride` and `output_stride`.

    Args:
        output_stride: 8 or 16; a stride that is left out becomes a dilation, so that weights see what they saw at 32.
    """
    layers = nn.ModuleDict()
    strides = {2: 2, 3: 2, 4: 2, 5: output_stride // 8, 6: 1, 7: 1}
    dilations = {5: 16 // output_stride, 6: 32 // output_stride, 7: 32 // output_stride}

    def conv(name: str, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Module:
        padding = dilation * (kernel // 2)
        layers[name] = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        return layers[name]

    def rectified(name: str, channels: int) -> list[nn.Module]:
        layers[name] = nn.BatchNorm2d(channels)
        return [layers[name], nn.ReLU(inplace=True)]

    def block(level: int, number: int, inputs: int) -> nn.Module:
        name, widths = f"{level}b{number}" if number else f"{level}a", WIDTHS[level]
        kernels = (3, 3) if len(widths) == 2 else (1, 3, 1)
        branch: list[nn.Module] = []
        for at, (channels, width, kernel) in enumerate(zip((inputs, *widths[:-1]), widths, kernels, strict=True)):
            part = f"{name}_branch2" + (f"b{at}" if at else "a")
            if not at and not number:
                branch.append(conv(f"res{part}", channels, width, kernel, strides[level]))
                continue
            branch += rectified(f"bn{part}", channels)
            if level in DROPOUT:
                branch.append(nn.Dropout2d(DROPOUT[level]))
            branch.append(conv(f"res{part}", channels, width, kernel, dilation=dilations.get(level, 1)))
        around = nn.Identity() if number else conv(f"res{name}_branch1", inputs, widths[-1], 1, strides[level])
        return Residual(nn.Sequential(*branch), around)

    chain: dict[int, list[nn.Module]] = {1: [conv("conv1a", 3, STEM, 3), *rectified("bn2a_branch2a", STEM)]}
    channels = STEM
    for level, widths in WIDTHS.items():
        inputs = (channels, *[widths[-1]] * (BLOCKS[level] - 1))
        channels = widths[-1]
        end = f"bn{level + 1}a_branch2a" if level < max(WIDTHS) else f"bn{level}"
        chain[level] = [block(level, i, width) for i, width in enumerate(inputs)] + rectified(end, channels)
    parts = ((1, 2, 3), (4,), (5,), (6, 7))
    return layers, [nn.Sequential(*(layer for level in part for layer in chain[level])) for part in parts]


def channels() -> tuple[int, int, int]:
    """The channels of the last three levels' outputs."""
    return WIDTHS[4][-1], WIDTHS[5][-1], WIDTHS[7][-1]


def read_params(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that MXNet's `nd.save` wrote, by name; dense ones of MXNet 0.x and 1.x.

    Raises:
        UserError: the file can't be read as one.
    """
    wrong = UserError(f"{path} is not a .params file of MXNet, or it is cut short")
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    at = 0

    def take(size: int) -> memoryview:
        nonlocal at
        if size > len(data) - at:
            raise wrong
        at += size
        return data[at - size : at]

    def numbers(form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", take(struct.calcsize(f"<{form}")))

    def array() -> np.ndarray:
        (magic,) = numbers("I")
        if magic == _V2 and numbers("i") != (0,):
            raise wrong  # a sparse one
        axes = numbers("I")[0] if magic in (_V1, _V2) else magic
        if not 0 < axes <= 8:
            raise wrong
        shape = numbers(f"{axes}{'q' if magic in (_V1, _V2) else 'I'}")
        _, _, kind = numbers("iii")
        if not 0 <= kind < len(_TYPES) or min(shape) < 1:
            raise wrong
        dtype = np.dtype(_TYPES[kind])
        return np.frombuffer(take(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

    if numbers("QQ")[0] != _LIST:
        raise wrong
    arrays = [array() for _ in range(numbers("Q")[0])]
    names = [bytes(take(numbers("Q")[0])).decode("utf-8", "replace") for _ in range(numbers("Q")[0])]
    if len(names) != len(arrays):
        raise wrong
    return dict(zip(names, arrays, strict=True))


def convert(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The published arrays, such as "arg:bn7_gamma", as weights such as "bn7.weight"; the classifier is left out.

    Raises:
        UserError: arrays of the network are missing or of another shape (names the first).
    """
    found = {}
    for name, values in arrays.items():
        if match := re.fullmatch(rf"(?:arg:|aux:)?(.+?)_({'|'.join(_SUFFIXES)})", name):
            found[f"{match[1]}.{_SUFFIXES[match[2]]}"] = torch.from_numpy(values.astype(np.float32))
    with torch.device("meta"):
        own = resnet38(8)[0].state_dict()
    own = {key: value for key, value in own.items() if not key.endswith("num_batches_tracked")}
    for key, value in own.items():
        if key not in found or found[key].shape != value.shape:
            there = f"of shape {tuple(found[key].shape)}, not {tuple(value.shape)}" if key in found else "missing"
            raise UserError(f"these are not the weights of ResNet38: {key} is {there}")
    return {key: found[key] for key in own}


def main(arguments: list[str]) -> int:
    """Convert a file; exit status 2 is the user's to mend."""
    if len(arguments) != 2:
        usage = command("python", "-m", "wsss.nets.resnet38", "IN.params", "OUT.safetensors")
        print(f"usage: {usage}", file=sys.stderr)
        return 2
    try:
        save_file(convert(read_params(Path(arguments[0]))), arguments[1])
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
