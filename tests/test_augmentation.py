"""What training images go through: the crop is cut as early as its pixels allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsss.classes import IGNORE
from wsss.data.augmentation import Augmentation, _jitter


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
