"""Bring a step store of the first format under today's fingerprints.

A manifest of the first format has no number. Its fingerprint lacked what of the machine changes an output, and the
machine's number format and CRF backend were not written down: of a folder they are taken to be this machine's.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import wsss.methods as methods
from wsss import storage
from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.interface import Step
from wsss.run.fingerprints import content_settings, machine, mask_digests, step_fingerprint
from wsss.run.plan import PlannedStep
from wsss.run.store import FORMAT, MANIFEST, DamagedError, StepStore, check
from wsss.settings import parse
from wsss.stages.evaluate import EVALUATIONS
from wsss.training import TrainingSettings

ANOTHER_VERSION = "of another version of their step"
CHANGED = "whose dataset, masks, weights or folders are not here as they were"
BEHIND = "that read a step that was left"
UNKNOWN_MACHINE = "of a machine whose number format or CRF backend is not known"
DAMAGED = "with files that are not those of their manifest"


@dataclass
class _LeftError(Exception):
    """An output that can't be brought over, and why."""

    reason: str


@dataclass
class Migration:
    """What became of a store's outputs of the first format.

    Attributes:
        moved: how many are under their new fingerprint now.
        left: why others were left as they are, and how many.
    """

    moved: int = 0
    left: Counter[str] = field(default_factory=Counter)


def migrate(store: str, work: Path, made_here: bool) -> Migration:
    """Move a store's outputs of the first format under their new fingerprints, where their manifests decide these.

    A call that was cut off is completed by the next one.

    Args:
        store: a folder or s3:// address.
        work: a local folder; outputs in a bucket are downloaded below it, checked and uploaded again.
        made_here: take the number format and the CRF backend, which the manifests don't tell, to be this machine's.

    Raises:
        UserError: the store can't be reached or written.
    """
    return _Migration(StepStore(store, work / "cache"), work, made_here).run()


def is_of_the_first_format(planned: PlannedStep, store: str, data: str, masks: Sequence[str], rng: int) -> bool:
    """Whether a store has a step's output (one without inputs) from before the fingerprints changed."""
    fingerprint = first_fingerprint(planned, {}, data, masks, rng)
    return storage.exists(storage.join(store, planned.name, fingerprint, MANIFEST))


