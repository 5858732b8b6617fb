"""DCSM as a method (Shimoda and Yanai, ECCV 2016): its settings, its refiners, its steps together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps
from wsss.data.score_maps import ScoreMaps
from wsss.errors import UserError
from wsss.methods.dcsm import METHOD, network
from wsss.methods.dcsm.network import DcsmSettings
from wsss.progress import ConsoleReporter
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner

CPU = torch.device("cpu")
REPORT = ConsoleReporter("test")


def test_settings_that_contradict_each_other() -> None:
    good = DcsmSettings(weights="none", freeze_bn=False)
    network.check_dcsm(good)
    with pytest.raises(UserError, match=r"output_stride = 8 does not fit backbone = vgg16.*set it to 16"):
        network.check_dcsm(replace(good, output_stride=8))
    network.check_dcsm(replace(good, output_stride=8, backbone="resnet18"))
    with pytest.raises(UserError, match="freeze_bn"):
        network.check_dcsm(replace(good, freeze_bn=True))
    with pytest.raises(UserError, match="scale_low = 2"):
        network.check_dcsm(replace(good, scale_low=2))
    with pytest.raises(UserError, match=r"scales.*at least|0.1 to 8"):
        make_plan("dcsm", "demo", {"localize.infer.scales": "0"})


def test_any_refiner_can_follow() -> None:
    plan = make_plan("dcsm", "demo", {"refine.name": "affinity"})
    walk = next(p for p in plan.steps if p.key == "refine.walk")
    assert walk.inputs["localize"] == "localize.infer" and METHOD.stages["localize"].steps[-1].name == "infer"


def test_the_paper_preset_is_max_pooling_on_vgg16() -> None:
    settings = make_plan("dcsm", "paper").settings
    assert settings["localize.train.pooling"] == "max" and settings["localize.train.backbone"] == "vgg16"
    assert settings["localize.infer.subtract"] and settings["refine.background.alpha"] == 1


def test_its_own_steps_from_images_to_labels(tiny_shapes: Dataset, tmp_path: Path) -> None:
    values = {
        "localize.train.epochs": 1,
        "localize.train.crop": 49,
        "localize.infer.scales": "1.0,1.25",
        "localize.predict.scales": "1.0",
    }
    plan = make_plan("dcsm", "demo", values)

    def folders(work: str, keys: tuple[str, ...]) -> dict[str, Path]:
        runner = StepRunner(tiny_shapes, 0, CPU, tmp_path / work)
        return {p.key: runner.run(p, REPORT).folder for p in plan.steps if p.key.startswith(keys)}

    first, second = folders("a", ("localize", "refine")), folders("b", ("localize.train", "localize.infer"))
    cam = ScoreMaps(first["localize.infer"] / "cam")
    assert set(cam.ids) == {*tiny_shapes.splits["train"], *tiny_shapes.splits["dev"]}
    again = ScoreMaps(second["localize.infer"] / "cam")
    for i in cam.ids:
        maps = cam.read(i)
        assert maps.classes.tolist() == (np.flatnonzero(tiny_shapes.tags(i)) + 1).tolist()
        assert np.array_equal(maps.scores, again.read(i).scores)
    metrics = json.loads((first["localize.infer"] / "metrics.json").read_text())
    assert set(metrics) == {"cam/empty_maps", "dev/tags/map", "val/tags/map"}
    direct = LabelMaps(first["localize.predict"] / "direct")
    assert set(direct.ids) == {*tiny_shapes.splits["dev"], *tiny_shapes.splits["val"]}
    labels = LabelMaps(first["refine.crf"] / "labels_crf")
    assert set(labels.ids) == set(cam.ids)
    for i in labels.ids:
        assert set(np.unique(labels.read(i))) <= {0, *cam.read(i).classes.tolist()}
