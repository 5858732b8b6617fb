"""The search on Ray: the driver draws, watches and writes; trials measure.

What is known lies in the study and in the store of steps. Ray's own state of a search is not read again: a search that
was interrupted, wherever, goes on from these two.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ray import tune
from ray.tune.search import Searcher

from tune.budget import Budget, address_of, at_once, resources, surroundings_of
from tune.drawing import fill
from tune.ending import Ending, NotKept
from tune.mirror import Mirror
from tune.parent import search_run
from tune.progress import Progress, reason
from tune.race import EarlyEnd
from tune.search import Candidate, SearchPlan
from tune.search_page import write_search_page
from tune.shared import LOST, compute_shared, needs_network
from tune.studies import best_of
from tune.study import COMPLETE, FAILED, PRUNED, RUNNING, Study, TrialRecord
from tune.trial import CANDIDATE, EPOCH, FINAL, LOSS, NUMBER, PER_IMAGE, VALUE, Surroundings, run_trial
from tune.verdict import Verdict, decide
from wsss.errors import UserError
from wsss.progress import say
from wsss.run.cluster import Machine, connected, machines
from wsss.run.method import WORK
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a loss while it trains, then values: never both
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
SHARED, WARM, WARM_TRIALS = "shared", "warm", 5


@dataclass(frozen=True)
class SearchResult:
    """What a search came to.

    Attributes:
        search: what was searched.
        run: the id of the search's run.
        records: its trials.
        verdict: what came out; None where trials are left.
        left: how many trials are left.
        front: where seconds count too, the trials that none surpasses in both.
    """

    search: SearchPlan
    run: str
    records: tuple[TrialRecord, ...]
    verdict: Verdict | None
    left: int
    front: tuple[TrialRecord, ...] = ()


def run_search(
    search: SearchPlan, budget: Budget, *, ray_address: str | None = None, quiet: bool = False, warm: str = ""
) -> SearchResult:
    """Run a search, or continue it.

    Args:
        search: from `plan_search`.
        budget: trials that ended before count.
        ray_address: of a Ray cluster; by default that of RAY_ADDRESS, or one of this process's cores, for the time of
            the search.
        quiet: say nothing while it runs.
        warm: the name of a search whose best candidates are tried after the presets.

    Raises:
        UserError: no trial finished (says why), the cluster has not what a trial asks for, or a store can't be used.
        KeyboardInterrupt: it was interrupted; the same search can be continued.
    """
    _quiet()
    deadline = time.monotonic() + 3600 * budget.hours if budget.hours else float("inf")
    study = Study(search, WORK, trials=budget.trials)
    if warm and not study.kept(WARM):
        study.enqueue(best_of(warm, search, WORK, WARM_TRIALS))
        study.keep(WARM, warm)
    address = address_of(ray_address)
    with (
        search_run(search, study) as parent,
        Ending(deadline) as ending,
        connected(address),
        surroundings_of(search, budget, address, there := machines()) as around,
    ):
        mirror = Mirror(mlflow_client(), study, parent.id, parent.experiment)
        try:
            mirror.whole()
            if study.ended < budget.trials and time.monotonic() < deadline:
                spent = compute_shared(around, there, quiet=quiet)
                study.keep(SHARED, {**study.kept(SHARED, {}), **spent})
                fill(study, budget.trials)
                before = -1  # each turn ends some, or none of the rest can be begun
                while before < (before := study.ended) < budget.trials and not ending.stop_all():
                    _trials(study, around, budget, ending, mirror, there, quiet)
            ending.raise_if_interrupted()
            left = max(0, budget.trials - study.ended)
            verdict = None
            if study.best is None:
                raise UserError(f"no trial of the search finished: {_why(study, budget)}")
            if not left:
                verdict = decide(study, around, there, budget.seeds, budget.top, quiet=quiet)
        finally:
            mirror.close()
        parent.end(study, verdict)
        write_search_page(study, verdict, WORK / "search", parent.client, parent.id)
        front = tuple(study.front) if search.seconds else ()
        return SearchResult(search, parent.id, tuple(study.records), verdict, left, front)


class _Asking(NotKept, Searcher):
    """Hands trials of the study to Ray, and their ends to the study."""

    def __init__(self, study: Study, most: int, ending: Ending) -> None:
        super().__init__(metric=VALUE, mode=study.search.mode)
        self._study, self._left, self._ending = study, most, ending

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._left <= 0 or self._ending.stop_all():
            return cast(None, Searcher.FINISHED)
        self._left -= 1
        number, candidate = self._study.take()
        return {NUMBER: number, CANDIDATE: {"method": candidate.method, "settings": dict(candidate.settings)}}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """What ended is known from the callbacks, which hear why."""

    def save(self, checkpoint_path: str) -> None:
        """Ray's state of a search is not read again."""

    def restore(self, checkpoint_path: str) -> None:
        """Nor restored."""


