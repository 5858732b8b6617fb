"""Run a method over a dataset from its tags to a registered model: the one implementation behind every command.

`wsss run`, `mlflow run`, the DVC stages and the search call `run_method`.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss import git, versions
from wsss.data import Dataset, open_dataset
from wsss.data.described import facts
from wsss.errors import UserError, unknown
from wsss.interface import STAGES, StepResult
from wsss.progress import ConsoleReporter, say
from wsss.run.fingerprints import content_settings, mask_digests
from wsss.run.panels import run_maps, run_panels
from wsss.run.plan import Plan, check_background, make_plan
from wsss.run.steps import StepRunner, choose_device
from wsss.scores import Masks, metric_names
from wsss.scores.evaluation import WITHOUT_OBJECTS, joined
from wsss.settings import settings_of
from wsss.stages.evaluate import read_evaluations
from wsss.storage import store_address
from wsss.stream import use_own_cores
from wsss.tracking import names
from wsss.tracking.info import DatasetInfo, RunInfo
from wsss.tracking.record import STORE
from wsss.tracking.runs import MethodRun, method_run

WORK = Path("work")
LABELS = "labels_crf"
"""What the refine stage ends with, in the output of its last step."""


@dataclass
class Outcome:
    """What a run leaves to its caller.

    Attributes:
        run_id: MLflow's, or of the record without a server; empty for a run that is not tracked.
        steps: the finished steps by key, evaluations among them.
        metrics: every metric by its metric name.
        model: the address of the registered version, where a segmenter was trained in a tracked run.
    """

    run_id: str = ""
    steps: dict[str, StepResult] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    model: str = ""


Publish = Callable[[Plan, Dataset, StepResult, Outcome], str]
"""From what was run, on what, the trained network's step and what is known of the run to the registered address."""


def run_method(
    method: str,
    preset: str,
    data: str,
    *,
    rng: int = 0,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    until: str | None = None,
    track: bool = True,
    keep_version: bool = True,
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    wait: bool = False,
    publish: Publish | None = None,
    offline: Path | None = None,
    deadline: float = math.inf,
    workers: int = 1,
    ray_address: str = "local",
) -> Outcome:
    """Run a method's stages; every step that was done before with equal inputs is reused.

    Args:
        method, preset: their names.
        data: a dataset's name, or its folder.
        rng: the seed.
        overrides: settings by key, values or their text.
        device: "auto", "cpu" or "cuda".
        until: the last stage to run; all by default.
        track: log to MLflow and score against the masks.
        keep_version: give the labels a DVC version; off inside a search, which must not touch DVC.
        parent: the id of the MLflow run that this one is a part of.
        tags: more tags of the MLflow run.
        wait: wait for a step that another process is computing, instead of refusing.
        publish: packages and registers the trained network, such as `wsss.registry.models.publish`.
        offline: the folder of the run's record, where there is neither MLflow nor DVC: see `wsss.tracking.offline`.
            Steps' outputs lie in WSSS_STORE, else in `store` there; the network is kept, to be published by whoever
            brings the record into MLflow.
        deadline: when to stop, on the clock of `time.monotonic`.
        workers: how many processes share each training that can be shared.
        ray_address: of the cluster that they are on; "local" is one made of this process's cores.

    Raises:
        OutOfTimeError: the deadline came first; the same call goes on from there.
        UserError: whatever is wrong with the names, the settings, the data or the stores, before any work.
    """
    use_own_cores()
    plan, dataset = _plan_and_data(method, preset, data, overrides, until)
    runner = StepRunner(
        dataset,
        rng,
        choose_device(device),
        WORK,
        "" if offline is None else store_address(offline / STORE),
        wait=wait,
        deadline=deadline,
        workers=workers,
        ray_address=ray_address,
    )
    outcome = Outcome(steps=runner.results)
    if not track:
        for planned in plan.steps:
            if planned.stage != "evaluate" and _within(planned.stage, until):
                runner.run(planned, ConsoleReporter(planned.key))
        return outcome
    keep_version = keep_version and offline is None
    info = _run_info(plan, dataset, rng, keep_version, dict(tags or {}))
    with method_run(info, work=WORK, parent=parent, offline=offline) as run:
        outcome.run_id = run.id
        for kind in STAGES[:-1]:
            if _within(kind, until) and any(p.stage == kind for p in plan.steps):
                _run_stage(kind, plan, runner, run, outcome)
                if kind == "refine" and keep_version:
                    _keep_labels(runner, run)
        _log_pictures(plan, runner, run)
        network = runner.results.get(plan.model)
        if network is not None and offline is not None:
            run.model(network.folder, facts(dataset))
        elif network is not None and publish is not None:
            run.flush()
            outcome.model = publish(plan, dataset, network, outcome)
    return outcome


def _plan_and_data(
    method: str, preset: str, data: str, overrides: Mapping[str, Any] | None, until: str | None
) -> tuple[Plan, Dataset]:
    """What is to be run, and on what.

    Raises:
        UserError: whatever is wrong with the names, the settings or the data.
    """
    plan = make_plan(method, preset, overrides)
    if until is not None and until not in STAGES:
        raise unknown("stage", until, STAGES)
    for planned in plan.steps:
        planned.check()
    dataset = open_dataset(data)
    dataset.check_trainable()
    check_background(plan, dataset)
    for used in (dataset, *extra_datasets(plan)):
        used.check()
    if "masks" in plan.supervision and not Masks(dataset).ids("train"):
        raise UserError(
            f"method {method} learns from masks, and dataset {dataset.name} has none for its training images"
        )
    return plan, dataset


