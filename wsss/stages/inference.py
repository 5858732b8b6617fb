"""Multi-scale inference with mirrored copies on the node grid, and the stream of images that passes through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.data import Dataset
from wsss.data.augmentation import normalise
from wsss.errors import UserError
from wsss.nets.splitting import Splitting
from wsss.ops import tiles
from wsss.stream import ordered_map

Maps = TypeVar("Maps")
Result = TypeVar("Result")
ImageTile = tuple[tiles.Window, tuple[slice, slice]]
"""A window of cells, and the rows and columns of the image that it sees."""

PIXELS = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Pixels in a batch: on a CPU, few enough for its caches."""


def node_grid(height: int, width: int, stride: int) -> tuple[int, int]:
    """The cells of a map over an image: one on every `stride`-th pixel, both borders included."""
    return round(height / stride) + 1, round(width / stride) + 1


def node_size(height: int, width: int, stride: int, scale: float = 1.0) -> tuple[int, int]:
    """The nearest size s * k + 1 in px to a scaled image, whose maps have cells exactly on pixels 0, s, 2s, ..."""
    rows, columns = node_grid(round(height * scale), round(width * scale), stride)
    return max(rows - 1, 1) * stride + 1, max(columns - 1, 1) * stride + 1


def check_nodes(side: int, stride: int, key: str) -> None:
    """Refuse a square whose borders are not on nodes; `key` is the setting of its side, in px.

    Raises:
        UserError: the side is not a multiple of the stride plus 1.
    """
    if (side - 1) % stride:
        nearest = node_size(side, side, stride)[0]
        raise UserError(f"{key} = {side} must be a multiple of {stride} plus 1, such as {nearest}")


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resizing of B x K x h x w maps from corner to corner."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


