"""Label maps made in one stream from images and tags."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wsss.commands import command
from wsss.data import Dataset, open_dataset
from wsss.data.label_maps import EncodedLabelMap, LabelMaps, LabelMapWriter
from wsss.errors import UserError
from wsss.interface import Reporter
from wsss.progress import ConsoleReporter
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner, choose_device
from wsss.stages.inference import id_batches
from wsss.stages.labelling import Labelling
from wsss.stream import use_own_cores

IMAGES_A_SHARD = 256
"""Images that a machine of a cluster is given at once."""


def make_labels(
    labelling: Labelling,
    ids: Sequence[str],
    to: Path,
    device: torch.device,
    report: Reporter,
    ray_address: str | None = None,
) -> LabelMaps:
    """Make label maps in one stream: read, infer, refine, encode and write, all at the same time, in bounded memory.

    An interrupted call goes on where it stopped.

    Args:
        labelling: what makes them.
        ids: of the images.
        to: the folder; it appears complete or not at all.
        device: where the network runs; on a cluster, each machine uses its GPUs if it has some.
        report: what hears of the progress.
        ray_address: of a Ray cluster whose machines share the work, see `wsss.run.cluster.spread`.

    Raises:
        UserError: the folder exists, or no cluster answers.
    """
    if to.exists():
        raise UserError(f"{to} exists; name a folder that does not exist yet")
    dataset = Dataset.open(labelling.dataset)
    weights = hashlib.sha256((labelling.classifier / "model.safetensors").read_bytes()).hexdigest()
    what = hashlib.sha256(repr((labelling, dataset.digest, weights, list(ids))).encode()).hexdigest()
    unfinished = to.with_name(f".{to.name}-{what[:16]}")
    with LabelMapWriter(unfinished, resume=True) as writer:
        if ray_address is None:
            use_own_cores()
            made = labelling.stream(ids, device, writer.kept)
        else:
            made = _on_a_cluster(labelling, id_batches(dataset, ids, device), writer.kept, ray_address)
        for done, (image_id, labels) in enumerate(made, len(writer.kept) + 1):
            writer.add(image_id, labels)
            report.progress(done, len(ids), "images")
    os.replace(unfinished, to)
    return LabelMaps(to)


def _on_a_cluster(
    labelling: Labelling, batches: Sequence[Sequence[str]], kept: frozenset[str], address: str
) -> Iterator[tuple[str, EncodedLabelMap]]:
    """The stream of a labelling, shard by shard of whole batches."""
    from wsss.run.cluster import spread

    shards: list[list[str]] = [[]]
    for batch in batches:
        if not kept.issuperset(batch):
            shards[-1] += batch
        if len(shards[-1]) >= IMAGES_A_SHARD:
            shards.append([])

    def work(ids: list[str], device: torch.device) -> Iterator[dict[str, Any]]:
        for image_id, labels in labelling.stream(ids, device, kept):
            yield {"id": image_id, "png": labels.png, "shape": list(labels.shape), "sha256": labels.sha256}

    for row in spread(work, [shard for shard in shards if shard], address):
        height, width = row["shape"]
        yield row["id"], EncodedLabelMap(row["png"], (int(height), int(width)), row["sha256"])


def make_cam_labels(
    preset: str,
    data: str,
    to: Path,
    *,
    rng: int = 0,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    ray_address: str | None = None,
) -> LabelMaps:
    """The label maps of method CAM for train and dev, those that `wsss run --method cam --until refine` ends with.

    Its classifier is trained where it was not before; see `wsss.run.method.run_method` for the arguments.

    Raises:
        UserError: names, settings or data that can't be, or settings that ask for another localizer or refiner.
    """
    plan = make_plan("cam", preset, overrides)
    settings = {planned.key: planned.settings for planned in plan.steps}
    if any(planned.implementation != "cam" for planned in plan.steps if planned.stage in ("localize", "refine")):
        raise UserError(
            "the stream makes the labels of method cam; for others, use "
            f"`{command('wsss', 'run', '--until', 'refine')}`"
        )
    planned = next(planned for planned in plan.steps if planned.key == "localize.train")
    planned.check()
    dataset = open_dataset(data)
    dataset.check_trainable()
    dataset.check()
    runner = StepRunner(dataset, rng, choose_device(device))
    trained = runner.run(planned, ConsoleReporter(planned.key))
    labelling = Labelling(
        dataset.root,
        trained.folder.absolute(),
        settings["localize.infer"],
        settings["refine.background"],
        settings["refine.crf"],
    )
    ids = [*dataset.splits["train"], *dataset.splits["dev"]]
    return make_labels(labelling, ids, to, runner.device, ConsoleReporter("labels"), ray_address)
