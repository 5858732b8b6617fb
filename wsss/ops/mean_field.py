"""What the backends of the dense CRF share: the kernels, and what inference is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from wsss.errors import UserError
from wsss.ops.lattice import lattice_fits

SMALLEST_PROBABILITY = 1e-5
"""Probabilities are raised to this before their logarithm is taken, as everybody's code does."""


@dataclass(frozen=True)
class Kernels:
    """The two edge kernels: deviations in pixels (`sxy`) and in 8-bit colour values (`srgb`), and their weights."""

    gaussian_sxy: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_sxy: float = 80.0
    bilateral_srgb: float = 13.0
    bilateral_weight: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            deviation = not field.name.endswith("weight")
            if not math.isfinite(value) or value < 0 or (deviation and value == 0):
                allowed = "finite number above 0" if deviation else "finite number, 0 or above"
                raise UserError(f"CRF setting {field.name} is {value}; it must be a {allowed}")

    def check_size(self, height: int, width: int) -> None:
        """Refuse deviations so small for an image of this size that its lattice cannot be numbered.

        Raises:
            UserError: names the setting to enlarge.
        """
        position = (width / self.gaussian_sxy, height / self.gaussian_sxy)
        if not lattice_fits(position):
            raise UserError(f"CRF setting gaussian_sxy {self.gaussian_sxy} is too small for {height} x {width} pixels")
        place = (width / self.bilateral_sxy, height / self.bilateral_sxy)
        if not lattice_fits((*place, *3 * (255 / self.bilateral_srgb,))):
            raise UserError(
                f"CRF settings bilateral_sxy {self.bilateral_sxy} and bilateral_srgb {self.bilateral_srgb} "
                f"are too small for {height} x {width} pixels"
            )


class MeanField(Protocol):
    """Mean-field inference over images of one size, whatever runs it; the leading dimension B counts the images.

    For the backends that know a single image only, there is no B; `OneByOne` makes up for it.
    """

    def memory(self, labels: int) -> int:
        """About how many bytes inference over so many labels takes beyond what it is given and what it returns."""

    def __call__(self, probabilities: np.ndarray, copies: np.ndarray, iterations: int) -> np.ndarray:
        """Marginals (float32 [B x] K x H x W) for probabilities in [0, 1] (float32, contiguous, the same shape).

        Probabilities under 1e-5 count as 1e-5. Label k stands for copies[k] (float32 K, whole numbers) labels with
        equal probabilities: their marginals are equal too, and one of them is returned.
        """


class OneByOne:
    """Images one after the other, each with inference of its own."""

    def __init__(self, images: Sequence[MeanField]) -> None:
        self._images = images

    def memory(self, labels: int) -> int:
        """Bytes of the image that takes most; only one at a time is worked on."""
        return max(image.memory(labels) for image in self._images)

    def __call__(self, probabilities: np.ndarray, copies: np.ndarray, iterations: int) -> np.ndarray:
        """Marginals (float32 B x K x H x W); see `MeanField`."""
        if len(self._images) == 1:
            return self._images[0](probabilities[0], copies, iterations)[None]
        every = zip(self._images, probabilities, strict=True)
        return np.stack([image(given, copies, iterations) for image, given in every])
