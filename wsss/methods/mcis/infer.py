"""Localisation maps with the help of related images: references that share a class, and views of the image itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.data import Dataset
from wsss.data.augmentation import normalise
from wsss.data.score_maps import ScoreMaps, ScoreMapWriter
from wsss.interface import StepContext
from wsss.methods.mcis.network import SCALED_VIEWS, VIEWS, CoAttentionNet, view_side, warp
from wsss.methods.mcis.pairs import Pool
from wsss.methods.mcis.settings import check_views
from wsss.nets.folding import folded
from wsss.scores import mean_average_precision, metric_names
from wsss.settings import choice, setting
from wsss.stages.cam import tagged_score_map
from wsss.stages.inference import check_nodes, node_grid, node_size, resize
from wsss.stages.outputs import load_model, write_metrics
from wsss.training import to_device

STRETCHES = ("zero", "minimum")
"""From where a map is stretched to its maximum before maps are fused."""
MAPS = (*VIEWS, "basic")
"""Whose maps can be fused."""
SKIP = 0.1
"""A map whose sigmoid(mean) is not above this is not added, where maps are stretched from 0."""
BATCH = {"cpu": 4, "cuda": 16}
"""Images in a batch."""
CACHE_BYTES = 2 * 2**30
"""Features that are kept in memory, since an image is the reference of many."""


@dataclass(frozen=True)
class McisInferSettings:
    """Making score maps with the co-attention network."""

    side: int = setting(257, "side of the square that images are warped to", source="MCIS code: 256", low=17, unit="px")
    scales: tuple[float, ...] = setting(
        (1.0,),
        "sizes of the square, times the side, whose fused maps are averaged",
        source="MCIS code",
        low=0.1,
        high=8,
    )
    references: int = setting(
        3, "related images for each class that is there", source="MCIS code", low=1, high=64, search=choice(1, 3, 5)
    )
    views: tuple[str, ...] = setting(
        VIEWS,
        "whose maps are fused: with the references (pair), of the views, and of the basic head, which sees the image "
        "alone (basic; not published)",
        source="MCIS code",
        choices=MAPS,
    )
    stretch: str = setting(
        "zero",
        "how a map is stretched to [0, 1] before maps are fused: cut at 0, where one of a low mean adds nothing, or "
        "from its minimum, where each adds something",
        source="MCIS code",
        choices=STRETCHES,
        search=choice(*STRETCHES),
    )
    stride: int = setting(8, "pixels of the image for a cell of the score map", choices=(2, 4, 8, 16), unit="px")


def check_infer(settings: McisInferSettings) -> None:
    """Refuse a view that is named twice, and a side that no stride has its nodes on.

    Raises:
        UserError: such settings.
    """
    check_views(settings.views, "localize.infer.views")
    check_nodes(settings.side, 8, "localize.infer.side")


def fuse(maps: Tensor, stretch: str = "zero") -> Tensor:
    """Fuse the maps of one image.

    Args:
        maps: V x K x h x w, V raw maps of each of K classes, the image's own first.
        stretch: one of `STRETCHES`. "zero" is the released code's: what is above 0 counts, and a map whose
            sigmoid(mean) is 0.1 or less does not, but for the first. "minimum": what is above a map's minimum counts.

    Returns:
        K x h x w in [0, 1], the maps divided by their maximum, added up and divided by V. A map with nothing that
        counts adds 0.
    """
    if stretch == "minimum":
        return _to_maximum(maps - maps.amin((2, 3), keepdim=True)).mean(0)
    skipped = maps.mean((2, 3)).sigmoid() <= SKIP
    skipped[0] = False
    return _to_maximum(F.relu(maps)).masked_fill(skipped[:, :, None, None], 0).mean(0)


def _to_maximum(maps: Tensor) -> Tensor:
    return maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-12)


def raw_maps(
    network: CoAttentionNet,
    own: Tensor,
    references: Sequence[Tensor],
    views: Mapping[str, Tensor],
    present: Sequence[int],
    basic: bool = False,
) -> Tensor:
    """The co-attention maps of one image: its own, of each view brought back to its grid, and with its references.

    Args:
        network: for its co-attention and its second head.
        own: the image's features, 1 x d x h x w.
        references: for each present class the features of its references, R x d x h x w; none leaves that map out.
        views: view to features, 1 x d x h' x w'.
        present: the classes that are there, 0..C-1.
        basic: the basic head's map too.

    Returns:
        V x K x h x w: the image's own (in its pair with the first view) and one for each view, then the mean over the
        references, then the basic head's.
    """
    grid, found = (own.shape[2], own.shape[3]), list[Tensor]()
    for view, features in views.items():
        seen_by_own, seen_by_view = network.attend(own, features)
        if not found:
            found.append(network.maps(seen_by_own)[0, list(present)])
        back = network.maps(seen_by_view)[:, list(present)]
        found.append((back.flip(3) if view == "flip" else resize(back, grid))[0])
    if references:
        with_references = [
            network.maps(network.attend(own.expand(len(others), -1, -1, -1), others)[0])[:, number].mean(0)
            for number, others in zip(present, references, strict=True)
        ]
        found.append(torch.stack(with_references))
    if basic:
        found.append(network.basic(own)[0, list(present)])
    return torch.stack(found).float()


@torch.inference_mode()
def infer_maps(context: StepContext) -> None:
    """Score maps of the tagged classes for train and dev (`cam`); the basic head's ranking quality on dev and val.

    Each map is stretched from 0 to 1, as the released code does before it makes labels. References are training images
    of the dataset, drawn from the rng for each image and class, the same at all scales. Where there is none, the image
    is its own.
    """
    settings: McisInferSettings = context.settings
    dataset, device = context.dataset, context.device
    network = to_device(load_model(context.inputs["train"], CoAttentionNet), device)
    if device.type == "cuda":
        network = folded(network)
    stride = network.backbone.output_stride
    check_nodes(settings.side, stride, "localize.infer.side")
    sides = [node_size(settings.side, settings.side, stride, scale)[0] for scale in settings.scales]
    at_sides, pool = [_Features(network, dataset, side, device, len(sides)) for side in sides], Pool.of(dataset)
    ids = [*dataset.splits["train"], *dataset.splits["dev"]]
    own_references = done = 0
    with ScoreMapWriter(context.out / "cam", resume=True) as writer:
        for chunk in _chunks(ids, device):
            tagged = {i: [int(c) for c in np.flatnonzero(dataset.tags(i))] for i in chunk}
            if "pair" in settings.views:
                own_references += sum(not pool.with_class(c, i) for i in chunk for c in tagged[i])
            if not writer.kept.issuperset(chunk):
                chosen = [
                    _references(pool, settings, i, tagged[i], np.random.default_rng((context.rng, done + number)))
                    for number, i in enumerate(chunk)
                ]
                grids = [node_grid(*dataset.size(i), settings.stride) for i in chunk]
                fused = [
                    _fused_maps(features, chunk, [tagged[i] for i in chunk], chosen, grids, settings)
                    for features in at_sides
                ]
                for image_id, grid, *of_sides in zip(chunk, grids, *fused, strict=True):
                    tags = dataset.tags(image_id)
                    maps = torch.zeros(len(tags), *grid)
                    if tagged[image_id]:
                        mean = torch.stack(of_sides).mean(0)
                        maps[tagged[image_id]] = mean - mean.amin((1, 2), keepdim=True)
                    writer.add(image_id, tagged_score_map(maps, tags, dataset.size(image_id)))
            done += len(chunk)
            context.report.progress(done, len(ids), "images")
    at_side = _Features(network, dataset, settings.side, device)
    ranking = {metric_names.tags_map(split): _tag_map(at_side, split) for split in ("dev", "val")}
    empty = ScoreMaps(context.out / "cam").count_empty()
    write_metrics(context.out, {"infer/own_references": own_references, metric_names.EMPTY_CAMS: empty, **ranking})


def _references(
    pool: Pool, settings: McisInferSettings, image_id: str, present: Sequence[int], draw: np.random.Generator
) -> list[list[str]]:
    """For each present class the images that an image is shown with; none where the pair is no view."""
    if "pair" not in settings.views:
        return []
    return [pool.references(image_id, c, settings.references, draw) or [image_id] for c in present]


def _fused_maps(
    features: _Features,
    ids: Sequence[str],
    present: Sequence[Sequence[int]],
    references: Sequence[Sequence[Sequence[str]]],
    grids: Sequence[tuple[int, int]],
    settings: McisInferSettings,
) -> list[Tensor]:
    """The fused maps of several images at one side: for each K x h x w of its K classes on its grid, on the CPU."""
    owns, views, fused = features(ids), _view_features(features, ids, settings.views), []
    for number, (classes, shown, grid) in enumerate(zip(present, references, grids, strict=True)):
        if not classes:
            fused.append(torch.zeros(0, *grid))
            continue
        own = owns[number : number + 1]
        of_views = {view: found[number : number + 1] for view, found in views.items()}
        others = [features(ids) for ids in shown]
        raw = raw_maps(features.network, own, others, of_views, classes, "basic" in settings.views)
        fused.append(resize(fuse(raw, settings.stretch)[None].cpu(), grid)[0])
    return fused


class _Features:
    """Features of warped images at one side, kept in memory as far as it allows; `sharing` such objects divide it."""

    def __init__(
        self, network: CoAttentionNet, dataset: Dataset, side: int, device: torch.device, sharing: int = 1
    ) -> None:
        self.network, self.dataset, self.side, self.device = network, dataset, side, device
        self._kept: dict[str, Tensor] = {}
        self._free = CACHE_BYTES // sharing

    def __call__(self, ids: Sequence[str]) -> Tensor:
        """B x d x h x w on the device."""
        missing = [i for i in dict.fromkeys(ids) if i not in self._kept]
        new = dict(zip(missing, self.network.features(self.squares(missing)), strict=True)) if missing else {}
        for image_id, found in new.items():
            if found.nbytes <= self._free:
                self._kept[image_id] = found.cpu()
                self._free -= found.nbytes
        return torch.stack([new[i] if i in new else self._kept[i].to(self.device) for i in ids])

    def squares(self, ids: Sequence[str], side: int | None = None) -> Tensor:
        """The images as normalised squares, B x 3 x side x side, on the device."""
        images = [normalise(warp(self.dataset.image(i), side or self.side)) for i in ids]
        return torch.stack(images).to(self.device, memory_format=torch.channels_last)


def _view_features(features: _Features, ids: Sequence[str], views: Sequence[str]) -> dict[str, Tensor]:
    """View to features, B x d x h' x w', but for the pair's."""
    network = features.network
    found = {}
    if "flip" in views:
        found["flip"] = network.features(features.squares(ids).flip(3))
    for view in (v for v in SCALED_VIEWS if v in views):
        side = view_side(view, features.side, network.backbone.output_stride)
        found[view] = network.features(features.squares(ids, side))
    return found


def _tag_map(features: _Features, split: str) -> float:
    """The mean average precision of the tags by the basic head; NaN for an empty split."""
    dataset, network = features.dataset, features.network
    ids = dataset.splits[split]
    scores = [network(features.squares(chunk)).float().cpu().numpy() for chunk in _chunks(ids, features.device)]
    tags = np.array([dataset.tags(i) for i in ids])
    return mean_average_precision(np.concatenate(scores), tags) if scores else float("nan")


def _chunks(ids: Sequence[str], device: torch.device) -> Iterator[Sequence[str]]:
    step = BATCH[device.type]
    return (ids[start : start + step] for start in range(0, len(ids), step))
