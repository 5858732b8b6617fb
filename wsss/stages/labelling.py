"""From images and their tags to label maps in one go, by a trained classifier: nothing in between touches the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wsss.data import Dataset
from wsss.data.label_maps import EncodedLabelMap, encode_label_map
from wsss.nets.folding import folded
from wsss.stages.cam import CamSettings, image_maps, tagged_score_map
from wsss.stages.inference import stream_images
from wsss.stages.localize import load_classifier
from wsss.stages.refine import BackgroundSettings, CrfSettings, crf_label_map, with_background
from wsss.training import to_device


@dataclass(frozen=True)
class Labelling:
    """All that decides the label maps of a dataset's images; small, so that it travels to other machines.

    Attributes:
        dataset: its folder.
        classifier: the folder of a trained `wsss.stages.localize.Classifier`.
        cam, background, crf: the settings of the three steps.
    """

    dataset: Path
    classifier: Path
    cam: CamSettings
    background: BackgroundSettings
    crf: CrfSettings

    def stream(
        self, ids: Sequence[str], device: torch.device, skip: frozenset[str] = frozenset()
    ) -> Iterator[tuple[str, EncodedLabelMap]]:
        """Label maps as the steps `infer`, `background` and `crf` of method CAM make them; see `stream_images`."""
        dataset = Dataset.open(self.dataset)
        model = to_device(load_classifier(self.classifier), device)
        network = folded(model, self.cam.number_format(device))

        def infer(images: Sequence[np.ndarray]) -> Sequence[Tensor]:
            return image_maps(network, images, self.cam, device).unbind()

        def finish(image_id: str, image: np.ndarray, maps: Tensor) -> EncodedLabelMap:
            found = tagged_score_map(maps.cpu(), dataset.tags(image_id), (image.shape[0], image.shape[1]))
            full = with_background(found, self.background, dataset.has_background)
            return encode_label_map(crf_label_map(image, full, self.crf))

        return stream_images(dataset, ids, device, infer, finish, skip=skip)
