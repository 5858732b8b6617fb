"""What training images go through: the crop is cut as early as its pixels allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsss.classes import IGNORE
from wsss.data import augmentation
from wsss.data.augmentation import Augmentation, _jitter
from wsss.ops import tiles


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("rng", range(5))
def test_a_crop_of_jittered_colours_is_cut_from_the_whole_jittered_image(rng: int) -> None:
    image = torch.from_numpy(noise(40, 50)).permute(2, 0, 1)
    image[:, :20] //= 4  # the contrast of a part is not that of the whole
    window = (..., slice(3, 21), slice(5, 40))
    cut = _jitter(image, window, 0.3, np.random.default_rng(rng))
    whole = _jitter(image, (...,), 0.3, np.random.default_rng(rng))
    assert cut.equal(whole[window]) and not cut.equal(image[window])


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_what_is_outside_a_small_image_has_the_mean_colour_and_no_label(jitter: int) -> None:
    augment = Augmentation(48, (1.0, 1.0), jitter)
    pixels, labels = augment(noise(40, 60), np.zeros((40, 60), np.uint8), np.random.default_rng(0))
    assert labels is not None and pixels.shape == (3, 48, 48) and labels.shape == (48, 48)
    outside = labels == IGNORE
    assert outside.sum() == 8 * 48 and not pixels[:, outside].any()


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("rng", range(4))
def test_a_crop_of_a_large_image_is_resized_alone(monkeypatch: pytest.MonkeyPatch, rng: int, jitter: float) -> None:
    image = np.kron(np.random.default_rng(1).integers(0, 256, (8, 10, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    labels = np.kron(np.random.default_rng(2).integers(0, 4, (8, 10)), np.ones((16, 16))).astype(np.uint8)
    augment = Augmentation(140, (0.6, 1.4), jitter)
    whole, target = augment(image, labels, np.random.default_rng(rng))
    monkeypatch.setattr(tiles, "LARGE", 1000)
    seen: list[int] = []
    made = augmentation.Image.fromarray
    monkeypatch.setattr(augmentation.Image, "fromarray", lambda array: (seen.append(array.size), made(array))[1])
    crop, cropped = augment(image, labels, np.random.default_rng(rng))
    assert target is not None and cropped is not None and (cropped == target).float().mean() > 0.98
    assert (crop - whole).abs().mean() < (0.02 if jitter == 0 else 0.3)
    factor = np.random.default_rng(rng).uniform(0.6, 1.4)
    assert max(seen) <= 3 * (140 / factor + 8) ** 2
