"""Run a step once: fingerprint, reuse, one process at a time, atomic publication.

    <store>/<stage>.<implementation>.<step>/<fingerprint>/   finished outputs; complete when manifest.json is there
    <scratch>/<stage>.<implementation>.<step>/<fingerprint>/ what a running or interrupted step has so far

The store is a folder or an s3:// address; the scratch folder is always local.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from wsss import storage
from wsss.data import Dataset, open_dataset
from wsss.errors import UserError
from wsss.interface import Reporter, StepContext, StepResult
from wsss.run.plan import PlannedStep
from wsss.scores import Masks
from wsss.settings import flatten, settings_of

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.pt"


@dataclass
class StepRunner:
    """Runs the steps of one plan over one dataset.

    Attributes:
        dataset: images and tags.
        rng: the run's seed.
        device: where tensors live.
        work: the local folder of the scratch and, by default, the store.
        store: a folder or s3:// address.
        wait: wait for a step that another process is computing, instead of refusing.
        results: the finished steps by key.
    """

    dataset: Dataset
    rng: int
    device: torch.device
    work: Path = Path("work")
    store: str = ""
    wait: bool = False
    results: dict[str, StepResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = self.store or os.environ.get("WSSS_STORE", "") or str(self.work / "store")

    def fingerprint(self, planned: PlannedStep) -> str:
        """The sha256 over all that decides a step's output; its inputs must be finished.

        These are the step's name and version, its settings (files, folders and datasets by their content), the rng, its
        inputs' fingerprints, the dataset's digest, and the masks where the step is allowed to see them.
        """
        masks = Masks(self.dataset)
        content = {
            "step": _name(planned),
            "version": planned.step.version,
            "settings": _settings_for_fingerprint(planned),
            "rng": self.rng,
            "inputs": {need: self.results[key].fingerprint for need, key in planned.inputs.items()},
            "data": self.dataset.digest,
            "masks": [masks.digest(s) for s in self.dataset.splits] if "masks" in planned.supervision else None,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def run(self, planned: PlannedStep, report: Reporter) -> StepResult:
        """Run a step, or find its finished output.

        Raises:
            UserError: another process is computing the same step (unless `wait`), or whatever the step itself refuses.
        """
        fingerprint = self.fingerprint(planned)
        name = _name(planned)
        result = self._finished(planned, name, fingerprint)
        if result is None:
            scratch = self.work / "scratch" / name / fingerprint
            with storage.disk_errors(self.work), _only_process(scratch, planned.key, self.wait):
                result = self._finished(planned, name, fingerprint)
                if result is None:
                    result = self._compute(planned, name, fingerprint, scratch, report)
        self.results[planned.key] = result
        return result

    def _finished(self, planned: PlannedStep, name: str, fingerprint: str) -> StepResult | None:
        url = storage.join(self.store, name, fingerprint)
        try:
            manifest = json.loads(storage.read_bytes(storage.join(url, MANIFEST)))
        except FileNotFoundError:
            return None
        folder = Path(url)
        if storage.is_remote(self.store):
            folder = self.work / "cache" / name / fingerprint
            if not folder.exists():
                storage.download_folder(url, folder)
        seconds, memory = manifest["seconds"], manifest["peak_memory_mb"]
        return StepResult(planned.key, fingerprint, folder, True, seconds, memory, _metrics(folder))

    def _compute(
        self, planned: PlannedStep, name: str, fingerprint: str, scratch: Path, report: Reporter
    ) -> StepResult:
        scratch.mkdir(parents=True, exist_ok=True)
        masks = Masks(self.dataset) if "masks" in planned.supervision else None
        context = StepContext(
            settings=planned.settings,
            dataset=self.dataset,
            rng=_step_rng(self.rng, planned.key),
            device=self.device,
            out=scratch,
            inputs={need: self.results[key].folder for need, key in planned.inputs.items()},
            report=report,
            masks=masks,
        )
        started = time.monotonic()
        planned.step.run(context)
        seconds = time.monotonic() - started
        (scratch / CHECKPOINT).unlink(missing_ok=True)
        manifest = {
            "step": name,
            "version": planned.step.version,
            "settings": flatten(planned.settings),
            "rng": self.rng,
            "inputs": {need: self.results[key].fingerprint for need, key in planned.inputs.items()},
            "data": {"name": self.dataset.name, "digest": self.dataset.digest},
            "device": self.device.type,
            "seconds": seconds,
            "peak_memory_mb": _peak_memory_mb(self.device),
            "files": _files(scratch),
        }
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1))
        storage.upload_folder(scratch, storage.join(self.store, name, fingerprint), last=MANIFEST)
        result = self._finished(planned, name, fingerprint)
        shutil.rmtree(scratch, ignore_errors=True)
        assert result is not None
        return replace(result, reused=False)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        UserError: a GPU was asked for and there is none, or the name is no device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; choose from auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but this machine has no usable GPU; use --device cpu or auto")
    return torch.device(name)


def _name(planned: PlannedStep) -> str:
    return f"{planned.stage}.{planned.implementation}.{planned.step.name}"


def _step_rng(rng: int, key: str) -> int:
    """A seed below 2^31 for each step of a run."""
    return int.from_bytes(hashlib.sha256(f"{rng}/{key}".encode()).digest()[:4], "big") >> 1


def _settings_for_fingerprint(planned: PlannedStep) -> dict[str, Any]:
    values = flatten(planned.settings)
    for spec in settings_of(planned.step.settings):
        if spec.dataset and values[spec.key] is not None:
            values[spec.key] = open_dataset(values[spec.key]).digest
        if spec.file and Path(str(values[spec.key])).is_file():
            values[spec.key] = hashlib.sha256(Path(values[spec.key]).read_bytes()).hexdigest()
        if spec.folder and values[spec.key] is not None:
            values[spec.key] = _files(Path(values[spec.key]))
    return values


def _metrics(folder: Path) -> dict[str, float]:
    path = folder / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has used, in MB: the GPU's for a GPU, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


@contextmanager
def _only_process(scratch: Path, key: str, wait: bool) -> Iterator[None]:
    """Hold the step's lock, which the operating system gives back when a process dies.

    Raises:
        UserError: another process holds it and `wait` is off.
    """
    scratch.parent.mkdir(parents=True, exist_ok=True)
    owner = scratch.with_suffix(".owner")
    try:
        with FileLock(scratch.with_suffix(".lock"), timeout=-1 if wait else 0):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            yield
    except Timeout:
        who = owner.read_text() if owner.exists() else "another process"
        raise UserError(
            f"step {key} is being computed by {who}; wait until it is done, then run the same command"
        ) from None
