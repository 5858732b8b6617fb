"""The one training loop: parameter groups, poly schedule, precision, checkpoints, continuing, progress."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.nets.backbones import check_weights, freeze_batch_norm
from wsss.nets.kernels import is_depthwise, without_plans
from wsss.nets.splitting import Splitting, split
from wsss.process import own_cores
from wsss.scores import metric_names
from wsss.settings import setting
from wsss.storage import write_bytes
from wsss.stream import ordered_map

CHECKPOINT = "checkpoint.pt"
"""In a step's folder while it trains: what a continued run goes on from."""
BFLOAT16 = "WSSS_BFLOAT16"
Sample = dict[str, Any]
Module = TypeVar("Module", bound=nn.Module)


def weights_setting(source: str = "ours", localized: bool = False) -> Any:
    """The setting `weights` of a step with a backbone; `localized`: it can begin with the localizer's backbone."""
    if localized:
        meaning = 'initial weights; "localize" is the localizer\'s backbone'
        return setting("imagenet", meaning, source=source, file=True, words=("imagenet", "none", "localize"))
    return setting("imagenet", "initial weights", source=source, file=True, words=("imagenet", "none"))


@dataclass(frozen=True)
class TrainingSettings:
    """What every trained step has; a step's own class changes the defaults."""

    epochs: int = setting(15, "passes over the training images", low=1)
    image_limit: int | None = setting(None, "at most so many images in all epochs; fewer epochs, one at least", low=1)
    batch_size: int = setting(16, "images in a batch", low=1)
    accumulate: int = setting(1, "batches whose gradients are added up before an update", low=1)
    optimizer: str = setting("sgd", "the optimiser", choices=("sgd", "adamw"))
    lr: float = setting(0.01, "learning rate of pretrained weights", low=0, search=None)
    head_lr: float = setting(10.0, "factor on the learning rate of new layers", source="PSA code", low=0)
    momentum: float = setting(0.9, "SGD momentum", low=0, high=0.999)
    weight_decay: float = setting(5e-4, "weight decay", source="PSA code", low=0)
    precision: str = setting(
        "auto", "number format: auto takes bfloat16 on a GPU, float32 on a CPU", choices=("auto", "float32", "bfloat16")
    )

    def number_format(self, device: torch.device) -> torch.dtype:
        """What `precision` comes down to on a device."""
        gains = device.type == "cuda" and gains_by_bfloat16(device)
        return torch.bfloat16 if self.precision == "bfloat16" or (self.precision == "auto" and gains) else torch.float32


def gains_by_bfloat16(device: torch.device) -> bool:
    """Whether a device is faster in bfloat16; WSSS_BFLOAT16 says it for machines that must agree, as "cpu,cuda"."""
    told = os.environ.get(BFLOAT16)
    if told is not None:
        return device.type in told.split(",")
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


class _Samples(Dataset[Sample]):
    """Training samples by (epoch, position): each drawn from random numbers of its own, whoever loads it."""

    def __init__(self, ids: Sequence[str], make: Callable[[str, np.random.Generator], Sample], rng: int) -> None:
        self._ids, self._make, self._rng = ids, make, rng

    def __getitem__(self, at: tuple[int, int]) -> Sample:
        epoch, index = at
        name = self._ids[index]
        return {"id": name, **self._make(name, np.random.default_rng((self._rng, epoch, index)))}


def check_start(settings: Any) -> None:
    """Refuse weights that there can't be, and frozen batch norm without the weights that it belongs to.

    Raises:
        UserError: settings (with `backbone`, `weights` and `freeze_bn`) that contradict each other.
    """
    if settings.freeze_bn and settings.weights == "none":
        raise UserError(
            "freeze_bn=true keeps the batch norm of initial weights, but weights=none; set one of them otherwise"
        )
    check_weights(settings.backbone, settings.weights)


def parameter_groups(
    pretrained: nn.Module | None, new: Sequence[nn.Module], settings: TrainingSettings
) -> list[dict[str, Any]]:
    """PSA's four groups: weights at 1x, biases at 2x the learning rate; new layers `head_lr` times that.

    Frozen parameters are left out; weight decay spares the biases and the scales of normalisation layers.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    modules = [(pretrained, 1.0)] if pretrained is not None else []
    for module, factor in [*modules, *((head, settings.head_lr) for head in new)]:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                is_bias = name.endswith("bias")
                decay = settings.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((factor * (2.0 if is_bias else 1.0), decay), []).append(parameter)
    return [
        {"params": parameters, "lr": settings.lr * factor, "initial_lr": settings.lr * factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def poly(iteration: int, total: int, power: float = 0.9) -> float:
    """The poly schedule's factor (1 - iteration / total)^power."""
    return (1 - iteration / total) ** power


