"""Run a step once: fingerprint, reuse, one process at a time, publication.

    <work>/scratch/<stage>.<implementation>.<step>/<fingerprint>/    what a step has so far: one that runs, one that was
                                                                     interrupted, one that is finished but not published

The scratch folder is always local; `wsss.run.store` says what lies in the store, `wsss.run.lease` who may compute.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from wsss import storage
from wsss.commands import command
from wsss.data import Dataset
from wsss.data.image_memory import memory_for_images
from wsss.errors import OutOfTimeError, UserError
from wsss.interface import Reporter, StepContext, StepResult
from wsss.process import own_cores
from wsss.progress import say
from wsss.run.deadline import UntilDeadline
from wsss.run.fingerprints import machine, mask_digests, step_fingerprint
from wsss.run.lease import lease
from wsss.run.migrate import is_of_the_first_format
from wsss.run.plan import PlannedStep
from wsss.run.store import StepStore, is_whole, write_manifest
from wsss.scores import Masks
from wsss.settings import flatten
from wsss.training import CHECKPOINT

SPENT = "seconds.txt"
"""In a scratch folder: how long the attempts that were stopped took."""


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
        deadline: when the work stops, on the clock of `time.monotonic`; `run` then raises OutOfTimeError.
        workers: how many processes share a training that can be shared, by Ray Train.
        ray_address: of the cluster that they are on.
        results: the finished steps by key.
    """

    dataset: Dataset
    rng: int
    device: torch.device
    work: Path = Path("work")
    store: str = ""
    wait: bool = False
    deadline: float = math.inf
    workers: int = 1
    ray_address: str = "local"
    results: dict[str, StepResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = self.store or storage.store_address(self.work / "store")
        self._masks: list[str] | None = None

    def fingerprint(self, planned: PlannedStep) -> str:
        """The step's fingerprint, as `wsss.run.fingerprints` has it; its inputs must be finished."""
        inputs = {need: self.results[key].fingerprint for need, key in planned.inputs.items()}
        digest, masks = self.dataset.digest, self._mask_digests()
        return step_fingerprint(planned, inputs, digest, masks, self.rng, self.device, self.workers)

    def run(self, planned: PlannedStep, report: Reporter) -> StepResult:
        """Run a step, or find its finished output.

        Raises:
            UserError: another process is computing the same step (unless `wait`), or whatever the step itself refuses.
            OutOfTimeError: the deadline is over and the step is not done; what there is of it goes on in the next call.
        """
        planned = planned.work
        fingerprint = self.fingerprint(planned)
        result = self._finished(planned, fingerprint)
        if result is None:
            if time.monotonic() >= self.deadline:
                raise OutOfTimeError(f"there is no time left to begin step {planned.key}")
            scratch = self.work / "scratch" / planned.name / fingerprint
            with (
                storage.disk_errors(self.work),
                _only_process(scratch, planned.key, self.wait, self.deadline),
                lease(self.store, f"{planned.name}.{fingerprint}", f"step {planned.key}", self.wait, self.deadline),
            ):
                result = self._finished(planned, fingerprint) or self._compute(planned, fingerprint, scratch, report)
        self.results[planned.key] = result
        return result

    def _mask_digests(self) -> list[str]:
        if self._masks is None:
            self._masks = mask_digests(self.dataset)
        return self._masks

    @cached_property
    def _in_memory(self) -> Dataset:
        """The dataset as steps read it: an image that one has read is there for the next."""
        return self.dataset.in_memory(memory_for_images())

    @property
    def _store(self) -> StepStore:
        return StepStore(self.store, self.work / "cache")

    def _finished(self, planned: PlannedStep, fingerprint: str) -> StepResult | None:
        outputs = self._store.find(planned.name, fingerprint)
        if outputs is None:
            return None
        folder, manifest = outputs
        seconds, memory = manifest["seconds"], manifest["peak_memory_mb"]
        return StepResult(planned.key, fingerprint, folder, True, seconds, memory, _metrics(folder))

    def _compute(self, planned: PlannedStep, fingerprint: str, scratch: Path, report: Reporter) -> StepResult:
        """Compute a step, unless that was done and only its publication failed, and publish it."""
        scratch.mkdir(parents=True, exist_ok=True)
        for folder in (scratch, *(path for path in scratch.rglob("*") if path.is_dir())):
            storage.remove_unfinished(folder)
        self._store.discard(planned.name, fingerprint)
        published = is_whole(scratch)
        if published:
            say(f"step {planned.key} was computed before and is published now")
        else:
            self._tell_of_migration(planned)
            self._work(planned, fingerprint, scratch, report)
        try:
            self._store.publish(planned.name, fingerprint, scratch)
        except UserError as error:
            raise UserError(
                f"step {planned.key} is computed but could not be published; the same command publishes it: {error}"
            ) from error
        result = self._finished(planned, fingerprint)
        if result is None:
            raise UserError(f"what was published of step {planned.key} in {self.store} can't be read back; look there")
        shutil.rmtree(scratch, ignore_errors=True)
        return replace(result, reused=published)

    def _tell_of_migration(self, planned: PlannedStep) -> None:
        if not planned.inputs and is_of_the_first_format(
            planned, self.store, self.dataset.digest, self._mask_digests(), self.rng
        ):
            say(
                f"{self.store} has step {planned.key} of an earlier version; "
                f"`{command('wsss', 'migrate')}` brings such outputs over"
            )

    def _work(self, planned: PlannedStep, fingerprint: str, scratch: Path, report: Reporter) -> None:
        """Run a step in its scratch folder and write the manifest of what it left."""
        inputs = {need: self.results[key] for need, key in planned.inputs.items()}
        context = StepContext(
            settings=planned.settings,
            dataset=self._in_memory,
            rng=_step_rng(self.rng, planned.key),
            device=self.device,
            out=scratch,
            inputs={need: result.folder for need, result in inputs.items()},
            report=report if self.deadline == math.inf else UntilDeadline(report, self.deadline),
            masks=Masks(self.dataset) if "masks" in planned.supervision else None,
            deadline=self.deadline,
        )
        spent = scratch / SPENT
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.monotonic() - (float(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0)
        try:
            if self.workers > 1 and planned.step.workers:
                from wsss.run.together import run_together

                run_together(planned.step.run, replace(context, dataset=self.dataset), self.workers, self.ray_address)
            else:
                planned.step.run(context)
        except BaseException as error:
            storage.write_bytes(spent, str(time.monotonic() - started).encode())
            if isinstance(error, OutOfTimeError):
                raise OutOfTimeError(f"step {planned.key}: {error}") from None
            raise
        seconds = time.monotonic() - started
        for working in (CHECKPOINT, SPENT):
            (scratch / working).unlink(missing_ok=True)
        facts = {
            "step": planned.name,
            "fingerprint": fingerprint,
            "version": planned.step.version,
            "settings": flatten(planned.settings),
            "rng": self.rng,
            "inputs": {need: result.fingerprint for need, result in inputs.items()},
            "data": {"name": self.dataset.name, "digest": self.dataset.digest},
            "machine": machine(planned, self.device, self.workers),
            "device": self.device.type,
            "cores": own_cores(),
            "seconds": seconds,
            "peak_memory_mb": _peak_memory_mb(self.device),
        }
        write_manifest(scratch, facts)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        UserError: a GPU was asked for and there is none, or the name is no device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}; choose from auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but this machine has no usable GPU; use --device cpu or auto")
    if name == "cuda":
        _tell_of_other_gpus()
    return torch.device(name)


@cache
def _tell_of_other_gpus() -> None:
    if (count := torch.cuda.device_count()) > 1:
        say(
            f"of {count} GPUs the first is used, {torch.cuda.get_device_name()}; CUDA_VISIBLE_DEVICES chooses another, "
            "and several runs use several"
        )


def _step_rng(rng: int, key: str) -> int:
    """A seed below 2^31 for each step of a run."""
    return int.from_bytes(hashlib.sha256(f"{rng}/{key}".encode()).digest()[:4], "big") >> 1


def _metrics(folder: Path) -> dict[str, float]:
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _peak_memory_mb(device: torch.device) -> float:
    """The most memory used, in MB: on a GPU the step's tensors, else what was resident in the process's life."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


@contextmanager
def _only_process(scratch: Path, key: str, wait: bool, deadline: float) -> Iterator[None]:
    """Hold the step's lock, which the operating system gives back when a process dies.

    Raises:
        UserError: another process holds it and `wait` is off.
        OutOfTimeError: it holds it until the deadline.
    """
    patience = -1.0 if deadline == math.inf else max(0.0, deadline - time.monotonic())
    scratch.parent.mkdir(parents=True, exist_ok=True)
    owner = scratch.with_suffix(".owner")
    try:
        with FileLock(scratch.with_suffix(".lock"), timeout=patience if wait else 0):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
    except Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        if wait:
            raise OutOfTimeError(f"step {key} is still being computed by {who}") from None
        raise UserError(
            f"step {key} is being computed by {who}; wait until it is done, then run the same command"
        ) from None
