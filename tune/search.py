"""What a search is: known by what it searches, so that the same command continues it and finds it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import wsss.methods as methods
from tune.objective import Objective, choose_objective
from tune.space import Narrowing, search_space
from wsss.commands import command
from wsss.data import Dataset, open_dataset
from wsss.errors import UserError
from wsss.run.fingerprints import mask_digests
from wsss.run.plan import Plan, check_background, make_plan, stands_alone
from wsss.run.preset import read_preset
from wsss.settings import Search, as_text

ALL = "all"


@dataclass(frozen=True)
class Candidate:
    """What a trial measures: a method with values for its searched settings."""

    method: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class MethodSearch:
    """What is searched of a method.

    Attributes:
        method: its name.
        objective: what is made good, and by which step it is known.
        space: the settings that are searched, and how.
        first: their values in the preset, which the method's first trial has.
        versions: of its steps, by key.
    """

    method: str
    objective: Objective
    space: Mapping[str, Search]
    first: Mapping[str, Any]
    versions: Mapping[str, int]

    @property
    def default(self) -> Candidate:
        """The preset's own settings."""
        return Candidate(self.method, self.first)


@dataclass(frozen=True)
class SearchPlan:
    """What is searched.

    Attributes:
        methods: one or several, in one study.
        preset, data: their names; a preset file is its preset, and settings that every trial has or begins with.
        digest: of the dataset and of the masks of dev.
        rng: the seed of the runs and of the search.
        fixed: settings that every trial has.
        device: "auto", "cpu" or "cuda".
        seconds: what the trials take is made small too; the result is a front.
        sampler: "auto", "gp", "tpe" or "random".
        given: the name it was given; empty for one that it has from what it searches.
    """

    methods: tuple[MethodSearch, ...]
    preset: str
    data: str
    digest: str
    rng: int
    fixed: Mapping[str, str]
    device: str
    seconds: bool = False
    sampler: str = "auto"
    given: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """As given, else known by all that is searched: equal searches have equal names."""
        which = "-".join(each.method for each in self.methods) if len(self.methods) < 4 else ALL
        return self.given or f"{which}-{Path(self.preset).stem}-{Path(self.data).name}-{digest(self.content)[:8]}"

    @property
    def content(self) -> dict[str, Any]:
        """All that decides what the trials give, as JSON has it."""
        return {key: value for key, value in asdict(self).items() if key != "given"}

    @property
    def metric(self) -> str:
        """The objective's name, the same for all methods."""
        return self.methods[0].objective.metric

    @property
    def mode(self) -> str:
        """Whether the objective is made large ("max") or small ("min")."""
        return self.methods[0].objective.mode

    def of(self, method: str) -> MethodSearch:
        """The part of a method."""
        return next(each for each in self.methods if each.method == method)

    def settings_of(self, candidate: Candidate) -> dict[str, Any]:
        """A candidate's settings upon the fixed ones of its method."""
        return {**self.fixed_of(candidate.method), **candidate.settings}

    def plan(self, candidate: Candidate) -> Plan:
        """The steps of a candidate."""
        return make_plan(candidate.method, self.preset, self.settings_of(candidate))

    def run_arguments(self, candidate: Candidate) -> dict[str, Any]:
        """What `wsss.run.method.run_method` is told of a candidate."""
        return {
            "method": candidate.method,
            "preset": self.preset,
            "data": self.data,
            "overrides": self.settings_of(candidate),
        }

    def fixed_of(self, method: str) -> dict[str, str]:
        """The fixed settings that a method has; of several methods some have not all of them."""
        if len(self.methods) == 1:
            return dict(self.fixed)
        known = make_plan(method, self.preset).settings.keys() | {"weights"}
        return {key: value for key, value in self.fixed.items() if key in known}


def plan_search(
    method: str | Sequence[str],
    preset: str,
    data: str,
    *,
    rng: int = 0,
    objective: str | None = None,
    keys: tuple[str, ...] = (),
    fixed: Mapping[str, str] | None = None,
    device: str = "auto",
    narrowing: Narrowing | None = None,
    sampler: str = "auto",
    name: str = "",
) -> SearchPlan:
    """Decide and check all of a search; by default it makes the labels after the CRF good on dev.

    Args:
        method: a name, several, or "all".
        preset: its name, or a preset file.
        data: its name.
        rng: the seed of the runs and of the search.
        objective: a metric, and perhaps ",seconds".
        keys: settings, steps or stages that are searched; by default the objective's stage.
        fixed: settings that every trial has.
        device: "auto", "cpu" or "cuda".
        narrowing: what is searched of the space.
        sampler: "auto", "gp", "tpe" or "random".
        name: what it is called, by default known by its content.

    Raises:
        UserError: unknown names, nothing to search, an objective that no trial would give (names those that it would).
    """
    names = _methods(method)
    dataset = open_dataset(data)
    dataset.check_trainable()
    metric, *more = [part.strip() for part in (objective or "").split(",")]
    if more not in ([], ["seconds"]):
        raise UserError(f"the objective {objective!r} names {len(more) + 1}; a second one can only be seconds")
    fixed = dict(fixed or {})
    if narrowing:
        fixed |= narrowing.fixed
    parts = tuple(
        _of_method(name, preset, dataset, metric or None, keys, fixed, narrowing, alone=len(names) == 1)
        for name in names
    )
    begin = read_preset(preset)
    searched = {key for part in parts for key in part.space}
    fixed = {key: as_text(value) for key, value in begin.settings.items() if key not in searched} | fixed
    return SearchPlan(
        methods=parts,
        preset=begin.name,
        data=data,
        digest=data_digest(data),
        rng=rng,
        fixed=fixed,
        device=device,
        seconds=bool(more),
        sampler=sampler,
        given=name,
    )


def run_command(search: SearchPlan, candidate: Candidate) -> str:
    """The command line that makes a whole run of a candidate."""
    sets = [part for key, value in search.settings_of(candidate).items() for part in ("--set", f"{key}={value}")]
    line = ["run", "--method", candidate.method, "--preset", search.preset, "--data", search.data]
    return command("wsss", *line, "--rng", str(search.rng), *sets)


def data_digest(data: str) -> str:
    """What tells datasets apart for a search: their images, tags and splits, and the masks of dev."""
    dataset = open_dataset(data)
    return digest([dataset.digest, mask_digests(dataset.only("dev", dataset.splits["dev"]))])


def digest(content: Any) -> str:
    """sha256 in hexadecimal over what JSON makes of it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _methods(method: str | Sequence[str]) -> list[str]:
    given = [method] if isinstance(method, str) else list(method)
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if names == [ALL]:
        return [name for name in methods.names() if stands_alone(name) and methods.load(name).role != "bound"]
    for name in names:
        methods.load(name)
    return list(dict.fromkeys(names))


def _of_method(
    name: str,
    preset: str,
    dataset: Dataset,
    metric: str | None,
    keys: tuple[str, ...],
    fixed: Mapping[str, str],
    narrowing: Narrowing | None,
    *,
    alone: bool,
) -> MethodSearch:
    known = make_plan(name, preset).settings.keys() | {"weights"}
    own = fixed if alone else {key: value for key, value in fixed.items() if key in known}
    plan = make_plan(name, preset, own)
    for planned in plan.steps:
        planned.check()
    check_background(plan, dataset)
    objective = choose_objective(plan, dataset, metric)
    space = search_space(plan, objective, keys, own, narrowing, alone=alone)
    first = {key: plan.settings[key] for key in space}
    return MethodSearch(name, objective, space, first, {planned.key: planned.step.version for planned in plan.steps})
