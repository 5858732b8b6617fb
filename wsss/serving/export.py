"""A package's network in other runtimes' formats: never the model of record, kept only when it agrees with it.

    model.onnx, or model.xml and model.bin   normalised float32 B x 3 x h x w images, borders on nodes, to probabilities
    about.json                               of which model, its stride, preprocessing, sizes, scales and classes

Sizes, scales and the way to a label map are those of `wsss.serving.deployed`.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wsss.commands import command
from wsss.data import Dataset
from wsss.errors import UserError, unknown
from wsss.progress import ConsoleReporter
from wsss.scores import Masks, Scores, confusion
from wsss.serving.networks import Saliency
from wsss.serving.package import example_for
from wsss.serving.segmenter import Instead, Segmenter, digest
from wsss.storage import disk_errors, unfinished

ABOUT = "about.json"
PIXELS, POINTS = 0.9999, 0.1
"""The share of pixels that must be alike, and how far the mean IoU may move, in points."""
INSTALL = {"onnx": "onnx onnxscript onnxruntime", "openvino": "openvino"}


@dataclass(frozen=True)
class Agreement:
    """How far an exported model agrees with its package.

    Attributes:
        images: how many were labelled by both.
        pixels: the share of pixels with the same label, 0 to 1.
        points: how far the mean IoU moved, in points; None without masks.
    """

    images: int
    pixels: float
    points: float | None

    @property
    def accepted(self) -> bool:
        return self.pixels >= PIXELS and (self.points is None or abs(self.points) <= POINTS)

    def __str__(self) -> str:
        moved = "no masks, so no mean IoU" if self.points is None else f"mean IoU moved by {self.points:+.3f} points"
        return f"{self.pixels:.4%} of the pixels of {self.images} images are the same, {moved}"


def export_model(model: Segmenter, kind: str, dataset: Dataset, split: str, to: Path) -> Agreement:
    """Export a package's network, and compare it with the package on a split; see this module.

    Args:
        model: of a package.
        kind: one of `RUNTIMES`.
        dataset, split: whose images both label.
        to: a folder that is missing; it appears complete or not at all.

    Raises:
        UserError: another kind, a runtime that is not installed, a folder that is there, an empty split, or a model
            that does not agree.
    """
    if kind not in RUNTIMES:
        raise unknown("format", kind, RUNTIMES)
    if isinstance(model.module, Saliency):
        raise UserError(f"{model.version} labels by gradients, which can't be exported; use it as it is")
    if to.exists():
        raise UserError(f"{to} is there already; name another folder with --out")
    if split not in dataset.splits:
        raise unknown("split", split, dataset.splits)
    if not dataset.splits[split]:
        raise UserError(f"split {split} of dataset {dataset.name} has no images to compare on; choose another --split")
    with disk_errors(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        part = unfinished(to)
        part.mkdir()
        try:
            RUNTIMES[kind].write(model, part)
            about = {"format": kind, "sha256": digest(model), **_about(model)}
            (part / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
            agreement = compare(model, with_runtime(model, part), dataset, split)
            if not agreement.accepted:
                raise UserError(
                    f"the exported model does not agree with {model.version} on {dataset.name}/{split}: {agreement}; "
                    f"at least {PIXELS:.2%} and at most {POINTS} points are asked for, so it was not kept"
                )
            os.replace(part, to)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return agreement


def compare(model: Segmenter, other: Segmenter, dataset: Dataset, split: str) -> Agreement:
    """How far two models agree on the images of a split."""
    masks, report = Masks(dataset), ConsoleReporter("model.export")
    ids, masked = dataset.splits[split], set(masks.ids(split))
    matrices = np.zeros((2, *[len(dataset.classes) + 1] * 2), np.int64)
    same = pixels = 0
    for done, image_id in enumerate(ids, 1):
        image = dataset.image(image_id)
        both = model(image), other(image)
        same += int((both[0] == both[1]).sum())
        pixels += both[0].size
        if image_id in masked:
            mask = masks.read(image_id)
            matrices += [confusion(mask, labels, len(dataset.classes)) for labels in both]
        report.progress(done, len(ids), "images")
    points = 100 * (Scores.of(matrices[1]).miou - Scores.of(matrices[0]).miou) if masked else None
    return Agreement(len(ids), same / pixels, points)


def _about(model: Segmenter) -> dict[str, Any]:
    module = model.module
    return {
        "model": model.version,
        "stride": module.stride,
        "mean": module.mean.flatten().tolist(),
        "std": module.std.flatten().tolist(),
        "sides": list(module.sides),
        "scales": list(module.scales),
        "flip": module.flip,
        "classes": list(model.classes.with_background),
    }


def with_runtime(model: Segmenter, folder: Path) -> Segmenter:
    """A package whose network another runtime computes, as it was exported and accepted.

    Args:
        model: of the package.
        folder: where `export_model` wrote it.

    Raises:
        UserError: nothing was exported there, or another package; its runtime is not installed.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        kind, sha256 = about["format"], about["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        made = command("wsss", "model", "export", model.version, "--to", "onnx", "--data", "DATASET", "--out", "FOLDER")
        raise UserError(f"{folder} is no exported model; `{made}` makes one") from None
    if kind not in RUNTIMES:
        raise unknown("format", str(kind), RUNTIMES)
    if sha256 != digest(model):
        raise UserError(f"{folder} was exported of {about.get('model')}, not of {model.version}; export that one")
    return replace(model, module=model.module.with_net(RUNTIMES[kind].load(folder, model.module.net)))


def _instead(net: nn.Module, run: Callable[[np.ndarray], np.ndarray]) -> Instead:
    return Instead(net, lambda images: torch.from_numpy(run(np.ascontiguousarray(images.numpy()))))


def _program(model: Segmenter) -> torch.export.ExportedProgram:
    axis = torch.export.Dim.AUTO
    example = example_for(model.module.stride)
    return torch.export.export(model.module.net, (example,), dynamic_shapes=({0: axis, 2: axis, 3: axis},))


def _write_onnx(model: Segmenter, folder: Path) -> None:
    _needed("onnx", "onnxscript")
    exported = torch.onnx.export(_program(model), dynamo=True, verbose=False)
    assert exported is not None
    exported.save(folder / "model.onnx")


def _load_onnx(folder: Path, net: nn.Module) -> nn.Module:
    runtime = _needed("onnx", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return _instead(net, lambda images: session.run(None, {name: images})[0])


def _write_openvino(model: Segmenter, folder: Path) -> None:
    openvino = _needed("openvino", "openvino")
    openvino.save_model(openvino.convert_model(_program(model)), folder / "model.xml", compress_to_fp16=False)


def _load_openvino(folder: Path, net: nn.Module) -> nn.Module:
    openvino = _needed("openvino", "openvino")
    # On some processors it would take bfloat16 by itself.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", settings)
    return _instead(net, lambda images: compiled(images)[0])


def _needed(kind: str, module: str) -> Any:
    # OpenVINO reports its use to Google Analytics by default.
    # Without this package it has nothing to report with.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{kind} needs {module}, which is not installed; pip install {INSTALL[kind]}") from None


@dataclass(frozen=True)
class Runtime:
    """How a network gets into another runtime's format, and from there to an answer."""

    write: Callable[[Segmenter, Path], None]
    load: Callable[[Path, nn.Module], nn.Module]


RUNTIMES: Mapping[str, Runtime] = {
    "onnx": Runtime(_write_onnx, _load_onnx),
    "openvino": Runtime(_write_openvino, _load_openvino),
}
