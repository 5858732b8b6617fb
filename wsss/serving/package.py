"""A trained segmenter packaged for deployment.

    model.json, model.safetensors   the description (see `wsss.serving.description`) and the weights: what we load
    MLmodel, data/model.pt2         the same as an exported graph, MLflow's PyTorch flavour: images in [0, 1] in, class
                                    probabilities out, of any size; for other people's tools, never loaded here
    README.md                       the model card

A package may come from anybody, so none is executed: neither the graph, whose expressions torch evaluates while
loading, nor the code that `MLmodel` can name. Nothing in ours is a pickle, and none is read.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from wsss.classes import Classes
from wsss.errors import UserError, one_line
from wsss.failures import sentence
from wsss.nets.deeplab import DeepLab
from wsss.serving.description import DESCRIPTION, Network, describe, describe_step, read_description
from wsss.serving.segmenter import DeployedSegmenter, Segmenter
from wsss.tracking.connection import mlflow_client

NAME = "segmenter"
CARD = "README.md"
WEIGHTS = "model.safetensors"
# An axis of length 1 would be exported as fixed.
_EXAMPLE = (2, 3, 35, 50)


def save_package(folder: Path, out: Path, classes: Classes, card: str, run_id: str = "", model_id: str = "") -> None:
    """Write a package.

    Args:
        folder: the output of the segment stage's training step (model.json, model.safetensors).
        out: an empty or missing folder.
        classes: the foreground classes.
        card: the model card, markdown.
        run_id, model_id: what `MLmodel` says of its origin, where it is known.

    Raises:
        UserError: no trained network is in the folder, or one of another number of classes than there are names.
    """
    import mlflow.pytorch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    pixel = np.dtype(np.float32)
    mlflow.pytorch.save_model(
        load_step(folder, classes).module,
        out,
        mlflow_model=Model(run_id=run_id or None, model_id=model_id or None),
        signature=ModelSignature(
            Schema([TensorSpec(pixel, (-1, 3, -1, -1), "images")]),
            Schema([TensorSpec(pixel, (-1, len(classes) + 1, -1, -1), "probabilities")]),
        ),
        input_example=np.zeros(_EXAMPLE, pixel),
        metadata={"classes": list(classes.names)},
        conda_env={"dependencies": [f"python={platform.python_version()}", "pip", {"pip": _requirements()}]},
    )
    description = describe(describe_step(folder / DESCRIPTION), classes)
    (out / DESCRIPTION).write_text(description.model_dump_json(indent=1), encoding="utf-8")
    shutil.copyfile(folder / WEIGHTS, out / WEIGHTS)
    (out / CARD).write_text(card, encoding="utf-8")


def _requirements() -> list[str]:
    return [f"{name}=={version(name)}" for name in ("mlflow", "torch")]


def log_model(run_id: str, folder: Path, classes: Classes, card: str) -> str:
    """Package a trained segmenter and log it with its run.

    Returns:
        Its address, `models:/m-...`.
    """
    from mlflow.entities import LoggedModelOutput

    client = mlflow_client()
    run = client.get_run(run_id)
    model = client.create_logged_model(run.info.experiment_id, NAME, source_run_id=run_id, model_type="segmentation")
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / NAME
        try:
            save_package(folder, package, classes, card, run_id=run_id, model_id=model.model_id)
            client.log_model_artifacts(model.model_id, str(package))
        except BaseException:
            client.finalize_logged_model(model.model_id, "FAILED")
            raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_uri)


def load_package(address: str) -> Segmenter:
    """Load a package; nothing that comes with it is run.

    Args:
        address: its folder, or an address that MLflow knows, such as `models:/NAME@champion` or `models:/NAME/3`.

    Raises:
        UserError: nothing is there, or it is no package of ours: a description of a later format, with unknown keys or
            absurd values, weights that are damaged or another network's.
    """
    from mlflow.exceptions import MlflowException

    try:
        address = _pinned(address)
        with _local(address) as package:
            description = read_description(package)
            net = _network(description.network, package / WEIGHTS)
    except (MlflowException, OSError, UserError) as error:
        raise UserError(f"no model can be loaded from {address}: {sentence(error) or one_line(error)}") from None
    pixels = description.preprocessing
    module = DeployedSegmenter(net, pixels.mean, pixels.std).eval()
    return Segmenter(module, Classes(description.classes), address)


def _pinned(address: str) -> str:
    """A `models:/name@alias` address as `models:/name/version`: an alias may move while the model is read."""
    name, at, alias = address.removeprefix("models:/").partition("@")
    if not address.startswith("models:/") or not at:
        return address
    return f"models:/{name}/{mlflow_client().get_model_version_by_alias(name, alias).version}"


@contextmanager
def _local(address: str) -> Iterator[Path]:
    """The folder of a package; what had to be downloaded is there within the block."""
    if ":/" not in address:
        if not Path(address).is_dir():
            raise UserError("there is no such folder; an address of a registered model begins with models:/")
        yield Path(address)
        return
    import mlflow.artifacts

    mlflow_client()
    with tempfile.TemporaryDirectory(prefix="wsss-package-") as scratch:
        package = Path(mlflow.artifacts.download_artifacts(address, dst_path=scratch))
        if not any(package.iterdir()):
            raise UserError("its files are gone from MLflow's artifacts; bring them back, or register another version")
        yield package


def load_step(folder: Path, classes: Classes) -> Segmenter:
    """The network of a training step's output folder, as it would be packaged.

    Raises:
        UserError: there is none, or it has another number of classes.
    """
    network = describe(describe_step(folder / DESCRIPTION), classes).network
    return Segmenter(DeployedSegmenter(_network(network, folder / WEIGHTS)).eval(), classes, str(folder))


def _network(network: Network, weights: Path) -> DeepLab:
    """A network with its weights, in eval mode, on the CPU."""
    net = DeepLab(weights="none", **network.model_dump(exclude={"kind"}))
    try:
        net.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights} does not hold the weights that {DESCRIPTION} describes: {reason}") from None
    return net.eval()
