"""A trained segmenter packaged for deployment: an exported graph that needs no code of this project.

    MLmodel, data/model.pt2     MLflow's PyTorch flavour: images in [0, 1] in, class probabilities out, of any size
    model.json, model.safetensors   architecture and weights, to go on training
    README.md                       the model card

The class names are in the metadata of `MLmodel`. Nothing in it is a pickle, and none is read.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from wsss.classes import Classes
from wsss.data.augmentation import MEAN, STD
from wsss.errors import UserError
from wsss.nets.deeplab import DeepLab
from wsss.stages.inference import resize
from wsss.stages.segment import load_segmenter
from wsss.tracking.connection import mlflow_client

NAME = "segmenter"
CARD = "README.md"
# An axis of length 1 would be exported as fixed.
_EXAMPLE = (2, 3, 35, 50)
_METADATA = "classes"


def nearest_nodes(side: int, stride: int) -> int:
    """`wsss.stages.inference.node_size` of one side, in the integer arithmetic that an exported graph can hold.

    The number of strides is rounded half to even, as `round` does; a stride is even.
    """
    strides = (side + stride // 2 - 1 + side // stride % 2) // stride
    return cast(int, torch.sym_max(strides, 1)) * stride + 1


class DeployedSegmenter(nn.Module):
    """A segmentation network from pixels to probabilities: normalisation, node size, network, softmax, image size.

    Args:
        net: trained, in eval mode.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: DeepLab) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Class probabilities, float32 B x (C + 1) x H x W, of float32 B x 3 x H x W RGB images in [0, 1], any H, W."""
        height, width = images.shape[2:]
        stride = self.net.backbone.output_stride
        nodes = nearest_nodes(height, stride), nearest_nodes(width, stride)
        scaled = resize((images - self.mean) / self.std, nodes)
        return resize(self.net(scaled).float().softmax(1), (height, width))


@dataclass(frozen=True)
class Segmenter:
    """A model ready to label images.

    Attributes:
        module: from float32 B x 3 x H x W in [0, 1] to probabilities B x (C + 1) x H x W.
        classes: the C foreground classes.
        version: what the model calls itself: a registered version, a run, a folder.
    """

    module: nn.Module
    classes: Classes
    version: str

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The label map of an image: uint8 H x W of a uint8 H x W x 3 RGB image."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        labels: np.ndarray = self.module(pixels)[0].argmax(0).to(torch.uint8).numpy()
        return labels


def save_package(folder: Path, out: Path, classes: Classes, card: str, run_id: str = "", model_id: str = "") -> None:
    """Write a package.

    Args:
        folder: the output of the segment stage's training step (model.json, model.safetensors).
        out: an empty or missing folder.
        classes: the foreground classes.
        card: the model card, markdown.
        run_id, model_id: what `MLmodel` says of its origin, where it is known.

    Raises:
        UserError: the network has another number of classes than there are names.
    """
    import mlflow.pytorch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    pixel = np.dtype(np.float32)
    mlflow.pytorch.save_model(
        _deployed(folder, classes),
        out,
        mlflow_model=Model(run_id=run_id or None, model_id=model_id or None),
        signature=ModelSignature(
            Schema([TensorSpec(pixel, (-1, 3, -1, -1), "images")]),
            Schema([TensorSpec(pixel, (-1, len(classes) + 1, -1, -1), "probabilities")]),
        ),
        input_example=np.zeros(_EXAMPLE, pixel),
        metadata={_METADATA: list(classes.names)},
        conda_env={"dependencies": [f"python={platform.python_version()}", "pip", {"pip": _requirements()}]},
    )
    for name in ("model.json", "model.safetensors"):
        shutil.copyfile(folder / name, out / name)
    (out / CARD).write_text(card)


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
    """Load a package from a folder or a `models:/...` address; neither runs code that comes with it.

    Raises:
        UserError: there is none, or what is there is no package of this kind.
    """
    import mlflow.pytorch
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    try:
        address = _pinned(address)
        folder = mlflow.artifacts.download_artifacts(address)
        metadata: dict[str, Any] = Model.load(folder).metadata or {}
        module = mlflow.pytorch.load_model(folder)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no model can be loaded from {address}: {reason}") from None
    if _METADATA not in metadata:
        raise UserError(f"the model at {address} was not packaged by wsss: its metadata names no classes")
    return Segmenter(module, Classes(tuple(metadata[_METADATA])), address)


def _pinned(address: str) -> str:
    """A `models:/name@alias` address as `models:/name/version`: an alias may move while the model is read."""
    name, at, alias = address.removeprefix("models:/").partition("@")
    if not address.startswith("models:/") or not at:
        return address
    return f"models:/{name}/{mlflow_client().get_model_version_by_alias(name, alias).version}"


def load_step(folder: Path, classes: Classes) -> Segmenter:
    """The network of a training step's output folder, as it would be packaged.

    Raises:
        UserError: it has another number of classes.
    """
    return Segmenter(_deployed(folder, classes), classes, str(folder))


def _deployed(folder: Path, classes: Classes) -> DeployedSegmenter:
    number = json.loads((folder / "model.json").read_text())["classes"]
    if number != len(classes) + 1:
        raise UserError(f"the network in {folder} has {number} classes, background included, not {len(classes) + 1}")
    return DeployedSegmenter(load_segmenter(folder)).eval()
