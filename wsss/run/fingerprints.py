"""Fingerprints: what decides a step's output, as one hash that is known before anything runs.

A fingerprint is the sha256 over the step's name and version, its settings, the rng, its inputs' fingerprints, the
dataset's digest, the masks where the step may see them, and what of the machine changes an output: the kind of device
and the number format where it runs a network, the backend where it runs a CRF. Files, folders and datasets are in it by
their content, never by their names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wsss.data import Dataset, open_dataset
from wsss.run.plan import Plan, PlannedStep
from wsss.scores import Masks
from wsss.settings import flatten, settings_of

_DIGESTS: dict[tuple[int, ...], str] = {}
"""The sha256 of files that were read, by device, inode, size and time."""


def fingerprints(plan: Plan, dataset: Dataset, rng: int, device: torch.device, workers: int = 1) -> dict[str, str]:
    """The fingerprint of every step of a plan, evaluations among them.

    Nothing is computed, asked or written; only files and folders that settings name are read, once by each process
    while they stay as they are.

    Args:
        plan: the steps with their settings.
        dataset: what it runs on.
        rng: the run's seed.
        device: where it runs, on this machine.
        workers: how many share the trainings that can be shared.

    Returns:
        Step key, such as "refine.walk", to 64 hexadecimal digits.

    Raises:
        UserError: a dataset that a setting names is not there.
    """
    masks = mask_digests(dataset)
    of_steps: dict[str, str] = {}
    for planned in plan.steps:
        inputs = {need: of_steps[key] for need, key in planned.inputs.items()}
        of_steps[planned.key] = step_fingerprint(planned, inputs, dataset.digest, masks, rng, device, workers)
    return of_steps


def step_fingerprint(
    planned: PlannedStep,
    inputs: Mapping[str, str],
    data: str,
    masks: Sequence[str],
    rng: int,
    device: torch.device,
    workers: int = 1,
) -> str:
    """The fingerprint of one step: 64 hexadecimal digits.

    Args:
        planned: the step with its settings.
        inputs: the fingerprints of its inputs, by the names in `Step.inputs`.
        data: the dataset's digest.
        masks: its `mask_digests`; they count where the step declares the supervision "masks".
        rng: the run's seed.
        device: where it runs, on this machine.
        workers: how many share the step, where it can be shared.
    """
    planned = planned.work
    content = {
        "step": planned.name,
        "version": planned.step.version,
        "settings": content_settings(planned) | _number_format(planned, device),
        "rng": rng,
        "inputs": dict(inputs),
        "data": data,
        "masks": list(masks) if "masks" in planned.supervision else None,
        "machine": machine(planned, device, workers),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def machine(planned: PlannedStep, device: torch.device, workers: int = 1) -> dict[str, str]:
    """What of the machine changes a step's output, by `Step.uses`, such as {"device": "cpu", "crf": "native"}.

    Several workers draw other random numbers for dropout, and a loss that is no mean over images weighs their parts.
    """
    facts = {}
    if "network" in planned.step.uses:
        facts["device"] = device.type
    if "crf" in planned.step.uses:
        from wsss.ops.crf import choose_backend

        facts["crf"] = choose_backend("auto")
    if planned.step.workers and workers > 1:
        facts["workers"] = str(workers)
    return facts


def content_settings(planned: PlannedStep) -> dict[str, Any]:
    """A step's settings, flattened, with the content of the datasets, files and folders that they name."""
    values = flatten(planned.settings)
    for spec in settings_of(planned.step.settings):
        named = values[spec.key]
        if spec.dataset and named is not None:
            values[spec.key] = open_dataset(named).digest
        if spec.file and Path(str(named)).is_file():
            values[spec.key] = file_digest(Path(named))
        if spec.folder and named is not None:
            values[spec.key] = file_digests(Path(named))
    return values


def mask_digests(dataset: Dataset) -> list[str]:
    """The digests of a dataset's masks, split by split."""
    masks = Masks(dataset)
    return [masks.digest(split) for split in dataset.splits]


def file_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and sha256 of every file below a folder, by its relative path with forward slashes."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def file_digest(path: Path) -> str:
    """The sha256 of a file in hexadecimal; read once by each process, wherever it is moved, while it stays as it is."""
    state = path.stat()
    key = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    if key not in _DIGESTS:
        with path.open("rb") as file:
            _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[key]


def _number_format(planned: PlannedStep, device: torch.device) -> dict[str, str]:
    """The setting "precision" as what it comes down to on the device."""
    if not hasattr(planned.settings, "number_format"):
        return {}
    return {"precision": str(planned.settings.number_format(device)).removeprefix("torch.")}
