"""What a step leaves beside its maps: the trained network, and its final metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsss.storage import write_bytes

Network = TypeVar("Network", bound=nn.Module)
METRICS = "metrics.json"


def save_model(folder: Path, model: nn.Module, architecture: dict[str, object]) -> None:
    """Write `model.safetensors` and the arguments that rebuild the network, `model.json`."""
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(architecture, indent=1), encoding="utf-8")


def load_model(folder: Path, network: Callable[..., Network]) -> Network:
    """The trained network of a step's output that `save_model` wrote, in eval mode, on the CPU."""
    model = network(weights="none", **json.loads((folder / "model.json").read_text(encoding="utf-8")))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def backbone_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the backbone in a localizer's training step's output: every localizer names it `backbone`."""
    weights = load_file(folder / "model.safetensors")
    return {key.removeprefix("backbone."): w for key, w in weights.items() if key.startswith("backbone.")}


def write_metrics(folder: Path, metrics: dict[str, float]) -> None:
    """Keep a step's final metrics with its output, so that a reused step has them too."""
    write_bytes(folder / METRICS, json.dumps(metrics, indent=1).encode())


def read_metrics(folder: Path) -> dict[str, float]:
    """The final metrics in a step's folder; none where it wrote none."""
    path = folder / METRICS
    metrics: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return metrics
