"""What is searched: the settings of a plan that say how they are searched, and the objective that ends the plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ray import tune

from wsss.data import Dataset
from wsss.errors import UserError, unknown
from wsss.interface import STAGES
from wsss.run.plan import Plan
from wsss.scores import Masks, metric_names
from wsss.settings import Search, settings_of
from wsss.stages.evaluate import EVALUATIONS

SPLIT = "dev"


def domain(search: Search) -> Any:
    """Ray's word for how a setting is drawn."""
    if search.kind == "choice":
        return tune.choice(list(search.values))
    if search.kind == "int":
        return tune.randint(int(search.low), int(search.high) + 1)
    return {"uniform": tune.uniform, "loguniform": tune.loguniform}[search.kind](search.low, search.high)


def default_objective(plan: Plan) -> str:
    """The mean IoU on dev of the labels after the CRF, or of the last maps that the plan gives."""
    given = [planned.step.name for planned in plan.steps if planned.stage == "evaluate"]
    return metric_names.metric(SPLIT, "labels_crf" if "labels_crf" in given else given[-1], metric_names.MIOU)


def last_stage(plan: Plan, objective: str) -> str:
    """The stage after which an objective is known: the one whose maps it scores, else the plan's last.

    Raises:
        UserError: it would look at other masks than dev's, or scores maps that the plan does not give.
    """
    split, _, rest = objective.partition("/")
    what = rest.partition("/")[0]
    if what not in EVALUATIONS:
        return [planned.stage for planned in plan.steps if planned.stage != "evaluate"][-1]
    if split != SPLIT:
        raise UserError(
            f"the objective {objective} looks at the masks of {split}; a search may look at those of dev alone"
        )
    giving = {p.step.name: p.inputs["maps"].partition(".")[0] for p in plan.steps if p.stage == "evaluate"}
    if what not in giving:
        raise unknown("maps in the objective:", what, giving)
    return giving[what]


def check_masks(dataset: Dataset, objective: str) -> None:
    """Refuse an objective that needs the masks of dev where there are none.

    Raises:
        UserError: that.
    """
    if objective.startswith(f"{SPLIT}/") and not Masks(dataset).ids(SPLIT):
        raise UserError(
            f"dataset {dataset.name} has no masks for its split {SPLIT}, so {objective} is not known; name an "
            "objective that needs none, such as --objective tags/map, or add masks for a dev list"
        )


def search_space(
    plan: Plan, until: str, keys: Collection[str] = (), fixed: Collection[str] = ()
) -> Mapping[str, Search]:
    """The settings to search, and how, by key.

    Args:
        plan: the method.
        until: the last stage that is run.
        keys: which: settings, steps or stages ("refine.walk.beta", "refine.walk", "refine"); by default the settings of
            the last stage, so that what comes before is computed once and reused by every trial.
        fixed: settings that were given a value.

    Raises:
        UserError: a key that nothing searchable belongs to (names what is), or nothing to search.
    """
    stages = STAGES[: STAGES.index(until) + 1]
    known = {
        setting.key: setting.search
        for planned in plan.steps
        if planned.stage in stages
        for setting in settings_of(planned.step.settings, f"{planned.key}.")
        if setting.search is not None and setting.key not in fixed
    }
    chosen: dict[str, Search] = {}
    for key in keys or [until]:
        found = {name: search for name, search in known.items() if f"{name}.".startswith(f"{key}.")}
        if not found:
            raise unknown("searchable setting", key, known)
        chosen |= found
    return chosen
