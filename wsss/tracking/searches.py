"""Searches read back: each with its trials, what they cost, what they reused, and what came out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from wsss.commands import command
from wsss.errors import UserError
from wsss.settings import Search
from wsss.tracking import names
from wsss.tracking.artifacts import read_artifact
from wsss.tracking.connection import mlflow_client
from wsss.tracking.liveness import process_gone
from wsss.tracking.query import run_of, search

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class SearchRecord:
    """A search's run.

    Attributes:
        id: MLflow's.
        name: the search's.
        status: "RUNNING", "FINISHED", "FAILED", "KILLED", or "GONE": it says that it runs, and its process is no more.
        methods: that were searched.
        preset, dataset: their names.
        rng: the seed of the search and of its trials.
        objective: the metric that was made good.
        start: when it began.
        best_trial: its number, counted from 0; None while it is not known.
        best: the objective of the best trial; None while it is not known.
    """

    id: str
    name: str
    status: str
    methods: tuple[str, ...]
    preset: str
    dataset: str
    rng: str
    objective: str
    start: datetime
    best_trial: int | None
    best: float | None

    @classmethod
    def of(cls, run: Run) -> SearchRecord:
        tags = run.data.tags
        best = tags.get(names.BEST_TRIAL, "")
        return cls(
            id=run.info.run_id,
            name=tags.get(names.SEARCH, run.info.run_name),
            status="GONE" if run.info.status == "RUNNING" and process_gone(tags) else run.info.status,
            methods=tuple(filter(None, tags.get(names.METHOD, "").split(","))),
            preset=tags.get(names.PRESET, ""),
            dataset=tags.get(names.DATASET, ""),
            rng=tags.get(names.RNG, ""),
            objective=tags.get(names.OBJECTIVE, ""),
            start=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
            best_trial=int(best) if best.isdecimal() else None,
            best=run.data.metrics.get(tags.get(names.OBJECTIVE, "")),
        )


@dataclass(frozen=True)
class SearchedPlan:
    """What is searched, as the search's run says it.

    Attributes:
        spaces: method to how its settings are searched.
        presets: method to the preset's own values of these.
        seconds: what trials take is made small too.
    """

    spaces: Mapping[str, Mapping[str, Search]]
    presets: Mapping[str, Mapping[str, Any]]
    seconds: bool


@dataclass(frozen=True)
class TrialStep:
    """A step of a trial.

    Attributes:
        key: such as "refine.walk".
        how: "computed", "reused", or "waited" for while another trial computed it.
        origins: the ids of the runs that computed it: trials', or the search's own for what all trials share.
    """

    key: str
    how: str
    origins: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """A trial's run.

    Attributes:
        number: counted from 0.
        run: its id.
        method: its name.
        settings: the values of the searched ones.
        state: "complete", "pruned", "failed" or "running".
        value: the objective's metric; None where it did not come to its end.
        so_far: the same on as many images of dev as were looked at; None before the first.
        seconds: what its steps took when they were computed; None before its end.
        saved: what of this was not computed anew.
        error: why it failed.
        steps: None where the run itself does not say: `steps_of` reads them then.
        ended: when, in milliseconds since 1970; 0 while it runs.
    """

    number: int
    run: str
    method: str
    settings: Mapping[str, Any]
    state: str
    value: float | None = None
    so_far: float | None = None
    seconds: float | None = None
    saved: float | None = None
    error: str = ""
    steps: tuple[TrialStep, ...] | None = field(default=None, compare=False)
    ended: int = 0

    @classmethod
    def of(cls, run: Run, objective: str) -> Trial:
        tags, metrics = run.data.tags, run.data.metrics
        running = run.info.status == "RUNNING"
        state = names.RUNNING if running else tags.get(names.TRIAL_STATE, "")
        return cls(
            number=int(tags[names.TRIAL]),
            run=run.info.run_id,
            method=tags.get(names.METHOD, ""),
            settings={key: _parsed(text) for key, text in run.data.params.items()},
            # One whose driver was killed has none.
            state=state if state in (names.COMPLETE, names.PRUNED, names.RUNNING) else names.FAILED,
            value=metrics.get(objective),
            so_far=metrics.get(names.so_far(objective)),
            seconds=metrics.get(names.SECONDS),
            saved=metrics.get(names.SECONDS_SAVED),
            error=tags.get(names.ERROR, ""),
            steps=_steps(tags.get(names.TRIAL_HOW, "")),
            ended=0 if running else run.info.end_time or 0,
        )


def searches() -> list[SearchRecord]:
    """All searches, newest first.

    Raises:
        UserError: the tracking store can't be used.
    """
    return [SearchRecord.of(run) for run in search(mlflow_client(), f"tags.`{names.KIND}` = '{names.SEARCH_RUN}'")]


def find_search(run_id: str) -> SearchRecord:
    """The search of an id.

    Raises:
        UserError: there is none, or the tracking store can't be used.
    """
    run = run_of(mlflow_client(), run_id)
    if run is None or run.data.tags.get(names.KIND) != names.SEARCH_RUN:
        begin = command("python", "-m", "tune")
        raise UserError(f"there is no search {run_id}; the page /searches lists them, and `{begin}` begins one")
    return SearchRecord.of(run)


def trials(record: SearchRecord, condition: str = "") -> Iterator[Trial]:
    """The trials of a search, those begun last first.

    Args:
        record: the search.
        condition: in MLflow's search language, by which only some are asked for.
    """
    own = f"tags.`{names.MLFLOW_PARENT}` = '{record.id}' and tags.`{names.KIND}` = '{names.TRIAL_RUN}'"
    for run in search(mlflow_client(), f"{own} and {condition}" if condition else own):
        if run.data.tags.get(names.TRIAL, "").isdecimal():
            yield Trial.of(run, record.objective)


@lru_cache(maxsize=1024)
def steps_of(run_id: str) -> tuple[TrialStep, ...]:
    """The steps of an ended trial, which an artifact has; none where that is gone."""
    try:
        return tuple(
            TrialStep(each["key"], each["how"], tuple(each.get("from", ())))
            for each in json.loads(read_artifact(run_id, names.TRIAL_STEPS))["steps"]
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return ()


@lru_cache(maxsize=64)
def searched_plan(run_id: str) -> SearchedPlan | None:
    """What a search searches; None where its record of that is gone or of another version."""
    try:
        plan = json.loads(read_artifact(run_id, names.SEARCH_PLAN))
        parts = plan["methods"]
        return SearchedPlan(
            {
                each["method"]: {
                    k: Search(**{**how, "values": tuple(how["values"])}) for k, how in each["space"].items()
                }
                for each in parts
            },
            {each["method"]: each["first"] for each in parts},
            plan["seconds"],
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def verdict(run_id: str) -> dict[str, Any] | None:
    """What came out of a search, as its verdict was logged; None where it has none, or it is damaged."""
    try:
        content = json.loads(read_artifact(run_id, names.VERDICT))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) and {"best", "default", "difference"} <= content.keys() else None


def steps_text(steps: list[dict[str, Any]]) -> str:
    """The steps of a trial as the tag `names.TRIAL_HOW` has them."""
    return json.dumps({each["key"]: [each["how"], *each["from"]] for each in steps}, separators=(",", ":"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _steps(text: str) -> tuple[TrialStep, ...] | None:
    """From the tag; None where there is none, or MLflow cut it off."""
    try:
        return tuple(TrialStep(key, how, tuple(origins)) for key, (how, *origins) in json.loads(text).items())
    except (ValueError, AttributeError, TypeError):
        return None
