"""Which settings mattered in a search, by PED-ANOVA from what its trials gave."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wsss.settings import Search

ENOUGH = 2
"""Fewer complete trials say nothing of a setting."""


def importances(
    trials: Sequence[tuple[Mapping[str, Any], float]], space: Mapping[str, Search], mode: str
) -> dict[str, float]:
    """How much each setting decided whether a trial was among the best tenth.

    Watanabe, Bansal, Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces",
    IJCAI 2023, as Optuna has it.

    Args:
        trials: of one method: the searched settings of each complete one, and the value of the objective.
        space: how the settings are searched.
        mode: "max" or "min", what is good of the objective.

    Returns:
        The settings, most important first, with shares that sum to 1; nothing where fewer than `ENOUGH` trials are
        complete, or no setting varies.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    values_of = {key: [settings[key] for settings, _ in trials if key in settings] for key in space}
    varied = {
        key: _distribution(space[key], values) for key, values in values_of.items() if len({*map(str, values)}) > 1
    }
    if len(trials) < ENOUGH or not varied:
        return {}
    study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
    for settings, value in trials:
        params = {key: settings[key] for key in varied if key in settings}
        own = {key: varied[key] for key in params}
        study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=own))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(optuna.importance.get_param_importances(study))


def _distribution(how: Search, values: Iterable[Any]) -> Any:
    """What was searched, with what was tried beside it: a preset's value may lie outside."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if how.kind == "choice":
        return CategoricalDistribution([*dict.fromkeys([*how.values, *values])])
    low, high = min(how.low, *values), max(how.high, *values)
    if how.kind == "int":
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=how.kind == "loguniform")
