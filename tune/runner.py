"""The search on Ray: every trial is a run like any other, below the search's own run in MLflow.

A trial's steps are reused by fingerprint like everybody's, and an interrupted trial goes on under its run's id. Nothing
in here touches DVC.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from tune.parent import BEST_RUN, SEARCH, TRIAL, search_run
from tune.progress import VALUE, Progress, reason
from tune.search import SearchPlan, run_command
from tune.space import domain, search_space
from wsss.errors import UserError
from wsss.run.cluster import ADDRESS, LOCAL, Share, Slots, connected, is_elsewhere, machines, slots_of
from wsss.run.method import WORK, run_method
from wsss.run.plan import make_plan
from wsss.storage import write_bytes
from wsss.tracking.connection import mlflow_client, tracking_uri

_CORES_A_TRIAL = 2
_ENVIRONMENT = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        value: the objective's best value.
        settings: those that gave it, by key.
        run: the id of the best trial's run.
        search_run: the id of the search's own.
        trials: how many finished.
        failed: how many did not.
        command: the command line that makes a whole run of the best settings.
    """

    value: float
    settings: Mapping[str, Any]
    run: str
    search_run: str
    trials: int
    failed: int
    command: str


def run_search(search: SearchPlan, *, ray_address: str | None = None, max_seconds: float | None = None) -> SearchResult:
    """Run a search, continue it, or report it if it is finished. The preset's own settings are the first trial.

    Args:
        search: from `plan_search`.
        ray_address: of a Ray cluster; by default that of RAY_ADDRESS, or one of this process's cores, for the time of
            the search.
        max_seconds: after which the search ends, a continued one too; the same search can be continued later.

    Raises:
        UserError: no trial finished (says why), the cluster has not what a trial asks for, or the tracking store can't
            be used.
        KeyboardInterrupt: it was interrupted; the same search can be continued.
    """
    storage = (WORK / "search").resolve()
    kept = storage / search.name / "result.json"
    if kept.exists():
        return SearchResult(**json.loads(kept.read_text(encoding="utf-8")))
    _quiet()
    Progress.begin(max_seconds)
    address = _address(ray_address)
    with search_run(search, storage / search.name) as parent, connected(address):
        slots = _slots(search, address)
        results = _tuner(search, parent.info.run_id, slots, _share(slots, parent.info.experiment_id), storage).fit()
        trials = [results[i] for i in range(len(results))]
        ended = [(trial.metrics, trial.config or {}) for trial in trials if trial.metrics and VALUE in trial.metrics]
        if len(ended) + results.num_errors < search.trials and not Progress.time_is_up():
            raise KeyboardInterrupt
        if not ended:
            raise UserError(f"no trial of the search finished: {_why(results, max_seconds)}")
        best = max if search.objective.mode == "max" else min
        metrics, settings = best(ended, key=lambda end: end[0][VALUE])
        result = SearchResult(
            value=metrics[VALUE],
            settings=settings,
            run=metrics["run"],
            search_run=parent.info.run_id,
            trials=len(ended),
            failed=results.num_errors,
            command=run_command(search, settings),
        )
        client = mlflow_client()
        client.log_metric(result.search_run, search.objective.metric, result.value)
        client.set_tag(result.search_run, BEST_RUN, result.run)
    if result.trials == search.trials:
        write_bytes(str(kept), json.dumps(asdict(result)).encode())
    return result


def trial(config: dict[str, Any], search: SearchPlan, run_id: str, workspace: str, share: Share) -> None:
    """Run one trial in a process of Ray's and report its value.

    Raises:
        UserError: whatever the run refuses, or the run does not give the objective.
    """
    share.take()
    if not os.path.isdir(workspace):
        raise UserError(f"the machine {socket.gethostname()} has no folder {workspace}; share it with all machines")
    os.chdir(workspace)
    outcome = run_method(
        search.method,
        search.preset,
        search.data,
        rng=search.rng,
        overrides={**search.fixed, **config},
        device=search.device,
        until=search.objective.until,
        keep_version=False,
        parent=run_id,
        tags={SEARCH: search.name},
        wait=True,
    )
    mlflow_client().set_tag(outcome.run_id, TRIAL, tune.get_context().get_trial_id())
    objective = search.objective
    metrics = outcome.metrics | dict(outcome.steps[objective.step].metrics)
    value = metrics.get(objective.metric, math.nan)
    if not math.isfinite(value):
        raise UserError(f"run {outcome.run_id} gave no {objective.metric}; it gave {', '.join(sorted(metrics))}")
    tune.report({VALUE: value, "run": outcome.run_id})


def _tuner(search: SearchPlan, run_id: str, slots: Slots, share: Share, storage: Path) -> tune.Tuner:
    parameters = tune.with_parameters(trial, search=search, run_id=run_id, workspace=os.getcwd(), share=share)
    trainable = tune.with_resources(parameters, {"cpu": slots.cores, "gpu": slots.gpus})
    if tune.Tuner.can_restore(storage / search.name):
        return tune.Tuner.restore(str(storage / search.name), trainable, resume_unfinished=True, resume_errored=True)
    plan = make_plan(search.method, search.preset, search.fixed)
    space = {key: domain(how) for key, how in search_space(plan, search.objective.until, search.keys).items()}
    mode = search.objective.mode
    sampler = OptunaSearch(metric=VALUE, mode=mode, seed=search.rng, points_to_evaluate=[dict(search.first)])
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=VALUE,
            mode=mode,
            search_alg=ConcurrencyLimiter(sampler, max_concurrent=slots.count),
            num_samples=search.trials,
            reuse_actors=not slots.gpus,
        ),
        run_config=tune.RunConfig(
            name=search.name,
            storage_path=str(storage),
            verbose=0,
            callbacks=[Progress(search.objective.metric)],
        ),
    )


def _address(ray_address: str | None) -> str:
    return ray_address or os.environ.get(ADDRESS) or LOCAL


def _slots(search: SearchPlan, address: str) -> Slots:
    """What a trial asks for on the connected cluster, which is printed.

    Raises:
        UserError: no machine has it, or trials on other machines could not reach the tracking store.
    """
    uri = tracking_uri()
    if uri.startswith("sqlite") and is_elsewhere():
        raise UserError(f"trials on other machines can't write to {uri}; name a tracking server in MLFLOW_TRACKING_URI")
    slots = slots_of(machines(), search.device, _CORES_A_TRIAL)
    where = "a Ray of this search's own" if address == LOCAL else f"the Ray cluster {address}"
    print(f"trials with {slots}, on {where}", flush=True)
    return slots


def _share(slots: Slots, experiment: str) -> Share:
    """What a trial is given: runs go to the store and the experiment of the search's own."""
    name = mlflow_client().get_experiment(experiment).name
    return Share.of(slots, {"MLFLOW_TRACKING_URI": tracking_uri(), "MLFLOW_EXPERIMENT_NAME": name})


def _why(results: tune.ResultGrid, max_seconds: float | None) -> str:
    if results.errors:
        return reason(str(results.errors[0]))
    return f"{max_seconds:g} seconds were not enough; the same command with a larger --max-seconds goes on"


def _quiet() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
