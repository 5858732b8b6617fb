"""Predicting with the segmentation network, without any tags: the network's own label maps and a CRF's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from wsss.data.label_maps import EncodedLabelMap, LabelMapWriter, encode_label_map
from wsss.interface import StepContext
from wsss.nets.folding import folded
from wsss.ops.tiles import Window, each_tile, is_large, part_at_size, windows
from wsss.settings import setting
from wsss.stages.inference import multi_scale, node_grid, resize, stream_images
from wsss.stages.prior import load_segmenter
from wsss.stages.refine import CrfSettings, crf_labels, probabilities
from wsss.training import to_device


@dataclass(frozen=True)
class PredictSettings(CrfSettings):
    """Predicting with the segmentation network: scales, mirrored images, then a CRF."""

    scales: tuple[float, ...] = setting((0.5, 0.75, 1.0, 1.25, 1.5), "image scales", low=0.1, high=8)
    flip: bool = setting(True, "add mirrored images")
    gaussian_sxy: float = setting(1.0, "width of the smoothness kernel", source="deeplab-pytorch", low=0.1, unit="px")
    bilateral_sxy: float = setting(67.0, "width of the appearance kernel", source="deeplab-pytorch", low=0.1, unit="px")
    bilateral_srgb: float = setting(3.0, "its width in colour", source="deeplab-pytorch", low=0.1, high=255)
    bilateral_weight: float = setting(4.0, "weight of the appearance kernel", source="deeplab-pytorch", low=0)


def predict(context: StepContext) -> None:
    """Label maps of dev and val without any tags: the network's own (`pred`) and the CRF's (`pred_crf`)."""
    settings: PredictSettings = context.settings
    dataset, device = context.dataset, context.device
    model = folded(to_device(load_segmenter(context.inputs["prior"]), device))
    stride = model.backbone.output_stride
    ids = [*dataset.splits["dev"], *dataset.splits["val"]]
    first = dataset.classes.indices[0]

    def infer(images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        return multi_scale(
            lambda x: model(x).float().softmax(1),
            images,
            scales=settings.scales,
            flip=settings.flip,
            stride=stride,
            grid=node_grid(images[0].shape[0], images[0].shape[1], stride),
            device=device,
        ).unbind()

    def label(image_id: str, image: np.ndarray, scores: Tensor) -> tuple[EncodedLabelMap, EncodedLabelMap]:
        size = (image.shape[0], image.shape[1])
        if not is_large(*size):
            own, after = decide(image, resize(scores.cpu()[None, first:], size)[0].numpy())
        else:
            coarse, own, after = scores[first:].cpu().numpy(), np.empty(size, np.uint8), np.empty(size, np.uint8)

            def of_tile(window: Window) -> tuple[np.ndarray, np.ndarray]:
                return decide(image[window.seen], part_at_size(coarse, size, *window.seen))

            def keep(window: Window, both: tuple[np.ndarray, np.ndarray]) -> None:
                own[window.kept], after[window.kept] = (labels[window.middle] for labels in both)

            each_tile([*windows(*size)], of_tile, keep)
        return encode_label_map(own), encode_label_map(after)

    def decide(image: np.ndarray, full: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        maps, classes = with_rare_together(probabilities(full), settings.gaussian_weight + settings.bilateral_weight)
        refined = crf_labels(image, maps, classes + np.uint8(first), settings)
        return (full.argmax(0) + first).astype(np.uint8), refined

    with (
        LabelMapWriter(context.out / "pred", resume=True) as plain,
        LabelMapWriter(context.out / "pred_crf", resume=True) as refined,
    ):
        kept = plain.kept & refined.kept
        results = stream_images(dataset, ids, device, infer, label, skip=kept)
        for done, (image_id, (own, after)) in enumerate(results, len(kept) + 1):
            plain.add(image_id, own)
            refined.add(image_id, after)
            context.report.progress(done, len(ids), "images")


def with_rare_together(unary: np.ndarray, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Fewer maps for a dense CRF: labels that can't come out on top share channels.

    With n labels and edge weights W in all, take a label whose probability is nowhere above s = exp(-W / n) / n. While
    its marginals are at most 1 / n, so are their means over its neighbours, and a mean-field update multiplies its
    probability by exp(W / n) at most: its marginals stay under 1 / n, where another label has more. The same holds for
    the sum of several labels that is nowhere above s. (For kernels whose rows sum to one; the symmetric normalisation
    comes close.) Together they weigh more than apart by a factor of exp(W / n) at most, which moves a boundary by a
    pixel now and then: under 1e-5 of the labels change.

    Args:
        unary: probabilities float32 n x H x W that sum to one over the labels.
        weight: W.

    Returns:
        Probabilities float32 K x H x W that sum to one, K at most n, and the label of each, uint8 K, rising: for a
        channel of several, the one with the highest peak.
    """
    labels = len(unary)
    rare = math.exp(-weight / labels) / labels
    peaks = unary.max((1, 2))
    channels = {label: unary[label] for label in range(labels) if peaks[label] > rare}
    shared: list[tuple[int, np.ndarray]] = []
    for label in sorted(channels.keys() ^ range(labels), key=peaks.__getitem__, reverse=True):
        for place, (first, total) in enumerate(shared):
            if (total + unary[label]).max() <= rare:
                shared[place] = first, total + unary[label]
                break
        else:
            shared.append((label, unary[label]))
    channels |= dict(shared)
    classes = sorted(channels)
    return np.stack([channels[label] for label in classes]), np.array(classes, np.uint8)
