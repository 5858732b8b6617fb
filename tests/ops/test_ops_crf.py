"""The dense CRF: every backend against brute force, against pydensecrf or what is stored of it, against the others."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from crf_references import FILE, KERNELS, PHOTOGRAPHS, beliefs, photograph, pictures, probabilities, scene
from PIL import Image

from wsss.ops.crf import DenseCrf, installed_backends, refine_label_map

BACKENDS = installed_backends()


def brute_force(image, probabilities, kernels, iterations):
    """Mean field with the exact Gaussian kernels, all pairs, in float64."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    place = np.stack([columns, rows], -1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)

    def normalised(features):
        kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
        root = np.sqrt(kernel.sum(1))
        return kernel / root[:, None] / root[None]

    near = normalised(place / kernels["gaussian_sxy"])
    alike = normalised(np.hstack([place / kernels["bilateral_sxy"], colour / kernels["bilateral_srgb"]]))
    kernel = kernels["gaussian_weight"] * near + kernels["bilateral_weight"] * alike
    scores = np.log(np.clip(probabilities, 1e-5, 1)).reshape(len(probabilities), -1).astype(float)
    marginals = torch.from_numpy(scores).softmax(0).numpy()
    for _ in range(iterations):
        marginals = torch.from_numpy(scores + marginals @ kernel).softmax(0).numpy()
    return marginals.reshape(probabilities.shape)


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_near_the_exact_mean_field(backend):
    image = scene(30, 40)
    kernels = {
        "gaussian_sxy": 3,
        "gaussian_weight": 3,
        "bilateral_sxy": 20,
        "bilateral_srgb": 30,
        "bilateral_weight": 4,
    }
    given = beliefs(image, 3)
    exact = brute_force(image, given, kernels, 5)
    marginals = DenseCrf(image, **kernels, backend=backend)(given, 5)
    assert np.abs(marginals - exact).mean() < 0.02
    assert (marginals.argmax(0) == exact.argmax(0)).mean() > 0.97


def assert_equal_marginals(marginals, reference):
    """Parity: a mean absolute difference under 1e-6 and label flips under 1e-5 of the pixels."""
    assert np.abs(marginals - reference).mean() < 1e-6
    assert (marginals.argmax(0) != reference.argmax(0)).mean() < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("picture", pictures(1))
def test_equals_the_stored_marginals_of_pydensecrf(picture, kernels, backend):
    stored = np.load(FILE)
    crf = DenseCrf(stored[f"{picture}.image"], **KERNELS[kernels], backend=backend)
    two = stored[f"{picture}.{kernels}"]
    assert_equal_marginals(crf(probabilities(stored[f"{picture}.unary"])), np.concatenate([two, 1 - two.sum(0)[None]]))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("picture", pictures(5))
def test_backends_agree(picture, kernels):
    image = pictures(5)[picture]
    for labels in (2, 3, 9):
        given = beliefs(image, labels)
        first, *others = [DenseCrf(image, **KERNELS[kernels], backend=backend)(given) for backend in BACKENDS]
        for each in others:
            assert_equal_marginals(first, each)
        assert np.allclose(first.sum(0), 1, atol=1e-5)


@lru_cache
def marginals_of_pydensecrf(name, kernels, labels):
    """As everybody calls it."""
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf is not installed")
    image = photograph(name, 375, 500)
    crf = densecrf.DenseCRF2D(500, 375, labels)
    crf.setUnaryEnergy(-np.log(np.clip(beliefs(image, labels), 1e-5, 1)).reshape(labels, -1))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    bilateral = KERNELS[kernels]
    crf.addPairwiseBilateral(sxy=bilateral["bilateral_sxy"], srgb=bilateral["bilateral_srgb"], rgbim=image, compat=10)
    return np.array(crf.inference(10)).reshape(labels, 375, 500)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "pydensecrf"])
@pytest.mark.parametrize(("kernels", "labels"), [("irn", 3), ("psa", 2)])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_agree_with_pydensecrf(name, kernels, labels, backend):
    image = photograph(name, 375, 500)
    crf = DenseCrf(image, **KERNELS[kernels], backend=backend)
    assert_equal_marginals(crf(beliefs(image, labels)), marginals_of_pydensecrf(name, kernels, labels))


def test_your_photographs_agree_with_pydensecrf(real_data: Path):
    file = sorted((real_data / "full_size" / "JPEGImages").iterdir())[0]
    image = np.array(Image.open(file).convert("RGB"))
    first, *others = [DenseCrf(image, backend=backend)(beliefs(image, 3)) for backend in BACKENDS]
    for each in others:
        assert_equal_marginals(first, each)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("absent", ["fold", "drop"])
