"""The histogram of pairs against counting them one by one, with the compiled kernel and without."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.errors import UserError
from wsss.ops.histogram import pair_histogram
from wsss.ops.native import library
from wsss.scores import confusion


@pytest.fixture(params=["native", "numpy"])
def kernel(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr("wsss.ops.histogram.load_library", lambda: None)
    elif library.load_library() is None:
        pytest.skip("the native kernels are not built")
    return request.param


def counted(first, second):
    histogram = np.zeros((256, 256), np.int64)
    np.add.at(histogram, (first.ravel(), second.ravel()), 1)
    return histogram


@pytest.mark.usefixtures("kernel")
class TestBoth:
    @settings(deadline=None, max_examples=60)
    @given(st.integers(0, 40), st.integers(1, 30), st.integers(1, 12), st.integers(0, 1000))
    def test_counts_every_pair(self, height, width, region, rng):
        draw = np.random.default_rng(rng)
        maps = draw.choice([0, 1, 7, 20, 127, 128, 255], (2, height * width)).astype(np.uint8)
        first, second = maps.repeat(region, axis=1)[:, : height * width].reshape(2, height, width)
        histogram = pair_histogram(first, second)
        assert histogram.dtype == np.int64 and np.array_equal(histogram, counted(first, second))

    def test_takes_read_only_and_strided_maps(self):
        draw = np.random.default_rng(0)
        first, second = draw.integers(0, 256, (2, 30, 41), dtype=np.uint8)
        first.flags.writeable = False
        strided = np.asfortranarray(second)
        assert np.array_equal(pair_histogram(first, strided), counted(first, second))
        assert np.array_equal(pair_histogram(first[::2, ::-1], second[::2, ::-1]), counted(first[::2], second[::2]))

    def test_counts_that_bytes_could_not_hold(self):
        first = np.full((400, 500), 3, np.uint8)
        assert pair_histogram(first, first)[3, 3] == 200_000

    def test_confusion_matrix_of_21_classes(self):
        draw = np.random.default_rng(1)
        mask, prediction = draw.integers(0, 21, (2, 60, 80), dtype=np.uint8)
        mask[:7], prediction[:, :5] = 255, 255
        expected = np.zeros((21, 21), int)
        for truth, label in zip(mask.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if truth != 255:
                expected[truth, label % 255] += 1
        assert np.array_equal(confusion(mask, prediction, 20), expected)

    @pytest.mark.parametrize("other", [np.zeros((3, 4), np.int64), np.zeros((4, 3), np.uint8)])
    def test_other_types_and_sizes_are_refused(self, other):
        with pytest.raises(UserError, match="label maps are compared as uint8 of one shape, these are uint8"):
            pair_histogram(np.zeros((3, 4), np.uint8), other)
