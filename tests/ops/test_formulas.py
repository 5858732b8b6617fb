"""Published formulas against stored references, which plain loops over the equations made; see formula_references."""

from __future__ import annotations

import formula_references
import numpy as np
import pytest
import torch

from wsss.ops.pairs import affinity_loss, pair_affinity, pair_labels, path_affinity
from wsss.scores import Scores, ThresholdSweep, confusion, levels_of

STORED = dict(np.load(formula_references.FILE))


def test_the_stored_references_are_what_their_command_gives() -> None:
    again = formula_references.references()
    assert again.keys() == STORED.keys()
    for name, array in again.items():
        assert np.allclose(array, STORED[name], rtol=1e-12, atol=0, equal_nan=True), name


def test_affinitynets_pairs_labels_loss_and_gradient() -> None:
    features = torch.from_numpy(STORED["affinity.features"])[None].requires_grad_(True)
    affinity = pair_affinity(features, formula_references.RADIUS)
    assert np.abs(affinity[0].detach().numpy() - STORED["affinity.pairs"]).max() < 1e-14
    labels = pair_labels(torch.from_numpy(STORED["affinity.labels"])[None], formula_references.RADIUS)
    for kind, chosen in enumerate((labels.background, labels.foreground, labels.different)):
        assert np.array_equal(chosen[0].numpy(), STORED["affinity.alike"] == kind)
    loss = affinity_loss(affinity, labels)
    assert loss.item() == pytest.approx(STORED["affinity.loss"], rel=1e-13)
    loss.backward()
    assert features.grad is not None
    assert np.abs(features.grad[0].numpy() - STORED["affinity.gradient"]).max() < 1e-14


@pytest.mark.parametrize("radius", formula_references.PATH_RADII)
def test_irnets_affinity_along_paths(radius: int) -> None:
    found = path_affinity(torch.from_numpy(STORED["paths.boundaries"])[None], radius)
    assert np.array_equal(found[0].numpy(), STORED[f"paths.{radius}"])


def test_vocs_evaluation() -> None:
    both = zip(STORED["scores.masks"], STORED["scores.predictions"], strict=True)
    matrix = np.sum([confusion(mask, prediction, formula_references.CLASSES) for mask, prediction in both], 0)
    assert np.array_equal(matrix, STORED["scores.matrix"])
    scores = Scores.of(matrix)
    for name, found in (("iou", scores.iou), ("fp", scores.fp), ("fn", scores.fn)):
        assert np.allclose(found, STORED[f"scores.{name}"], rtol=1e-14, equal_nan=True)
    assert np.isnan(scores.iou[4])
    assert scores.miou == pytest.approx(np.nanmean(STORED["scores.iou"]), rel=1e-14)


def test_the_score_at_every_threshold() -> None:
    sweep = ThresholdSweep(formula_references.CLASSES)
    for mask, best, scores in zip(STORED["scores.masks"], STORED["sweep.best"], STORED["sweep.scores"], strict=True):
        sweep.add(levels_of(mask, best, scores, formula_references.CLASSES))
    assert sweep.means() == pytest.approx(STORED["sweep.miou"].tolist(), rel=1e-13)