def id_batches(dataset: Dataset, ids: Sequence[str], device: torch.device) -> list[list[str]]:
    """The ids in batches of images of one size, within a size in the order of `ids`.

    A batch is as much as a GPU likes at once, or little enough for a CPU's caches; which images share one depends on
    the ids alone.
    """
    sizes: dict[tuple[int, int], list[str]] = {}
    for image_id, size in zip(ids, ordered_map(dataset.size, ids), strict=True):
        sizes.setdefault(size, []).append(image_id)
    batches = []
    for (height, width), members in sizes.items():
        step = max(1, PIXELS[device.type] // (height * width))
        batches += [members[start : start + step] for start in range(0, len(members), step)]
    return batches


def stream_images(
    dataset: Dataset,
    ids: Sequence[str],
    device: torch.device,
    infer: Callable[[Sequence[np.ndarray]], Sequence[Maps]],
    finish: Callable[[str, np.ndarray, Maps], Result],
    *,
    skip: frozenset[str] = frozenset(),
    one_at_a_time: bool = False,
) -> Iterator[tuple[str, Result]]:
    """Read images, run a network and finish each image: all of it at the same time, in bounded memory.

    On a CPU each core takes batches of its own through all three. With a GPU, the network runs in the calling thread
    between threads that read ahead and threads that finish, so that it never waits while there is work for it. A batch
    that its memory is too little for goes through in parts.

    Args:
        dataset: where the images come from.
        ids: which.
        device: where the network is.
        infer: from the uint8 H x W x 3 images of a batch to what the network makes of each.
        finish: from an id, its image and what the network made of it to the result.
        skip: ids whose results are there already. A batch that holds others too is run whole, so that they come out as
            they would have.
        one_at_a_time: `infer` can't be called from several threads at once.

    Returns:
        Ids and results, batch by batch in the order of `id_batches`.
    """
    batches = [batch for batch in id_batches(dataset, ids, device) if not skip.issuperset(batch)]
    splitting = Splitting("images")

    def read(batch: list[str]) -> tuple[list[str], list[np.ndarray]]:
        return batch, [dataset.image(i) for i in batch]

    def run(read: tuple[list[str], list[np.ndarray]]) -> Iterator[tuple[str, np.ndarray, Maps]]:
        ids, images = read
        maps = splitting.attempt(
            len(images), lambda: [each for part in splitting.parts(len(images)) for each in infer(images[part])]
        )
        made = zip(ids, images, maps, strict=True)
        return (each for each in made if each[0] not in skip)

    def end(made: tuple[str, np.ndarray, Maps]) -> tuple[str, Result]:
        return made[0], finish(*made)

    if device.type == "cpu" and not one_at_a_time:
        return chain.from_iterable(ordered_map(lambda batch: [end(made) for made in run(read(batch))], batches))
    return ordered_map(end, chain.from_iterable(map(run, ordered_map(read, batches))))


@torch.inference_mode()
def multi_scale(
    maps: Callable[[Tensor], Tensor],
    images: Sequence[np.ndarray],
    *,
    scales: Sequence[float],
    flip: bool,
    stride: int,
    grid: tuple[int, int],
    device: torch.device,
    apart: bool = False,
) -> Tensor:
    """The mean over scales and mirrored copies of a network's maps.

    Args:
        maps: from float B x 3 x H x W normalised images to B x K x h x w maps; mirroring is undone here.
        images: uint8 H x W x 3, all of one size.
        scales: factors on the image size.
        flip: add the mirrored images.
        stride: the network's output stride.
        grid: h x w of the result.
        device: where the network is.
        apart: mirrored copies go through the network after the images, not beside them: in half the memory.

    Returns:
        float32 B x K x h x w on the device.
    """
    height, width = images[0].shape[:2]
    if tiles.is_large(height, width) and min(grid) > 1:

        def infer(parts: Sequence[np.ndarray], window: tiles.Window) -> Tensor:
            return multi_scale(
                maps, parts, scales=scales, flip=flip, stride=stride, grid=window.size, device=device, apart=True
            )

        return maps_in_tiles(infer, images, grid, device)
    batch = normalise(torch.from_numpy(np.stack(images)).to(device)).contiguous(memory_format=torch.channels_last)
    total: Tensor | None = None
    for scale in scales:
        copies = [resize(batch, node_size(height, width, stride, scale))]
        if flip:
            copies.append(copies[0].flip(3))
        together = [torch.cat(copies)] if flip and not apart else copies
        out = resize(torch.cat([maps(each).float() for each in together]), grid)
        if flip:
            plain, mirrored = out.chunk(2)
            out = (plain + mirrored.flip(3)) / 2
        total = out if total is None else total + out
    assert total is not None
    return total / len(scales)


def grid_windows(
    size: tuple[int, int], grid: tuple[int, int], period: int = 4, tile: int | None = None
) -> Iterator[ImageTile]:
    """The tiles of a large image, which begin and end on a grid's cells, to half a pixel.

    Args:
        size: H, W of the image.
        grid: h x w.
        period: tiles begin at its multiples, in cells. By 4, the cells of a network at one of the usual scales lie in a
            tile where the whole image's do.
        tile: about their side in px; `TILE` by default.

    Returns:
        Windows of cells, and the rows and columns of the image that each sees.
    """
    steps = [(length - 1) / (cells - 1) for length, cells in zip(size, grid, strict=True)]
    side = period * max(1, round((tile or tiles.TILE) / max(steps) / period)) + 1
    overlap = round(tiles.OVERLAP / max(steps))
    for window in tiles.windows(*grid, side, overlap, period):
        rows, columns = (
            slice(round(span.start * step), round((span.stop - 1) * step) + 1)
            for span, step in zip(window.seen, steps, strict=True)
        )
        yield window, (rows, columns)


def maps_in_tiles(
    infer: Callable[[Sequence[np.ndarray], tiles.Window], Tensor],
    images: Sequence[np.ndarray],
    grid: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Maps of large images on a grid, tile by tile; see `grid_windows`.

    Args:
        infer: from parts of the images, all of one size, and the window of cells that they are to their maps
            B x K x h x w; on a CPU called from several threads at once, see `tile_workers`.
        images: uint8 H x W x 3, all of one size.
        grid: h x w of the result.
        device: where the maps are made.
    """
    whole: Tensor | None = None

    def work(tile: ImageTile) -> Tensor:
        window, seen = tile
        return infer([image[seen] for image in images], window)[:, :, *window.middle]

    def keep(tile: ImageTile, part: Tensor) -> None:
        nonlocal whole
        if whole is None:
            whole = part.new_empty(*part.shape[:2], *grid)
        whole[:, :, *tile[0].kept] = part

    every = [*grid_windows((images[0].shape[0], images[0].shape[1]), grid)]
    tiles.each_tile(every, in_this_mode(work, device), keep, tile_workers(device))
    assert whole is not None
    return whole


def tile_workers(device: torch.device) -> int | None:
    """Threads for the tiles of an image (`each_tile`): all cores, or the calling one alone with a GPU."""
    return None if device.type == "cpu" else 0


def in_this_mode(work: Callable[[ImageTile], Result], device: torch.device) -> Callable[[ImageTile], Result]:
    """`work` with this thread's inference mode and number format, which torch has by thread, in whichever calls it."""
    inference, autocast = torch.is_inference_mode_enabled(), torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type)

    def as_here(tile: ImageTile) -> Result:
        with torch.inference_mode(inference), torch.autocast(device.type, dtype=dtype, enabled=autocast):
            return work(tile)

    return as_here
