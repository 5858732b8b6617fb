"""What the tests of MCIS have in common: tiny settings, datasets of noise, the context of a step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsss.classes import Classes
from wsss.data import Dataset, layout
from wsss.data.score_maps import ScoreMaps
from wsss.interface import StepContext
from wsss.methods.mcis.infer import McisInferSettings, infer_maps
from wsss.methods.mcis.network import CoAttentionNet
from wsss.methods.mcis.settings import McisTrainSettings
from wsss.progress import ConsoleReporter
from wsss.stages.outputs import save_model

CPU = torch.device("cpu")
REPORT = ConsoleReporter("test")
TINY = McisTrainSettings(
    backbone="tiny",
    weights="none",
    freeze_bn=False,
    width=8,
    side=33,
    views=("pair", "flip"),
    optimizer="adamw",
    epochs=1,
    batch_size=8,
    filter_epochs=1,
)


def make_dataset(
    root: Path, names: Sequence[str], tags: Mapping[str, Sequence[str]], val: Sequence[str] = ()
) -> Dataset:
    """A dataset of noise images (the same for the same id), all of them train but those of `val`."""
    (root / layout.IMAGES).mkdir(parents=True)
    for image_id in tags:
        pixels = np.random.default_rng(list(image_id.encode())).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / layout.IMAGES / f"{image_id}.png")
    lists = {"train": [i for i in tags if i not in val], "dev": [], "val": val}
    description = layout.Description(root.name, "folder", Classes(tuple(names)), "csv")
    layout.finish(root, description, {i: tuple(row) for i, row in tags.items()}, lists)
    return Dataset.open(root)


PETS = {"a": ["cat"], "b": ["cat", "dog"], "c": ["dog"], "d": ["cow"], "e": [], "f": ["cat", "cow"], "v": ["cat"]}


def context(settings: object, dataset: Dataset, out: Path, inputs: Mapping[str, Path] | None = None) -> StepContext:
    out.mkdir(exist_ok=True, parents=True)
    return StepContext(settings, dataset, 5, CPU, out, inputs or {}, REPORT)


def inferred(
    dataset: Dataset, folder: Path, settings: McisInferSettings, silent: bool = False
) -> tuple[ScoreMaps, dict[str, float]]:
    """Infer with a random network whose maps are above 0 and whose co-attention compares; or one that says nothing."""
    torch.manual_seed(3)
    architecture = {"classes": len(dataset.classes), "backbone": "tiny", "output_stride": 8, "width": 8}
    net = CoAttentionNet(weights="none", **architecture)  # type: ignore[arg-type]
    net.shared.weight.data = net.shared.weight.data.abs() * (not silent)
    net.affinity.weight.data = torch.eye(8)
    net.extra[6].weight.data *= 1e4  # a network that has seen nothing hardly answers
    (folder / "train").mkdir(parents=True)
    save_model(folder / "train", net, architecture)  # type: ignore[arg-type]
    infer_maps(context(settings, dataset, folder / "infer", {"train": folder / "train"}))
    return ScoreMaps(folder / "infer" / "cam"), json.loads((folder / "infer" / "metrics.json").read_text())
