"""The extra images of settings 2 and 3: another dataset's classes by name, and a filter for noisy tags."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsss.data import Dataset, open_dataset
from wsss.data.augmentation import normalise
from wsss.data.manifest import read_manifest
from wsss.data.parallel import some
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.mcis.network import square, warp
from wsss.methods.mcis.pairs import Pool
from wsss.methods.mcis.settings import McisTrainSettings
from wsss.stages.localize import Classifier
from wsss.stages.parts import once, part_of
from wsss.training import fit, parameter_groups

KEY = "extra/"
"""What the keys of extra images begin with; an id holds no slash."""
RECORD = "extra_tags.json"
BATCH = 16


def add_extra(context: StepContext, pool: Pool) -> tuple[Pool, dict[str, float]]:
    """Put the extra dataset's training images into the same pool.

    With noisy tags, those that the round-0 classifier does not believe are dropped; an image that loses all is left
    out, since nobody knows what is in it. `extra_tags.json` keeps what was kept.

    Returns:
        The larger pool and how many images and tags there were and were dropped.

    Raises:
        UserError: a class that the dataset does not have, or images that it holds out.
    """
    settings: McisTrainSettings = context.settings
    if settings.extra is None:
        return pool, {}
    extra = open_dataset(settings.extra)
    refuse_held_out(context.dataset, extra)
    tags = mapped_tags(context.dataset, extra)
    kept = tags if settings.extra_tags == "exact" else _believed(context, pool, extra, tags)
    emptied = [key for key in tags if tags[key].any() and not kept[key].any()]
    joined = {key: row for key, row in kept.items() if key not in emptied}
    counts = {
        "extra/images": len(joined),
        "extra/images_dropped": len(emptied),
        "extra/tags_dropped": sum(int((tags[key] & ~kept[key]).sum()) for key in tags),
    }
    sources = {key: (extra, key.removeprefix(KEY)) for key in joined}
    return Pool({**pool.tags, **joined}, {**pool.sources, **sources}), {k: float(v) for k, v in counts.items()}


def mapped_tags(dataset: Dataset, extra: Dataset) -> dict[str, np.ndarray]:
    """The tags of the extra training images (bool C) in the dataset's classes, by name; keys begin with "extra/".

    Raises:
        UserError: the extra dataset has a class that the dataset does not have.
    """
    names = dataset.classes.names
    if strange := [name for name in extra.classes.names if name not in names]:
        raise UserError(
            f"localize.train.extra = {extra.name} has the classes {some(strange)}, which dataset {dataset.name} does "
            f"not have; its classes must be among {', '.join(names)}"
        )
    found = {}
    for image_id in extra.splits["train"]:
        present = set(extra.tag_names(image_id))
        found[KEY + image_id] = np.array([name in present for name in names])
    return found


def refuse_held_out(dataset: Dataset, extra: Dataset) -> None:
    """Refuse extra training images that are, byte for byte, images of the dataset's dev or val.

    Raises:
        UserError: there are such images.
    """
    held_out = {*_hashes(dataset, "dev").values(), *_hashes(dataset, "val").values()}
    if shared := [image_id for image_id, digest in _hashes(extra, "train").items() if digest in held_out]:
        raise UserError(
            f"localize.train.extra = {extra.name} holds images of dev or val of dataset {dataset.name}, which nothing "
            f"may learn from: {some(shared)}; take them out of its train list"
        )


def believed_tags(tags: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """The tags (bool C) whose probability (float C, of the round-0 classifier) is at least the threshold."""
    return tags & (probabilities >= threshold)


def _hashes(dataset: Dataset, split: str) -> dict[str, str]:
    """The sha256 of the image files of a split, by id."""
    entries = read_manifest(dataset.root)
    paths = {i: dataset.image_path(i).relative_to(dataset.root).as_posix() for i in dataset.splits[split]}
    return {image_id: entries[path].sha256 for image_id, path in paths.items()}


def _believed(
    context: StepContext, pool: Pool, extra: Dataset, tags: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The tags that the round-0 classifier believes."""
    settings: McisTrainSettings = context.settings
    own = dataclasses.replace(settings, epochs=settings.filter_epochs, image_limit=None)
    part, names = part_of(context, "filter", settings=own), context.dataset.classes.names

    def ask(part: StepContext) -> dict[str, float]:
        classifier, keys, kept = _round_zero(part, pool), list(tags), dict[str, list[str]]()
        for start in range(0, len(keys), BATCH):
            chunk = keys[start : start + BATCH]
            images = [normalise(warp(extra.image(key.removeprefix(KEY)), settings.side)) for key in chunk]
            with torch.inference_mode():
                scores = classifier(torch.stack(images).to(context.device)).float().sigmoid().cpu().numpy()
            for key, probabilities in zip(chunk, scores, strict=True):
                believed = believed_tags(tags[key], probabilities, settings.filter_threshold)
                kept[key.removeprefix(KEY)] = [n for n, has in zip(names, believed, strict=True) if has]
        (part.out / RECORD).write_text(json.dumps(kept, indent=0), encoding="utf-8")
        return {}

    once(part, ask)
    shutil.copyfile(part.out / RECORD, context.out / RECORD)
    kept = json.loads((context.out / RECORD).read_text(encoding="utf-8"))
    return {key: np.array([name in kept[key.removeprefix(KEY)] for name in names]) for key in tags}


def _round_zero(context: StepContext, pool: Pool) -> Classifier:
    """A tag classifier trained on the dataset's own images alone, on the device, in eval mode."""
    settings: McisTrainSettings = context.settings
    torch.manual_seed(context.rng)
    model = Classifier(len(context.dataset.classes), settings.backbone, settings.weights, settings.output_stride, 0.0)

    def sample(key: str, draw: np.random.Generator) -> dict[str, Tensor]:
        pixels = square(pool.image(key), settings.side, settings.jitter, int(draw.integers(2**31)))
        return {"image": pixels, "tags": torch.from_numpy(pool.tags[key].astype(np.float32))}

    def loss(batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        scores = model(batch["image"].contiguous(memory_format=torch.channels_last))
        return F.multilabel_soft_margin_loss(scores, batch["tags"]), {}

    pretrained = settings.weights != "none"
    groups = parameter_groups(model.backbone if pretrained else None, [model.head] if pretrained else [model], settings)
    fit(model, groups, pool.keys, sample, loss, context, frozen_bn=settings.freeze_bn)
    return model
