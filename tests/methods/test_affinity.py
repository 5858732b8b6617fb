"""AffinityNet, formula by formula (Ahn and Kwak, CVPR 2018)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsss.data.score_maps import ScoreMap
from wsss.methods.affinity.labels import confident_labels
from wsss.methods.affinity.network import AffinityNet, cell_labels
from wsss.methods.affinity.walk import WalkSettings, walk_score_map
from wsss.ops.pairs import pair_affinity, pair_offsets
from wsss.ops.walk import mean_affinity
from wsss.stages.refine import BackgroundSettings, background_score, crf_labels, probabilities, with_background


def test_the_background_is_what_no_class_claims_to_the_power_of_alpha() -> None:
    scores = np.array([[[0.2, 0.9]], [[0.5, 0.1]]])
    found = background_score(scores, BackgroundSettings(alpha=4))
    assert found == pytest.approx(np.array([[(1 - 0.5) ** 4, (1 - 0.9) ** 4]]), abs=1e-6)
    larger = background_score(scores, BackgroundSettings(alpha=32))
    assert (larger < found).all()
    assert (background_score(np.zeros((0, 1, 2)), BackgroundSettings()) == 1).all()
    assert (background_score(scores, BackgroundSettings(background="constant", threshold=0.3)) == np.float32(0.3)).all()


def test_confident_labels_pixel_by_pixel() -> None:
    classes = np.array([0, 3, 7], dtype=np.uint8)
    draw = np.random.default_rng(0)
    strong, weak = (
        draw.dirichlet(np.ones(3), (6, 5)).transpose(2, 0, 1),
        draw.dirichlet(np.ones(3), (6, 5)).transpose(2, 0, 1),
    )
    found = confident_labels(strong, weak, classes)
    for y in range(6):
        for x in range(5):
            sure = classes[strong[:, y, x].argmax()]
            expected = 255 if sure == 0 else sure
            if classes[weak[:, y, x].argmax()] == 0:
                expected = 0
            assert found[y, x] == expected


def test_a_cell_takes_the_label_most_pixels_around_it_have() -> None:
    labels = torch.from_numpy(np.random.default_rng(1).choice([0, 1, 2, 255], (1, 17, 25)))
    found = cell_labels(labels, 2, 8)
    assert found.shape == (1, 3, 4)
    for i in range(3):
        for j in range(4):
            window = labels[0, max(0, 8 * i - 4) : 8 * i + 5, max(0, 8 * j - 4) : 8 * j + 5]
            counts = {int(v): int((window == v).sum()) for v in window.unique()}
            assert counts[int(found[0, i, j])] == max(counts.values())


@pytest.mark.parametrize("every_source", [False, True])
def test_how_alike_a_cell_is_to_those_around_it_pair_by_pair(every_source: bool) -> None:
    radius, size = 3, (7, 9)
    features = torch.rand(1, 4, *size, generator=torch.Generator().manual_seed(0))
    affinity = pair_affinity(features, radius, every_source=every_source)[0]
    found = mean_affinity(affinity, size, radius)
    of_cell: dict[tuple[int, int], list[float]] = {(y, x): [] for y in range(size[0]) for x in range(size[1])}
    for y, x in of_cell:
        for dy, dx in pair_offsets(radius):
            there = (y + dy, x + dx)
            inner = y < size[0] - radius + 1 and radius - 1 <= x < size[1] - radius + 1
            if there in of_cell and (every_source or inner):
                alike = float(torch.exp(-(features[0, :, y, x] - features[0, :, there[0], there[1]]).abs().mean()))
                of_cell[y, x].append(alike)
                of_cell[there].append(alike)
    expected = [float(np.mean(pairs)) if pairs else 1.0 for pairs in of_cell.values()]
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_affinity_features_lie_on_every_cell_whatever_the_backbones_stride(output_stride: int) -> None:
    for stride, cells in ((8, (5, 7)), (4, (9, 13))):
        net = AffinityNet("resnet18", "none", output_stride, stride).eval()
        with torch.inference_mode():
            assert net(torch.zeros(1, 3, 33, 49)).shape == (1, 448, *cells)


def dense_walk(features: torch.Tensor, radius: int, scores: torch.Tensor, beta: float, steps: int) -> torch.Tensor:
    """The walk as the paper writes it: T = D^-1 W^beta, vec(M*) = T^t vec(M), with dense matrices and double loops."""
    height, width = features.shape[1:]
    flat = features.double().flatten(1).T
    weight = torch.eye(height * width, dtype=torch.float64)
    margin = radius - 1
    for y in range(height - margin):
        for x in range(margin, width - margin):
            for dy, dx in pair_offsets(radius):
                i, j = y * width + x, (y + dy) * width + x + dx
                value = torch.exp(-(flat[i] - flat[j]).abs().mean())
                weight[i, j] = weight[j, i] = value
    raised = weight**beta
    transition = raised / raised.sum(0, keepdim=True)
    walked = scores.double().flatten(1) @ torch.linalg.matrix_power(transition, steps)
    return walked.reshape(-1, height, width)


@pytest.mark.parametrize(("beta", "steps"), [(8.0, 256), (4.0, 16), (1.0, 1)])
def test_the_walk_equals_the_dense_matrix_power(beta: float, steps: int) -> None:
    torch.manual_seed(0)
    features, radius = torch.rand(16, 9, 11) * 2, 4
    maps = ScoreMap(
        np.random.default_rng(0).random((2, 9, 11)).astype(np.float16), np.array([2, 5], np.uint8), (65, 81)
    )
    settings = WalkSettings(radius=radius, beta=beta, steps=steps, alpha=16)
    walked = walk_score_map(maps, pair_affinity(features[None], radius, "mean")[0], (9, 11), settings)
    start = torch.from_numpy(with_background(maps, settings).scores.astype(np.float32))
    expected = dense_walk(features, radius, start, beta, steps).numpy()
    assert walked.classes.tolist() == [0, 2, 5]
    assert np.abs(walked.scores.astype(np.float64) - expected).max() < 1e-3  # what float16 on disk keeps


def test_probabilities_sum_to_one_and_never_vanish() -> None:
    found = probabilities(np.array([[[0.0, 2.0]], [[0.0, 0.0]]]))
    assert np.allclose(found.sum(0), 1)
    assert found.min() > 0


def test_the_crf_moves_a_boundary_to_the_edge_in_the_image() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 255
    maps = np.stack([np.ones((32, 32)), np.zeros((32, 32))])
    maps[:, :, 12:] = np.array([0.4, 0.6])[:, None, None]
    from wsss.stages.refine import CrfSettings

    labels = crf_labels(image, maps, np.array([0, 4], np.uint8), CrfSettings())
    assert (labels[:, :16] == 0).all()
    assert (labels[:, 17:] == 4).all()
