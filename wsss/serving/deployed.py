"""From the pixels of an image to its label map, by a network: sizes, scales, mirrored copies, tiles, classes.

It needs torch alone, since a copy of this file, and of the two that it imports, is the code of every package's pyfunc
model: whoever loads a package without wsss runs the very same steps. wsss itself never runs the copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss.ops.pooling import spatial_pool
from wsss.serving.heatmaps import Direct, direct_of, seen_classes

Size = tuple[int, int]
"""Height and width, in px."""

MAX_SIDE = 2048
"""The longer side in px at which images are labelled at most, where it is not known what the network learned from."""
TILE = 768
"""Side of a tile in px; what has no more pixels goes through the network whole."""
OVERLAP = 128
"""So many px at each side of a tile are there for its middle alone, and are not kept."""
_VALUES = 1 << 21
"""Probabilities at an image's full size that are held at once."""


class Deployed(nn.Module):
    """A network with what is done to pixels before it and to probabilities after it.

    Args:
        net: from normalised float32 B x 3 x h x w images, borders on nodes and channels last, to class probabilities
            B x (C + 1) x h' x w' at the stride.
        stride: pixels of what the network sees for a cell.
        mean, std: of the channels of the images it was trained on, RGB in [0, 1].
        sides: the shortest and the longest longer side in px at which it labels: those of its training images. Any
            other image is brought to the nearer one first, and its probabilities to the image's size.
        scales: factors on that size; probabilities are averaged over them.
        flip: add mirrored copies.
        direct: of a network that learned from tags alone; its maps are then kept in float16, as the run kept them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        stride: int,
        mean: Sequence[float],
        std: Sequence[float],
        sides: Sequence[int] = (1, MAX_SIDE),
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        direct: Direct | None = None,
    ) -> None:
        super().__init__()
        self.net, self.stride, self.direct = net, stride, direct
        self.sides, self.scales, self.flip = tuple(sides), tuple(scales), flip
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    @classmethod
    def of_package(cls, graph: Path) -> Deployed:
        """The network of a package's exported graph; what calls this trusts whoever made the package."""
        described = {"model.json": ""}
        net = torch.export.load(graph, extra_files=described).module()
        content = json.loads(described["model.json"])
        pixels, how = content["preprocessing"], content["inference"]
        passes = how["sides"], how["scales"], how["flip"], direct_of(content)
        return cls(net, content["network"]["output_stride"], pixels["mean"], pixels["std"], *passes)

    def with_net(self, net: nn.Module) -> Deployed:
        """The same with another network in its place."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return type(self)(net, self.stride, mean, std, self.sides, self.scales, self.flip, self.direct)

    def forward(self, image: Tensor) -> Tensor:
        """The label map of an image: uint8 H x W of uint8 H x W x 3, on the same device."""
        size = (image.shape[0], image.shape[1])
        return best_classes(self.coarse([brought(image, self.learned_size(size))]), size)

    def learned_size(self, size: Size) -> Size:
        """The size at which an image of a size is labelled."""
        low, high = self.sides
        side = max(low, min(max(size), high))
        height, width = (max(1, round(length * side / max(size))) for length in size)
        return height, width

    def network_sizes(self, learned: Size) -> list[Size]:
        """What the network sees of an image of the learned size, at each scale: its borders are on nodes."""
        return [self._nodes(learned, scale) for scale in self.scales]

    def _nodes(self, learned: Size, scale: float = 1.0) -> Size:
        height, width = (_cells(round(length * scale), self.stride) * self.stride + 1 for length in learned)
        return height, width

    def coarse(self, images: Sequence[Tensor]) -> Tensor:
        """Probabilities, or other scores, on cells of the image: float32 B x (C + 1) x h x w, contiguous.

        Args:
            images: float32 1 x 3 x H x W in [0, 1] of the learned size, alike in their `network_sizes`.
        """
        size = (images[0].shape[2], images[0].shape[3])
        cell = self.direct.cell if self.direct else self.stride
        grid = (_cells(size[0], cell) + 1, _cells(size[1], cell) + 1)
        pool = self.direct.pool if self.direct else None
        total: Tensor | None = None
        for seen in self.network_sizes(size):
            batch = self._batch(images, seen)
            for mirrored in (False, True) if self.flip else (False,):
                scores = in_tiles(self.net, batch.flip(3) if mirrored else batch, self.stride)
                scores = scores.relu() if pool else scores
                scores = resize(scores.flip(3) if mirrored else scores, grid)
                total = scores if total is None else total + scores
            del batch
        assert total is not None
        maps = total / (len(self.scales) * (2 if self.flip else 1))
        if self.direct is None:
            return maps
        if pool is None:
            return maps.half().float()
        heatmaps = in_tiles(self.net, self._batch(images, self._nodes(size)), self.stride)
        return seen_classes(maps, spatial_pool(heatmaps, *pool), self.direct)

    def _batch(self, images: Sequence[Tensor], size: Size) -> Tensor:
        scaled = [resize((image - self.mean).div_(self.std), size) for image in images]
        return torch.cat(scaled) if len(scaled) > 1 else scaled[0]


def _cells(length: int, stride: int) -> int:
    return max(1, round(length / stride))


def resize(maps: Tensor, size: Size) -> Tensor:
    """Bilinear resizing of B x K x h x w maps from corner to corner."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


