"""What a search can make good is known before the first trial: what the steps declare, where there are masks for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tune.objective import choose_objective, objectives
from wsss.data import Dataset, open_dataset
from wsss.errors import UserError
from wsss.run.plan import make_plan

WITHOUT_MASKS = ["train/loss", "dev/tags/map"]


@pytest.fixture(scope="module")
def unmasked(tiny_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The tiny shapes without a single mask."""
    root = tmp_path_factory.mktemp("unmasked") / "unmasked"
    shutil.copytree(tiny_shapes.root, root)
    for mask in Path(root).glob("SegmentationClass*/*.png"):
        mask.unlink()
    return open_dataset(root)


def test_by_default_the_labels_after_the_crf_are_made_good_or_the_last_maps(tiny_shapes: Dataset) -> None:
    objective = choose_objective(make_plan("affinity", "demo"), tiny_shapes, None)
    assert (objective.metric, objective.until, objective.mode) == ("dev/labels_crf/miou", "refine", "max")
    assert choose_objective(make_plan("bound", "demo"), tiny_shapes, None).metric == "dev/pred_crf/miou"


def test_each_objective_ends_a_trial_after_the_stage_that_gives_it(tiny_shapes: Dataset) -> None:
    stages = {name: o.until for name, o in objectives(make_plan("affinity", "demo"), tiny_shapes).items()}
    assert stages == {
        "train/loss": "segment",
        "dev/tags/map": "localize",
        "dev/cam/miou": "localize",
        "dev/labels/miou": "refine",
        "dev/labels_crf/miou": "refine",
        "dev/pred/miou": "segment",
        "dev/pred_crf/miou": "segment",
    }
    assert choose_objective(make_plan("cam", "demo"), tiny_shapes, "train/loss").mode == "min"


def test_without_masks_on_dev_only_what_needs_none_is_an_objective(unmasked: Dataset) -> None:
    plan = make_plan("cam", "demo")
    assert list(objectives(plan, unmasked)) == WITHOUT_MASKS
    for name in (None, "dev/labels_crf/miou", "dev/pred/miou"):
        with pytest.raises(UserError, match=f"no masks for its split dev.* --objective .*{', '.join(WITHOUT_MASKS)}"):
            choose_objective(plan, unmasked, name)


@pytest.mark.parametrize("name", ["val/pred_crf/miou", "val/tags/map", "train/labels_crf/miou"])
def test_no_search_looks_at_val_or_at_masks_other_than_those_of_dev(name: str, tiny_shapes: Dataset) -> None:
    with pytest.raises(UserError, match=f"the objective {name} looks at .* masks of dev alone.*dev/labels_crf/miou"):
        choose_objective(make_plan("cam", "demo"), tiny_shapes, name)


@pytest.mark.parametrize("name", ["tags/map", "dev/direct/miou", "dev/labels_crf/iou/cat", "miou"])
def test_an_objective_that_no_trial_would_give_is_refused_before_the_first(name: str, tiny_shapes: Dataset) -> None:
    with pytest.raises(UserError, match=f"unknown objective '{name}' of method cam: .*dev/tags/map.*dev/pred_crf/miou"):
        choose_objective(make_plan("cam", "demo"), tiny_shapes, name)