def extra_datasets(plan: Plan) -> list[Dataset]:
    """The datasets that settings name.

    Raises:
        UserError: one is not there.
    """
    chosen = [getattr(p.settings, s.key) for p in plan.steps for s in settings_of(p.step.settings) if s.dataset]
    return [open_dataset(name) for name in chosen if name is not None]


def _within(stage: str, until: str | None) -> bool:
    return until is None or STAGES.index(stage) <= STAGES.index(until)


def _run_stage(kind: str, plan: Plan, runner: StepRunner, run: MethodRun, outcome: Outcome) -> None:
    """The steps of one stage and, where there are masks, the scores of what they give."""
    masks = Masks(runner.dataset)
    with run.stage(kind) as stage:
        for planned in plan.steps:
            if planned.stage == kind:
                result = runner.run(planned, stage.reporter(planned.key))
                stage.step_done(result)
                of_tags = {
                    name: value for name, value in result.metrics.items() if name.endswith(metric_names.TAGS_MAP)
                }
                run.metrics(of_tags)
                outcome.metrics |= of_tags
                outcome.metrics[metric_names.step_time(planned.key)] = result.seconds
        if not any(masks.ids(split) for split in runner.dataset.splits):
            return
        for planned in plan.steps:
            if planned.stage == "evaluate" and planned.inputs["maps"].startswith(f"{kind}."):
                result = runner.run(planned, stage.reporter(planned.key))
                run.metrics(result.metrics)
                outcome.metrics |= result.metrics
                outcome.metrics |= _log_evaluations(result, run, plan.preset)


def _log_evaluations(result: StepResult, run: MethodRun, preset: str) -> dict[str, float]:
    """Log what an evaluation step found; its mean IoUs by metric name.

    Preset "paper" also gets the published score, over train and dev together (VOC's 1,464 images).
    """
    evaluations = read_evaluations(result.folder)
    if preset == "paper" and {"train", "dev"} <= set(evaluations):
        both = joined(metric_names.TRAIN_AND_DEV, [evaluations["train"], evaluations["dev"]])
        evaluations[both.split] = both
    for evaluation in evaluations.values():
        run.evaluation(evaluation)
        if evaluation.without_objects:
            say(f"{evaluation.split}/{evaluation.what}: {WITHOUT_OBJECTS}")
    return {metric_names.metric(e.split, e.what, metric_names.MIOU): e.scores.miou for e in evaluations.values()}


def _log_pictures(plan: Plan, runner: StepRunner, run: MethodRun) -> None:
    """Log the panels and the maps of the few images that a run shows."""
    for image_id, picture in run_panels(plan, runner.dataset, runner.results):
        run.panel(image_id, picture)
    for what, maps in run_maps(plan, runner.dataset, runner.results):
        run.maps(what, maps)


def _keep_labels(runner: StepRunner, run: MethodRun) -> None:
    """Give the label maps a DVC version and log it, with the list of its files."""
    labels = label_folder(runner.results)
    version = versions.store(labels)
    run.labels(version, str(labels), versions.manifest(version.md5))


def label_folder(results: Mapping[str, StepResult]) -> Path:
    """The folder of the label maps that the refine stage ended with."""
    last = [r for key, r in results.items() if key.startswith("refine.")][-1]
    return last.folder / LABELS


def _run_info(plan: Plan, dataset: Dataset, rng: int, keep_version: bool, tags: dict[str, str]) -> RunInfo:
    version = None
    if keep_version:
        version = versions.version_of(dataset.root)
        if version is None and dataset.kind == "shapes":
            version = versions.store(dataset.root)
    group = group_of(plan, dataset)
    last = [p for p in plan.steps if hasattr(p.settings, "backbone")][-1]
    return RunInfo(
        method=plan.method.name,
        preset=plan.preset,
        dataset=DatasetInfo(
            name=dataset.name,
            source=str(dataset.root),
            digest=dataset.digest,
            splits={split: len(ids) for split, ids in dataset.splits.items()},
            version=version,
        ),
        settings=plan.settings,
        supervision=plan.supervision,
        rng=rng,
        fingerprint=run_fingerprint(group, rng, tags),
        group=group,
        git=git.state(),
        command=shlex.join(sys.argv),
        tags={names.BACKBONE: last.settings.backbone, names.PRETRAINING: Path(last.settings.weights).name} | tags,
    )


def group_of(plan: Plan, dataset: Dataset) -> str:
    """What runs of the same method, step versions, settings and data have in common, whatever their rng.

    Of datasets, files, folders and masks the content counts, as in a step's fingerprint, not the name.
    """
    steps = {p.key: [p.implementation, p.step.version, content_settings(p)] for p in plan.steps}
    return _digest([plan.method.name, plan.preset, dataset.digest, mask_digests(dataset), steps])


def run_fingerprint(group: str, rng: int, tags: Mapping[str, str] | None = None) -> str:
    """What tells runs apart: their group (`group_of`), the rng and the tags that the run is given."""
    return _digest([group, rng, dict(tags or {})])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
