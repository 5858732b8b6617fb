"""Prior correction: what a network has learnt of the classes' shares is divided out, wherever it predicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss import methods
from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps
from wsss.interface import StepContext
from wsss.nets.deeplab import DeepLab
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.serving.deployed import brought
from wsss.serving.package import load_package, load_step, save_package
from wsss.stages.outputs import save_model
from wsss.stages.prior import (
    PriorSettings,
    correct_prior,
    label_counts,
    load_segmenter,
    log_prior,
    read_shares,
    shares_in_loss,
    write_shares,
)

ARCHITECTURE = {"classes": 4, "backbone": "tiny", "output_stride": 8, "rates": [1, 2]}
QUICK = {
    "localize.train.epochs": 6,
    "localize.train.crop": 65,
    "localize.infer.scales": (1.0,),
    "refine.crf.iterations": 1,
    "segment.train.epochs": 1,
    "segment.train.crop": 33,
    "segment.predict.iterations": 0,
    "segment.predict.scales": (1.0,),
    "segment.predict.flip": False,
}


class Silence:
    def metrics(self, values: object, step: int) -> None: ...

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None: ...


def test_shares_are_counted_from_labels_and_weighed_as_the_loss_weighs_them() -> None:
    maps = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[2, 2, 2, 255]], np.uint8)]
    counts = label_counts(maps, 3)
    assert counts.tolist() == [3, 1, 3, 0]
    assert shares_in_loss(counts, balanced=False) == pytest.approx([3 / 7, 1 / 7, 3 / 7, 0])
    assert shares_in_loss(counts, balanced=True) == pytest.approx([1 / 2, 1 / 8, 3 / 8, 0])


def test_no_label_at_all_or_none_of_a_class_is_no_nan() -> None:
    nothing = shares_in_loss(label_counts([], 3), balanced=True)
    assert nothing.tolist() == [0, 0, 0, 0]
    assert log_prior(nothing, 1.0).tolist() == [0, 0, 0, 0]
    assert shares_in_loss(np.array([0, 4, 0]), balanced=True).tolist() == [0, 1, 0]
    assert log_prior(np.array([0.5, 0.5, 0]), 0.5).tolist() == pytest.approx([np.log(0.5) / 2] * 2 + [0])


def network(folder: Path, shares: list[float]) -> DeepLab:
    """A trained network of four classes in a folder, as a training step leaves it."""
    torch.manual_seed(0)
    model = DeepLab(weights="none", **ARCHITECTURE).eval()
    folder.mkdir(exist_ok=True)
    save_model(folder, model, ARCHITECTURE)
    write_shares(folder, np.array(shares))
    return model


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_probabilities_are_divided_by_the_shares_to_the_strength(tmp_path: Path, strength: float) -> None:
    shares = [0.5, 0.4, 0.1, 0.0]
    model = network(tmp_path, shares)
    images = torch.rand(2, 3, 33, 41)
    with torch.inference_mode():
        divided = model(images).softmax(1) / torch.tensor([0.5, 0.4, 0.1, 1.0]).view(1, 4, 1, 1) ** strength
        found = load_segmenter(tmp_path, strength)(images).softmax(1)
    assert torch.allclose(found, divided / divided.sum(1, keepdim=True), atol=1e-6)


def test_strength_0_leaves_every_weight_as_it_is(tmp_path: Path) -> None:
    network(tmp_path / "train", [0.5, 0.3, 0.2, 0.0])
    (tmp_path / "prior").mkdir()
    inputs = {"train": tmp_path / "train"}
    correct_prior(StepContext(PriorSettings(), None, 0, torch.device("cpu"), tmp_path / "prior", inputs, Silence()))  # type: ignore[arg-type]
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "prior" / name).read_bytes() == (tmp_path / "train" / name).read_bytes()


@pytest.fixture(scope="module")
def ran(tiny_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> StepRunner:
    """A run of CAM with the full correction."""
    runner = StepRunner(tiny_shapes, 0, torch.device("cpu"), tmp_path_factory.mktemp("prior"))
    plan = make_plan("cam", "demo", QUICK | {"segment.prior.strength": 1.0})
    assert plan.model == "segment.prior"
    for planned in plan.steps:
        if planned.stage != "evaluate":
            runner.run(planned, Silence())
    return runner


def test_prediction_and_packaged_model_are_corrected_alike(ran: StepRunner, tmp_path: Path) -> None:
    trained, corrected = (ran.results[f"segment.{step}"].folder for step in ("train", "prior"))
    dataset = ran.dataset
    maps = LabelMaps(ran.results["segment.predict"].folder / "pred")
    save_package(corrected, tmp_path / "package", dataset.classes, "a card")
    models = [load_step(corrected, dataset.classes), load_package(str(tmp_path / "package"))]
    images = [(dataset.image(image_id), maps.read(image_id)) for image_id in maps.ids]
    for model in models:  # convolutions are fused where steps predict, and round in another way
        assert np.mean([(model(image) != labels).mean() for image, labels in images]) < 1e-3
    shares = torch.from_numpy(read_shares(trained)).float().view(1, -1, 1, 1)
    pixels = [brought(torch.from_numpy(images[0][0]), (64, 64))]
    with torch.inference_mode():
        plain = load_step(trained, dataset.classes).module.coarse(pixels) / shares
        found = [model.module.coarse(pixels) for model in models]
    assert shares.min() > 0
    assert not torch.allclose(plain * shares, found[0], atol=0.05)
    assert all(torch.allclose(each, plain / plain.sum(1, keepdim=True), atol=1e-5) for each in found)


def test_shares_are_those_of_the_labels_that_were_trained_on(ran: StepRunner) -> None:
    labels = LabelMaps(ran.results["refine.crf"].folder / "labels_crf")
    counts = label_counts([labels.read(i) for i in ran.dataset.splits["train"]], len(ran.dataset.classes))
    shares = read_shares(ran.results["segment.train"].folder)
    assert shares == pytest.approx(shares_in_loss(counts, balanced=True))
    assert json.loads((ran.results["segment.train"].folder / "shares.json").read_text()) == {"shares": shares.tolist()}


def test_another_strength_trains_nothing_anew(ran: StepRunner) -> None:
    planned = {p.key: p for p in make_plan("cam", "demo", QUICK | {"segment.prior.strength": 0.5}).steps}
    assert ran.run(planned["segment.train"], Silence()).reused
    assert not ran.run(planned["segment.prior"], Silence()).reused


@pytest.mark.parametrize("method", methods.names())
def test_the_segmenter_of_every_method_and_of_the_bound_has_it_and_paper_has_none(method: str) -> None:
    for preset in ("paper", "small"):
        settings = make_plan(method, preset).settings
        assert 0 <= settings["segment.prior.strength"] <= 1
        if preset == "paper":
            assert not any(value for key, value in settings.items() if key.endswith((".prior", "prior.strength")))
    bound = make_plan("bound", "small").settings["segment.prior.strength"]
    assert make_plan(method, "small").settings["segment.prior.strength"] == bound


def test_a_strength_above_one_is_refused() -> None:
    with pytest.raises(Exception, match=r"segment\.prior\.strength = 1\.5 is out of range; allowed: 0 to 1"):
        make_plan("cam", "demo", {"segment.prior.strength": "1.5"})
