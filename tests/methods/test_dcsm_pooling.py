"""DCSM on average pooling: CAM's own classifier, trained once for both; and maps without subtraction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss.classes import Classes
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.dcsm import load_dcsm, saliency
from wsss.methods.dcsm.network import DcsmNet, DcsmSettings, pooling_of, train_dcsm
from wsss.methods.dcsm.saliency import SaliencySettings, normalised, saliency_maps
from wsss.progress import ConsoleReporter
from wsss.run.fingerprints import fingerprints
from wsss.run.plan import Plan, make_plan
from wsss.run.steps import StepRunner
from wsss.serving.heatmaps import Direct
from wsss.serving.package import load_package, load_step, save_package
from wsss.serving.segmenter import Inference
from wsss.settings import flatten
from wsss.stages.localize import ClassifierSettings, load_classifier
from wsss.stages.outputs import save_model

CPU = torch.device("cpu")
REPORT = ConsoleReporter("test")
SHORT = {"localize.train.epochs": 1, "localize.train.crop": 49}

FREE = {"localize.train.freeze_bn": False}


def on_cams(pooling: str = "average", more: dict[str, object] | None = None) -> Plan:
    """DCSM's plan with CAM's settings of training."""
    return make_plan("dcsm", "demo", {**SHORT, "localize.train.pooling": pooling, **(more or {})})


class TestSharing:
    def test_the_fingerprint_is_cams_where_settings_agree_and_nowhere_else(self, tiny_shapes: Dataset) -> None:
        def training(plan: Plan) -> str:
            return fingerprints(plan, tiny_shapes, 0, CPU)["localize.train"]

        cam = training(make_plan("cam", "demo", SHORT))
        assert training(on_cams()) == cam
        assert training(on_cams("max")) != cam
        assert training(on_cams(more={"localize.train.lr": 1e-5})) != cam
        vgg = {"localize.train.backbone": "vgg16", "localize.train.output_stride": 16}
        same = {"localize.train.backbone": "vgg16", "localize.train.output_stride": 16, **SHORT}
        assert training(on_cams(more=vgg)) != training(make_plan("cam", "demo", same)), "fc6 and fc7 are DCSM's alone"

    @pytest.mark.parametrize("preset", ["demo", "small"])
    def test_in_demo_and_small_cams_classifier_serves_both(self, tiny_shapes: Dataset, preset: str) -> None:
        of = {m: make_plan(m, preset, {"localize.train.weights": "none"} | FREE) for m in ("cam", "dcsm")}
        found = {m: fingerprints(plan, tiny_shapes, 0, CPU)["localize.train"] for m, plan in of.items()}
        assert found["cam"] == found["dcsm"]

    def test_settings_and_params_stay_dcsms(self) -> None:
        settings = on_cams().settings
        assert settings["localize.train.pooling"] == "average" and settings["localize.name"] == "dcsm"

    def test_what_dcsm_trained_is_cams_and_found_by_it(self, tiny_shapes: Dataset, tmp_path: Path) -> None:
        trained = StepRunner(tiny_shapes, 0, CPU, tmp_path).run(on_cams().steps[0], REPORT)
        assert not trained.reused and trained.folder.parent.name == "localize.cam.train"
        found = StepRunner(tiny_shapes, 0, CPU, tmp_path).run(make_plan("cam", "demo", SHORT).steps[0], REPORT)
        assert found.reused and found.folder == trained.folder and found.key == "localize.train"
        context = StepContext(None, tiny_shapes, 0, CPU, tmp_path, {"train": trained.folder}, REPORT)
        network, images = load_dcsm(context), torch.rand(2, 3, 49, 49)
        assert network.pooling == "average" and network.head.bias is None
        assert torch.allclose(network(images), load_classifier(trained.folder)(images), atol=1e-5)

    def test_the_settings_that_are_handed_on_are_cams(self) -> None:
        work = on_cams().steps[0].work
        assert type(work.settings) is ClassifierSettings
        assert flatten(work.settings) == flatten(make_plan("cam", "demo", SHORT).steps[0].settings)
        assert on_cams("max").steps[0].work is not work and on_cams("max").steps[0].work.implementation == "dcsm"


class TestAverage:
    def test_a_class_scores_the_mean_of_its_cells(self) -> None:
        net = DcsmNet(3, "tiny", "none", 16, 0.0, "average").eval()
        images = torch.rand(2, 3, 33, 33)
        assert torch.allclose(net(images), net.scores(images).mean((2, 3)))

    def test_candidates_are_what_the_mean_sees(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One high cell in a map that is low: max pooling sees the class, average pooling does not."""
        cells = torch.full((1, 2, 3, 3), -2.0)
        cells[0, 0, 1, 1] = 5.0
        for pooling, seen in (("max", [0]), ("average", [])):
            net = DcsmNet(2, "tiny", "none", 16, 0.0, pooling).eval().requires_grad_(False)

            def scored(images: Tensor) -> tuple[Tensor, list[Tensor]]:
                x = torch.ones(1, 1, 1, 1, requires_grad=True)
                return cells * x, [x]

            monkeypatch.setattr(net, "scores_and_inputs", scored)
            image = np.zeros((33, 33, 3), np.uint8)
            settings = SaliencySettings(scales=(1.0,), side=None)
            assert saliency_maps(net, [image], None, settings, CPU)[0][1] == seen

    def test_vgg16_keeps_its_layers_and_trains_its_own(self, tiny_shapes: Dataset, tmp_path: Path) -> None:
        settings = DcsmSettings(
            backbone="tiny", weights="none", freeze_bn=False, pooling="average", crop=33, epochs=1, output_stride=8
        )
        train_dcsm(StepContext(settings, tiny_shapes, 0, CPU, tmp_path, {}, REPORT))
        assert pooling_of(tmp_path) == "average" and json.loads((tmp_path / "model.json").read_text())["pooling"]
        for plan in (make_plan("dcsm", "paper"), make_plan("dcsm", "paper", {"localize.train.pooling": "average"})):
            assert plan.steps[0].work is plan.steps[0]

    def test_a_pooling_that_there_is_not_is_named(self) -> None:
        with pytest.raises(UserError, match="pooling = median is out of range; allowed: one of max, average"):
            make_plan("dcsm", "demo", {"localize.train.pooling": "median"})


