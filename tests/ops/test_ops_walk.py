"""The random walk against the dense power of the transition matrix in float64."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.errors import UserError
from wsss.ops.pairs import pair_affinity, pair_offsets
from wsss.ops.walk import chebyshev_coefficients, random_walk


def dense_walk(affinity, size, radius, scores, beta, steps):
    """scores T^steps with T the column-normalised A^beta, A dense, written pixel by pixel."""
    number = torch.arange(size[0] * size[1]).view(size)
    matrix = torch.eye(number.numel(), dtype=torch.float64)
    rows, columns = affinity.shape[1:]
    margin = 0 if (rows, columns) == size else radius - 1
    for plane, (dy, dx) in zip(affinity.double() ** beta, pair_offsets(radius), strict=True):
        for row in range(rows):
            for column in range(columns):
                y, x = row + dy, column + margin + dx
                if 0 <= y < size[0] and 0 <= x < size[1]:
                    i, j = number[row, column + margin], number[y, x]
                    matrix[i, j] = matrix[j, i] = plane[row, column]
    transition = matrix / matrix.sum(0, keepdim=True)
    return (scores.double().flatten(1) @ torch.matrix_power(transition, steps)).view(scores.shape)


@settings(deadline=None, max_examples=20)
@given(
    radius=st.integers(2, 4),
    more=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    every_source=st.booleans(),
    labels=st.integers(1, 3),
    beta=st.sampled_from([1.0, 8.0, 10.0]),
    steps=st.sampled_from([0, 1, 2, 3, 64, 255, 256]),
)
def test_equals_the_dense_power(radius, more, every_source, labels, beta, steps):
    size = (radius + more[0], 2 * radius - 1 + more[1])
    generator = torch.Generator().manual_seed(steps)
    features = torch.rand(1, 2, *size, generator=generator, dtype=torch.float64)
    affinity = pair_affinity(features, radius, every_source=every_source)[0]
    scores = torch.rand(labels, *size, generator=generator, dtype=torch.float64)
    walked = random_walk(affinity, size, radius, scores, beta=beta, steps=steps)
    assert torch.allclose(walked, dense_walk(affinity, size, radius, scores, beta, steps), atol=1e-5, rtol=0)


def test_the_error_is_below_the_stated_tolerance():
    size, radius = (9, 12), 3
    affinity = pair_affinity(torch.rand(1, 2, *size, dtype=torch.float64), radius, every_source=True)[0]
    scores = torch.rand(2, *size, dtype=torch.float64)
    exact = dense_walk(affinity, size, radius, scores, 1.0, 300)
    for tolerance in (1e-3, 1e-6, 1e-12):
        walked = random_walk(affinity, size, radius, scores, beta=1.0, steps=300, tolerance=tolerance)
        assert (walked - exact).norm() <= 2 * tolerance * exact.norm() + 1e-12


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 12, 256, 1001])
def test_the_expansion_is_the_monomial(steps):
    s = torch.linspace(-1, 1, 101, dtype=torch.float64)
    coefficients = chebyshev_coefficients(steps, 1e-9)
    expansion = sum(c * torch.cos(k * torch.arccos(s)) for k, c in enumerate(coefficients))
    assert torch.allclose(expansion, s**steps, atol=2e-9, rtol=0)


def test_few_terms_are_enough():
    assert [len(chebyshev_coefficients(256, tolerance)) for tolerance in (1e-3, 1e-4, 1e-6)] == [53, 63, 79]


def test_zero_steps_return_the_scores():
    scores = torch.rand(2, 5, 7)
    walked = random_walk(torch.rand(4, 5, 7), (5, 7), 2, scores, beta=8, steps=0)
    assert torch.equal(walked, scores) and walked is not scores


def test_pixels_without_affinity_keep_their_scores():
    scores = torch.rand(2, 6, 9)
    walked = random_walk(torch.zeros(12, 6, 9), (6, 9), 3, scores, beta=8, steps=256)
    assert torch.allclose(walked, scores, atol=1e-6)


def test_a_pixel_with_an_affinity_row_of_zeros_keeps_its_score_and_gives_none():
    size, radius = (5, 8), 3
    features = torch.rand(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features[..., 2, 3] = 1e4
    affinity = pair_affinity(features, radius, every_source=True)[0]
    scores = torch.rand(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    walked = random_walk(affinity, size, radius, scores, beta=8, steps=256)
    assert torch.allclose(walked[:, 2, 3], scores[:, 2, 3], atol=1e-6)
    assert torch.allclose(walked, dense_walk(affinity, size, radius, scores, 8, 256), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_a_map_smaller_than_the_radius_is_walked_in_full(size):
    affinity = pair_affinity(torch.rand(1, 2, *size, dtype=torch.float64), 5, every_source=True)[0]
    scores = torch.rand(2, *size, dtype=torch.float64)
    walked = random_walk(affinity, size, 5, scores, beta=1, steps=7)
    assert torch.allclose(walked, dense_walk(affinity, size, 5, scores, 1, 7), atol=1e-5, rtol=0)


def test_arrays_of_any_layout_work_and_are_not_changed():
    affinity, scores = torch.rand(4, 5, 4, dtype=torch.float64), torch.rand(5, 4, 3, dtype=torch.float64)
    before = affinity.clone(), scores.clone()
    transposed = affinity.transpose(1, 2), scores.permute(2, 1, 0)
    walked = random_walk(transposed[0], (4, 5), 2, transposed[1], beta=1, steps=3)
    copied = random_walk(transposed[0].contiguous(), (4, 5), 2, transposed[1].contiguous(), beta=1, steps=3)
    assert torch.equal(walked, copied)
    assert torch.equal(affinity, before[0]) and torch.equal(scores, before[1])


def test_a_region_that_is_tied_together_evens_out_and_nothing_leaks():
    left = torch.zeros(1, 1, 6, 10)
    left[..., 5:] = 100
    scores = torch.zeros(1, 6, 10)
    scores[0, 2, 2] = 1.0
    walked = random_walk(pair_affinity(left, 3, every_source=True)[0], (6, 10), 3, scores, beta=8, steps=2000)
    assert torch.all(walked[0, :, 5:] < 1e-6)
    assert float(walked[0, :, :5].max()) < 2 * float(walked[0, :, :5].min())


def test_constant_scores_stay_constant():
    affinity = pair_affinity(torch.rand(1, 3, 8, 11), 4)[0]
    walked = random_walk(affinity, (8, 11), 4, torch.full((1, 8, 11), 0.3), beta=8, steps=256)
    assert torch.allclose(walked, torch.full((1, 8, 11), 0.3), atol=1e-5)


def test_keeps_type_and_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        walked = random_walk(torch.rand(4, 4, 5), (4, 5), 2, torch.rand(3, 4, 5), beta=2, steps=4)
    assert walked.dtype == torch.float32 and walked.shape == (3, 4, 5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"affinity": torch.rand(3, 4, 5)}, "don't fit a map of 4 x 5 with radius 2"),
        ({"affinity": torch.full((4, 4, 5), torch.nan)}, "between 0 and 1"),
        ({"affinity": torch.full((4, 4, 5), -0.1)}, "between 0 and 1"),
        ({"scores": torch.rand(1, 5, 4)}, "do not fit"),
        ({"scores": torch.full((1, 4, 5), torch.inf)}, "must be finite"),
        ({"steps": -1}, "whole steps >= 0"),
        ({"steps": 2.5}, "whole steps >= 0"),
        ({"steps": float("nan")}, "whole steps >= 0"),
        ({"steps": float("inf")}, "whole steps >= 0"),
        ({"beta": -1.0}, "beta >= 0"),
        ({"beta": float("nan")}, "beta >= 0"),
        ({"beta": float("inf")}, "beta >= 0"),
        ({"tolerance": 0.0}, "tolerance > 0"),
        ({"radius": 1}, "radius must be 2 or more"),
    ],
)
def test_bad_input_is_named(change, sentence):
    given = {"affinity": torch.rand(4, 4, 5), "size": (4, 5), "radius": 2, "scores": torch.rand(1, 4, 5)}
    given |= {"beta": 8.0, "steps": 4} | change
    with pytest.raises(UserError, match=sentence):
        random_walk(**given)
