"""Deep Clustering as reconstructed here: its rounds, on odd data too, its settings, its steps together."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps, LabelMapWriter
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.deep_clustering import REFINE
from wsss.methods.deep_clustering.learning import RoundsSettings, check_rounds, predict_regions
from wsss.methods.deep_clustering.network import RegionClassifier
from wsss.methods.deep_clustering.regions import Regions, write_regions
from wsss.methods.deep_clustering.rounds import play_round, run_rounds
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner


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
        candidates=lambda image_id: np.array([0, *(np.flatnonzero(tags[image_id]) + 1)], np.uint8),
        has_background=True,
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


def test_interrupted_rounds_continue_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = squares(12)[:4]
    settings = replace(SETTINGS, epochs=2)
    whole = make_context(tmp_path / "a", settings, *data)
    run_rounds(whole)
    heard = len(whole.report.heard)  # type: ignore[attr-defined]
    broken = make_context(tmp_path / "b", settings, *data)
    for fatal in (heard // 4 + 1, heard // 4 + 1):  # within the first round, then within the second
        with pytest.raises(KeyboardInterrupt):
            run_rounds(replace(broken, report=Silence(fatal)))
    assert (broken.out / "parts" / "round_1").exists()
    remove = shutil.rmtree

    def killed(folder: Path, **options: Any) -> None:
        if not (probabilities := sorted(folder.rglob("probabilities.safetensors"))):
            return remove(folder, **options)
        probabilities[0].unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        run_rounds(broken)
    run_rounds(broken)
    assert files(broken.out) == files(whole.out)
    assert {p.name for p in whole.out.iterdir()} == {"rounds", "labels", "probabilities.safetensors", "metrics.json"}
    assert sorted(p.name for p in (whole.out / "rounds").iterdir()) == ["1", "2"]
    assert files(whole.out / "labels") == files(whole.out / "rounds" / "2")


def test_no_tag_loses_all_its_regions_and_the_maps_leave_none_open(tmp_path: Path) -> None:
    """Class 2 has seeds in one image of twelve, and a network that has hardly learnt: without `keep` it is lost."""
    images, tags, regions, seeds, _ = squares(12)
    for number, name in enumerate(images):
        if tags[name][1] and number > 1:
            seeds[name] = np.where(seeds[name] == 2, 255, seeds[name]).astype(np.uint8)
    short = replace(SETTINGS, rounds=1, epochs=1)
    lost = make_context(tmp_path / "lost", short, images, tags, regions, seeds)
    run_rounds(lost)
    kept = make_context(tmp_path / "kept", replace(short, keep=0.05, prior=1.0), images, tags, regions, seeds)
    run_rounds(kept)
    assert figures(lost)["round_1/tags_without_region"] > 0
    assert figures(kept)["round_1/tags_without_region"] == figures(kept)["round_1/images_without_region"] == 0
    maps = LabelMaps(kept.out / "labels")
    for name in images:
        labels = maps.read(name)
        assert 255 not in labels
        of_regions = [labels[regions[name] == region][0] for region in range(64)]
        assert sum(label == np.flatnonzero(tags[name])[0] + 1 for label in of_regions) >= 4  # 5 % of 64


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
    assert found["tags_without_region"] == found["images_without_region"] == 4


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
        assert set(np.unique(labels.read(i))) <= {255, 0, *(np.flatnonzero(tags[i]) + 1)}


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
        assert set(np.unique(labels)) <= set(tiny_shapes.candidates(image_id))
    assert [step.name for step in REFINE.steps] == ["superpixels", "labels", "rounds", "crf"]
