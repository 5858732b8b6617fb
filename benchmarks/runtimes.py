"""What computes a package's network faster on a processor: oneDNN's fused convolutions, ONNX Runtime, OpenVINO.

The network alone, one thread: the MobileNetV2 of preset `small` with random weights, which take as long as trained
ones. How far the labels agree, `wsss model export` says of a trained model. The peer is the package's own way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import Row, compare, threads
from benchmarks.serving import packaged
from wsss.errors import UserError
from wsss.nets.deeplab import DeepLab
from wsss.nets.folding import folded
from wsss.serving.export import RUNTIMES
from wsss.serving.package import load_package
from wsss.serving.segmenter import Segmenter, fused

AIM = 1.5
"""What a runtime has to give to be offered."""
SIZES = ((257, 257), (385, 513))
ROUNDS = 15


def rows() -> Iterator[Row]:
    """A row for each runtime and size; without figures where the runtime is not installed."""
    with tempfile.TemporaryDirectory() as scratch, threads(1), torch.inference_mode():
        segmenter = load_package(str(packaged(Path(scratch))))
        own = segmenter.module.net
        for name, run in runtimes(segmenter, Path(scratch)):
            for height, width in SIZES:
                key, what = f"{name}-{height}x{width}", f"{name}, {width} x {height} px; the package's own way"
                images = torch.rand(1, 3, height, width).contiguous(memory_format=torch.channels_last)
                if run is None:
                    yield Row(key, what, None, None, "ms", None, None, AIM)
                else:
                    yield compare(key, what, AIM, lambda: run(images), lambda: own(images), rounds=ROUNDS)  # noqa: B023


def runtimes(segmenter: Segmenter, folder: Path) -> Iterator[tuple[str, Callable[[Tensor], Tensor] | None]]:
    """What each runtime is called, and what it does to normalised images; None where it is not installed."""
    yield "fused", fused(segmenter).module.net
    for kind, runtime in RUNTIMES.items():
        to = folder / kind
        to.mkdir()
        try:
            runtime.write(segmenter, to)
            yield kind, runtime.load(to, segmenter.module.net)
        except UserError:
            yield kind, None
    net = segmenter.module.net.net
    assert isinstance(net, DeepLab)
    network = folded(net, torch.bfloat16)

    def bfloat16(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(images).float().softmax(1)

    yield "bfloat16", bfloat16