def brought(image: Tensor, size: Size) -> Tensor:
    """An image uint8 H x W x 3 as float32 1 x 3 x h x w in [0, 1] of another size; of a smaller one, averaged.

    What changes its size goes channel by channel, since a photograph in float32 is large.
    """
    if size == (image.shape[0], image.shape[1]):
        return image.permute(2, 0, 1)[None].float().div_(255).contiguous()
    channels = [
        F.interpolate(channel[None, None].float().div_(255), size, mode="bilinear", align_corners=True, antialias=True)
        for channel in image.unbind(2)
    ]
    return torch.cat(channels, 1).clamp_(0, 1)


def best_classes(maps: Tensor, size: Size) -> Tensor:
    """The class with the highest score at each pixel of an image, the first of equal ones.

    The maps are resized a few rows at a time, so that memory grows with the pixels alone.

    Args:
        maps: float32 1 x K x h x w, contiguous, at most 256 classes.
        size: H, W of the image.

    Returns:
        uint8 H x W.
    """
    labels = torch.empty(size, dtype=torch.uint8, device=maps.device)
    # Of another memory format, torch would round in another way.
    maps, step = maps.contiguous(), rows_at_once(maps, size)
    for start in range(0, size[0], step):
        stop = min(start + step, size[0])
        labels[start:stop] = rows_at_size(maps, size, start, stop)[0].max(0).indices
    return labels


def rows_at_once(maps: Tensor, size: Size) -> int:
    """How many rows of an image are labelled together, at least 1."""
    return max(1, _VALUES // (maps.shape[1] * size[1]))


def rows_at_size(maps: Tensor, size: Size, start: int, stop: int) -> Tensor:
    """Some rows of maps that are resized to a size, bilinear from corner to corner.

    A row is the same however many are asked for.

    Args:
        maps: float32 B x K x h x w, contiguous.
        size: H, W.
        start, stop: of the rows, within 0..H.

    Returns:
        float32 B x K x (stop - start) x W.
    """
    steps = max(size[0] - 1, 1)
    position = torch.arange(start, stop, device=maps.device) * (maps.shape[2] - 1)
    above = position // steps
    below = (above + 1).clamp(max=maps.shape[2] - 1)
    share = (position - above * steps).to(maps.dtype) / steps
    rows = torch.lerp(maps[:, :, above], maps[:, :, below], share[:, None])
    return resize(rows, (stop - start, size[1]))


def in_tiles(net: Callable[[Tensor], Tensor], images: Tensor, stride: int) -> Tensor:
    """A network's maps, tile by tile where the images are large.

    Cells lie on the same pixels as without tiles. Those whose network sees no further than `OVERLAP` are the same; of
    what is further away, a tile knows nothing.

    Args:
        net: from float32 B x 3 x H x W, channels last, to B x K x h x w at the stride.
        images: float32 B x 3 x (s k + 1) x (s l + 1), s the stride.
        stride: a divisor of `TILE` and `OVERLAP`.

    Returns:
        B x K x (k + 1) x (l + 1), contiguous.
    """
    height, width = images.shape[2:]
    if height * width <= (TILE + 1) ** 2:
        return _contiguous(net, images)
    rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
    whole: Tensor | None = None
    for row in _windows(rows, stride):
        for column in _windows(columns, stride):
            tile = images[:, :, row.pixels(stride), column.pixels(stride)]
            scores = _contiguous(net, tile)
            if whole is None:
                whole = scores.new_empty(scores.shape[0], scores.shape[1], rows, columns)
            whole[:, :, row.kept, column.kept] = scores[:, :, row.middle, column.middle]
    assert whole is not None
    return whole


def _contiguous(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return net(images.contiguous(memory_format=torch.channels_last)).contiguous()


class _Window:
    """Cells along one side: from `start` to `stop` a tile sees, of which those from `first` to `last` are kept."""

    def __init__(self, start: int, stop: int, first: int, last: int) -> None:
        self.start, self.stop = start, stop
        self.kept, self.middle = slice(first, last), slice(first - start, last - start)

    def pixels(self, stride: int) -> slice:
        return slice(self.start * stride, (self.stop - 1) * stride + 1)


def _windows(cells: int, stride: int) -> Iterator[_Window]:
    """Windows of equal lengths whose kept cells follow each other from 0 to `cells`."""
    length, overlap = min(TILE // stride + 1, cells), OVERLAP // stride
    first = 0
    while first < cells:
        start = min(max(first - overlap, 0), cells - length)
        stop = start + length
        last = cells if stop == cells else stop - overlap
        yield _Window(start, stop, first, last)
        first = last
