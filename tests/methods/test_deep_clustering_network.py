"""The region classifier of Deep Clustering: its losses and centres, and how it labels a region."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.methods.deep_clustering.network import (
    RegionClassifier,
    best_regions,
    candidate_probabilities,
    center_loss,
    class_weights,
    confident_regions,
    decided_regions,
    region_cross_entropy,
    update_centers,
    with_kept,
)
from wsss.ops.superpixels import region_weights

# Losses and centres


def test_center_loss_by_hand() -> None:
    features = torch.tensor([[1.0, 2.0], [0.0, 0.0], [5.0, 5.0]], requires_grad=True)
    centers = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([0, 1, 255])
    loss = center_loss(features, labels, centers)
    assert loss.item() == pytest.approx((4 + 9) / 2 / 2)
    loss.backward()
    assert torch.equal(features.grad, torch.tensor([[0.0, 1.0], [0.0, -1.5], [0.0, 0.0]]))  # (f - c) / N
    assert center_loss(features, torch.tensor([255, 255, 255]), centers).item() == 0


def test_centres_run_after_the_class_means_and_are_not_learnt() -> None:
    centers = torch.tensor([[0.0, 0.0], [4.0, 4.0], [1.0, 1.0]])
    features = torch.tensor([[2.0, 0.0], [4.0, 2.0], [8.0, 0.0], [9.0, 9.0]], requires_grad=True)
    update_centers(centers, features, torch.tensor([0, 0, 1, 255]), 0.5)
    assert centers.tolist() == [[1.5, 0.5], [6.0, 2.0], [1.0, 1.0]]
    assert not centers.requires_grad
    net = RegionClassifier(2, "tiny", "none", 8, 8, 4)
    assert "centers" not in dict(net.named_parameters()) and net.state_dict()["centers"].shape == (3, 4)


def test_class_weights_by_hand() -> None:
    counts = torch.tensor([8, 2, 0])
    assert class_weights(counts, 0.0).tolist() == [1, 1, 0]
    full = class_weights(counts, 1.0)
    assert (full * counts).tolist() == pytest.approx([5, 5, 0])  # the same say, ten regions in all
    half = class_weights(counts, 0.5)
    assert (half[1] / half[0]).item() == pytest.approx(2)  # sqrt(8 / 2)
    assert (half * counts).sum().item() == pytest.approx(10)
    assert class_weights(torch.tensor([0, 0]), 1.0).tolist() == [0, 0]


def test_region_cross_entropy_region_by_region() -> None:
    torch.manual_seed(0)
    scores, labels = torch.randn(6, 3), torch.tensor([0, 2, 255, 1, 0, 2])
    weights = torch.tensor([0.5, 2.0, 1.0])
    total = weight = 0.0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        if label != 255:
            total -= weights[label] * (row[label] - math.log(sum(map(math.exp, row))))
            weight += weights[label]
    assert region_cross_entropy(scores, labels, weights).item() == pytest.approx(float(total / weight))
    scores.requires_grad_()
    nothing = region_cross_entropy(scores, torch.full((6,), 255), weights)
    nothing.backward()
    assert nothing.item() == 0 and (scores.grad == 0).all()


# Labelling


def test_absent_classes_are_impossible_and_leave_the_others_unchanged() -> None:
    torch.manual_seed(0)
    scores = torch.randn(5, 9)
    tags = np.array([False, True, False, True])
    candidates = np.array([0, *(np.flatnonzero(tags) + 1)], np.uint8)
    assert candidates.tolist() == [0, 2, 4]
    found = candidate_probabilities(scores, candidates)
    raised = scores[[0, 2, 4]].exp()
    assert torch.allclose(found, raised / raised.sum(0))
    wider = torch.cat([scores, 50 + torch.randn(2, 9)])  # two classes more, tagged nowhere
    assert torch.equal(candidate_probabilities(wider, candidates), found)
    assert (candidate_probabilities(scores, np.zeros(1, np.uint8)) == 1).all()  # all background


def test_a_region_keeps_a_label_that_is_sure_and_that_the_crf_agrees_to() -> None:
    own = np.array([[0.7, 0.55, 0.1, 0.2], [0.3, 0.45, 0.9, 0.8]], np.float32)
    smoothed = np.array([[0.9, 0.99, 0.3, 0.6], [0.1, 0.01, 0.7, 0.4]], np.float32)
    assert confident_regions(own, smoothed, np.array([0, 6], np.uint8), 0.6).tolist() == [0, 255, 6, 255]
    assert confident_regions(own, smoothed, np.array([0, 6], np.uint8), 0.55).tolist() == [0, 0, 6, 255]


CLASSES = np.array([0, 6, 9], np.uint8)


def drowned(regions: int = 10) -> np.ndarray:
    """Distributions of regions: the background and class 6 share the first places, class 9 is never above 0.1."""
    own = np.zeros((3, regions), np.float32)
    own[2] = np.linspace(0.1, 0.01, regions)
    own[1, : regions // 2] = np.linspace(0.8, 0.6, regions // 2)
    own[0] = 1 - own[1:].sum(0)
    return own


def test_each_tag_keeps_its_best_regions_the_weakest_chooses_first() -> None:
    own = drowned()
    assert best_regions(own, CLASSES, 0.0).tolist() == [-1] * 10
    assert best_regions(own, CLASSES, 0.1).tolist() == [2, 1, *[-1] * 8]
    assert best_regions(own, CLASSES, 0.11).tolist() == [2, 2, 1, 1, *[-1] * 6]
    labels = confident_regions(own, own, CLASSES, 0.95)
    assert set(labels) == {0, 255} or set(labels) == {255}
    kept = confident_regions(own, own, CLASSES, 0.95, keep=0.1)
    assert kept[:2].tolist() == [9, 6]
    assert (kept[2:] == labels[2:]).all()


def test_a_kept_region_has_its_tag_in_the_first_place_and_stays_a_distribution() -> None:
    own = drowned()
    raised = with_kept(own, best_regions(own, CLASSES, 0.1))
    assert np.allclose(raised.sum(0), 1)
    assert decided_regions(raised, CLASSES)[:2].tolist() == [9, 6]
    assert (raised[:, 2:] == own[:, 2:]).all()
    assert sorted(raised[:, 0]) == sorted(own[:, 0])


def test_more_tags_than_regions_and_images_without_tags_or_knowledge() -> None:
    assert best_regions(drowned(1), CLASSES, 0.5).tolist() == [1]
    assert best_regions(np.ones((1, 4), np.float32), CLASSES[:1], 0.5).tolist() == [-1] * 4
    unknown = np.full((3, 4), 1 / 3, np.float16)
    assert best_regions(unknown, CLASSES, 0.5).tolist() == [-1] * 4
    assert decided_regions(unknown, CLASSES).tolist() == [255] * 4
    assert decided_regions(np.ones((1, 4), np.float16), CLASSES[:1]).tolist() == [0] * 4


def test_a_regions_scores_are_the_mean_of_the_score_maps_over_it() -> None:
    torch.manual_seed(0)
    net = RegionClassifier(3, "tiny", "none", 8, 4, 16).eval()
    images = torch.randn(2, 3, 33, 41)
    regions = np.random.default_rng(0).integers(0, 6, (33, 41))
    with torch.inference_mode():
        maps = net.maps(images)
        weights = torch.from_numpy(region_weights(regions, 6, (maps.shape[2], maps.shape[3])))
        features, scores = net(images, weights.expand(2, -1, -1))
        full = F.interpolate(maps, size=(33, 41), mode="bilinear", align_corners=True)
    assert features.shape == (2, 6, 16)
    for region in range(6):
        mean = full[:, :, torch.from_numpy(regions == region)].mean(2)
        assert torch.allclose(scores[:, region], mean, atol=1e-4)
