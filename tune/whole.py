"""Whole runs of candidates, for val: their steps on the cluster, at once and each one once; what scores them, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune.search import Candidate, SearchPlan
from tune.shared import compute_steps, steps_of_runs
from tune.trial import Surroundings
from wsss.errors import UserError
from wsss.progress import say
from wsss.run.cluster import Machine
from wsss.run.method import run_method
from wsss.run.plan import PlannedStep
from wsss.scores import metric_names
from wsss.tracking import names

FINAL_METRICS = tuple(metric_names.metric(split, "pred_crf", metric_names.MIOU) for split in ("dev", "val"))


@dataclass(frozen=True)
class WholeRun:
    """The id of a run in MLflow, and its metrics that are compared."""

    id: str
    metrics: Mapping[str, float]


def whole_runs(
    candidates: Sequence[Candidate], around: Surroundings, there: Sequence[Machine], *, quiet: bool = False
) -> list[WholeRun | None]:
    """Run candidates from the images to the predictions on val.

    Args:
        candidates: of the search.
        around: the search.
        there: the cluster's machines.
        quiet: do not say how far they are.

    Returns:
        The run of each; None where it failed, which is said.
    """
    search = around.search
    if around.place.gpu:  # a driver without the GPU would not find what is computed on one
        steps, _ = steps_of_runs(
            search, [(each, search.rng) for each in candidates], around.place.device, _sees_no_masks
        )
        for done in compute_steps(around, steps, there, quiet=quiet):
            if done.error:
                say(f"step {done.planned.name}: {done.error}")
    return [_run(each, around, search) for each in candidates]


def _sees_no_masks(planned: PlannedStep) -> bool:
    """Masks of train and val are the driver's alone."""
    return planned.stage != "evaluate" and not planned.step.supervision


def _run(candidate: Candidate, around: Surroundings, search: SearchPlan) -> WholeRun | None:
    say(f"the whole run of {candidate.method}, for val")
    try:
        outcome = run_method(
            **search.run_arguments(candidate),
            rng=search.rng,
            device=around.place.here,
            keep_version=False,
            tags={names.SEARCH: search.name},
            wait=True,
        )
    except UserError as error:
        say(f"the whole run of {candidate.method} failed: {error}")
        return None
    return WholeRun(outcome.run_id, {name: outcome.metrics[name] for name in FINAL_METRICS if name in outcome.metrics})
