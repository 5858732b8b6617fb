"""What a dense CRF is given: arrays of any layout work, nonsense and too much are refused in one sentence."""

import numpy as np
import pytest
from crf_references import KERNELS, beliefs, photograph, scene

from benchmarks.memory import FORGET, megabytes
from wsss.errors import UserError
from wsss.ops.crf import DenseCrf, choose_backend, installed_backends, refine_label_map

BACKENDS = installed_backends()
OURS = [name for name in BACKENDS if name != "pydensecrf"]
EVEN = np.full((2, 20, 30), 0.5, np.float32)


def changed(value):
    """Even probabilities, one of which is another value."""
    array = EVEN.copy()
    array[1, 7, 11] = value
    return array


@pytest.mark.parametrize("backend", BACKENDS)
class TestEveryBackend:
    def test_takes_read_only_and_strided_arrays_and_changes_none(self, backend):
        image, given = scene(40, 50), beliefs(scene(40, 50), 3)
        expected = DenseCrf(image, backend=backend)(given)
        padded = np.zeros((40, 50, 4), np.uint8)
        padded[..., :3] = image
        last = np.ascontiguousarray(given.transpose(1, 2, 0))
        for array in (image, given, padded, last):
            array.flags.writeable = False
        assert np.array_equal(DenseCrf(image, backend=backend)(given), expected)
        marginals = DenseCrf(padded[..., :3], backend=backend)(last.transpose(2, 0, 1))
        assert np.array_equal(marginals, expected) and np.array_equal(last.transpose(2, 0, 1), given)

    def test_takes_mirrored_arrays(self, backend):
        image, given = scene(24, 31), beliefs(scene(24, 31), 3)
        copied = DenseCrf(image[::-1, ::-1].copy(), backend=backend)(given[:, ::-1, ::-1].copy())
        assert np.array_equal(DenseCrf(image[::-1, ::-1], backend=backend)(given[:, ::-1, ::-1]), copied)

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            ({"gaussian_sxy": 0}, "CRF setting gaussian_sxy is 0; it must be a finite number above 0"),
            ({"bilateral_sxy": -1}, "CRF setting bilateral_sxy is -1; it must be a finite number above 0"),
            ({"bilateral_srgb": float("nan")}, "CRF setting bilateral_srgb is nan; it must be a finite number above 0"),
            (
                {"bilateral_weight": float("inf")},
                "CRF setting bilateral_weight is inf; it must be a finite number, 0 or above",
            ),
            ({"gaussian_sxy": 1e-4}, "CRF setting gaussian_sxy 0.0001 is too small for 20 x 30 pixels"),
            (
                {"bilateral_srgb": 1e-3},
                "CRF settings bilateral_sxy 80.0 and bilateral_srgb 0.001 are too small for 20 x 30 pixels",
            ),
        ],
    )
    def test_bad_settings_are_named(self, backend, settings, sentence):
        with pytest.raises(UserError) as error:
            DenseCrf(scene(20, 30), **settings, backend=backend)
        assert str(error.value) == sentence

    @pytest.mark.parametrize(
        ("image", "found"),
        [
            (np.zeros((4, 5), np.uint8), "uint8 4 x 5"),
            (np.zeros((4, 5, 4), np.uint8), "uint8 4 x 5 x 4"),
            (np.zeros((4, 5, 3)), "float64 4 x 5 x 3"),
            (np.zeros((0, 5, 3), np.uint8), "uint8 0 x 5 x 3"),
        ],
    )
    def test_a_wrong_image_is_refused(self, backend, image, found):
        with pytest.raises(UserError) as error:
            DenseCrf(image, backend=backend)
        assert str(error.value) == f"a CRF needs an image of type uint8 and shape [B x] H x W x 3, this is {found}"

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            (np.full((2, 30, 20), 0.5, np.float32), "K x 20 x 30 with K from 1 to 256, these are float32 2 x 30 x 20"),
            (np.full((20, 30), 0.5, np.float32), "K x 20 x 30 with K from 1 to 256, these are float32 20 x 30"),
            (EVEN[None], "K x 20 x 30 with K from 1 to 256, these are float32 1 x 2 x 20 x 30"),
            (np.zeros((0, 20, 30), np.float32), "K from 1 to 256, these are float32 0 x 20 x 30"),
            (np.zeros((257, 20, 30), np.float32), "K from 1 to 256, these are float32 257 x 20 x 30"),
            (np.ones((2, 20, 30), np.int64), "a CRF needs floating-point probabilities, these are int64 2 x 20 x 30"),
            (changed(np.nan), "between 0 and 1, these hold NaN, infinite or other values"),
            (changed(np.inf), "between 0 and 1, these hold NaN, infinite or other values"),
            (changed(-np.inf), "between 0 and 1, these hold NaN, infinite or other values"),
            (changed(-0.1), "between 0 and 1, these hold NaN, infinite or other values"),
            (changed(1.5), "between 0 and 1, these hold NaN, infinite or other values"),
        ],
    )
    def test_wrong_probabilities_are_refused(self, backend, given, sentence):
        crf = DenseCrf(scene(20, 30), backend=backend)
        with pytest.raises(UserError) as error:
            crf(given)
        assert str(error.value).endswith(sentence)
        assert np.isfinite(crf(EVEN)).all()

    def test_negative_iterations_are_refused(self, backend):
        with pytest.raises(UserError, match="CRF iterations must be 0 or more, not -1"):
            DenseCrf(scene(20, 30), backend=backend)(EVEN, -1)

    def test_too_large_an_image_is_refused(self, backend, monkeypatch):
        monkeypatch.setenv("WSSS_CRF_MEMORY", "100")
        image = np.broadcast_to(np.uint8(7), (3000, 4000, 3))
        given = np.broadcast_to(np.float32(0.5), (2, 3000, 4000))
        sentence = (
            r"the CRF of 3000 x 4000 pixels( and 2 labels)? needs about [\d,]+ MB of memory, "
            "but WSSS_CRF_MEMORY allows 100 MB; take a smaller image or fewer labels"
        )
        with pytest.raises(UserError, match=f"^{sentence}$"):
            DenseCrf(image, backend=backend)(given)

    def test_without_a_setting_what_is_free_is_the_limit(self, backend, monkeypatch):
        monkeypatch.delenv("WSSS_CRF_MEMORY", raising=False)
        monkeypatch.setattr("wsss.ops.memory._free", lambda: 10_000)
        with pytest.raises(UserError, match="needs about 1 MB of memory, but 0 MB are free; take a smaller image"):
            DenseCrf(scene(20, 30), backend=backend)(EVEN)


