"""The dense CRF: every backend against brute force, against pydensecrf, and against nonsense."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.errors import UserError
from wsss.ops.crf import DenseCrf, choose_backend, crf_labels, installed_backends
from wsss.ops.lattice import build_lattice, grid_lattice, slice_factor

BACKENDS = installed_backends()
IRN = {"bilateral_sxy": 50, "bilateral_srgb": 5}
PSA = {"bilateral_sxy": 80, "bilateral_srgb": 13}


def scene(height, width, seed=0):
    """Discs of colour over a gradient, with a little noise: uint8 H x W x 3."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 100 / height, columns * 100 / width, 60 + 0 * rows], axis=-1)
    for _ in range(4):
        centre, radius = rng.random(2) * (height, width), (0.1 + 0.2 * rng.random()) * max(height, width)
        image[np.hypot(rows - centre[0], columns - centre[1]) < radius] = rng.random(3) * 255
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def beliefs(image, labels, seed=0):
    """Smooth probabilities that lean on the colours: float32 K x H x W."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(1, labels, 4, 5)))
    smooth = torch.nn.functional.interpolate(coarse, image.shape[:2], mode="bicubic")[0].numpy()
    scores = 1.5 * smooth + np.einsum("kc,hwc->khw", rng.normal(size=(labels, 3)), image / 255 - 0.5)
    return torch.from_numpy(scores).softmax(0).numpy().astype(np.float32)


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
    probabilities = beliefs(image, 3)
    exact = brute_force(image, probabilities, kernels, 5)
    marginals = DenseCrf(image, **kernels, backend=backend)(probabilities, 5)
    assert np.abs(marginals - exact).mean() < 0.02
    assert (marginals.argmax(0) == exact.argmax(0)).mean() > 0.97


def test_the_lattice_filters_like_a_gaussian():
    rows, columns = torch.meshgrid(torch.arange(25.0), torch.arange(31.0), indexing="ij")
    features = torch.stack([columns.flatten(), rows.flatten()]) / 4
    lattice = build_lattice(features)
    values = torch.rand(25 * 31, 2)
    kernel = torch.exp(-0.5 * torch.cdist(features.t(), features.t()) ** 2)
    ones = torch.ones(25 * 31, 1)
    smooth = lattice.filtered(values) / lattice.filtered(ones)
    assert (smooth - kernel @ values / (kernel @ ones)).abs().max() < 0.03


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 100))
def test_barycentric_weights_are_a_partition(dimensions, count, seed):
    features = 5 * torch.randn(dimensions, count, generator=torch.Generator().manual_seed(seed))
    lattice = build_lattice(features)
    weights = lattice.weights.view(count, -1) / slice_factor(dimensions)
    assert torch.allclose(weights.sum(1), torch.ones(count), atol=1e-4)
    assert weights.min() > -1e-4
    received = torch.zeros(lattice.size).index_add(0, lattice.vertices, weights.flatten())
    ends = [*lattice.starts[1:].tolist(), len(lattice.splat)]
    given = [lattice.splat[start:end].sum() for start, end in zip(lattice.starts.tolist(), ends, strict=True)]
    assert torch.allclose(received, torch.stack(given), atol=1e-4)
    assert lattice.points.bincount().tolist() == [dimensions + 1] * count


def test_neighbours_are_mutual():
    lattice = build_lattice(torch.randn(3, 200, generator=torch.Generator().manual_seed(1)))
    for index, weight in zip(lattice.neighbours.view(4, -1, 3), lattice.blur.view(4, -1, 3), strict=True):
        for vertex in range(lattice.size):
            if weight[vertex, 1]:
                following = int(index[vertex, 1])
                assert following != vertex and int(index[following, 2]) == vertex and weight[following, 2]


def test_grid_lattice_is_kept():
    first = grid_lattice(20, 30, 3.0, torch.device("cpu"))
    assert grid_lattice(20, 30, 3.0, torch.device("cpu")) is first


PICTURES = {
    "scene": scene(75, 100),
    "odd": scene(67, 91),
    "grey": np.repeat(scene(60, 80)[..., :1], 3, axis=2),
    "constant": np.full((40, 50, 3), 128, np.uint8),
    "black": np.zeros((41, 51, 3), np.uint8),
    "half": np.repeat(np.arange(50) >= 25, 40).reshape(50, 40, 1).repeat(3, 2).astype(np.uint8) * 255,
    "tiny": scene(5, 7),
    "row": scene(1, 60),
    "column": scene(60, 1),
    "pixel": scene(1, 1),
    "noise": np.random.default_rng(0).integers(0, 256, (60, 81, 3), dtype=np.uint8),
}


def assert_equal_marginals(marginals, reference):
    difference = np.abs(marginals - reference)
    assert difference.mean() < 1e-6
    assert difference.max() < 1e-3
    assert (marginals.argmax(0) != reference.argmax(0)).mean() < 1e-5


@pytest.mark.parametrize("kernels", [IRN, PSA], ids=["irn", "psa"])
@pytest.mark.parametrize("picture", PICTURES)
def test_backends_agree(picture, kernels):
    image = PICTURES[picture]
    reference = None
    for labels in (2, 3, 9):
        probabilities = beliefs(image, labels)
        results = [DenseCrf(image, **kernels, backend=backend)(probabilities) for backend in BACKENDS]
        for each in results[1:]:
            assert_equal_marginals(results[0], each)
        reference = results[0]
    assert np.allclose(reference.sum(0), 1, atol=1e-5)


def test_agrees_with_pydensecrf_called_as_everybody_does(real_data: Path):
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf is not installed")
    from PIL import Image

    photograph = sorted((real_data / "full_size" / "JPEGImages").iterdir())[0]
    image = np.array(Image.open(photograph).convert("RGB"))
    height, width = image.shape[:2]
    probabilities = beliefs(image, 3)
    crf = densecrf.DenseCRF2D(width, height, 3)
    crf.setUnaryEnergy(-np.log(np.clip(probabilities, 1e-5, 1)).reshape(3, -1))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=10)
    reference = np.array(crf.inference(10)).reshape(3, height, width)
    for backend in BACKENDS:
        assert_equal_marginals(DenseCrf(image, backend=backend)(probabilities), reference)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("absent", ["fold", "drop"])
def test_absent_labels_are_folded_or_dropped(backend, absent):
    image = scene(30, 40)
    probabilities = np.full((8, 30, 40), 1e-5, np.float32)
    probabilities[[1, 4, 5]] = beliefs(image, 3)
    probabilities[6, 3, 4] = 0.01
    reference = all_labels(image, probabilities, backend)
    marginals = DenseCrf(image, backend=backend, absent=absent)(probabilities)
    assert np.abs(marginals - reference).max() < (1e-3 if absent == "drop" else 1e-4)
    assert np.array_equal(marginals.argmax(0), reference.argmax(0))
    few = DenseCrf(image, backend=backend, absent=absent)(probabilities[[1, 0, 4]])
    assert few[1].max() < 1e-3 and few[[0, 2]].max() > 0.5
    if absent == "fold":
        assert np.allclose(marginals.sum(0), 1, atol=1e-5) and np.array_equal(marginals[0], marginals[7])


def all_labels(image, probabilities, backend):
    """The marginals of all labels, none of which is seen as absent."""
    return DenseCrf(image, backend=backend)(np.maximum(probabilities, np.nextafter(np.float32(1e-5), np.float32(1))))


@pytest.mark.parametrize("absent", ["fold", "drop"])
def test_if_all_labels_are_absent_they_are_even(absent):
    marginals = DenseCrf(scene(20, 30), absent=absent)(np.zeros((4, 20, 30), np.float32))
    assert np.array_equal(marginals, np.full((4, 20, 30), 0.25, np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
class TestEveryBackend:
    def test_one_object_serves_several_unaries(self, backend):
        image = scene(40, 50)
        crf = DenseCrf(image, backend=backend)
        for labels, seed in ((3, 0), (3, 1), (5, 0), (2, 0)):
            probabilities = beliefs(image, labels, seed)
            assert np.array_equal(crf(probabilities), DenseCrf(image, backend=backend)(probabilities))

    def test_takes_read_only_and_strided_arrays_and_changes_none(self, backend):
        image, probabilities = scene(40, 50), beliefs(scene(40, 50), 3)
        expected = DenseCrf(image, backend=backend)(probabilities)
        padded = np.zeros((40, 50, 4), np.uint8)
        padded[..., :3] = image
        last = np.ascontiguousarray(probabilities.transpose(1, 2, 0))
        for array in (padded, last):
            array.flags.writeable = False
        marginals = DenseCrf(padded[..., :3], backend=backend)(last.transpose(2, 0, 1))
        assert np.array_equal(marginals, expected) and np.array_equal(last.transpose(2, 0, 1), probabilities)

    def test_takes_half_and_double_precision(self, backend):
        image, probabilities = scene(20, 30), beliefs(scene(20, 30), 3)
        crf = DenseCrf(image, backend=backend)
        assert np.array_equal(crf(probabilities.astype(np.float64)), crf(probabilities))
        half = probabilities.astype(np.float16)
        assert np.array_equal(crf(half), crf(half.astype(np.float32)))

    def test_one_label_is_certain(self, backend):
        marginals = DenseCrf(scene(20, 30), backend=backend)(np.full((1, 20, 30), 0.4, np.float32))
        assert marginals.dtype == np.float32 and (marginals == 1).all()

    def test_no_iterations_normalise_the_probabilities(self, backend):
        probabilities = np.zeros((2, 20, 30), np.float32)
        probabilities[0] = 0.25
        marginals = DenseCrf(scene(20, 30), backend=backend)(probabilities, iterations=0)
        assert np.allclose(marginals[1], 1e-5 / (0.25 + 1e-5), rtol=1e-4)

    def test_without_edges_only_the_unary_counts(self, backend):
        image, probabilities = scene(20, 30), beliefs(scene(20, 30), 3)
        crf = DenseCrf(image, gaussian_weight=0, bilateral_weight=0, backend=backend)
        assert np.allclose(crf(probabilities), probabilities, atol=1e-5)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"gaussian_sxy": 0}, "gaussian_sxy is 0; it must be a finite number above 0"),
            ({"bilateral_srgb": float("nan")}, "bilateral_srgb is nan"),
            ({"bilateral_sxy": -1}, "bilateral_sxy is -1"),
            ({"bilateral_weight": float("inf")}, "bilateral_weight is inf"),
            ({"gaussian_sxy": 1e-4}, "gaussian_sxy 0.0001 is too small for 20 x 30 pixels"),
            ({"bilateral_srgb": 1e-3}, "bilateral_srgb 0.001 are too small"),
        ],
    )
    def test_bad_settings_are_named(self, backend, settings, sentence):
        with pytest.raises(UserError, match=sentence):
            DenseCrf(scene(20, 30), **settings, backend=backend)

    @pytest.mark.parametrize(
        "image",
        [np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3)), np.zeros((0, 5, 3), np.uint8)],
    )
    def test_a_wrong_image_is_refused(self, backend, image):
        with pytest.raises(UserError, match="image of type uint8 and shape H x W x 3"):
            DenseCrf(image, backend=backend)

    @pytest.mark.parametrize(
        ("probabilities", "sentence"),
        [
            (np.full((2, 30, 20), 0.5, np.float32), "shape K x 20 x 30"),
            (np.full((20, 30), 0.5, np.float32), "shape K x 20 x 30"),
            (np.zeros((0, 20, 30), np.float32), "shape K x 20 x 30"),
            (np.zeros((257, 20, 30), np.float32), "K from 1 to 256"),
            (np.ones((2, 20, 30), np.int64), "floating-point"),
            (np.full((2, 20, 30), np.nan, np.float32), "between 0 and 1"),
            (np.full((2, 20, 30), np.inf, np.float32), "between 0 and 1"),
            (np.full((2, 20, 30), -0.1, np.float32), "between 0 and 1"),
        ],
    )
    def test_wrong_probabilities_are_refused(self, backend, probabilities, sentence):
        with pytest.raises(UserError, match=sentence):
            DenseCrf(scene(20, 30), backend=backend)(probabilities)

    def test_negative_iterations_are_refused(self, backend):
        with pytest.raises(UserError, match="iterations must be 0 or more"):
            DenseCrf(scene(20, 30), backend=backend)(np.full((2, 20, 30), 0.5, np.float32), -1)


def test_an_unknown_way_with_absent_labels_is_refused():
    with pytest.raises(UserError, match="choose from drop, fold"):
        DenseCrf(scene(20, 30), absent="keep")


def test_backend_names():
    assert choose_backend("auto") == BACKENDS[0] and choose_backend("auto", "cuda") == "torch"
    with pytest.raises(UserError, match="unknown CRF backend 'numpy'; choose from auto, "):
        choose_backend("numpy")
    if "pydensecrf" in BACKENDS:
        with pytest.raises(UserError, match="pydensecrf does not run on cuda"):
            choose_backend("pydensecrf", "cuda")


def test_labels_get_the_hard_unary():
    image = scene(30, 40)
    classes = [0, 7, 12]
    labels = np.array(classes, np.uint8)[beliefs(image, 3).argmax(0)]
    crf = DenseCrf(image, **IRN)
    unary = np.where(labels[None] == np.array(classes)[:, None, None], 0.7, 0.15).astype(np.float32)
    assert np.array_equal(crf_labels(crf, labels, classes), np.array(classes, np.uint8)[crf(unary).argmax(0)])


def test_labels_equal_those_of_the_peer():
    utils = pytest.importorskip("pydensecrf.utils", reason="pydensecrf is not installed")
    image = scene(30, 40)
    labels = beliefs(image, 3).argmax(0)
    energies = utils.unary_from_labels(labels, 3, gt_prob=0.7, zero_unsure=False).reshape(3, 30, 40)
    crf = DenseCrf(image, **IRN)
    assert np.array_equal(crf_labels(crf, labels.astype(np.uint8), [0, 1, 2]), crf(np.exp(-energies)).argmax(0))


def test_labels_of_one_class_stay():
    labels = np.full((20, 30), 3, np.uint8)
    assert np.array_equal(crf_labels(DenseCrf(scene(20, 30)), labels, [3]), labels)


def test_bad_labels_are_named():
    crf, labels = DenseCrf(scene(20, 30)), np.zeros((20, 30), np.uint8)
    labels[3, 4] = 255
    with pytest.raises(UserError, match=r"holds \[255\], but its classes are \[0, 1\]"):
        crf_labels(crf, labels, [0, 1])
    with pytest.raises(UserError, match="uint8 and shape 20 x 30"):
        crf_labels(crf, labels.T, [0, 255])
    with pytest.raises(UserError, match="gt_prob must lie between 0 and 1, not 1"):
        crf_labels(crf, labels, [0, 255], gt_prob=1)
