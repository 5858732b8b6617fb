"""The one training loop: parameter groups, poly schedule, precision, checkpoints, continuing, progress."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from wsss.batches import Sample, Samples, batches_of, groups_by_class, shuffled
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.nets.backbones import check_weights, freeze_batch_norm
from wsss.nets.kernels import is_depthwise
from wsss.scores import metric_names
from wsss.settings import setting
from wsss.storage import write_bytes
from wsss.updates import Gradients, Loss
from wsss.workers import Workers

CHECKPOINT = "checkpoint.pt"
"""In a step's folder while it trains: what a continued run goes on from."""
BFLOAT16 = "WSSS_BFLOAT16"
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
    sampling: str = setting(
        "uniform",
        "images of an epoch: each once (uniform), or one of each class in turn (class-aware), where classes are rare",
        choices=("uniform", "class-aware"),
    )
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
    loss: Loss,
    context: StepContext,
    *,
    frozen_bn: bool = False,
    tags: Callable[[str], np.ndarray] | None = None,
) -> dict[str, float]:
    """Train a model, a checkpoint after each epoch; an interrupted run continues to the same weights.

    A batch that a GPU's memory is too little for goes through the network in parts whose gradients add up to the same
    update, as far as the loss is a mean over images and batch norm is frozen. So it is with several workers
    (`wsss.workers`), which share every batch.

    Args:
        model: on any device; left trained, in eval mode, on the context's device.
        groups: from `parameter_groups`.
        ids: the training images.
        sample: makes one sample, a dict of tensors, from an id and its random numbers.
        loss: see `wsss.updates.Loss`; passes are numbered from 0.
        context: the step's; its settings are a `TrainingSettings`, its `out` keeps the checkpoint.
        frozen_bn: keep the batch norm of its `backbone` in eval mode.
        tags: of an id, bool C, where they are not the dataset's.

    Returns:
        The last epoch's mean loss ("train/loss"), "images_per_s", and "loader_wait", the share of the time in which
        the network waited for images.

    Raises:
        UserError: no training image, sampling by class where no image has a tag, or a loss that is not a number (names
            the iteration and the images).
        OutOfTimeError: another epoch would not end before the context's deadline; the checkpoint is there.
    """
    settings: TrainingSettings = context.settings
    if not ids:
        raise UserError("there is no image to train on; check the dataset's train list")
    device = context.device
    to_device(model, device)
    optimizer, workers = _optimizer(groups, settings), Workers.of_this_process(device)
    parameters = [parameter for group in groups for parameter in group["params"]]
    batches_per_epoch = math.ceil(len(ids) / settings.batch_size)
    epochs = _epochs(settings, len(ids))
    updates_per_epoch = math.ceil(batches_per_epoch / settings.accumulate)
    total = updates_per_epoch * epochs

    checkpoint = context.out / CHECKPOINT
    done = _resume(checkpoint, model, optimizer)
    places = shuffled(len(ids), settings.batch_size, context.rng, range(done, epochs), _groups(ids, context, tags))
    batches = batches_of(Samples(ids, sample, context.rng), (list(workers.own(batch)) for batch in places), device)
    gradients = Gradients(
        optimizer,
        loss,
        device,
        precision=settings.number_format(device),
        usual=len(workers.own(range(settings.batch_size))),
        short_alone=device.type == "cuda" and any(map(is_depthwise, model.modules())),
    )
    seen, waited, started, mean = 0, 0.0, time.monotonic(), math.nan
    for epoch in range(done, epochs):
        began = time.monotonic()
        model.train()
        if frozen_bn:
            freeze_batch_norm(model.get_submodule("backbone"))
        workers.check(model)
        torch.manual_seed((hash((context.rng, epoch)) + workers.rank) & 0x7FFFFFFF)
        losses: list[float] = []
        for update in range(updates_per_epoch):
            ready = time.monotonic()
            first = update * settings.accumulate * settings.batch_size
            starts = range(first, len(ids), settings.batch_size)[: settings.accumulate]
            sizes = [min(settings.batch_size, len(ids) - start) for start in starts]
            parts = [dict(batch, epoch=epoch) for batch in islice(batches, len(sizes))]
            waited += time.monotonic() - ready
            iteration = epoch * updates_per_epoch + update
            values, scalars = gradients.add_up(parts, sizes, f"iteration {iteration} of {total}")
            losses += workers.add(parameters, values)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * poly(iteration, total)
            optimizer.step()
            if iteration % max(1, total // 200) == 0:
                named = {metric_names.TRAIN + name: value for name, value in scalars.items()}
                context.report.metrics({metric_names.TRAIN_LOSS: losses[-1], **named}, iteration)
            seen += sum(sizes)
            if update == updates_per_epoch - 1:
                mean = float(np.mean(losses))
                if workers.rank == 0:
                    _save(checkpoint, model, optimizer, epoch + 1, mean)
            context.report.progress(done * len(ids) + seen, epochs * len(ids), "images", f"loss {losses[-1]:.3f}")
        if epoch + 1 < epochs:
            workers.time_for(context, time.monotonic() - began)
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


def _epochs(settings: TrainingSettings, images: int) -> int:
    """The passes over so many images."""
    if settings.image_limit is None:
        return settings.epochs
    return max(1, min(settings.epochs, settings.image_limit // images))


def _groups(
    ids: Sequence[str], context: StepContext, tags: Callable[[str], np.ndarray] | None
) -> list[np.ndarray] | None:
    """What an epoch takes images from in turn; None where it takes each once."""
    if context.settings.sampling == "uniform":
        return None
    of_images = np.array([(tags or context.dataset.tags)(image_id) for image_id in ids])
    if not of_images.any():
        raise UserError(
            f"sampling = class-aware takes images by their tags, and none of the {len(ids)} training images of "
            f"{context.dataset.name} has one; set sampling=uniform"
        )
    return groups_by_class(of_images)


def _optimizer(groups: list[dict[str, Any]], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


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
