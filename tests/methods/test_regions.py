"""Regions, on which Deep Clustering works: superpixels, averages over them, their CRF, the file they are kept in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from wsss.methods.deep_clustering.regions import Regions, write_regions
from wsss.ops.region_crf import RegionStatistics, region_kernel, region_mean_field, region_statistics
from wsss.ops.superpixels import masked_average, region_votes, region_weights, superpixels


def test_superpixels_are_connected_numbered_without_gap_and_follow_an_edge() -> None:
    draw = np.random.default_rng(0)
    image = np.full((40, 60, 3), 40, np.uint8) + draw.integers(0, 6, (40, 60, 3), dtype=np.uint8)
    image[:, 23:] += 150
    found = superpixels(image, 24, 10.0)
    assert found.shape == (40, 60) and found.dtype == np.uint16
    assert np.unique(found).tolist() == list(range(int(found.max()) + 1))
    assert 10 <= found.max() <= 40
    for region in range(int(found.max()) + 1):
        assert ndimage.label(found == region)[1] == 1
    assert set(np.unique(found[:, :23])).isdisjoint(np.unique(found[:, 23:]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 40), (33, 20)])
def test_an_image_of_any_size_has_at_least_one_superpixel(shape: tuple[int, int]) -> None:
    found = superpixels(np.full((*shape, 3), 128, np.uint8), 1, 10.0)
    assert found.shape == shape and (found == 0).all()


@pytest.mark.parametrize("grid", [(4, 6), (1, 1), (1, 5), (25, 31)])
def test_masked_average_pooling_equals_the_mean_over_each_regions_pixels(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    regions = np.random.default_rng(0).integers(-1, 5, (25, 31))
    regions[regions == 3] = 4  # region 3 has no pixel
    features = torch.randn(2, 7, *grid)
    weights = torch.from_numpy(region_weights(regions, 5, grid))
    found = masked_average(features, torch.stack([weights, weights]))
    resized = F.interpolate(features, size=(25, 31), mode="bilinear", align_corners=True)
    for image in range(2):
        for region in range(5):
            pixels = [resized[image, :, y, x] for y in range(25) for x in range(31) if regions[y, x] == region]
            expected = torch.stack(pixels).mean(0) if pixels else torch.zeros(7)
            assert torch.allclose(found[image, region], expected, atol=1e-5)


def test_a_region_takes_the_label_that_holds_its_share_of_the_area() -> None:
    regions = np.repeat([[0], [1], [2], [3], [4]], 4, 1)
    labels = np.array([[7, 7, 0, 255], [7, 7, 255, 255], [0, 0, 0, 7], [255] * 4, [7, 0, 9, 255]], np.uint8)
    assert region_votes(labels, regions, 5, 0.5).tolist() == [7, 7, 0, 255, 255]
    assert region_votes(labels, regions, 5, 0.75).tolist() == [255, 255, 0, 255, 255]


def test_regions_come_back_as_they_were_written(tmp_path: Path) -> None:
    maps = {"b": np.arange(600, dtype=np.uint16).reshape(20, 30), "a": np.zeros((1, 1), np.uint16)}
    write_regions(tmp_path, maps.items())
    read = Regions(tmp_path)
    assert read.ids == ("a", "b") and read.largest == 600
    assert all((read.read(i) == maps[i]).all() for i in maps)
    assert [p.name for p in tmp_path.iterdir()] == ["superpixels.safetensors"]


def test_region_statistics_by_hand() -> None:
    image = np.array([[[10, 0, 0], [30, 0, 0], [0, 0, 9]]], np.uint8)
    found = region_statistics(image, np.array([[0, 0, 1]]), 2)
    assert found.position.tolist() == [[0, 0.5], [0, 2]]
    assert found.colour.tolist() == [[20, 0, 0], [0, 0, 9]]
    assert found.area.tolist() == [2, 1]


def test_the_regions_crf_equals_its_sums_written_out() -> None:
    draw = np.random.default_rng(0)
    R, K, sxy, srgb, weight = 6, 3, 9.0, 20.0, 4.0
    statistics = RegionStatistics(draw.uniform(0, 30, (R, 2)), draw.uniform(0, 60, (R, 3)), draw.uniform(1, 9, R))
    raw = np.zeros((R, R))
    for i in range(R):
        for j in range(R):
            if i != j:
                near = sum((statistics.position[i] - statistics.position[j]) ** 2) / (2 * sxy**2)
                alike = sum((statistics.colour[i] - statistics.colour[j]) ** 2) / (2 * srgb**2)
                raw[i, j] = statistics.area[j] * math.exp(-near - alike)
    start = draw.dirichlet(np.ones(K), R).T
    expected = start.copy()
    for _ in range(3):
        before = expected.copy()
        for i in range(R):
            says = [
                math.log(start[k, i])
                + weight * sum(raw[i, j] / math.sqrt(raw[i].sum() * raw[:, j].sum()) * before[k, j] for j in range(R))
                for k in range(K)
            ]
            total = sum(map(math.exp, says))
            expected[:, i] = [math.exp(s) / total for s in says]
    kernel = region_kernel(statistics, sxy, srgb)
    assert np.allclose(region_mean_field(start, kernel, weight, iterations=3), expected)
    assert np.allclose(region_mean_field(start, kernel, 0.0), start)
    alone = RegionStatistics(np.zeros((1, 2)), np.zeros((1, 3)), np.ones(1))
    assert np.allclose(region_mean_field(start[:, :1], region_kernel(alone, sxy, srgb), weight), start[:, :1])