def fit(
    model: nn.Module,
    groups: list[dict[str, Any]],
    ids: Sequence[str],
    sample: Callable[[str, np.random.Generator], Sample],
    loss: Callable[[dict[str, Any]], tuple[Tensor, dict[str, float]]],
    context: StepContext,
    *,
    frozen_bn: bool = False,
) -> dict[str, float]:
    """Train a model, a checkpoint after each epoch; an interrupted run continues to the same weights.

    A batch that a GPU's memory is too little for goes through the network in parts whose gradients add up to the same
    update, as far as the loss is a mean over images and batch norm is frozen.

    Args:
        model: on any device; left trained, in eval mode, on the context's device.
        groups: from `parameter_groups`.
        ids: the training images.
        sample: makes one sample, a dict of tensors, from an id and its random numbers.
        loss: from a batch (tensors on the device, "id" a list, "epoch" the number of the pass, from 0) to the loss and
            its parts by name.
        context: the step's; its settings are a `TrainingSettings`, its `out` keeps the checkpoint.
        frozen_bn: keep the batch norm of its `backbone` in eval mode.

    Returns:
        The last epoch's mean loss ("train/loss"), "images_per_s", and "loader_wait", the share of the time in which
        the network waited for images.

    Raises:
        UserError: no training image, or a loss that is not a number (names the iteration and the images).
        OutOfTimeError: another epoch would not end before the context's deadline; the checkpoint is there.
    """
    settings: TrainingSettings = context.settings
    if not ids:
        raise UserError("there is no image to train on; check the dataset's train list")
    device = context.device
    precision = settings.number_format(device)
    to_device(model, device)
    optimizer = _optimizer(groups, settings)
    batches_per_epoch = math.ceil(len(ids) / settings.batch_size)
    epochs = settings.epochs
    if settings.image_limit is not None:
        epochs = max(1, min(epochs, settings.image_limit // len(ids)))
    updates_per_epoch = math.ceil(batches_per_epoch / settings.accumulate)
    total = updates_per_epoch * epochs
    short_alone = device.type == "cuda" and any(map(is_depthwise, model.modules()))

    checkpoint = context.out / CHECKPOINT
    done = _resume(checkpoint, model, optimizer)
    places = _shuffled(len(ids), settings.batch_size, context.rng, range(done, epochs))
    batches = _batches(_Samples(ids, sample, context.rng), places, device)
    splitting = Splitting("images in training")

    def gradients(batches: Sequence[Sample], where: str) -> tuple[list[float], dict[str, float]]:
        """Add up the gradients of an update's batches; the loss of each, and the parts of the last."""
        optimizer.zero_grad(set_to_none=True)
        losses: list[float] = []
        scalars: dict[str, float] = {}
        for batch in batches:
            size, total_loss = len(batch["id"]), 0.0
            for part in split(batch, splitting.parts(size), size):
                share = len(part["id"]) / size
                part = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in part.items()}
                with without_plans() if short_alone and len(part["id"]) < settings.batch_size else nullcontext():
                    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
                        value, scalars = loss(part)
                    if not torch.isfinite(value):
                        raise UserError(
                            f"the loss became {value.item()} at {where}, on the images {', '.join(part['id'])}; lower "
                            "the learning rate or look at these images"
                        )
                    (value * share / len(batches)).backward()
                total_loss += share * value.item()
            losses.append(total_loss)
        return losses, scalars

    seen, waited, started, mean = 0, 0.0, time.monotonic(), math.nan
    for epoch in range(done, epochs):
        began = time.monotonic()
        model.train()
        if frozen_bn:
            freeze_batch_norm(model.get_submodule("backbone"))
        torch.manual_seed(hash((context.rng, epoch)) & 0x7FFFFFFF)
        losses: list[float] = []
        for update in range(updates_per_epoch):
            ready = time.monotonic()
            parts_here = min(settings.accumulate, batches_per_epoch - update * settings.accumulate)
            parts = [dict(batch, epoch=epoch) for batch in islice(batches, parts_here)]
            waited += time.monotonic() - ready
            iteration = epoch * updates_per_epoch + update
            work = partial(gradients, parts, f"iteration {iteration} of {total}")
            values, scalars = splitting.attempt(settings.batch_size, work)
            losses += values
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * poly(iteration, total)
            optimizer.step()
            if iteration % max(1, total // 200) == 0:
                named = {metric_names.TRAIN + name: value for name, value in scalars.items()}
                context.report.metrics({metric_names.TRAIN_LOSS: losses[-1], **named}, iteration)
            seen += sum(len(batch["id"]) for batch in parts)
            if update == updates_per_epoch - 1:
                mean = float(np.mean(losses))
                _save(checkpoint, model, optimizer, epoch + 1, mean)
            context.report.progress(done * len(ids) + seen, epochs * len(ids), "images", f"loss {losses[-1]:.3f}")
        if epoch + 1 < epochs:
            context.time_for(time.monotonic() - began)
    model.eval()
    seconds = max(time.monotonic() - started, 1e-9)
    if math.isnan(mean):
        mean = torch.load(checkpoint, map_location="cpu", weights_only=True)["loss"]
        return {metric_names.TRAIN_LOSS: mean}
    return {
        metric_names.TRAIN_LOSS: mean,
        metric_names.IMAGES_PER_S: seen / seconds,
        metric_names.LOADER_WAIT: waited / seconds,
    }


def to_device(model: Module, device: torch.device) -> Module:
    """Move a network to a device, its convolutions in channels-last order; returns it."""
    return model.to(device).to(memory_format=torch.channels_last)


def _optimizer(groups: list[dict[str, Any]], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


def _shuffled(length: int, batch_size: int, rng: int, epochs: range) -> Iterator[list[tuple[int, int]]]:
    """Batches of (epoch, index), in an order that depends on the rng and the epoch alone; a short last one is kept."""
    for epoch in epochs:
        order = np.random.default_rng((rng, epoch)).permutation(length)
        for start in range(0, length, batch_size):
            yield [(epoch, int(index)) for index in order[start : start + batch_size]]


def _batches(samples: _Samples, places: Iterator[list[tuple[int, int]]], device: torch.device) -> Iterator[Sample]:
    """The batches of all epochs, made ahead.

    Processes make them where the network has a GPU. On a CPU one thread does, in what the network leaves of the cores.
    """
    if device.type == "cpu":
        return ordered_map(lambda batch: default_collate([samples[place] for place in batch]), places, workers=1)
    workers = max(1, own_cores() - 1)
    return iter(DataLoader(samples, batch_sampler=places, num_workers=workers, pin_memory=True))


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, loss: float) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epochs, "loss": loss}
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(path, content.getvalue())


def _resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the checkpoint of an interrupted run, if there is one; the number of finished epochs."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epochs"])