@pytest.mark.parametrize("backend", OURS)
def test_a_lattice_that_outgrows_the_limit_is_refused(backend, monkeypatch):
    monkeypatch.setenv("WSSS_CRF_MEMORY", "10")
    image = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    with pytest.raises(UserError, match="150 x 200 pixels.* needs .*memory.*WSSS_CRF_MEMORY allows 10 MB"):
        DenseCrf(image, **KERNELS["irn"], backend=backend)(np.full((21, 150, 200), 1 / 21, np.float32))


@pytest.mark.parametrize("setting", ["lots", "0", "-3", "nan", "inf"])
def test_a_limit_that_is_no_size_is_named(setting, monkeypatch):
    monkeypatch.setenv("WSSS_CRF_MEMORY", setting)
    with pytest.raises(UserError, match=f"^WSSS_CRF_MEMORY is '{setting}'; it must be a number of megabytes above 0$"):
        DenseCrf(scene(20, 30))


@pytest.mark.skipif(not FORGET.exists(), reason="the highest memory so far can't be forgotten")
@pytest.mark.parametrize("backend", OURS)
@pytest.mark.parametrize("name", ["coffee", "astronaut"])
def test_21_labels_take_less_than_100_mb_above_the_arrays(name, backend):
    assert megabytes(photograph(name, 375, 500), backend) < 100


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


def test_bad_labels_are_named():
    crf, labels = DenseCrf(scene(20, 30)), np.zeros((20, 30), np.uint8)
    labels[3, 4] = 255
    with pytest.raises(UserError, match=r"holds \[255\], but its classes are \[0, 1\]"):
        refine_label_map(crf, labels, [0, 1])
    with pytest.raises(UserError, match="uint8 and shape 20 x 30"):
        refine_label_map(crf, labels.T, [0, 255])
    with pytest.raises(UserError, match="gt_prob must lie between 0 and 1, not 1"):
        refine_label_map(crf, labels, [0, 255], gt_prob=1)
