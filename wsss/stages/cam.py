"""Score maps straight from a localizer's network, and how well it ranks the tags: what most localizers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsss.data.score_maps import ScoreMap, ScoreMapWriter
from wsss.interface import StepContext
from wsss.nets.folding import folded
from wsss.ops.tiles import is_large
from wsss.scores import mean_average_precision, metric_names
from wsss.settings import setting
from wsss.stages.inference import multi_scale, node_grid, stream_images
from wsss.stages.localize import load_classifier
from wsss.stages.outputs import write_metrics
from wsss.training import gains_by_bfloat16, to_device


@dataclass(frozen=True)
class CamSettings:
    """Making score maps with the trained classifier."""

    scales: tuple[float, ...] = setting((0.5, 1.0, 1.5, 2.0), "image scales", source="PSA code", low=0.1, high=8)
    flip: bool = setting(True, "add mirrored images", source="PSA code")
    stride: int = setting(8, "pixels of the image for a cell of the score map", choices=(2, 4, 8, 16), unit="px")
    precision: str = setting(
        "auto",
        "number format: auto takes bfloat16 where the device gains by it",
        choices=("auto", "float32", "bfloat16"),
    )

    def number_format(self, device: torch.device) -> torch.dtype:
        """What `precision` comes down to on a device."""
        gains = gains_by_bfloat16(device)
        return torch.bfloat16 if self.precision == "bfloat16" or (self.precision == "auto" and gains) else torch.float32


def infer_cam(context: StepContext) -> None:
    """Score maps of the tagged classes for train and dev; the classifier's ranking quality on dev and val.

    Each map is the mean over scales and mirrored copies, divided by its maximum plus 1e-5 (PSA code). The maximum is
    taken at the size of the map.
    """
    model = to_device(load_classifier(context.inputs["train"]), context.device)
    write_score_maps(context, model, tagged_score_map)
    write_metrics(context.out, tag_metrics(context, model))


def write_score_maps(
    context: StepContext,
    model: nn.Module,
    score_map: Callable[[Tensor, np.ndarray, tuple[int, int]], ScoreMap],
) -> None:
    """Score maps of train and dev (`cam`), from the mean over scales and mirrored copies of a network's maps.

    An interrupted step continues.

    Args:
        context: the step's; its settings are `CamSettings`.
        model: in eval mode, on the context's device, with a `backbone` and `maps` (see `image_maps`).
        score_map: from an image's maps float32 K x h x w on the CPU, its tags (bool C) and its size to what is kept;
            called from several threads at once.
    """
    dataset, device = context.dataset, context.device
    ids = [*dataset.splits["train"], *dataset.splits["dev"]]
    network = folded(model, context.settings.number_format(device))

    def infer(images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        return image_maps(network, images, context.settings, device).unbind()

    def finish(image_id: str, image: np.ndarray, maps: Tensor) -> ScoreMap:
        return score_map(maps.cpu(), dataset.tags(image_id), (image.shape[0], image.shape[1]))

    with ScoreMapWriter(context.out / "cam", resume=True) as writer:
        results = stream_images(dataset, ids, device, infer, finish, skip=writer.kept)
        for done, (image_id, found) in enumerate(results, len(writer.kept) + 1):
            writer.add(image_id, found)
            context.report.progress(done, len(ids), "images")


def image_maps(model: Any, images: Sequence[np.ndarray], settings: CamSettings, device: torch.device) -> Tensor:
    """The mean over scales and mirrored copies of a network's maps.

    Args:
        model: in eval mode, on the device, with a `backbone` and a method `maps` from float B x 3 x H x W normalised
            images to B x K x h x w.
        images: uint8 H x W x 3, all of one size.
        settings: scales, mirroring, stride and number format.
        device: where the network is.

    Returns:
        float32 B x K x h x w on the device, a cell for every `stride`-th pixel.
    """
    dtype = settings.number_format(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        return multi_scale(
            model.maps,
            images,
            scales=settings.scales,
            flip=settings.flip,
            stride=model.backbone.output_stride,
            grid=node_grid(images[0].shape[0], images[0].shape[1], settings.stride),
            device=device,
        )


def tagged_score_map(maps: Tensor, tags: np.ndarray, size: tuple[int, int]) -> ScoreMap:
    """Keep the tagged classes (bool C) of C x h x w maps, at least 0, and divide each by its maximum plus 1e-5."""
    present = np.flatnonzero(tags)
    kept = maps[torch.from_numpy(present)]
    if len(present):
        kept = kept / (kept.amax((1, 2), keepdim=True) + 1e-5)
    return ScoreMap(kept.numpy().astype(np.float16), (present + 1).astype(np.uint8), size)


def tag_metrics(
    context: StepContext,
    model: nn.Module,
    of_large: Callable[[Any, Sequence[np.ndarray], torch.device], Tensor] | None = None,
) -> dict[str, float]:
    """How well a network's class scores rank the tags of dev and val: the mean average precision "<split>/tags/map".

    The network's output is B x C, or B x (1 + C) with the background first, which has no tag and is left out. NaN for
    an empty split. `of_large` is what gives the scores of large images in place of `class_scores`.
    """
    dataset, device = context.dataset, context.device
    network = folded(model)

    def infer(images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        scores = of_large if of_large and is_large(*images[0].shape[:2]) else class_scores
        return scores(network, images, device)[:, -len(dataset.classes) :].unbind()

    found = {}
    for split in ("dev", "val"):
        scores = dict(
            stream_images(dataset, dataset.splits[split], device, infer, lambda id, image, own: own.cpu().numpy())
        )
        tags = [dataset.tags(i) for i in scores]
        precision = mean_average_precision(np.array([*scores.values()]), np.array(tags)) if tags else float("nan")
        found[metric_names.tags_map(split)] = precision
    return found


def class_scores(model: Any, images: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """A network's output at scale 1, float32 B x K, for uint8 H x W x 3 images of one size.

    Of large images a network with `heatmaps` and `pool` has its cells' scores made in tiles and then pools them all;
    for another they are halved until they are small.
    """
    stride = model.backbone.output_stride
    height, width = images[0].shape[:2]
    if is_large(height, width) and hasattr(model, "pool"):
        grid, one = node_grid(height, width, stride), (1.0,)
        cells = multi_scale(model.heatmaps, images, scales=one, flip=False, stride=stride, grid=grid, device=device)
        return model.pool(cells)
    while is_large(*images[0].shape[:2]):
        images = [image[::2, ::2] for image in images]
    scores = multi_scale(
        lambda x: model(x)[:, :, None, None],
        images,
        scales=(1.0,),
        flip=False,
        stride=stride,
        grid=(1, 1),
        device=device,
    )
    return scores[:, :, 0, 0]
