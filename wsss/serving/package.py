"""A trained segmenter packaged for deployment.

    model.json, model.safetensors   the description (see `wsss.serving.description`) and the weights: what we load
    MLmodel, model.py,              the same for people who have only MLflow and PyTorch, as a pyfunc model: a copy of
        artifacts/model.pt2         `wsss.serving.deployed`, and the network as an exported graph; never loaded here
    README.md                       the model card

A package may come from anybody, so none is executed: neither the graph, whose expressions torch evaluates while
loading, nor the code beside it. Nothing in ours is a pickle, and none is read.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from wsss.classes import Classes
from wsss.errors import UserError, one_line
from wsss.failures import sentence
from wsss.methods.dcsm.network import pooling_of
from wsss.ops import pooling
from wsss.serving import deployed, heatmaps
from wsss.serving.deployed import Deployed
from wsss.serving.description import AnyNetwork, Description, describe, inference_of
from wsss.serving.formats import DESCRIPTION, describe_step, read_description
from wsss.serving.networks import OF_GRADIENTS, SEGMENTER, Probabilities, Saliency, build
from wsss.serving.segmenter import Inference, Segmenter
from wsss.tracking.connection import mlflow_client

NAME, DIRECT = "segmenter", "direct"
"""How a run's models are called."""
CARD = "README.md"
WEIGHTS = "model.safetensors"
GRAPH = "model.pt2"
CODE = "model.py"
_PYFUNC = '''

import mlflow.pyfunc
import numpy as np
from mlflow.models import set_model


class Packaged(mlflow.pyfunc.PythonModel):
    """Images uint8 N x H x W x 3, RGB, to label maps uint8 N x H x W: 0 is the background."""

    def load_context(self, context):
        self.model = Deployed.of_package(Path(context.artifacts["graph"]))

    @torch.inference_mode()
    def predict(self, context, model_input, params=None):
        return np.stack([self.model(torch.from_numpy(np.array(image))).numpy() for image in model_input])


set_model(Packaged())
'''


def save_package(
    folder: Path,
    out: Path,
    classes: Classes,
    card: str,
    run_id: str = "",
    model_id: str = "",
    inference: Inference | None = None,
    kind: str = SEGMENTER,
) -> None:
    """Write a package.

    Args:
        folder: the output of the training step of a segmenter or a localizer (model.json, model.safetensors).
        out: an empty or missing folder.
        classes: the foreground classes.
        card: the model card, markdown.
        run_id, model_id: what `MLmodel` says of its origin, where it is known.
        inference: how it predicts; by default at one scale, without a CRF.
        kind: the network in the folder, one of `wsss.serving.networks.NETWORKS`.

    Raises:
        UserError: no trained network is in the folder, or one of another number of classes than there are names.
    """
    description = describe(_network(folder, kind), classes, inference)
    segmenter = _loaded(description, folder / WEIGHTS, run_id)
    if kind == OF_GRADIENTS:
        from mlflow.models import Model

        out.mkdir(parents=True, exist_ok=True)
        Model(run_id=run_id or None, model_id=model_id or None, metadata=_metadata(classes)).save(str(out / "MLmodel"))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            code, graph = Path(scratch) / CODE, Path(scratch) / GRAPH
            code.write_text(_standalone(pooling, heatmaps, deployed) + _PYFUNC, encoding="utf-8")
            export_graph(segmenter.module.net, description, graph)
            _save_pyfunc(out, code, graph, classes, run_id, model_id)
    (out / DESCRIPTION).write_text(description.as_json(), encoding="utf-8")
    shutil.copyfile(folder / WEIGHTS, out / WEIGHTS)
    (out / CARD).write_text(card, encoding="utf-8")


def _network(folder: Path, kind: str) -> AnyNetwork:
    """The network of a training step's output; what of DCSM is CAM's classifier does not say how it pools."""
    network = describe_step(folder / DESCRIPTION, kind)
    return network.model_copy(update={"pooling": pooling_of(folder)}) if kind == OF_GRADIENTS else network


