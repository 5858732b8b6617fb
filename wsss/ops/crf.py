"""Dense CRF: mean-field inference in a fully connected CRF with Gaussian edges (Krahenbuhl & Koltun, NIPS 2011).

The energy of a labelling is sum_i -log p_i(x_i) + sum_{i<j} [x_i != x_j] sum_m w_m k_m(f_i, f_j) with two kernels: one
over positions, exp(-|p_i - p_j|^2 / 2 sxy^2), and one over positions and colours. Kernels are normalised symmetrically.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from wsss.errors import UserError, unknown
from wsss.ops.mean_field import SMALLEST_PROBABILITY, Kernels, MeanField, OneByOne
from wsss.ops.memory import memory_limit

MOST_LABELS = 256


class DenseCrf:
    """The CRF of one image, or of several of one size; its lattices are built once and serve any number of unaries.

    Args:
        image: uint8 [B x] H x W x 3, RGB; may be read-only or non-contiguous. Several images at a time save time on a
            GPU; elsewhere they are worked on one after the other.
        gaussian_sxy: deviation of the position kernel, in pixels.
        gaussian_weight: its weight.
        bilateral_sxy: deviation of the position-and-colour kernel in pixels.
        bilateral_srgb: the same in 8-bit colour values.
        bilateral_weight: its weight.
        backend: "native", "torch", "pydensecrf" or "auto", the fastest that is installed; the results are the same.
        device: where the torch backend computes.
        absent: what becomes of labels whose probability is nowhere above 1e-5: "fold" computes one of them for all, to
            equal marginals; "drop" leaves them out, which changes the others by less than 1e-3.

    An image whose lattices or inference would take more memory than is free is refused beforehand; WSSS_CRF_MEMORY
    sets another limit (megabytes beyond the image and the unary).

    Raises:
        UserError: an image of another type or shape, a deviation that is not above 0 or too small for the image, a
            weight below 0, an unknown backend or one that is not installed, too little memory.
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
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3 or image.size == 0:
            raise UserError(f"a CRF needs an image of type uint8 and shape [B x] H x W x 3, this is {_describe(image)}")
        if absent not in ("fold", "drop"):
            raise unknown("way with absent labels", absent, ("fold", "drop"))
        self.size = (image.shape[-3], image.shape[-2])
        self.absent = absent
        self._images = image.shape[:-3]
        self._device = device
        kernels.check_size(*self.size)
        self.backend = choose_backend(backend, device)
        images = np.ascontiguousarray(image).reshape(-1, *image.shape[-3:])
        self._infer = _MAKERS[self.backend](images, kernels, device)

    def __call__(self, probabilities: np.ndarray, iterations: int = 10) -> np.ndarray:
        """Marginals after mean-field inference.

        Args:
            probabilities: floating [B x] K x H x W in [0, 1]; values under 1e-5 count as 1e-5. They need not sum to one
                over the K labels: only their ratios matter.
            iterations: number of mean-field updates; 0 returns the normalised probabilities.

        Returns:
            float32 [B x] K x H x W that sums to one over the labels.

        Raises:
            UserError: another type or size than the image's, a value that is not in [0, 1], iterations below 0, too
                little memory.
        """
        probabilities = np.asarray(probabilities)
        shape, labels = probabilities.shape, probabilities.shape[-3] if probabilities.ndim > 2 else 0
        if shape != (*self._images, labels, *self.size) or not 1 <= labels <= MOST_LABELS:
            wanted = " x ".join(map(str, (*self._images, "K", *self.size)))
            raise UserError(
                f"this CRF needs probabilities of shape {wanted} with K from 1 to {MOST_LABELS}, "
                f"these are {_describe(probabilities)}"
            )
        if not np.issubdtype(probabilities.dtype, np.floating):
            raise UserError(f"a CRF needs floating-point probabilities, these are {_describe(probabilities)}")
        given = probabilities.reshape(-1, *shape[-3:])
        highest = given.max((0, 2, 3))
        if not (given.min() >= 0 and highest.max() <= 1):
            raise UserError("a CRF needs probabilities between 0 and 1, these hold NaN, infinite or other values")
        if iterations < 0:
            raise UserError(f"CRF iterations must be 0 or more, not {iterations}")
        absent = np.flatnonzero(highest <= SMALLEST_PROBABILITY)
        fold = self.absent == "fold" or len(absent) == labels
        chosen = np.setdiff1d(np.arange(labels), absent[1:] if fold else absent)
        copies = np.where(np.isin(chosen, absent), len(absent), 1).astype(np.float32)
        if len(chosen) == 1:
            marginals = np.full((len(given), 1, *self.size), 1 / copies[0], dtype=np.float32)
        else:
            needed = self._infer.memory(len(chosen)) + given.size * given.dtype.itemsize
            what = f"the CRF of {self.size[0]} x {self.size[1]} pixels and {len(chosen)} labels"
            memory_limit(self._device).check(needed, what)
            given = given if len(chosen) == labels else given[:, chosen]
            marginals = self._infer(np.ascontiguousarray(given, dtype=np.float32), copies, iterations)
        if len(chosen) < labels:
            every = np.zeros((len(given), labels, *self.size), dtype=np.float32)
            every[:, chosen] = marginals
            if fold:
                every[:, absent] = every[:, absent[:1]]
            marginals = every
        return marginals.reshape(shape)


def refine_label_map(
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
    from wsss.ops.native.library import load_library

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


def _native(images: np.ndarray, kernels: Kernels, device: str) -> MeanField:
    from wsss.ops.native.mean_field import NativeMeanField

    return OneByOne([NativeMeanField(image, kernels) for image in images])


def _torch(images: np.ndarray, kernels: Kernels, device: str) -> MeanField:
    from wsss.ops.crf_torch import TorchMeanField

    return TorchMeanField(images, kernels, device)


def _pydensecrf(images: np.ndarray, kernels: Kernels, device: str) -> MeanField:
    from wsss.ops.crf_pydensecrf import PydensecrfMeanField

    return OneByOne([PydensecrfMeanField(image, kernels) for image in images])


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {' x '.join(map(str, array.shape))}"


_MAKERS: dict[str, Callable[[np.ndarray, Kernels, str], MeanField]] = {
    "native": _native,
    "torch": _torch,
    "pydensecrf": _pydensecrf,
}
"""The backends, the fastest first."""
