"""Three runs to promote in a workspace of their own, the command, and a ledger that is away."""

from __future__ import annotations

import pytest
import torch
from mlflow import MlflowClient
from served_examples import save_one_answer
from typer.testing import CliRunner

from wsss.cli import app
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.registry.lineage import keep_lineage
from wsss.serving.package import log_model
from wsss.tracking import names

NAME = "wsss-shapes"


@pytest.fixture(scope="module")
def workspace(template, tmp_path_factory):
    """A folder of its own with an empty tracking store and a dataset."""
    from conftest import empty_store

    folder = tmp_path_factory.mktemp("workspace")
    empty_store(template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.set_num_threads(1)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.delenv("WSSS_LEDGER", raising=False)
        patch.delenv("WSSS_STORE", raising=False)
        make_shapes(folder / "data" / "shapes", images=12, val_images=12, size=40, classes=2)
        yield folder


@pytest.fixture(scope="module")
def dataset(workspace):
    return open_dataset("shapes")


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory) -> list[str]:
    """A run whose model answers one class everywhere, and two equal ones that answer background, which is better."""
    made = []
    for answer in (1, 0, 0):
        folder = tmp_path_factory.mktemp("step")
        save_one_answer(folder, answer)
        tags = {names.DATASET: "shapes", names.SUPERVISION: ""}
        made.append(MlflowClient().create_run("0", tags=tags).info.run_id)
        log_model(made[-1], folder, dataset.classes, "# card\n")
        keep_lineage(made[-1], dataset)
    return made


def aliases(name: str) -> dict[str, str]:
    return {alias: str(number) for alias, number in MlflowClient().get_registered_model(name).aliases.items()}


def wsss(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    said = result.output + str(result.exception if isinstance(result.exception, UserError) else "")
    assert (result.exit_code == status) != isinstance(result.exception, UserError), said
    return said


def without_ledger(patch: pytest.MonkeyPatch) -> None:
    """The ledger lies in a bucket that nobody answers for."""
    patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    patch.setenv("AWS_MAX_ATTEMPTS", "1")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(key, "test")
    patch.setenv("WSSS_LEDGER", "s3://bucket/ledger")
