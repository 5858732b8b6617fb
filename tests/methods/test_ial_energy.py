"""The refinement of Iterative Affinity Learning and its energy, formula by formula (after Wang et al., IJCV 2020)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wsss.errors import UserError
from wsss.methods.ial.refinement import energy, masked_probabilities, refine
from wsss.ops.pairs import inside_map, pair_offsets
from wsss.run.plan import make_plan

RADIUS = 3
SIZE = (6, 7)


def random_pairs(draw: torch.Generator, extreme: bool = False) -> torch.Tensor:
    """Affinities of all pairs, each cell a source; with `extreme`, every one is 0 or 1."""
    values = torch.rand(len(pair_offsets(RADIUS)), *SIZE, generator=draw)
    return (values.round() if extreme else values) * inside_map(torch.zeros(SIZE), RADIUS)


def random_probabilities(draw: torch.Generator, classes: int = 3) -> torch.Tensor:
    return (3 * torch.randn(classes, *SIZE, generator=draw, dtype=torch.float64)).softmax(0)


def dense(affinity: torch.Tensor, beta: float) -> torch.Tensor:
    """The symmetric matrix W of all cells with w_ii = 1, pair by pair."""
    height, width = SIZE
    matrix = torch.eye(height * width, dtype=torch.float64)
    for p, (dy, dx) in enumerate(pair_offsets(RADIUS)):
        for y in range(height):
            for x in range(width):
                if y + dy < height and 0 <= x + dx < width:
                    i, j = y * width + x, (y + dy) * width + x + dx
                    matrix[i, j] = matrix[j, i] = float(affinity[p, y, x]) ** beta
    return matrix


def slow_energy(y: Any, p: Any, weights: Any, steps: int) -> tuple[float, float]:
    """Both terms of E(Y) over the sum of the degrees, cell by cell."""
    y, p, weights = (maps.numpy() for maps in (y.flatten(1).T, p.flatten(1).T, weights))
    cells = range(len(weights))
    degrees = [float(weights[i].sum()) for i in cells]
    unary = sum(degrees[i] * float(((y[i] - p[i]) ** 2).sum()) for i in cells) / steps
    pairwise = sum(float(weights[i, j] * ((y[i] - y[j]) ** 2).sum()) for i in cells for j in cells if i < j)
    return unary / sum(degrees), pairwise / sum(degrees)


def check(*overrides: str) -> None:
    """Run the checks of the steps' settings, as before any run."""
    for planned in make_plan("ial", "demo", dict(o.split("=") for o in overrides)).steps:
        planned.check()


@pytest.mark.parametrize(("beta", "steps"), [(8.0, 64), (1.0, 2)])
def test_a_refinement_is_p_times_the_transitions_to_the_power_t(beta: float, steps: int) -> None:
    draw = torch.Generator().manual_seed(0)
    affinity, p = random_pairs(draw), random_probabilities(draw)
    weights = dense(affinity, beta)
    transitions = weights / weights.sum(0, keepdim=True)
    expected = (p.flatten(1) @ torch.linalg.matrix_power(transitions, steps)).reshape(p.shape)
    found = refine(p, affinity, RADIUS, beta, steps)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found.sum(0), torch.ones(SIZE, dtype=torch.float64), atol=1e-5)


def test_the_energy_is_the_sum_over_cells_and_pairs() -> None:
    draw = torch.Generator().manual_seed(1)
    affinity, p, y = random_pairs(draw), random_probabilities(draw), random_probabilities(draw)
    found = energy(y, p, affinity, RADIUS, 2.0, 4)
    assert found == pytest.approx(slow_energy(y, p, dense(affinity, 2.0), 4), rel=1e-9)
    assert energy(p, p, affinity, RADIUS, 2.0, 4)[0] == 0


def test_two_cells_by_hand() -> None:
    # Cells (1, 0) and (0, 1) with w = 1: both become (1/2, 1/2). d = 2, so E(p) = 2 / 4 and, with t = 2,
    # E(p T^2) = 1/2 * (2 * 1/2 + 2 * 1/2) / 4 = 1 / 4.
    p = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    affinity = torch.zeros(len(pair_offsets(2)), 1, 2)
    affinity[pair_offsets(2).index((0, 1)), 0, 0] = 1
    y = refine(p, affinity, 2, 1.0, 2)
    assert torch.allclose(y, torch.full_like(y, 0.5))
    assert energy(p, p, affinity, 2, 1.0, 2) == pytest.approx((0.0, 0.5))
    assert energy(y, p, affinity, 2, 1.0, 2) == pytest.approx((0.25, 0.0), abs=1e-12)


@pytest.mark.parametrize("steps", [2, 4, 16, 64, 256])
@pytest.mark.parametrize("beta", [1.0, 8.0])
def test_a_refinement_does_not_raise_the_energy(beta: float, steps: int) -> None:
    draw = torch.Generator().manual_seed(steps)
    for case in range(12):
        affinity, p = random_pairs(draw, extreme=case % 3 == 0), random_probabilities(draw)
        before = sum(slow_energy(p, p, weights := dense(affinity, beta), steps))
        after = sum(slow_energy(refine(p, affinity, RADIUS, beta, steps), p, weights, steps))
        assert after <= before * (1 + 1e-6)


def test_an_odd_number_of_steps_may_raise_it() -> None:
    """On a checkerboard whose cells are joined to the other colour alone, one step swaps the colours."""
    offsets = pair_offsets(RADIUS)
    affinity = torch.stack([torch.full(SIZE, float((dy + dx) % 2)) for dy, dx in offsets])
    affinity = affinity * inside_map(torch.zeros(SIZE), RADIUS)
    colour = (torch.arange(SIZE[0])[:, None] + torch.arange(SIZE[1])) % 2
    p = torch.stack([colour, 1 - colour]).double()
    weights = dense(affinity, 1.0)
    energies = [
        sum(slow_energy(refine(p, affinity, RADIUS, 1.0, t) if t else p, p, weights, max(t, 1))) for t in (0, 1, 2)
    ]
    assert energies[1] > energies[0] > energies[2]
    with pytest.raises(UserError, match=r"refine\.rounds\.steps = 7 is odd; .* such as 8"):
        check("refine.rounds.steps=7")


def test_absent_classes_are_out_before_and_after_the_refinement() -> None:
    probabilities = torch.tensor([0.5, 0.2, 0.2, 0.1])[:, None, None].expand(4, *SIZE)
    p = masked_probabilities(probabilities, torch.tensor([0, 3]))
    assert torch.allclose(p[:, 0, 0], torch.tensor([5 / 6, 1 / 6]))
    assert masked_probabilities(probabilities, torch.tensor([0])).eq(1).all()  # an image without tags
    vanished = torch.stack([torch.ones(SIZE), torch.zeros(SIZE), torch.zeros(SIZE)])
    assert torch.allclose(masked_probabilities(vanished, torch.tensor([1, 2])), torch.tensor(0.5))


def test_a_class_does_not_notice_which_others_are_refined_with_it() -> None:
    draw = torch.Generator().manual_seed(2)
    affinity, p = random_pairs(draw), random_probabilities(draw)
    alone, together = refine(p[1:2], affinity, RADIUS, 8.0, 16), refine(p, affinity, RADIUS, 8.0, 16)
    assert torch.allclose(alone[0], together[1])
