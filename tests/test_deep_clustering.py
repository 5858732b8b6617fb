"""Deep Clustering as reconstructed here: superpixels, the region classifier, its losses and centres, the rounds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps, LabelMapWriter
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.deep_clustering import REFINE
from wsss.methods.deep_clustering.learning import RoundsSettings, check_rounds, predict_regions
from wsss.methods.deep_clustering.network import (
    RegionClassifier,
    candidate_probabilities,
    center_loss,
    class_weights,
    confident_labels,
    region_cross_entropy,
    update_centers,
)
from wsss.methods.deep_clustering.regions import Regions, candidates, write_regions
from wsss.methods.deep_clustering.rounds import play_round, run_rounds
from wsss.ops.region_crf import RegionStatistics, region_kernel, region_mean_field, region_statistics
from wsss.ops.superpixels import masked_average, region_votes, region_weights, superpixels
from wsss.plan import make_plan
from wsss.steps import StepRunner


class Silence:
    """A reporter that counts what it hears and raises at the `fatal`-th metric."""

    def __init__(self, fatal: int = -1) -> None:
        self.heard: list[str] = []
        self._fatal = fatal

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.heard += values
        if 0 <= self._fatal <= len(self.heard):
            raise KeyboardInterrupt

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        assert 0 < done <= total


# Regions


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
    assert candidates(tags).tolist() == [0, 2, 4]
    found = candidate_probabilities(scores, candidates(tags))
    raised = scores[[0, 2, 4]].exp()
    assert torch.allclose(found, raised / raised.sum(0))
    wider = torch.cat([scores, 50 + torch.randn(2, 9)])  # two classes more, tagged nowhere
    assert torch.equal(candidate_probabilities(wider, candidates(np.append(tags, [False, False]))), found)
    assert (candidate_probabilities(scores, candidates(np.zeros(4, bool))) == 1).all()  # all background


def test_a_region_keeps_a_label_that_is_sure_and_that_the_crf_agrees_to() -> None:
    own = np.array([[0.7, 0.55, 0.1, 0.2], [0.3, 0.45, 0.9, 0.8]], np.float32)
    smoothed = np.array([[0.9, 0.99, 0.3, 0.6], [0.1, 0.01, 0.7, 0.4]], np.float32)
    assert confident_labels(own, smoothed, np.array([0, 6], np.uint8), 0.6).tolist() == [0, 255, 6, 255]
    assert confident_labels(own, smoothed, np.array([0, 6], np.uint8), 0.55).tolist() == [0, 0, 6, 255]


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


SETTINGS = RoundsSettings(
    rounds=2,
    backbone="tiny",
    weights="none",
    freeze_bn=False,
    stride=4,
    dimension=16,
    optimizer="adamw",
    lr=5e-3,
    head_lr=1.0,
    crop=33,
    scale_low=1.0,
    scale_high=1.0,
    jitter=0.0,
    batch_size=8,
    epochs=3,
)


def make_context(
    out: Path,
    settings: RoundsSettings,
    images: Mapping[str, np.ndarray],
    tags: Mapping[str, np.ndarray],
    regions: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
) -> StepContext:
    """A context of the step `rounds` over images in memory, all of them for training."""
    for folder in ("superpixels", "labels", "out"):
        (out / folder).mkdir(parents=True)
    write_regions(out / "superpixels", ((i, r.astype(np.uint16)) for i, r in regions.items()))
    with LabelMapWriter(out / "labels" / "labels") as writer:
        for image_id, label in labels.items():
            writer.add(image_id, label)
    dataset: Any = SimpleNamespace(
        splits={"train": tuple(images), "dev": (), "val": ()},
        classes=range(len(next(iter(tags.values())))),
        image=images.__getitem__,
        tags=tags.__getitem__,
        size=lambda image_id: images[image_id].shape[:2],
    )
    inputs = {"superpixels": out / "superpixels", "labels": out / "labels"}
    return StepContext(settings, dataset, 7, torch.device("cpu"), out / "out", inputs, Silence())


def test_mirrored_images_have_mirrored_regions_probabilities(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (32, 40, 3), dtype=np.uint8)
    own = draw.integers(0, 7, (32, 40))
    images = {"plain": image, "mirrored": image[:, ::-1].copy()}
    regions = {"plain": own, "mirrored": own[:, ::-1].copy()}
    tags = dict.fromkeys(images, np.array([True, False, True]))
    context = make_context(tmp_path, SETTINGS, images, tags, regions, {})
    torch.manual_seed(0)
    net = RegionClassifier(3, "tiny", "none", 8, 4, 16)
    found = predict_regions(context, net, Regions(tmp_path / "superpixels"))
    assert found["plain"].shape == (2, 3, 7)
    assert np.abs(found["plain"].astype(float) - found["mirrored"].astype(float)).max() < 2e-3  # float16 on disk


def squares(count: int) -> tuple[dict[str, np.ndarray], ...]:
    """Bright squares, red (class 1) or green (class 2), on dark ground; only the left half of each has a seed."""
    images, tags, regions, seeds, truth = {}, {}, {}, {}, {}
    draw = np.random.default_rng(0)
    tiles = np.arange(8)[:, None].repeat(4, 0) * 8 + np.arange(8)[None].repeat(4, 1)
    for number in range(count):
        name, cls = f"{number:02d}", number % 2
        top, left = 4 * draw.integers(0, 5, 2)
        image = draw.integers(0, 60, (32, 32, 3))
        image[top : top + 16, left : left + 16, cls] += 180
        label = np.zeros((32, 32), np.uint8)
        label[top : top + 16, left : left + 16] = cls + 1
        seed = np.full((32, 32), 255, np.uint8)
        seed[label == 0] = 0
        seed[max(top - 4, 0) : top + 20, max(left - 4, 0) : left + 20] = 255
        seed[top : top + 16, left : left + 8] = cls + 1
        images[name], tags[name], regions[name] = image.astype(np.uint8), np.eye(2, dtype=bool)[cls], tiles
        seeds[name], truth[name] = seed, label
    return images, tags, regions, seeds, truth


def test_objects_grow_from_their_seeds_to_their_edges(tmp_path: Path) -> None:
    images, tags, regions, seeds, truth = squares(24)
    run_rounds(context := make_context(tmp_path, SETTINGS, images, tags, regions, seeds))
    found = LabelMaps(context.out / "labels")
    objects = [(found.read(i)[truth[i] > 0] == truth[i].max()).mean() for i in images]
    flooded = [np.isin(found.read(i)[truth[i] == 0], (1, 2)).mean() for i in images]
    assert np.mean([(seeds[i] == truth[i])[truth[i] > 0].mean() for i in images]) == 0.5
    assert np.mean(objects) > 0.75
    assert np.mean(flooded) < 0.1


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_interrupted_rounds_continue_to_the_same_bytes(tmp_path: Path) -> None:
    data = squares(12)[:4]
    settings = replace(SETTINGS, epochs=2)
    whole = make_context(tmp_path / "a", settings, *data)
    run_rounds(whole)
    heard = len(whole.report.heard)  # type: ignore[attr-defined]
    broken = make_context(tmp_path / "b", settings, *data)
    for fatal in (heard // 4 + 1, heard // 4 + 1):  # within the first round, then within the second
        with pytest.raises(KeyboardInterrupt):
            run_rounds(replace(broken, report=Silence(fatal)))
    assert (broken.out / "work").exists()
    run_rounds(broken)
    assert files(broken.out) == files(whole.out)
    assert {p.name for p in whole.out.iterdir()} == {"rounds", "labels", "probabilities.safetensors", "metrics.json"}
    assert sorted(p.name for p in (whole.out / "rounds").iterdir()) == ["1", "2"]
    assert files(whole.out / "labels") == files(whole.out / "rounds" / "2")


# Odd data


def figures(context: StepContext) -> dict[str, float]:
    found = json.loads((context.out / "metrics.json").read_text())
    assert all(math.isfinite(value) for value in found.values())
    return found


def test_rounds_without_a_confident_region_leave_all_open(tmp_path: Path) -> None:
    images, tags, regions, seeds, _ = squares(4)
    nothing = {i: np.full_like(seed, 255) for i, seed in seeds.items()}
    context = make_context(tmp_path, SETTINGS, images, tags, regions, nothing)
    run_rounds(context)
    found = figures(context)
    for number in (1, 2):
        assert found[f"round_{number}/idle"] == 1
        assert found[f"round_{number}/confident"] == 0
    assert all((LabelMaps(context.out / "labels").read(i) == 255).all() for i in images)


def test_a_round_after_which_nothing_is_confident_keeps_what_was_known(tmp_path: Path) -> None:
    images, tags, regions, seeds, _ = squares(4)
    context = make_context(tmp_path, SETTINGS, images, tags, regions, seeds)
    labels = {i: np.full(64, 255, np.uint8) for i in images}
    known = {i: np.full((2, 2, 64), 0.5, np.float16) for i in images}
    found = play_round(context, Regions(tmp_path / "superpixels"), labels, known, None)
    assert found["idle"] == 1 and found["regions_learnt"] == 0
    assert found["tags_without_region"] == 4


def test_one_superpixel_one_image_of_a_class_and_no_tags(tmp_path: Path) -> None:
    images, tags, regions, seeds, _ = squares(6)
    ids = list(images)
    tags = {i: np.array([True, False]) for i in ids}
    tags[ids[1]] = np.array([False, True])  # the only image of class 2
    tags[ids[2]] = np.array([False, False])
    seeds = {i: np.where(np.isin(seed, [1, 2]), 1, seed).astype(np.uint8) for i, seed in seeds.items()}
    seeds[ids[1]] = np.where(seeds[ids[1]] == 1, 2, seeds[ids[1]]).astype(np.uint8)
    seeds[ids[2]] = np.zeros((32, 32), np.uint8)
    regions[ids[3]] = np.zeros((32, 32), int)
    context = make_context(tmp_path, replace(SETTINGS, balance=1.0), images, tags, regions, seeds)
    run_rounds(context)
    found, labels = figures(context), LabelMaps(context.out / "labels")
    assert found["images_without_tags"] == 1
    assert found["round_1/classes_without_region"] == 0
    assert (labels.read(ids[2]) == 0).all()
    assert len(np.unique(labels.read(ids[3]))) == 1
    for i in ids:
        assert set(np.unique(labels.read(i))) <= {255, *candidates(tags[i])}


# Settings and the steps together


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UserError, match=r"refine.rounds.crop = 320 must be a multiple of 8 plus 1"):
        check_rounds(replace(SETTINGS, crop=320))
    with pytest.raises(UserError, match="freeze_bn"):
        check_rounds(replace(SETTINGS, freeze_bn=True))
    with pytest.raises(UserError, match="no pretrained weights"):
        check_rounds(replace(SETTINGS, weights="imagenet"))
    for key, value in (("rounds.rounds", 0), ("rounds.confidence", 1.5), ("superpixels.count", 0), ("rounds.vote", 0)):
        with pytest.raises(UserError, match=rf"refine.{key} = {value}(\.0)? is out of range"):
            make_plan("deep_clustering", "demo", {f"refine.{key}": value})


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    from wsss.stages.outputs import save_model

    images, tags, regions, seeds, _ = squares(2)
    context = make_context(tmp_path, replace(SETTINGS, weights="localize"), images, tags, regions, seeds)
    save_model(tmp_path, RegionClassifier(2, "resnet18", "none", 8, 8, 4), {})
    with pytest.raises(UserError, match=r"refine.rounds.backbone is tiny"):
        run_rounds(replace(context, inputs={**context.inputs, "localize.train": tmp_path}))


def test_the_steps_on_shapes(tiny_shapes: Dataset, tmp_path: Path) -> None:
    overrides = {
        "localize.train.epochs": 1,
        "localize.train.crop": 65,
        "localize.infer.scales": (1.0,),
        "refine.superpixels.count": 40,
        "refine.rounds.rounds": 2,
        "refine.rounds.epochs": 1,
        "refine.rounds.crop": 65,
    }
    plan = make_plan("deep_clustering", "demo", overrides)
    runner = StepRunner(tiny_shapes, 0, torch.device("cpu"), tmp_path)
    for planned in plan.steps:
        if planned.stage in ("localize", "refine") or planned.key in ("evaluate.rounds", "evaluate.labels_crf"):
            runner.run(planned, Silence())
    rounds = runner.results["refine.rounds"]
    assert {f"train/round_{n}/miou" for n in (1, 2)} <= runner.results["evaluate.rounds"].metrics.keys()
    assert 0 < rounds.metrics["round_1/confident"] <= 1
    ids = {*tiny_shapes.splits["train"], *tiny_shapes.splits["dev"]}
    for folder in (rounds.folder / "labels", rounds.folder / "rounds" / "1"):
        assert set(LabelMaps(folder).ids) == ids
    refined = LabelMaps(runner.results["refine.crf"].folder / "labels_crf")
    for image_id in refined.ids:
        labels = refined.read(image_id)
        assert labels.shape == tiny_shapes.size(image_id)
        assert set(np.unique(labels)) <= set(candidates(tiny_shapes.tags(image_id)))
    assert [step.name for step in REFINE.steps] == ["superpixels", "labels", "rounds", "crf"]
