"""Dense CRF: mean-field inference in a fully connected CRF with Gaussian edges (Krahenbuhl & Koltun, NIPS 2011).

The energy of a labelling is sum_i -log p_i(x_i) + sum_{i<j} [x_i != x_j] sum_m w_m k_m(f_i, f_j) with two kernels: one
over positions, exp(-|p_i - p_j|^2 / 2 sxy^2), and one over positions and colours. Kernels are normalised symmetrically.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, Protocol

import numpy as np

from wsss.errors import UserError, unknown
from wsss.ops.lattice import lattice_fits

SMALLEST_PROBABILITY = 1e-5
"""Probabilities are raised to this before their logarithm is taken, as everybody's code does."""
MOST_LABELS = 256


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


class Backend(Protocol):
    """Mean-field inference over one image, whatever runs it."""

    def __call__(self, probabilities: np.ndarray, copies: np.ndarray, iterations: int) -> np.ndarray:
        """Marginals (float32 K x H x W) for probabilities in [1e-5, 1] (float32, contiguous, the same shape).

        Label k stands for copies[k] (float32 K, whole numbers) labels with equal probabilities: their marginals are
        equal too, and one of them is returned.
        """


class DenseCrf:
    """The CRF of one image; the lattices are built once, here, and serve any number of unaries.

    Args:
        image: uint8 H x W x 3, RGB; may be read-only or non-contiguous.
        gaussian_sxy: deviation of the position kernel, in pixels.
        gaussian_weight: its weight.
        bilateral_sxy: deviation of the position-and-colour kernel in pixels.
        bilateral_srgb: the same in 8-bit colour values.
        bilateral_weight: its weight.
        backend: "native", "torch", "pydensecrf" or "auto", the fastest that is installed; the results are the same.
        device: where the torch backend computes.
        absent: what becomes of labels whose probability is nowhere above 1e-5: "fold" computes one of them for all, to
            equal marginals; "drop" leaves them out, which changes the others by less than 1e-3.

    Raises:
        UserError: an image of another type or shape, a deviation that is not above 0 or too small for the image, a
            weight below 0, an unknown backend or one that is not installed.
    """

    def __init__(
        self,
        image: np.ndarray,
        gaussian_sxy: float = 3.0,
        gaussian_weight: float = 3.0,
        bilateral_sxy: float = 80.0,
        bilateral_srgb: float = 13.0,
        bilateral_weight: float = 10.0,
        backend: str = "auto",
        device: str = "cpu",
        absent: Literal["fold", "drop"] = "fold",
    ) -> None:
        kernels = Kernels(gaussian_sxy, gaussian_weight, bilateral_sxy, bilateral_srgb, bilateral_weight)
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise UserError(f"a CRF needs an image of type uint8 and shape H x W x 3, this is {_describe(image)}")
        if absent not in ("fold", "drop"):
            raise unknown("way with absent labels", absent, ("fold", "drop"))
        self.size = image.shape[:2]
        self.absent = absent
        kernels.check_size(*self.size)
        self.backend = choose_backend(backend, device)
        self._infer = _MAKERS[self.backend](np.ascontiguousarray(image), kernels, device)

    def __call__(self, probabilities: np.ndarray, iterations: int = 10) -> np.ndarray:
        """Marginals after mean-field inference.

        Args:
            probabilities: floating K x H x W in [0, 1]; values under 1e-5 count as 1e-5. They need not sum to one over
                the K labels: only their ratios matter.
            iterations: number of mean-field updates; 0 returns the normalised probabilities.

        Returns:
            float32 K x H x W that sums to one over the labels.

        Raises:
            UserError: another type or size than the image's, a value that is not in [0, 1], iterations below 0.
        """
        probabilities = np.asarray(probabilities)
        fits = probabilities.ndim == 3 and probabilities.shape[1:] == self.size
        if not fits or not 1 <= len(probabilities) <= MOST_LABELS:
            wanted = f"K x {self.size[0]} x {self.size[1]} with K from 1 to {MOST_LABELS}"
            raise UserError(f"this CRF needs probabilities of shape {wanted}, these are {_describe(probabilities)}")
        if not np.issubdtype(probabilities.dtype, np.floating):
            raise UserError(f"a CRF needs floating-point probabilities, these are {_describe(probabilities)}")
        highest = probabilities.reshape(len(probabilities), -1).max(1)
        if not (probabilities.min() >= 0 and highest.max() <= 1):
            raise UserError("a CRF needs probabilities between 0 and 1, these hold NaN, infinite or other values")
        if iterations < 0:
            raise UserError(f"CRF iterations must be 0 or more, not {iterations}")
        absent = np.flatnonzero(highest <= SMALLEST_PROBABILITY)
        fold = self.absent == "fold" or len(absent) == len(probabilities)
        chosen = np.setdiff1d(np.arange(len(probabilities)), absent[1:] if fold else absent)
        copies = np.where(np.isin(chosen, absent), len(absent), 1).astype(np.float32)
        if len(chosen) == 1:
            marginals = np.full((1, *self.size), 1 / copies[0], dtype=np.float32)
        else:
            clipped = np.maximum(
                probabilities[chosen], SMALLEST_PROBABILITY, dtype=np.float32, order="C", casting="same_kind"
            )
            marginals = self._infer(clipped, copies, iterations)
        if len(chosen) == len(probabilities):
            return marginals
        every = np.zeros(probabilities.shape, dtype=np.float32)
        every[chosen] = marginals
        if fold:
            every[absent] = every[absent[0]]
        return every


