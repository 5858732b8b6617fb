"""The stream from images to label maps: what the steps make, continued after a kill, the same on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.labels import stream as labels
from wsss.labels.stream import make_labels
from wsss.methods.cam import METHOD
from wsss.stages.cam import CamSettings
from wsss.stages.labelling import Labelling
from wsss.stages.localize import Classifier
from wsss.stages.outputs import save_model
from wsss.stages.refine import BackgroundSettings, CrfSettings

CPU = torch.device("cpu")
CRF = CrfSettings(iterations=2)
BACKGROUND = BackgroundSettings(alpha=4)
CAM = CamSettings(scales=(1.0, 1.5), stride=4)


class Steps:
    """A reporter that can stop the work, as a kill would."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.stop_at, self.done = stop_at, []

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.done.append(done)
        if done == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def labelling(tiny_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Labelling:
    torch.manual_seed(0)
    architecture = {"classes": 3, "backbone": "tiny", "output_stride": 8, "dropout": 0.0}
    folder = tmp_path_factory.mktemp("classifier")
    save_model(folder, Classifier(weights="none", **architecture), architecture)
    return Labelling(tiny_shapes.root, folder, CAM, BACKGROUND, CRF)


def ids_of(dataset: Dataset) -> list[str]:
    return [*dataset.splits["train"], *dataset.splits["dev"]]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(labelling: Labelling, tiny_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> LabelMaps:
    return make_labels(labelling, ids_of(tiny_shapes), tmp_path_factory.mktemp("labels") / "made", CPU, Steps())


def test_the_stream_makes_what_the_steps_make(
    labelling: Labelling, tiny_shapes: Dataset, made: LabelMaps, tmp_path: Path
) -> None:
    given = {"train": labelling.classifier, "localize": tmp_path / "infer", "background": tmp_path / "background"}
    settings = {"infer": CAM, "background": BACKGROUND, "crf": CRF}
    steps = {step.name: step for kind in ("localize", "refine") for step in METHOD.stages[kind].steps}
    for name, own in settings.items():
        out = tmp_path / name
        out.mkdir()
        steps[name].run(StepContext(own, tiny_shapes, 0, CPU, out, given, Steps()))
    assert files(tmp_path / "crf" / "labels_crf") == files(made.folder)
    assert any(made.read(image_id).any() for image_id in made.ids)


def test_an_interrupted_stream_goes_on_where_it_stopped(
    labelling: Labelling, tiny_shapes: Dataset, made: LabelMaps, tmp_path: Path
) -> None:
    ids, again = ids_of(tiny_shapes), Steps()
    with pytest.raises(KeyboardInterrupt):
        make_labels(labelling, ids, tmp_path / "out", CPU, Steps(stop_at=20))
    assert not (tmp_path / "out").exists()
    found = make_labels(labelling, ids, tmp_path / "out", CPU, again)
    assert files(found.folder) == files(made.folder)
    assert again.done == list(range(21, len(ids) + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(UserError, match="out exists"):
        make_labels(labelling, ids, tmp_path / "out", CPU, again)


def test_where_every_map_is_kept_already_no_cluster_is_asked(
    labelling: Labelling, tiny_shapes: Dataset, made: LabelMaps, tmp_path: Path
) -> None:
    ids = ids_of(tiny_shapes)
    with pytest.raises(KeyboardInterrupt):
        make_labels(labelling, ids, tmp_path / "out", CPU, Steps(stop_at=len(ids)))
    found = make_labels(labelling, ids, tmp_path / "out", CPU, Steps(), ray_address="nowhere:1")
    assert files(found.folder) == files(made.folder)


def test_a_cluster_makes_the_same_labels_and_goes_on_too(
    labelling: Labelling, tiny_shapes: Dataset, made: LabelMaps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, again = ids_of(tiny_shapes), Steps()
    with pytest.raises(KeyboardInterrupt):
        make_labels(labelling, ids, tmp_path / "out", CPU, Steps(stop_at=5))
    monkeypatch.setattr(labels, "IMAGES_A_SHARD", 16)
    found = make_labels(labelling, ids, tmp_path / "out", CPU, again, ray_address="local")
    assert files(found.folder) == files(made.folder)
    assert again.done == list(range(6, len(ids) + 1))
