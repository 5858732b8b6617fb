"""A trial that a killed driver asked for and had not drawn is the one that was meant."""

from __future__ import annotations

from pathlib import Path

import optuna

from tune.drawing import draw_random
from tune.search import plan_search
from tune.study import Study, storage
from wsss.data import Dataset


def test_a_trial_that_was_asked_for_and_not_drawn_is_the_one_that_was_enqueued(
    tiny_shapes: Dataset, tmp_path: Path
) -> None:
    """It became the preset's own settings of the first method, so a random search tried another set."""
    search = plan_search("cam,affinity", "demo", str(tiny_shapes.root), sampler="random")
    meant = [search.methods[0].default, search.methods[1].default, *(draw_random(search, n) for n in (2, 3))]
    study = Study(search, tmp_path, trials=4)
    study.enqueue(meant[2:])
    assert study.take() == (0, meant[0])
    of_optuna = optuna.load_study(study_name=search.name, storage=storage(tmp_path))
    for _ in range(3):
        of_optuna.ask()  # and then it is killed
    again = Study(search, tmp_path, trials=4)
    assert [again.take() for _ in range(4)] == list(enumerate(meant))
    assert [record.candidate for record in Study(search, tmp_path, trials=4).records] == meant
