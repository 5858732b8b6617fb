"""What runs on a GPU, trainings, streams, whole methods, gives what it gives on the processor, up to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_examples import CPU, GPU, error, exact, sensible
from torch import Tensor, nn

from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.progress import ConsoleReporter
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.stages.cam import CamSettings
from wsss.stages.inference import id_batches, stream_images
from wsss.stages.labelling import Labelling
from wsss.stages.localize import Classifier
from wsss.stages.outputs import save_model
from wsss.stages.refine import BackgroundSettings, CrfSettings
from wsss.training import TrainingSettings, fit, parameter_groups

_FIXTURES = (exact,)
pytestmark = pytest.mark.gpu
SETTINGS = TrainingSettings(epochs=3, batch_size=4, lr=0.1, head_lr=10, weight_decay=0.01, precision="float32")
IDS = [f"image{i}" for i in range(10)]


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1))


def sample(image_id: str, draw: np.random.Generator) -> dict[str, Tensor]:
    return {"image": torch.from_numpy(draw.normal(size=(3, 2, 2)).astype(np.float32))}


def train(
    folder: Path, dataset: Dataset, device: torch.device, settings: TrainingSettings = SETTINGS, stop_at: int = 10**9
) -> Tensor:
    """Train the small model; `stop_at` stops it with an error at that call of the loss. Its weights."""
    folder.mkdir(exist_ok=True)
    model, calls = make_model(), iter(range(10**9))

    def loss(batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        assert batch["image"].device.type == device.type
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return (model(batch["image"]) ** 2).mean(), {}

    context = StepContext(settings, dataset, 7, device, folder, {}, ConsoleReporter("test"))
    found = fit(model, parameter_groups(model[0], [model[1]], settings), IDS, sample, loss, context)
    assert not {"images_per_s", "loader_wait"} - found.keys() and np.isfinite(found["train/loss"])
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class TestTraining:
    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_weights_are_those_of_the_processor(self, tmp_path: Path, tiny_shapes: Dataset, optimizer: str) -> None:
        settings = replace(SETTINGS, optimizer=optimizer, lr=0.01)
        here, there = (train(tmp_path / d.type, tiny_shapes, d, settings) for d in (CPU, GPU))
        assert there.device.type == "cuda" and error(there, here) < 1e-4

    @pytest.mark.parametrize("stop_at", [1, 3, 7])
    def test_an_interrupted_training_continues(self, tmp_path: Path, tiny_shapes: Dataset, stop_at: int) -> None:
        whole = train(tmp_path / "whole", tiny_shapes, GPU)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "cut", tiny_shapes, GPU, stop_at=stop_at)
        assert error(train(tmp_path / "cut", tiny_shapes, GPU), whole) < 1e-5

    def test_bfloat16_is_the_choice_of_a_gpu(self, tmp_path: Path, tiny_shapes: Dataset) -> None:
        settings = replace(SETTINGS, lr=0.01)
        auto, single = (
            train(tmp_path / p, tiny_shapes, GPU, replace(settings, precision=p)) for p in ("auto", "float32")
        )
        assert 0 < error(auto, single) < 0.1

    def test_a_loss_that_is_no_number_is_refused(self, tmp_path: Path, tiny_shapes: Dataset) -> None:
        model = make_model()
        context = StepContext(SETTINGS, tiny_shapes, 7, GPU, tmp_path, {}, ConsoleReporter("test"))
        with pytest.raises(UserError, match=r"became nan at iteration 0 of 9, on the images image\d, image\d"):
            fit(
                model,
                parameter_groups(model, [], SETTINGS),
                IDS,
                sample,
                lambda batch: (model(batch["image"]).mean() * float("nan"), {}),
                context,
            )


class TestStreams:
    def test_a_stream_gives_each_image_once_in_the_order_of_the_batches(self, tiny_shapes: Dataset) -> None:
        ids = [i for split in ("train", "dev", "val") for i in tiny_shapes.splits[split]]

        def infer(images: Sequence[np.ndarray]) -> Sequence[Tensor]:
            return torch.from_numpy(np.stack(images)).to(GPU).double().mean((1, 2, 3)).unbind()

        found = list(stream_images(tiny_shapes, ids, GPU, infer, lambda id, image, mean: float(mean) - image.mean()))
        assert [id for id, _ in found] == list(chain.from_iterable(id_batches(tiny_shapes, ids, GPU)))
        assert max(abs(difference) for _, difference in found) < 1e-9

    def test_label_maps_from_files(self, tmp_path: Path, tiny_shapes: Dataset) -> None:
        torch.manual_seed(0)
        architecture = {"classes": 3, "backbone": "tiny", "output_stride": 8, "dropout": 0.0}
        save_model(tmp_path, sensible(Classifier(weights="none", **architecture)), architecture)  # type: ignore[arg-type]
        cam = CamSettings(scales=(1.0, 1.5), stride=4, precision="float32")
        labelling = Labelling(tiny_shapes.root, tmp_path, cam, BackgroundSettings(alpha=6), CrfSettings())
        here, there = (dict(labelling.stream(tiny_shapes.splits["train"], device)) for device in (CPU, GPU))
        assert here.keys() == there.keys()
        assert sum(here[id].png == there[id].png for id in here) > 0.8 * len(here)


@pytest.mark.parametrize(
    "method",
    ["cam", "affinity", "bound", "dcsm", "deep_clustering", "fcn_mil", "ial", "mcis", "wildcat"],
)
def test_a_method_from_its_tags_to_its_scores(tmp_path: Path, tiny_shapes: Dataset, method: str) -> None:
    """Every step of the demo on a GPU, its training cut short."""
    cut = {"epochs": 2, "rounds": 2, "crop": 65}
    keys = {key for key in make_plan(method, "demo").settings if key.rpartition(".")[2] in cut}
    plan = make_plan(method, "demo", {key: cut[key.rpartition(".")[2]] for key in keys})
    runner = StepRunner(tiny_shapes, 0, GPU, tmp_path / "work")
    for planned in plan.steps:
        result = runner.run(planned, ConsoleReporter(planned.key))
        assert not result.reused and result.peak_memory_mb >= 0
    assert (runner.results["evaluate.pred_crf"].folder / "val.npz").exists()
