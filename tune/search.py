"""What a search is: known by what it searches, so that the same command continues it and finds it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tune.objective import Objective, choose_objective
from tune.space import search_space
from wsss.commands import command
from wsss.data import open_dataset
from wsss.run.plan import make_plan


@dataclass(frozen=True)
class SearchPlan:
    """What is searched.

    Attributes:
        method, preset, data: their names.
        rng: the seed of the runs and of the search.
        trials: how many settings are tried.
        objective: what is made good, and by which step it is known.
        keys: the settings that are searched.
        first: their values in the preset, which the first trial has.
        fixed: settings that every trial has.
        device: "auto", "cpu" or "cuda".
        inputs: hash of the data, of the steps' versions and of the space.
    """

    method: str
    preset: str
    data: str
    rng: int
    trials: int
    objective: Objective
    keys: tuple[str, ...]
    first: Mapping[str, Any]
    fixed: Mapping[str, str]
    device: str
    inputs: str

    @property
    def name(self) -> str:
        """Known by all that is searched: equal searches have equal names."""
        return f"{self.method}-{self.preset}-{Path(self.data).name}-{_digest(asdict(self))[:8]}"


def plan_search(
    method: str,
    preset: str,
    data: str,
    *,
    trials: int,
    rng: int = 0,
    objective: str | None = None,
    keys: tuple[str, ...] = (),
    fixed: Mapping[str, str] | None = None,
    device: str = "auto",
) -> SearchPlan:
    """Decide and check all of a search; by default it makes the labels after the CRF good on dev.

    Raises:
        UserError: unknown names, nothing to search, an objective that no trial would give (names those that it would).
    """
    fixed = dict(fixed or {})
    plan = make_plan(method, preset, fixed)
    dataset = open_dataset(data)
    for planned in plan.steps:
        planned.check()
    chosen = choose_objective(plan, dataset, objective)
    space = search_space(plan, chosen.until, keys, fixed)
    first = {key: plan.settings[key] for key in space}
    versions = {planned.key: planned.step.version for planned in plan.steps}
    inputs = _digest([dataset.digest, versions, {key: asdict(search) for key, search in space.items()}])
    return SearchPlan(method, preset, data, rng, trials, chosen, tuple(space), first, fixed, device, inputs)


def run_command(search: SearchPlan, settings: Mapping[str, Any]) -> str:
    """The command line that makes a whole run of the settings of a trial."""
    values = {**search.fixed, **settings}
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    line = ["run", "--method", search.method, "--preset", search.preset, "--data", search.data]
    return command("wsss", *line, "--rng", str(search.rng), *sets)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
