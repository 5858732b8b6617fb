"""WILDCAT, pooling by pooling (Durand et al., CVPR 2017, and its released code)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps
from wsss.data.score_maps import ScoreMaps
from wsss.errors import UserError
from wsss.interface import StepResult
from wsss.methods.wildcat import Wildcat, direct_score_map
from wsss.ops.pooling import class_wise_pool, instances, spatial_pool
from wsss.progress import ConsoleReporter
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.stages.cam import CamSettings, image_maps, tagged_score_map
from wsss.stages.outputs import load_model
from wsss.stages.refine import BackgroundSettings, argmax_labels

REPORT = ConsoleReporter("test")
BY_HAND = torch.tensor([[5.0, 1.0, 9.0], [3.0, 7.0, 2.0], [8.0, 4.0, 6.0]])


def network(classes: int = 3, **changes: object) -> Wildcat:
    """A small network, in eval mode, its two maps for each class pooled over 20 % of the cells at both ends."""
    torch.manual_seed(0)
    arguments = {
        "classes": classes,
        "backbone": "tiny",
        "weights": "none",
        "output_stride": 8,
        "dropout": 0.0,
        "per_class": 2,
        "k_top": 0.2,
        "k_bottom": 0.2,
        "alpha": 0.7,
        "legacy_half": False,
        "legacy_grad_scale": False,
    }
    return Wildcat(**(arguments | changes)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("legacy", [False, True])
def test_the_class_wise_pooling_is_the_mean_of_a_classs_neighbouring_channels(legacy: bool) -> None:
    maps = torch.randn(2, 6, 4, 5)
    pooled = class_wise_pool(maps, 3, legacy)
    assert pooled.shape == (2, 2, 4, 5)
    for b in range(2):
        for c in range(2):
            slow = (maps[b, 3 * c] + maps[b, 3 * c + 1] + maps[b, 3 * c + 2]) / 3
            assert torch.allclose(pooled[b, c], slow, atol=1e-6)


def test_the_released_backward_is_m_times_the_gradient() -> None:
    torch.manual_seed(0)
    maps, weight = torch.randn(1, 8, 2, 3, dtype=torch.float64), torch.randn(1, 2, 2, 3, dtype=torch.float64)

    def gradient(legacy: bool) -> torch.Tensor:
        leaf = maps.clone().requires_grad_()
        (class_wise_pool(leaf, 4, legacy) * weight).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    step, differences = 1e-6, torch.zeros_like(maps)
    for at in np.ndindex(*maps.shape):
        ends = []
        for sign in (1, -1):
            moved = maps.clone()
            moved[at] += sign * step
            ends.append((class_wise_pool(moved, 4) * weight).sum())
        differences[at] = (ends[0] - ends[1]) / (2 * step)
    assert torch.allclose(gradient(False), differences, atol=1e-8)
    assert torch.allclose(gradient(True), 4 * differences, atol=1e-8)


def test_the_spatial_pooling_of_nine_cells_by_hand() -> None:
    maps = BY_HAND[None, None]
    assert spatial_pool(maps, 2, 2, 0.5).item() == pytest.approx((9 + 8) / 2 + 0.5 * (1 + 2) / 2)
    assert spatial_pool(maps, 0.2, 0.2, 0.5).item() == pytest.approx(9.25)  # round(0.2 x 9) = 2
    assert spatial_pool(maps, 3, 1, 0.7).item() == pytest.approx((9 + 8 + 7) / 3 + 0.7 * 1)
    assert spatial_pool(maps, 1, 0, 0.7).item() == pytest.approx(9)


def test_the_released_score_is_half_of_the_sum_where_lowest_cells_are_pooled() -> None:
    maps = BY_HAND[None, None]
    assert spatial_pool(maps, 2, 2, 0.5, legacy_half=True).item() == pytest.approx(9.25 / 2)
    assert spatial_pool(maps, 2, 0, 0.5, legacy_half=True).item() == pytest.approx(8.5)


@pytest.mark.parametrize(("half", "factor"), [(False, 1.0), (True, 0.5)])
def test_the_gradient_reaches_the_pooled_cells_alone(half: bool, factor: float) -> None:
    maps = BY_HAND[None, None].clone().requires_grad_()
    spatial_pool(maps, 2, 3, 0.6, half).sum().backward()
    expected = torch.tensor([[0.0, 0.2, 0.5], [0.2, 0.0, 0.2], [0.5, 0.0, 0.0]]) * factor
    assert maps.grad is not None
    assert torch.allclose(maps.grad[0, 0], expected)


def test_a_cell_that_is_among_the_highest_and_the_lowest_counts_twice() -> None:
    maps = BY_HAND[None, None]
    assert spatial_pool(maps, 9, 9, 1.0).item() == pytest.approx(2 * 5)


@pytest.mark.parametrize(
    ("k", "cells", "count"),
    [(0, 9, 0), (0.2, 9, 2), (0.2, 196, 39), (0.001, 9, 1), (1, 9, 1), (3, 9, 3), (500, 196, 196)],
)
def test_k_is_a_share_below_one_and_a_count_from_one_on(k: float, cells: int, count: int) -> None:
    assert instances(k, cells) == count


def test_with_one_map_and_every_cell_it_is_a_cam_classifier() -> None:
    model = network(per_class=1, k_top=25, k_bottom=0)
    images = torch.randn(2, 3, 33, 33)
    with torch.inference_mode():
        mean = model.backbone(images)[-1].mean((2, 3))
        expected = mean @ model.head.weight[:, :, 0, 0].T + model.head.bias
        assert torch.allclose(model(images), expected, atol=1e-5)


def test_a_map_depends_on_the_channels_of_its_own_class_alone() -> None:
    model, images = network(), torch.randn(1, 3, 33, 33)
    with torch.inference_mode():
        before = model.heatmaps(images)
        model.head.weight[2:4] = torch.randn_like(model.head.weight[2:4])
        after = model.heatmaps(images)
    assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
    assert not torch.allclose(before[:, 1], after[:, 1])


def test_a_mirrored_image_gives_mirrored_maps() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 81, 3), dtype=np.uint8)
    settings, cpu = CamSettings(scales=(0.5, 1.0), precision="float32"), torch.device("cpu")
    plain = image_maps(network(), [image], settings, cpu)
    mirrored = image_maps(network(), [np.ascontiguousarray(image[:, ::-1])], settings, cpu)
    assert plain.max() > 0
    assert torch.allclose(plain, mirrored.flip(3), atol=1e-5)


def test_the_prediction_suppresses_classes_whose_probability_is_below_a_half() -> None:
    heatmaps = torch.zeros(3, 2, 2)
    heatmaps[:, 0, 0] = torch.tensor([9.0, 2.0, 4.0])
    settings = BackgroundSettings(alpha=1)
    found = direct_score_map(heatmaps, torch.tensor([-0.1, 0.1, 0.0]), (9, 9), settings)
    assert found.classes.tolist() == [0, 2, 3]
    assert found.scores[1:, 0, 0] == pytest.approx(1, abs=1e-3)
    assert found.scores[0].astype(float) == pytest.approx(np.array([[0, 1], [1, 1]]), abs=1e-3)
    nothing = direct_score_map(heatmaps, torch.tensor([-1.0, -1.0, -1.0]), (9, 9), settings)
    assert nothing.classes.tolist() == [0]
    assert (argmax_labels(nothing) == 0).all()


def test_maps_that_are_zero_everywhere_stay_zero() -> None:
    found = tagged_score_map(torch.zeros(3, 2, 2), np.array([True, False, True]), (9, 9))
    assert found.classes.tolist() == [1, 3]
    assert (found.scores == 0).all()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"k_top": "0"}, "k_top = 0.0 is out of range"),
        ({"k_top": "170"}, r"k_top = 170 is no number of cells .* which has 169"),
        ({"k_bottom": "1.5"}, r"k_bottom = 1.5 is no number of cells"),
        ({"maps": "0"}, "maps = 0 is out of range"),
        ({"freeze_bn": "true"}, "freeze_bn=true keeps the batch norm of initial weights"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_before_any_work(settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        planned = make_plan("wildcat", "demo", {f"localize.train.{k}": v for k, v in settings.items()}).steps[0]
        planned.check()


@pytest.mark.parametrize("preset", ["demo", "small", "medium", "paper"])
def test_the_presets_are_accepted(preset: str) -> None:
    for planned in make_plan("wildcat", preset, {}).steps:
        planned.check()


def run(dataset: Dataset, work: Path) -> dict[str, StepResult]:
    overrides = {"localize.train.epochs": 1, "localize.train.crop": 65, "localize.train.maps": 2}
    runner = StepRunner(dataset, 3, torch.device("cpu"), work)
    for planned in make_plan("wildcat", "demo", overrides).steps:
        if planned.stage in ("localize", "refine"):
            runner.run(planned, REPORT)
    return runner.results


def test_from_tags_to_labels_with_untagged_images_and_an_absent_class(tmp_path: Path, tiny_shapes: Dataset) -> None:
    bare = set(tiny_shapes.splits["train"][:5])
    tags = {i: t & np.array([i not in bare, True, False]) & (i not in bare) for i, t in tiny_shapes._tags.items()}
    dataset = replace(tiny_shapes, _tags=tags)
    results = run(dataset, tmp_path / "a")
    maps = ScoreMaps(results["localize.infer"].folder / "cam")
    assert set(maps.ids) == {*dataset.splits["train"], *dataset.splits["dev"]}
    for image_id in maps.ids:
        assert (maps.read(image_id).classes - 1).tolist() == np.flatnonzero(tags[image_id]).tolist()
    labels = LabelMaps(results["refine.crf"].folder / "labels_crf")
    assert all((labels.read(i) == 0).all() for i in bare)
    direct = LabelMaps(results["localize.predict"].folder / "direct_crf")
    assert set(direct.ids) == {*dataset.splits["dev"], *dataset.splits["val"]}

    again = run(dataset, tmp_path / "b")["localize.train"]
    weights = [load_model(r.folder, Wildcat).head.weight for r in (results["localize.train"], again)]
    assert torch.equal(*weights)
