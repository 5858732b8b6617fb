"""Pairs of pixels against double loops over the equations of AffinityNet (Ahn & Kwak, CVPR 2018)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss.errors import UserError
from wsss.ops.pairs import (
    affinity_loss,
    pair_affinity,
    pair_labels,
    pair_offsets,
    pair_path,
    path_affinity,
    source_rectangle,
)


def pixels(size, radius, every_source):
    """Every (p, row, column) of the source rectangle with its source and partner pixels; the partner may be outside."""
    height, width = size if every_source else source_rectangle(size, radius)
    margin = 0 if every_source else radius - 1
    for p, (dy, dx) in enumerate(pair_offsets(radius)):
        for row in range(height):
            for column in range(width):
                source = (row, column + margin)
                yield (p, row, column), source, (source[0] + dy, source[1] + dx)


def inside(pixel, size):
    return 0 <= pixel[0] < size[0] and 0 <= pixel[1] < size[1]


def test_radius_5_has_34_offsets_in_a_half_plane():
    offsets = pair_offsets(5)
    assert len(offsets) == len(set(offsets)) == 34
    assert all(dy * dy + dx * dx < 25 and (dy > 0 or dx > 0) for dy, dx in offsets)


def test_radius_10_has_152_offsets():
    assert len(pair_offsets(10)) == 152


def test_offsets_and_their_mirrors_are_all_pixels_strictly_within_the_radius():
    for radius in (2, 3, 4, 7):
        reach = range(-radius, radius + 1)
        disc = {(y, x) for y in reach for x in reach if 0 < math.hypot(y, x) < radius}
        half = pair_offsets(radius)
        assert {*half, *((-dy, -dx) for dy, dx in half)} == disc


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 4), st.integers(0, 4), st.integers(0, 4), st.booleans(), st.sampled_from(["mean", "sum"]))
def test_affinity_is_the_exponential_of_the_l1_distance(radius, more_rows, more_columns, every_source, reduction):
    size = (radius + more_rows, 2 * radius - 1 + more_columns)
    features = torch.rand(2, 3, *size, dtype=torch.float64)
    affinity = pair_affinity(features, radius, reduction, every_source)
    for (p, row, column), i, j in pixels(size, radius, every_source):
        for b in range(2):
            expected = 0.0
            if inside(j, size):
                distances = [abs(float(features[b, k, *i] - features[b, k, *j])) for k in range(3)]
                expected = math.exp(-sum(distances) / (3 if reduction == "mean" else 1))
            assert float(affinity[b, p, row, column]) == pytest.approx(expected, abs=1e-12)


def test_affinity_has_the_gradient_of_its_formula():
    features = torch.rand(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    for every_source in (False, True):
        assert torch.autograd.gradcheck(lambda f, e=every_source: pair_affinity(f, 3, every_source=e), features)


@pytest.mark.parametrize("every_source", [False, True])
def test_labels_of_pairs(every_source):
    radius, size = 3, (6, 8)
    labels = torch.tensor([0, 1, 2, 255])[torch.randint(0, 4, (2, *size), generator=torch.Generator().manual_seed(3))]
    pairs = pair_labels(labels, radius, every_source)
    for (p, row, column), i, j in pixels(size, radius, every_source):
        for b in range(2):
            one = int(labels[b, *i])
            other = int(labels[b, *j]) if inside(j, size) else 255
            known = 255 not in (one, other)
            place = (b, p, row, column)
            assert bool(pairs.background[place]) == (known and one == other == 0)
            assert bool(pairs.foreground[place]) == (known and one == other != 0)
            assert bool(pairs.different[place]) == (known and one != other)


def test_labels_may_be_bytes():
    labels = torch.full((1, 6, 8), 255, dtype=torch.uint8)
    labels[0, 2:4, 3:5] = 7
    pairs = pair_labels(labels, 3, every_source=True)
    assert int(pairs.foreground.sum()) == 6 and not pairs.background.any() and not pairs.different.any()


def test_loss_weighs_the_three_kinds_of_pairs_each_by_its_own_mean():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (1, 7, 9), generator=generator)
    affinity = pair_affinity(torch.rand(1, 4, 7, 9, dtype=torch.float64, generator=generator), 3)
    pairs = pair_labels(labels, 3)
    terms = {"background": [], "foreground": [], "different": []}
    for kind, values in terms.items():
        for w, chosen in zip(affinity.flatten(), getattr(pairs, kind).flatten(), strict=True):
            if chosen:
                values.append(-math.log(1 + 1e-5 - w if kind == "different" else w + 1e-5))
    mean = {kind: sum(values) / len(values) for kind, values in terms.items()}
    expected = mean["background"] / 4 + mean["foreground"] / 4 + mean["different"] / 2
    assert float(affinity_loss(affinity, pairs)) == pytest.approx(expected, rel=1e-10)


def test_a_map_of_one_class_has_a_finite_loss_and_gradient():
    features = torch.rand(1, 4, 7, 9, requires_grad=True)
    for label in (0, 1, 255):
        loss = affinity_loss(pair_affinity(features, 3), pair_labels(torch.full((1, 7, 9), label), 3))
        (gradient,) = torch.autograd.grad(loss, features)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()
        assert (loss.item() == 0) == (label == 255)


def test_equal_features_of_different_classes_do_not_make_the_loss_infinite():
    features = torch.zeros(1, 4, 7, 9, requires_grad=True)
    loss = affinity_loss(pair_affinity(features, 3), pair_labels(torch.arange(63).view(1, 7, 9), 3))
    assert loss.item() == pytest.approx(-math.log(1e-5) / 2, rel=1e-2)


def test_a_map_smaller_than_the_radius_is_refused_or_used_in_full():
    small = torch.rand(1, 3, 8, 8)
    with pytest.raises(UserError, match="8 x 8 is too small for pairs within radius 5"):
        pair_affinity(small, 5)
    with pytest.raises(UserError, match="too small"):
        pair_labels(torch.zeros(1, 8, 8, dtype=torch.long), 5)
    assert pair_affinity(small[..., :2, :1], 5, every_source=True).shape == (1, 34, 2, 1)


def test_a_radius_without_pairs_is_refused():
    with pytest.raises(UserError, match="radius must be 2 or more"):
        pair_offsets(1)


def test_paths_cover_the_line_and_both_ends():
    assert pair_path(0, 3) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert pair_path(2, -2) == [(0, -1), (0, 0), (1, -2), (1, -1), (1, 0), (2, -2), (2, -1)]
    for dy, dx in pair_offsets(10):
        path = pair_path(dy, dx)
        assert {(0, 0), (dy, dx)} <= set(path)
        assert all(abs(dy * x - dx * y) / math.hypot(dy, dx) < 1 for y, x in path)


@pytest.mark.parametrize("every_source", [False, True])
def test_path_affinity_is_one_minus_the_highest_boundary_between(every_source):
    radius, size = 4, (7, 10)
    boundaries = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    affinity = path_affinity(boundaries, radius, every_source)
    for (p, row, column), i, j in pixels(size, radius, every_source):
        path = [(i[0] + y, i[1] + x) for y, x in pair_path(j[0] - i[0], j[1] - i[1])]
        for b in range(2):
            highest = max(float(boundaries[b, *pixel]) if inside(pixel, size) else 1.0 for pixel in path)
            assert float(affinity[b, p, row, column]) == pytest.approx(1 - highest, abs=1e-6)


def test_a_closed_boundary_separates():
    boundaries = torch.zeros(1, 9, 11)
    boundaries[:, :, 5] = 1
    affinity = path_affinity(boundaries, 3, every_source=True)[0]
    for (p, row, column), i, j in pixels((9, 11), 3, True):
        if inside(j, (9, 11)):
            assert float(affinity[p, row, column]) == float(not min(i[1], j[1]) <= 5 <= max(i[1], j[1]))


def test_path_affinity_is_differentiable():
    boundaries = torch.rand(1, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: path_affinity(b, 3), boundaries)