class _Watching(NotKept, tune.Callback):
    """Hears of Ray's trials, and tells the study, MLflow and the screen."""

    def __init__(self, study: Study, mirror: Mirror, progress: Progress, ending: Ending) -> None:
        self._study, self._mirror, self._progress, self._ending = study, mirror, progress, ending
        self._begun: set[int] = set()

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        running = sum(trial.status == "RUNNING" for trial in trials)
        waiting = [trial for trial in trials if trial.status == "PENDING"]
        self._progress.step(running, len(waiting), lambda: waiting[0].placement_group_factory.required_resources)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._begun.add(trial.config[NUMBER])
        self._mirror.begin(trial.config[NUMBER], _candidate(trial))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._begun.discard(trial.config[NUMBER])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number = trial.config[NUMBER]
        if LOSS in result:
            self._mirror.report(number, {"train/loss": result[LOSS]}, result[EPOCH])
        elif VALUE in result:
            facts = {key: result[key] for key in ("steps", "seconds", "saved", "images", "of", PER_IMAGE)}
            self._study.note(number, **facts)
            self._mirror.report(number, {names.so_far(self._study.search.metric): result[VALUE]}, result["images"])
            if result[FINAL]:
                self._study.end(number, COMPLETE, result[VALUE], result["seconds"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not trial.last_result.get(FINAL):
            if self._ending.stop_all():
                return  # it goes on when the search does
            self._study.end(trial.config[NUMBER], PRUNED)
        self._ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self._ending.stop_all():
            return  # it goes on when the search does
        number = trial.config[NUMBER]
        if number not in self._begun:
            # Ray hands it the process of a trial that ended; where that is no more, Ray gives it up untried.
            say(f"trial {number + 1} lost its process before it began; it is tried again after the others")
            return
        self._study.note(number, error=reason(_error_of(trial)))
        self._study.end(number, FAILED)
        self._ended(trial)

    def _ended(self, trial: Any) -> None:
        record = self._study.records[trial.config[NUMBER]]
        self._mirror.end(record)
        self._progress.ended(record)


def _trials(
    study: Study,
    around: Surroundings,
    budget: Budget,
    ending: Ending,
    mirror: Mirror,
    there: list[Machine],
    quiet: bool,
) -> None:
    """Let Ray run what is left of the trials."""
    left = budget.trials - study.ended
    cores = float(around.share.cores) if budget.cpus is None else budget.cpus
    gpus = {each.method: around.gpus if needs_network(around.search, each) else 0.0 for each in around.search.methods}
    trainable = tune.with_parameters(run_trial, around=around)
    folder = tempfile.mkdtemp(prefix="wsss-search-")
    with Progress(study, budget.trials, ending.deadline, quiet=quiet) as progress, ending.in_order():
        tuner = tune.Tuner(
            tune.with_resources(trainable, lambda config: resources(cores, gpus[config[CANDIDATE]["method"]])),
            tune_config=tune.TuneConfig(
                search_alg=_Asking(study, left, ending),
                scheduler=EarlyEnd(study, around.trained[1]),
                metric=VALUE,
                mode=around.search.mode,
                num_samples=left,
                max_concurrent_trials=max(1, at_once(there, cores, min(gpus.values()))),
                reuse_actors=not any(gpus.values()),
            ),
            run_config=tune.RunConfig(
                name=around.search.name,
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=budget.retries),
                callbacks=[_Watching(study, mirror, progress, ending)],
                stop=ending,
            ),
        )
        try:
            tuner.fit()
        finally:
            study.put_back()
            shutil.rmtree(folder, ignore_errors=True)


def _candidate(trial: Any) -> Candidate:
    return Candidate(trial.config[CANDIDATE]["method"], trial.config[CANDIDATE]["settings"])


def _error_of(trial: Any) -> str:
    with_text = trial.error_file and Path(trial.error_file).is_file()
    return Path(trial.error_file).read_text(encoding="utf-8") if with_text else "its process is gone"


def _why(study: Study, budget: Budget) -> str:
    errors = [record.facts.get("error") for record in study.records if record.state == FAILED]
    if errors:
        return str(errors[-1])
    if budget.hours is not None:
        return f"{budget.hours:g} hours were not enough; more --hours go on"
    lost = any(record.state == RUNNING for record in study.records)
    return LOST if lost else "all were given up before their end"


def _quiet() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