def first_fingerprint(
    planned: PlannedStep, inputs: Mapping[str, str], data: str, masks: Sequence[str], rng: int
) -> str:
    """A step's fingerprint as the first format had it; see `wsss.run.fingerprints.step_fingerprint`."""
    content = {
        "step": planned.name,
        "version": planned.step.version,
        "settings": content_settings(planned),
        "rng": rng,
        "inputs": dict(inputs),
        "data": data,
        "masks": list(masks) if "masks" in planned.step.supervision else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class _Migration:
    """One call of `migrate`."""

    def __init__(self, store: StepStore, work: Path, made_here: bool) -> None:
        self._store, self._work, self._made_here = store, work, made_here
        self._steps = _steps()
        self._manifests: dict[str, dict[str, Any]] = {}
        self._new: dict[str, str | _LeftError] = {}

    def run(self) -> Migration:
        """Read all manifests, decide every new fingerprint from its inputs' on, and move."""
        done = Migration()
        for name in storage.list_dirs(self._store.url):
            for fingerprint in [] if name.startswith(".") else storage.list_dirs(storage.join(self._store.url, name)):
                manifest = self._read(name, fingerprint)
                if manifest.get("format") == FORMAT and "was" in manifest:
                    self._new[manifest["was"]] = manifest["fingerprint"]
                    if fingerprint == manifest["was"]:
                        self._rename(name, fingerprint, manifest["fingerprint"])
                        done.moved += 1
                elif manifest and "format" not in manifest:
                    self._manifests[fingerprint] = manifest
        for fingerprint in self._manifests:
            self._decide(fingerprint)
        for fingerprint in self._manifests:
            try:
                new = self._new[fingerprint]
                if isinstance(new, _LeftError):
                    raise new
                self._move(fingerprint, new)
                done.moved += 1
            except _LeftError as left:
                done.left[left.reason] += 1
        return done

    def _read(self, name: str, fingerprint: str) -> dict[str, Any]:
        try:
            manifest = json.loads(storage.read_bytes(storage.join(self._store.url, name, fingerprint, MANIFEST)))
        except (FileNotFoundError, ValueError):
            return {}
        return manifest if isinstance(manifest, dict) and manifest.get("step") == name else {}

    def _decide(self, fingerprint: str) -> str | _LeftError:
        """The new fingerprint of an output of the first format, or why there is none."""
        if fingerprint not in self._new:
            if fingerprint not in self._manifests:
                return _LeftError(BEHIND)
            try:
                self._new[fingerprint] = self._fingerprint(fingerprint, self._manifests[fingerprint])
            except _LeftError as left:
                self._new[fingerprint] = left
        return self._new[fingerprint]

    def _fingerprint(self, fingerprint: str, manifest: Mapping[str, Any]) -> str:
        planned, data, rng = self._planned(manifest), manifest["data"], manifest["rng"]
        masks: list[str] = []
        if "masks" in planned.step.supervision:
            masks = _masks(data)
        if first_fingerprint(planned, manifest["inputs"], data["digest"], masks, rng) != fingerprint:
            raise _LeftError(CHANGED)
        inputs = {need: self._decide(of) for need, of in manifest["inputs"].items()}
        new = {need: of for need, of in inputs.items() if isinstance(of, str)}
        if len(new) < len(manifest["inputs"]):
            raise _LeftError(BEHIND)
        device = torch.device(manifest["device"])
        known = self._made_here and (device.type == "cpu" or torch.cuda.is_available())
        if not known and _depends_on_the_machine(planned, device):
            raise _LeftError(UNKNOWN_MACHINE)
        return step_fingerprint(planned, new, data["digest"], masks, rng, device)

    def _planned(self, manifest: Mapping[str, Any]) -> PlannedStep:
        step = self._steps.get(manifest["step"])
        if step is None or step.version != manifest["version"]:
            raise _LeftError(ANOTHER_VERSION)
        stage, implementation, _ = manifest["step"].split(".")
        try:
            settings = parse(step.settings, manifest["settings"])
        except UserError:
            raise _LeftError(ANOTHER_VERSION) from None
        return PlannedStep(stage, implementation, step, settings, {})

    def _move(self, fingerprint: str, new: str) -> None:
        """Give an output its new manifest and its new place."""
        manifest = self._manifests[fingerprint]
        name, url = manifest["step"], storage.join(self._store.url, manifest["step"], fingerprint)
        planned = self._planned(manifest)
        content = {
            "format": FORMAT,
            **{key: value for key, value in manifest.items() if key != "files"},
            "fingerprint": new,
            "was": fingerprint,
            "inputs": {need: self._new[of] for need, of in manifest["inputs"].items()},
            "machine": machine(planned, torch.device(manifest["device"])),
            "folder": "",
            "files": manifest["files"],
        }
        text = json.dumps(content, indent=1).encode()
        try:
            if not storage.is_remote(url):
                check(Path(url), manifest)
                storage.write_bytes(Path(url, MANIFEST), text)
                self._rename(name, fingerprint, new)
                return
            local = self._work / "migrate" / name / fingerprint
            storage.remove_folder(local)
            storage.download_folder(url, local, list(manifest["files"]), lambda part: check(part, manifest))
        except (DamagedError, FileNotFoundError):
            raise _LeftError(DAMAGED) from None
        storage.write_bytes(local / MANIFEST, text)
        self._store.publish(name, new, local)
        storage.remove_folder(local)
        storage.remove(url)

    def _rename(self, name: str, fingerprint: str, new: str) -> None:
        """Move an output in a folder; where the new place is taken, its step was computed anew and this one goes."""
        folder = Path(self._store.url, name)
        if not storage.move_folder(folder / fingerprint, storage.inside(folder, new)):
            storage.remove_folder(folder / fingerprint)


def _steps() -> dict[str, Step]:
    """All steps by name."""
    steps = {f"evaluate.masks.{name}": step for name, step in EVALUATIONS.items()}
    for method in methods.names():
        for kind, stage in methods.load(method).stages.items():
            steps |= {f"{kind}.{stage.name}.{step.name}": step for step in stage.steps}
    return steps


def _depends_on_the_machine(planned: PlannedStep, device: torch.device) -> bool:
    """Whether the machine's CRF backend, or its own number format, decides an output; CPUs all train in float32."""
    chosen = getattr(planned.settings, "precision", "float32") != "auto"
    trained = isinstance(planned.settings, TrainingSettings) and device.type == "cpu"
    return "crf" in planned.step.uses or not (chosen or trained)


def _masks(data: Mapping[str, Any]) -> list[str]:
    """The digests of the masks of the dataset that a manifest names."""
    try:
        dataset = open_dataset(data["name"])
    except UserError:
        raise _LeftError(CHANGED) from None
    if dataset.digest != data["digest"]:
        raise _LeftError(CHANGED)
    return mask_digests(dataset)