def test_absent_labels_are_folded_or_dropped(backend, absent):
    image = scene(30, 40)
    given = np.full((8, 30, 40), 1e-5, np.float32)
    given[[1, 4, 5]] = beliefs(image, 3)
    given[6, 3, 4] = 0.01
    reference = all_labels(image, given, backend)
    marginals = DenseCrf(image, backend=backend, absent=absent)(given)
    assert np.abs(marginals - reference).max() < (1e-3 if absent == "drop" else 1e-4)
    assert np.array_equal(marginals.argmax(0), reference.argmax(0))
    few = DenseCrf(image, backend=backend, absent=absent)(given[[1, 0, 4]])
    assert few[1].max() < 1e-3 and few[[0, 2]].max() > 0.5
    if absent == "fold":
        assert np.allclose(marginals.sum(0), 1, atol=1e-5) and np.array_equal(marginals[0], marginals[7])


def all_labels(image, given, backend):
    """The marginals of all labels, none of which is seen as absent."""
    return DenseCrf(image, backend=backend)(np.maximum(given, np.nextafter(np.float32(1e-5), np.float32(1))))


@pytest.mark.parametrize("absent", ["fold", "drop"])
def test_if_all_labels_are_absent_they_are_even(absent):
    marginals = DenseCrf(scene(20, 30), absent=absent)(np.zeros((4, 20, 30), np.float32))
    assert np.array_equal(marginals, np.full((4, 20, 30), 0.25, np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
class TestEveryBackend:
    def test_one_object_serves_several_unaries(self, backend):
        image = scene(40, 50)
        crf = DenseCrf(image, backend=backend)
        for labels, rng in ((3, 0), (3, 1), (5, 0), (2, 0)):
            given = beliefs(image, labels, rng)
            assert np.array_equal(crf(given), DenseCrf(image, backend=backend)(given))

    def test_several_images_are_each_treated_alone(self, backend):
        images = np.stack([scene(23, 31, rng) for rng in range(3)])
        given = np.stack([beliefs(image, 10, rng) for rng, image in enumerate(images)])
        given[:, 4:7] = 0
        given[1, 6, 3, 4] = 0.5
        together = DenseCrf(images, **KERNELS["irn"], backend=backend)(given)
        for image, own, marginals in zip(images, given, together, strict=True):
            alone = DenseCrf(image, **KERNELS["irn"], backend=backend)(own)
            assert np.abs(marginals - alone).max() < 1e-5
        assert together.shape == given.shape and together.dtype == np.float32

    def test_takes_half_and_double_precision(self, backend):
        image, given = scene(20, 30), beliefs(scene(20, 30), 3)
        crf = DenseCrf(image, backend=backend)
        assert np.array_equal(crf(given.astype(np.float64)), crf(given))
        half = given.astype(np.float16)
        assert np.array_equal(crf(half), crf(half.astype(np.float32)))

    def test_one_label_is_certain(self, backend):
        marginals = DenseCrf(scene(20, 30), backend=backend)(np.full((1, 20, 30), 0.4, np.float32))
        assert marginals.dtype == np.float32 and (marginals == 1).all()

    def test_no_iterations_normalise_the_probabilities(self, backend):
        given = np.zeros((2, 20, 30), np.float32)
        given[0] = 0.25
        marginals = DenseCrf(scene(20, 30), backend=backend)(given, iterations=0)
        assert np.allclose(marginals[1], 1e-5 / (0.25 + 1e-5), rtol=1e-4)

    def test_only_the_ratios_of_probabilities_matter(self, backend):
        image = scene(20, 30)
        crf, given = DenseCrf(image, backend=backend), np.maximum(beliefs(image, 3), 1e-3)
        scale = np.random.default_rng(0).uniform(0.1, 1, (20, 30)).astype(np.float32)
        assert np.abs(crf(given * scale) - crf(given)).max() < 1e-4

    def test_without_edges_only_the_unary_counts(self, backend):
        image, given = scene(20, 30), beliefs(scene(20, 30), 3)
        crf = DenseCrf(image, gaussian_weight=0, bilateral_weight=0, backend=backend)
        assert np.allclose(crf(given), given, atol=1e-5)


def test_labels_get_the_hard_unary():
    image = scene(30, 40)
    classes = [0, 7, 12]
    labels = np.array(classes, np.uint8)[beliefs(image, 3).argmax(0)]
    crf = DenseCrf(image, **KERNELS["irn"])
    unary = np.where(labels[None] == np.array(classes)[:, None, None], 0.7, 0.15).astype(np.float32)
    assert np.array_equal(refine_label_map(crf, labels, classes), np.array(classes, np.uint8)[crf(unary).argmax(0)])


def test_labels_equal_those_of_the_peer():
    utils = pytest.importorskip("pydensecrf.utils", reason="pydensecrf is not installed")
    image = scene(30, 40)
    labels = beliefs(image, 3).argmax(0)
    energies = utils.unary_from_labels(labels, 3, gt_prob=0.7, zero_unsure=False).reshape(3, 30, 40)
    crf = DenseCrf(image, **KERNELS["irn"])
    assert np.array_equal(refine_label_map(crf, labels.astype(np.uint8), [0, 1, 2]), crf(np.exp(-energies)).argmax(0))


def test_labels_of_one_class_stay():
    labels = np.full((20, 30), 3, np.uint8)
    assert np.array_equal(refine_label_map(DenseCrf(scene(20, 30)), labels, [3]), labels)
