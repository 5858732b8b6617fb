"""What is never given up early, and which trainings may be compared by their loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from tune.race import EarlyEnd, trained_step
from tune.search import SearchPlan, plan_search
from tune.trial import CANDIDATE, EPOCH, LOSS, PER_IMAGE
from wsss.data import Dataset

RATES = ("refine.train.lr",)


@pytest.fixture
def search(tiny_shapes: Dataset) -> SearchPlan:
    return plan_search("affinity", "demo", str(tiny_shapes.root), keys=RATES)


def trial(search: SearchPlan, name: str, method: str = "affinity", **settings: Any) -> Any:
    own = {"method": method, "settings": {**search.of(method).first, **settings}}
    return SimpleNamespace(trial_id=name, config={CANDIDATE: own})


def study(search: SearchPlan, **best: list[float]) -> Any:
    """A study of which the best trial of some methods is known, by the scores of its images."""
    bests = {method: SimpleNamespace(facts={PER_IMAGE: scores}) for method, scores in best.items()}
    return SimpleNamespace(search=search, best_of=lambda methods: bests.get(methods[0]))


def test_a_training_that_comes_to_its_last_epoch_goes_on_to_dev(search: SearchPlan) -> None:
    step, epochs = trained_step(search)
    assert step == "refine.train"
    end = EarlyEnd(study(search), epochs)
    only = trial(search, "a", **{"refine.train.lr": 0.003})
    end.on_trial_add(None, only)
    for epoch in range(1, epochs + 1):
        result = {EPOCH: epoch, LOSS: 1.0 / epoch}
        assert end.on_trial_result(None, only, result) == TrialScheduler.CONTINUE


def test_the_presets_own_trial_never_ends_early(search: SearchPlan) -> None:
    epochs = trained_step(search)[1]
    end = EarlyEnd(study(search, affinity=[0.9] * 20), epochs)
    default, better, worse = trial(search, "a"), *(trial(search, n, **{"refine.train.lr": 0.003}) for n in "bc")
    for each, loss in ((better, 0.1), (default, 2.0), (worse, 3.0)):
        end.on_trial_add(None, each)
        result = {EPOCH: epochs, LOSS: loss}
        decision = end.on_trial_result(None, each, result)
        assert decision == (TrialScheduler.STOP if each is worse else TrialScheduler.CONTINUE)
    for each, ended in ((default, TrialScheduler.CONTINUE), (worse, TrialScheduler.STOP)):
        assert end.on_trial_result(None, each, {PER_IMAGE: [0.1] * 20, "final": False}) == ended


def test_a_method_is_not_given_up_for_another_that_is_better(tiny_shapes: Dataset) -> None:
    search = plan_search("affinity,cam", "demo", str(tiny_shapes.root), keys=("refine.crf",))
    end = EarlyEnd(study(search, affinity=[0.9] * 20, cam=[0.1] * 20), 0)
    result = {PER_IMAGE: [0.2] * 20, "final": False}
    weight = {"refine.crf.bilateral_weight": 3.0}
    assert end.on_trial_result(None, trial(search, "a", "cam", **weight), result) == TrialScheduler.CONTINUE
    assert end.on_trial_result(None, trial(search, "b", "affinity", **weight), result) == TrialScheduler.STOP


@pytest.mark.parametrize(
    ("keys", "step"),
    [
        (RATES, "refine.train"),
        (("refine.train.lr", "refine.walk", "refine.crf"), "refine.train"),
        (("refine.train.lr", "refine.labels"), ""),  # other labels to learn
        (("refine",), ""),
        (("refine.walk",), ""),
    ],
)
def test_losses_are_compared_where_all_but_the_rate_is_alike(
    keys: tuple[str, ...], step: str, tiny_shapes: Dataset
) -> None:
    assert trained_step(plan_search("affinity", "demo", str(tiny_shapes.root), keys=keys))[0] == step