def crf_labels(
    crf: DenseCrf, labels: np.ndarray, classes: Sequence[int], gt_prob: float = 0.7, iterations: int = 10
) -> np.ndarray:
    """A label map refined by a CRF that holds each label for right with probability `gt_prob` (IRNet, CVPR 2019).

    Args:
        crf: the CRF of the image.
        labels: uint8 H x W; every value is one of `classes`.
        classes: the label-map indices that may appear in the result; the others share 1 - gt_prob evenly.
        gt_prob: within (0, 1).
        iterations: number of mean-field updates.

    Returns:
        uint8 H x W, values among `classes`.

    Raises:
        UserError: another type or size, a label that is not among the classes, gt_prob out of range.
    """
    labels, known = np.asarray(labels), np.unique(np.asarray(classes, dtype=np.uint8))
    if labels.dtype != np.uint8 or labels.shape != crf.size:
        wanted = f"type uint8 and shape {crf.size[0]} x {crf.size[1]}"
        raise UserError(f"this CRF needs labels of {wanted}, these are {_describe(labels)}")
    if not 0 < gt_prob < 1:
        raise UserError(f"gt_prob must lie between 0 and 1, not {gt_prob}")
    strangers = np.setdiff1d(labels, known)
    if len(strangers):
        raise UserError(f"the label map holds {strangers[:10].tolist()}, but its classes are {known.tolist()}")
    if len(known) == 1:
        return labels.copy()
    probabilities = np.full((len(known), *crf.size), (1 - gt_prob) / (len(known) - 1), dtype=np.float32)
    probabilities[labels == known[:, None, None]] = gt_prob
    return known[crf(probabilities, iterations).argmax(0)]


def installed_backends() -> tuple[str, ...]:
    """The backends that can be used here, the fastest first."""
    from wsss.ops.native.mean_field import load_library

    missing = {
        "native": load_library() is None,
        "pydensecrf": importlib.util.find_spec("pydensecrf") is None,
    }
    return tuple(name for name in _MAKERS if not missing.get(name))


def choose_backend(name: str, device: str = "cpu") -> str:
    """The backend behind a name; "auto" is the fastest installed one that runs on the device.

    Raises:
        UserError: unknown, not installed, or not able to use the device.
    """
    if name not in ("auto", *_MAKERS):
        raise unknown("CRF backend", name, ("auto", *_MAKERS))
    usable = [each for each in installed_backends() if device == "cpu" or each == "torch"]
    if name == "auto":
        return usable[0]
    if name not in usable:
        reason = "is not installed" if device == "cpu" else f"does not run on {device}"
        raise UserError(f"CRF backend {name} {reason}; choose from {', '.join(usable)}")
    return name


def _native(image: np.ndarray, kernels: Kernels, device: str) -> Backend:
    from wsss.ops.native.mean_field import NativeMeanField

    return NativeMeanField(image, kernels)


def _torch(image: np.ndarray, kernels: Kernels, device: str) -> Backend:
    from wsss.ops.crf_torch import TorchMeanField

    return TorchMeanField(image, kernels, device)


def _pydensecrf(image: np.ndarray, kernels: Kernels, device: str) -> Backend:
    from wsss.ops.crf_pydensecrf import PydensecrfMeanField

    return PydensecrfMeanField(image, kernels)


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {' x '.join(map(str, array.shape))}"


_MAKERS: dict[str, Callable[[np.ndarray, Kernels, str], Backend]] = {
    "native": _native,
    "torch": _torch,
    "pydensecrf": _pydensecrf,
}
"""The backends, the fastest first."""
