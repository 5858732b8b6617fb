"""Images of equal network size, together through the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wsss.serving.segmenter import Segmenter, best_classes, nearest_nodes
from wsss.stages.inference import resize


def network_size(segmenter: Segmenter, image: np.ndarray) -> tuple[int, int]:
    """Height and width that an image (uint8 H x W x 3) has in the network, in px."""
    stride = segmenter.module.net.backbone.output_stride
    return nearest_nodes(image.shape[0], stride), nearest_nodes(image.shape[1], stride)


@torch.inference_mode()
def label_batch(segmenter: Segmenter, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The label maps of images of equal network size, in one batch, on the device that the model is on.

    Args:
        segmenter: the model.
        images: uint8 H x W x 3 each.

    Returns:
        uint8 H x W each; of more than one image, a pixel in ten thousand may be another class's than alone, where the
        two best scores are almost equal.
    """
    module = segmenter.module
    inputs = []
    for image in images:
        pixels = torch.from_numpy(image).to(module.mean.device).permute(2, 0, 1)[None].float().div_(255)
        inputs.append(resize((pixels - module.mean).div_(module.std), network_size(segmenter, image)))
    scores = module.net(torch.cat(inputs)).float().softmax(1)
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    return [best_classes(scores[i : i + 1], size).cpu().numpy() for i, size in enumerate(sizes)]
