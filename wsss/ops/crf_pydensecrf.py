"""Mean-field inference by pydensecrf, where it is installed."""

from __future__ import annotations

import numpy as np
from pydensecrf.densecrf import DenseCRF2D

from wsss.ops.mean_field import SMALLEST_PROBABILITY, Kernels


class PydensecrfMeanField:
    """The CRF of one image for the latest number of labels K; its lattices are rebuilt only when K changes."""

    def __init__(self, image: np.ndarray, kernels: Kernels) -> None:
        self._image = np.array(image, order="C")
        self._kernels = kernels
        self._crf: DenseCRF2D | None = None
        self._labels = 0

    def memory(self, labels: int) -> int:
        """About how many bytes inference over so many labels takes: two lattices, five planes and two tables."""
        return self._image.shape[0] * self._image.shape[1] * (130 + 28 * labels)

    def __call__(self, probabilities: np.ndarray, copies: np.ndarray, iterations: int) -> np.ndarray:
        """Marginals (float32 K x H x W); see `MeanField`."""
        times = copies.astype(int)
        first = times.cumsum() - times
        unary = -np.log(np.maximum(probabilities, np.float32(SMALLEST_PROBABILITY))).repeat(times, axis=0)
        labels = len(unary)
        if self._crf is None or labels != self._labels:
            self._crf, self._labels = self._build(labels), labels
        self._crf.setUnaryEnergy(unary.reshape(labels, -1))
        return np.array(self._crf.inference(iterations), dtype=np.float32).reshape(unary.shape)[first]

    def _build(self, labels: int) -> DenseCRF2D:
        height, width = self._image.shape[:2]
        crf = DenseCRF2D(width, height, labels)
        crf.addPairwiseGaussian(sxy=self._kernels.gaussian_sxy, compat=self._kernels.gaussian_weight)
        crf.addPairwiseBilateral(
            sxy=self._kernels.bilateral_sxy,
            srgb=self._kernels.bilateral_srgb,
            rgbim=self._image,
            compat=self._kernels.bilateral_weight,
        )
        return crf
