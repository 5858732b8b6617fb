"""Trials that are given up early: trainings by ASHA, settings after the networks by a race over the images of dev."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from scipy.stats import wilcoxon

from tune.ending import NotKept
from tune.search import SearchPlan
from tune.study import Study
from tune.trial import CANDIDATE, EPOCH, LOSS, PER_IMAGE
from wsss.training import TrainingSettings

LEVEL = 0.05
"""A trial is worse where a signed-rank test says so at this level."""


class EarlyEnd(NotKept, AsyncHyperBandScheduler):
    """Ends a trial that is told to be worse.

    While a network is trained, all that is known is its loss: of trainings that are alike but for their learning
    rates, asynchronous successive halving (Li et al. 2020) ends those whose loss is behind after as many epochs. Where
    dev is scored piece by piece, a trial ends once its images are worse than those of its method's best: a one-sided
    signed-rank test of Wilcoxon, as Optuna's WilcoxonPruner, on the images that both have. The presets' own trials are
    what the best is compared with in the end, and never end early.
    """

    def __init__(self, study: Study, epochs: int) -> None:
        super().__init__(
            time_attr=EPOCH,
            metric=LOSS,
            mode="min",
            max_t=max(2, epochs),
            grace_period=max(1, epochs // 4),
            stop_last_trials=False,  # the last epoch is where dev begins
        )
        self._study = study

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """The search's metric is not the one that trainings are compared by."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if LOSS in result:
            decision: str = super().on_trial_result(tune_controller, trial, result)
            return TrialScheduler.CONTINUE if self._is_default(trial) else decision
        own = result.get(PER_IMAGE)
        best = self._study.best_of([trial.config[CANDIDATE]["method"]])
        theirs = best.facts.get(PER_IMAGE) if best else None
        if result.get("final") or not own or not theirs or self._study.search.seconds or self._is_default(trial):
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if is_worse(own, theirs, self._study.search.mode) else TrialScheduler.CONTINUE

    def _is_default(self, trial: Any) -> bool:
        given = trial.config[CANDIDATE]
        return dict(given["settings"]) == dict(self._study.search.of(given["method"]).first)


def is_worse(own: list[float], best: list[float], mode: str = "max") -> bool:
    """Whether images are worse than the first of the best trial's, by a signed-rank test.

    Args:
        own: a score for each of N images; NaN where there is none.
        best: of the same images, and perhaps of more.
        mode: whether scores are to be large ("max") or small.
    """
    difference = np.subtract(own, best[: len(own)])
    difference = difference[np.isfinite(difference)]
    if not difference.any():
        return False
    test = wilcoxon(difference, alternative="less" if mode == "max" else "greater", zero_method="zsplit")
    return bool(test.pvalue < LEVEL)


def trained_step(search: SearchPlan) -> tuple[str, int]:
    """The step whose trainings can be compared by their loss, and its epochs; "" where there is none.

    Of one method alone, where learning rates are all that is searched of what trains, and nothing is searched of the
    steps before: another weight, another crop or another network has another loss, and so have other labels to learn.
    """
    if len(search.methods) > 1:
        return "", 0
    only = search.methods[0]
    plan = search.plan(only.default)
    trained = {
        planned.key: planned.settings for planned in plan.steps if isinstance(planned.settings, TrainingSettings)
    }
    searched: dict[str, set[str]] = {}
    for key in only.space:
        step, _, name = key.rpartition(".")
        if step in trained:
            searched.setdefault(step, set()).add(name)
    if len(searched) != 1:
        return "", 0
    step, names = searched.popitem()
    before, inputs = {step}, {planned.key: planned.inputs.values() for planned in plan.steps}
    while more := {key for each in before for key in inputs[each]} - before:
        before |= more
    others = {key.rpartition(".")[0] for key in only.space} - {step}
    alike = all(name.endswith("lr") for name in names) and not others & before
    return (step, trained[step].epochs) if alike else ("", 0)
