"""The searches that were begun: by name, to go on with, to begin from, and not to be mixed up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna

from tune.objective import Objective
from tune.search import Candidate, MethodSearch, SearchPlan, data_digest
from tune.study import COMPLETE, PLAN, Study, storage
from wsss.commands import command
from wsss.errors import UserError, unknown
from wsss.settings import Search


def study_names(work: Path) -> list[str]:
    """The names of the searches that were begun."""
    return sorted(optuna.get_all_study_names(storage(work)))


def resumed(name: str, work: Path) -> SearchPlan:
    """The search of that name, as it was begun.

    Raises:
        UserError: there is no such search (names those that are), or its plan can't be read.
    """
    known = study_names(work)
    if name not in known:
        raise unknown("search", name, known)
    study = _open(name, work)
    content = json.loads(study.user_attrs[PLAN])
    try:
        parts = tuple(
            MethodSearch(
                each["method"],
                Objective(**each["objective"]),
                {key: Search(**{**how, "values": tuple(how["values"])}) for key, how in each["space"].items()},
                each["first"],
                each["versions"],
            )
            for each in content.pop("methods")
        )
        before = SearchPlan(methods=parts, given=name, **content)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"search {name} was kept by another version ({error}); begin it anew under another name"
        ) from None
    return replace(before, methods=tuple(_as_now(before, part) for part in parts), digest=data_digest(before.data))


def check_new(name: str, work: Path) -> None:
    """Refuse a name that a search has.

    Raises:
        UserError: it has; says how to go on with it.
    """
    if name in study_names(work):
        raise UserError(f"there is a search {name}; go on with it: {resume_command(name)}, or take another name")


def best_of(name: str, search: SearchPlan, work: Path, count: int) -> list[Candidate]:
    """The best candidates of another search that are candidates of this one too.

    Raises:
        UserError: there is no such search, or none of its trials fits.
    """
    other = Study(resumed(name, work), work, trials=0)
    sign = 1.0 if other.search.mode == "max" else -1.0
    complete = [record for record in other.records if record.state == COMPLETE]
    ranked = sorted(complete, key=lambda record: -sign * (record.value or 0.0))
    spaces = {each.method: each.space for each in search.methods}
    fits = [
        record.candidate
        for record in ranked
        if record.candidate.settings.keys() == spaces.get(record.candidate.method, {}).keys()
        and all(spaces[record.candidate.method][k].holds(v) for k, v in record.candidate.settings.items())
    ]
    if not fits:
        raise UserError(
            f"no complete trial of search {name} has the settings that are searched here, within their ranges"
        )
    return fits[:count]


def _as_now(search: SearchPlan, part: MethodSearch) -> MethodSearch:
    """A part with the steps' versions of today, so that what changed is found."""
    plan = search.plan(part.default)
    return replace(part, versions={planned.key: planned.step.version for planned in plan.steps})


def _open(name: str, work: Path) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage(work), sampler=optuna.samplers.RandomSampler())


def resume_command(name: str, *more: str) -> str:
    """The command that goes on with a search."""
    return command("python", "-m", "tune", "--resume", name, *more)