def example_for(stride: int) -> torch.Tensor:
    """Images to export a network with: an axis of length 1 would be fixed, and two of equal lengths stay equal."""
    return torch.rand(2, 3, 3 * stride + 1, 4 * stride + 1).contiguous(memory_format=torch.channels_last)


def _standalone(*modules: ModuleType) -> str:
    """Modules as one, which needs no other of wsss."""
    lines = ["from __future__ import annotations"]
    for module in modules:
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        lines += [line for line in source.splitlines() if not line.startswith(("from __future__ ", "from wsss."))]
    return "\n".join(lines)


def export_graph(net: nn.Module, description: Description, to: Path) -> None:
    """The network as a graph for images of any size whose borders are on nodes, with the description in it."""
    example = example_for(description.network.output_stride)
    axis = torch.export.Dim.AUTO
    program = torch.export.export(net, (example,), dynamic_shapes=({0: axis, 2: axis, 3: axis},))
    torch.export.save(program, to, extra_files={DESCRIPTION: description.as_json(indent=None)})


def _save_pyfunc(out: Path, code: Path, graph: Path, classes: Classes, run_id: str, model_id: str) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    byte = np.dtype(np.uint8)
    mlflow.pyfunc.save_model(
        out,
        python_model=str(code),
        artifacts={"graph": str(graph)},
        mlflow_model=Model(run_id=run_id or None, model_id=model_id or None),
        signature=ModelSignature(
            Schema([TensorSpec(byte, (-1, -1, -1, 3))]),
            Schema([TensorSpec(byte, (-1, -1, -1))]),
        ),
        input_example=np.zeros((1, 33, 49, 3), byte),
        metadata=_metadata(classes),
        conda_env={"dependencies": [f"python={platform.python_version()}", "pip", {"pip": _requirements()}]},
    )


def _metadata(classes: Classes) -> dict[str, list[str]]:
    return {"classes": list(classes.names)}


def _requirements() -> list[str]:
    return [f"{name}=={version(name)}" for name in ("mlflow", "numpy", "torch")]


def log_model(
    run_id: str,
    folder: Path,
    classes: Classes,
    card: str,
    inference: Inference | None = None,
    kind: str = SEGMENTER,
) -> str:
    """Package a trained network and log it with its run; arguments as for `save_package`.

    Returns:
        Its address, `models:/m-...`.
    """
    from mlflow.entities import LoggedModelOutput

    client = mlflow_client()
    run = client.get_run(run_id)
    name = NAME if kind == SEGMENTER else DIRECT
    model = client.create_logged_model(run.info.experiment_id, name, source_run_id=run_id, model_type="segmentation")
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / name
        try:
            save_package(folder, package, classes, card, run_id, model.model_id, inference, kind)
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
            return _loaded(read_description(package), package / WEIGHTS, address)
    except (MlflowException, OSError, UserError) as error:
        raise UserError(f"no model can be loaded from {address}: {sentence(error) or one_line(error)}") from None


def _loaded(description: Description, weights: Path, name: str) -> Segmenter:
    network, inference, pixels = description.network, inference_of(description, DESCRIPTION), description.preprocessing
    net = build(network.kind, description.architecture, weights)
    of_gradients = network.kind == OF_GRADIENTS
    module = (Saliency if of_gradients else Deployed)(
        net if of_gradients else Probabilities(net),
        network.output_stride,
        pixels.mean,
        pixels.std,
        inference.sides,
        inference.scales,
        inference.flip,
        inference.direct,
    )
    return Segmenter(module.eval(), Classes(description.classes, description.background), name, inference)


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


def load_step(folder: Path, classes: Classes, inference: Inference | None = None, kind: str = SEGMENTER) -> Segmenter:
    """The network of a training step's output folder, as it is packaged; by default at one scale, without a CRF.

    Raises:
        UserError: there is none, or it has another number of classes.
    """
    description = describe(_network(folder, kind), classes, inference)
    return _loaded(description, folder / WEIGHTS, str(folder))
