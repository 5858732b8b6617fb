"""`wsss import`: records of runs without a server into MLflow, models into the registry, steps into the store."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsss import storage, versions
from wsss.commands import command
from wsss.data import open_dataset
from wsss.data.described import described
from wsss.data.workspace import dataset_names
from wsss.errors import UserError
from wsss.interface import StepResult
from wsss.progress import ConsoleReporter, say
from wsss.registry.models import candidates, default_name, logged_model, publish, register
from wsss.run.method import LABELS, WORK, Outcome
from wsss.run.plan import Plan, make_plan
from wsss.run.store import StepStore
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.importing import Record, bring_in, finish, load_record
from wsss.tracking.offline import OpenRun
from wsss.tracking.outbox import SPOOL, Outbox
from wsss.tracking.record import STORE, RunFile, record_folders
from wsss.tracking.runs import MethodRun

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Imported:
    """A record that is in MLflow.

    Attributes:
        file: what it says of itself.
        status: that of the run.
        new: whether anything of it was not there before.
        model: the address of the registered version; empty without a model.
        left_out: how many of its files were left out when it was packed.
    """

    file: RunFile
    status: str
    new: bool
    model: str
    left_out: int


def import_records(out: Path, left_out: Collection[str] = ()) -> Iterator[Imported | UserError]:
    """Bring in every record of OUT; what is wrong with one keeps none of the others.

    Args:
        out: the folder that `wsss run --offline` wrote.
        left_out: the files, relative to it, that were left out when it was packed.

    Raises:
        UserError: OUT holds no record, or the tracking store can't be used.
    """
    folders = record_folders(out)
    if not folders:
        raise UserError(
            f"{out} holds no record of a run; name the folder of `{command('wsss', 'run', '--offline', 'OUT')}`, "
            "or its packs"
        )
    mlflow_client()
    for folder in folders:
        start = f"{folder.relative_to(out).as_posix()}/"
        own = [name.removeprefix(start) for name in left_out if name.startswith(start)]
        try:
            yield _import(load_record(folder, own))
        except UserError as error:
            yield error


def _import(record: Record) -> Imported:
    _check_dataset(record.file)
    client = mlflow_client()
    run, new = bring_in(client, record, WORK)
    try:
        plan = make_plan(record.file.method, record.file.preset, record.params)
    except UserError as error:
        say(f"the model of run {record.file.id} is not registered, its settings are another version's: {error}")
        address = ""
    else:
        _keep_labels(plan, record, run)
        address = _publish(plan, record, run)
    if new:
        finish(client, record, run)
    return Imported(record.file, record.ended[0], new, address, len(record.left_out))


def _check_dataset(file: RunFile) -> None:
    """Refuse a record of other data than what goes by that name here; data that is not here is no hindrance."""
    if file.dataset in dataset_names():
        here = open_dataset(file.dataset)
        if here.digest != file.digest:
            raise UserError(
                f"run {file.id} ({file.title}) is of a dataset {file.dataset} with digest {file.digest[:12]}, the one "
                f"in {here.root} has {here.digest[:12]}; rename the one here, or import in another folder"
            )


def _keep_labels(plan: Plan, record: Record, run: Run) -> None:
    """Give the label maps of a run a DVC version, once, where they are in the store."""
    key = next((planned.key for planned in reversed(plan.steps) if planned.stage == "refine"), "")
    fingerprint = record.step_fingerprints.get(key)
    if fingerprint is None or names.LABELS_MD5 in run.data.tags:
        return
    outputs = _store().find(next(planned.work.name for planned in plan.steps if planned.key == key), fingerprint)
    if outputs is None:
        return
    labels = outputs[0] / LABELS
    version = versions.store(labels)
    run_id = run.info.run_id
    outbox = Outbox(mlflow_client(), WORK / SPOOL / run_id, run_id)
    opened = OpenRun(run_id, run.info.experiment_id, outbox, beat=lambda: None, close=outbox.close)
    MethodRun(opened, ConsoleReporter).labels(version, str(labels), versions.manifest(version.md5))
    outbox.close()


def _publish(plan: Plan, record: Record, run: Run) -> str:
    """Package, log and register the network of a record, once; the address of the version."""
    if record.model is None:
        return ""
    folder, facts = record.model
    dataset = described(facts, f"the record {record.folder}")
    if dataset.name != record.file.dataset:
        raise UserError(f"the record {record.folder} is of {record.file.dataset}, its model of {dataset.name}: damaged")
    if logged := logged_model(run):
        return register(logged, candidates(default_name(dataset.name, plan.supervision))).address
    trained = StepResult(plan.model, "", folder, False, 0.0, 0.0, {})
    return publish(plan, dataset, trained, Outcome(run.info.run_id, metrics=dict(run.data.metrics)))


def _store() -> StepStore:
    return StepStore(storage.store_address(WORK / "store"), WORK / "cache")


def import_steps(out: Path) -> int:
    """Bring the outputs of steps in OUT into the store, where they are not there yet; each is checked first.

    Returns:
        How many came.
    """
    source = StepStore(str(out / STORE), WORK / "cache")
    target = _store()
    count = 0
    for name in storage.list_dirs(source.url):
        for fingerprint in storage.list_dirs(storage.join(source.url, name)):
            if name.startswith(".") or fingerprint.startswith(".") or target.manifest(name, fingerprint):
                continue
            outputs = source.find(name, fingerprint)
            if outputs is None:
                continue
            folder, manifest = outputs
            if (manifest["step"], manifest["fingerprint"]) != (name, fingerprint):
                say(f"{folder} is the output of another step, as its manifest says; it is left there")
                continue
            scratch = WORK / "scratch"
            with storage.disk_errors(scratch):
                scratch.mkdir(parents=True, exist_ok=True)
                storage.remove_unfinished(scratch)
                part = storage.unfinished(scratch / name)
                try:
                    shutil.copytree(folder, part)
                    target.publish(name, fingerprint, part)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
            count += 1
    return count
