"""The search on Ray: every trial is a run like any other, below the search's own run in MLflow.

A trial's steps are reused by fingerprint like everybody's, and an interrupted trial goes on under its run's id. Nothing
in here touches DVC.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from tune.search import SearchPlan, run_command
from tune.space import domain, search_space
from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.run.method import WORK, run_method
from wsss.run.plan import make_plan
from wsss.storage import write_bytes
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client, tracking_uri

SEARCH_RUN = "search"
SEARCH, TRIAL, OBJECTIVE, BEST_RUN = "tune.search", "tune.trial", "tune.objective", "tune.best_run"
_VALUE = "value"
_CORES_A_TRIAL = 2
_OBJECT_STORE = 200 * 2**20
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class Finding:
    """What a search found.

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


def run_search(search: SearchPlan, *, ray_address: str | None = None, max_seconds: float | None = None) -> Finding:
    """Run a search, continue it, or report it if it is finished.

    Args:
        search: from `plan_search`.
        ray_address: of a Ray cluster; by default one of this machine's cores, for the time of the search.
        max_seconds: after which no trial is started and the running ones end.

    Raises:
        UserError: no trial finished (says why the first one didn't), or the tracking store can't be used.
    """
    storage = (WORK / "search").resolve()
    kept = storage / search.name / "finding.json"
    if kept.exists():
        return Finding(**json.loads(kept.read_text()))
    with _search_run(search, storage / search.name) as run_id, _ray(ray_address):
        tuner = _tuner(search, run_id, storage, max_seconds)
        results = tuner.fit()
        trials = [results[i] for i in range(len(results))]
        ended = [(end.metrics, end.config or {}) for end in trials if end.metrics and _VALUE in end.metrics]
        if not ended:
            why = _reason(str(results.errors[0])) if results.errors else f"{max_seconds:g} seconds were not enough"
            raise UserError(f"no trial of the search finished: {why}")
        metrics, settings = (max if search.mode == "max" else min)(ended, key=lambda end: (end[0][_VALUE], str(end[1])))
        finding = Finding(
            value=metrics[_VALUE],
            settings=settings,
            run=metrics["run"],
            search_run=run_id,
            trials=len(ended),
            failed=results.num_errors,
            command=run_command(search, settings),
        )
        client = mlflow_client()
        client.log_metric(run_id, search.objective, finding.value)
        client.set_tag(run_id, BEST_RUN, finding.run)
    if finding.trials == search.trials:
        write_bytes(str(kept), json.dumps(asdict(finding)).encode())
    return finding


def trial(config: dict[str, Any], search: SearchPlan, run_id: str, workspace: str) -> None:
    """Run one trial in a process of Ray's and report its value.

    Raises:
        UserError: whatever the run refuses, or the run does not give the objective.
    """
    os.chdir(workspace)
    outcome = run_method(
        search.method,
        search.preset,
        search.data,
        rng=search.rng,
        overrides={**search.fixed, **config},
        device=search.device,
        until=search.until,
        keep_version=False,
        parent=run_id,
        tags={SEARCH: search.name},
        wait=True,
    )
    mlflow_client().set_tag(outcome.run_id, TRIAL, tune.get_context().get_trial_id())
    if search.objective not in outcome.metrics:
        raise UserError(f"a run gives no {search.objective}; it gives {', '.join(sorted(outcome.metrics))}")
    tune.report({_VALUE: outcome.metrics[search.objective], "run": outcome.run_id})


class _Lines(tune.Callback):
    """A line for each trial that ends."""

    def __init__(self, objective: str) -> None:
        self._objective = objective

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._print(trials, trial, f"{self._objective} {trial.last_result[_VALUE]:.4f}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._print(trials, trial, f"failed ({_reason(Path(trial.error_file).read_text())})")

    def _print(self, trials: list[Any], trial: Any, outcome: str) -> None:
        shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in trial.config.items()}
        settings = " ".join(f"{key}={value}" for key, value in shown.items())
        print(f"trial {trials.index(trial) + 1}: {outcome}   {settings}", flush=True)


def _tuner(search: SearchPlan, run_id: str, storage: Path, max_seconds: float | None) -> tune.Tuner:
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if search.device != "cpu" else 0
    cores = int(resources["CPU"])
    share: dict[str, float] = {"cpu": cores // gpus, "gpu": 1} if gpus else {"cpu": min(_CORES_A_TRIAL, cores)}
    trainable = tune.with_resources(
        tune.with_parameters(trial, search=search, run_id=run_id, workspace=os.getcwd()), share
    )
    if tune.Tuner.can_restore(storage / search.name):
        return tune.Tuner.restore(str(storage / search.name), trainable, resume_unfinished=True, resume_errored=True)
    plan = make_plan(search.method, search.preset, search.fixed)
    space = {key: domain(how) for key, how in search_space(plan, search.until, search.keys).items()}
    sampler = OptunaSearch(metric=_VALUE, mode=search.mode, seed=search.rng)
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=_VALUE,
            mode=search.mode,
            search_alg=ConcurrencyLimiter(sampler, max_concurrent=gpus or max(1, cores // _CORES_A_TRIAL)),
            num_samples=search.trials,
            time_budget_s=max_seconds,
            reuse_actors=not gpus,
        ),
        run_config=tune.RunConfig(
            name=search.name, storage_path=str(storage), verbose=0, callbacks=[_Lines(search.objective)]
        ),
    )


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """A Ray cluster for the time of a search: the one at the address, else one on this machine.

    Raises:
        UserError: nothing answers there, or trials elsewhere could not reach the tracking store.
    """
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    uri = tracking_uri()
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    if address is not None:
        if uri.startswith("sqlite:"):
            raise UserError(f"trials on a cluster can't write to {uri}; name a tracking server in MLFLOW_TRACKING_URI")
        options = {"address": address, "runtime_env": {"env_vars": {"MLFLOW_TRACKING_URI": uri, **_ENVIRONMENT}}}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error}); start it or leave --ray-address away"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _search_run(search: SearchPlan, folder: Path) -> Iterator[str]:
    """The id of the search's own run in MLflow: that of MLFLOW_RUN_ID, of the interrupted search, or a new one."""
    client = mlflow_client()
    note = folder / "mlflow_run"
    run_id = os.environ.pop("MLFLOW_RUN_ID", None) or (note.read_text() if note.exists() else None)
    if run_id is None:
        run_id = client.create_run("0", run_name=search.name, tags={names.MLFLOW_USER: getpass.getuser()}).info.run_id
    tags = {
        names.KIND: SEARCH_RUN,
        names.METHOD: search.method,
        names.PRESET: search.preset,
        names.DATASET: open_dataset(search.data).name,
        names.RNG: str(search.rng),
        SEARCH: search.name,
        OBJECTIVE: search.objective,
    }
    for name, value in tags.items():
        client.set_tag(run_id, name, value)
    client.update_run(run_id, "RUNNING")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(run_id)
    try:
        yield run_id
    except BaseException as error:
        client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def _reason(error: str) -> str:
    """The last line of an error of Ray's: that of the trial, such as a sentence of ours."""
    return error.strip().splitlines()[-1].removeprefix("wsss.errors.UserError: ")