class TestPackages:
    INFERENCE = Inference(direct=Direct(4, background=("power", 0.1, 0.2)))

    def packaged(self, folder: Path, pooling: str, says: bool) -> dict[str, object]:
        torch.manual_seed(0)
        net = DcsmNet(2, "tiny", "none", 16, 0.0, pooling)
        torch.nn.init.normal_(net.head.weight, std=0.3)
        architecture: dict[str, object] = {"classes": 2, "backbone": "tiny", "output_stride": 16, "dropout": 0.0}
        folder.mkdir()
        save_model(folder, net, architecture | ({"pooling": pooling} if says else {}))
        classes, image = Classes(("cat", "dog")), np.random.default_rng(0).integers(0, 256, (33, 49, 3), np.uint8)
        expected = load_step(folder, classes, self.INFERENCE, "dcsm")
        save_package(folder, folder / "package", classes, "card", inference=self.INFERENCE, kind="dcsm")
        loaded = load_package(str(folder / "package"))
        assert np.array_equal(loaded(image), expected(image))
        assert loaded.module.net.pooling == pooling  # type: ignore[union-attr]
        found: dict[str, object] = json.loads((folder / "package" / "model.json").read_text())["network"]
        return found

    @pytest.mark.parametrize("says", [True, False])
    def test_a_package_of_cams_classifier_says_that_it_pools_by_the_mean(self, tmp_path: Path, says: bool) -> None:
        assert self.packaged(tmp_path / "a", "average", says)["pooling"] == "average"

    @pytest.mark.parametrize("says", [True, False])
    def test_one_that_pools_by_the_maximum_is_what_it_was(self, tmp_path: Path, says: bool) -> None:
        assert "pooling" not in self.packaged(tmp_path / "a", "max", says)


def test_without_subtraction_a_map_is_the_classs_own_saliency(monkeypatch: pytest.MonkeyPatch) -> None:
    net = DcsmNet(3, "tiny", "none", 16, 0.0).eval().requires_grad_(False)
    drawn = torch.rand(3, 1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(saliency, "class_gradients", lambda *_: [drawn])
    image, tags = np.zeros((33, 33, 3), np.uint8), np.array([True, False, False])
    settings = SaliencySettings(scales=(1.0,), side=None, stride=4)
    own, subtracted = (
        saliency_maps(net, [image], [tags], settings, CPU, subtract=flag)[0][0][0] for flag in (False, True)
    )
    assert (own > 0).all() and (subtracted == 0).any()
    assert torch.allclose(own, normalised(normalised(own_saliency(drawn)))[0], atol=1e-5)


def own_saliency(gradients: Tensor) -> Tensor:
    return gradients[:1, 0, 0].abs()


def test_subtraction_can_be_set_where_labels_are_made_alone() -> None:
    settings = make_plan("dcsm", "paper").settings
    assert settings["localize.infer.subtract"] and "localize.predict.subtract" not in settings
    assert replace(SaliencySettings(), side=None).side is None
