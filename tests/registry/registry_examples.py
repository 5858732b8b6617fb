"""Runs whose models answer one class everywhere, in a workspace of their own, for tests of the registry."""

import numpy as np
import pytest
import torch
from conftest import empty_store
from mlflow import MlflowClient
from served_examples import save_one_answer

from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.registry import models
from wsss.registry.lineage import keep_lineage
from wsss.scores import Masks
from wsss.serving.package import log_model
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client

NAME = "wsss-little"


def with_alias(name, alias):
    """The version that an alias points to; None without such a model or alias."""
    known = mlflow_client().search_registered_models(f"name = '{name}'")
    number = known[0].aliases.get(alias) if known else None
    return models.find_version(f"models:/{name}/{number}", name) if number else None


@pytest.fixture(scope="module")
def workspace(template, tmp_path_factory):
    """A folder of its own with an empty tracking store."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("workspace")
        empty_store(template, folder / "mlflow.db")
        patch.chdir(folder)
        torch.set_num_threads(1)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        yield folder


@pytest.fixture(scope="module")
def dataset(workspace):
    make_shapes(workspace / "data" / "little", images=10, val_images=10, size=40, classes=2)
    return open_dataset("little")


def run_of(dataset, answer, folder, supervision=""):
    """The id of a run whose model answers one class everywhere."""
    save_one_answer(folder, answer)
    run = MlflowClient().create_run("0", tags={names.DATASET: "little", names.SUPERVISION: supervision}).info.run_id
    log_model(run, folder, dataset.classes, "# card\n")
    keep_lineage(run, dataset)
    return run


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """Two runs; the background is most of every scene, so the second's model is better."""
    return [run_of(dataset, answer, tmp_path_factory.mktemp("step")) for answer in (1, 0)]


def miou_of(dataset, answer):
    """The mean IoU of one answer everywhere, from the definition."""
    pixels = np.concatenate([Masks(dataset).read(i).ravel() for i in dataset.splits["val"]])
    pixels = pixels[pixels != 255]
    return (pixels == answer).mean() / len(np.unique([*pixels, answer]))
