"""What a trial measures is what a whole run gives, from the masks of dev alone; it is given up when it is worse."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tune.measure
from tune.measure import Place, facts_of, measure, parts, pieces
from tune.objective import choose_objective
from tune.race import is_worse, trained_step
from tune.search import Candidate, plan_search
from tune.space import Narrowing
from tune.studies import best_of, resumed
from tune.study import COMPLETE, FAILED, PRUNED, Study
from wsss.data import Dataset, open_dataset
from wsss.data.checking import accept
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.progress import ConsoleReporter
from wsss.run.method import run_method
from wsss.run.plan import make_plan
from wsss.scores.bootstrap import bootstrap, paired_bootstrap

pytestmark = pytest.mark.usefixtures("surroundings")

FAST = {"localize.train.epochs": "1", "localize.train.crop": "33"}
PLACE = Place(torch.device("cpu"))
KEYS = ("refine.background", "refine.crf")


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset of which only dev has masks: those of train and val are deleted."""
    root = tmp_path_factory.mktemp("little") / "little"
    make_shapes(root, images=60, val_images=2, size=40, classes=2)
    dataset = open_dataset(root)
    for mask in root.glob("SegmentationClass*/*.png"):
        if mask.stem not in dataset.splits["dev"]:
            mask.unlink()
    accept(open_dataset(root))
    return open_dataset(root)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little: Dataset) -> Dataset:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune.measure, "SMALLEST_PIECE", 2)
    return little


def test_a_trial_in_pieces_gives_what_a_whole_run_gives_from_the_masks_of_dev_alone(here: Dataset) -> None:
    plan = make_plan("cam", "demo", FAST)
    objective = choose_objective(plan, here, None)
    assert [planned.key for planned in parts(plan, objective)[0]] == ["localize.train"]
    *before, last = measure(plan, objective, here, 0, PLACE, ConsoleReporter)
    assert len(before) > 0 and [m.images for m in before] == sorted({m.images for m in before}) and last.whole
    run = run_method("cam", "demo", str(here.root), overrides=FAST, until="refine", track=False)
    assert run.steps["localize.train"].reused
    labels = run.steps["refine.crf"].folder / "labels_crf"
    from wsss.data.label_maps import LabelMaps
    from wsss.scores import Masks, Scores, confusion

    maps, masks = LabelMaps(labels), Masks(here)
    total = sum(confusion(masks.read(i), maps.read(i), 2) for i in here.splits["dev"])
    assert last.value == pytest.approx(Scores.of(np.asarray(total)).miou, abs=2e-3)
    assert last.evaluation is not None and set(last.evaluation.ids) == set(here.splits["dev"])

    *_, again = measure(plan, objective, here, 0, PLACE, ConsoleReporter)
    assert again.value == last.value and {fact["how"] for fact in facts_of(again)} == {"reused"}
    assert again.saved == pytest.approx(again.seconds) and again.seconds > 0


def test_what_learns_from_training_images_is_run_whole_and_the_rest_on_dev() -> None:
    plan = make_plan("affinity", "demo")
    found = {}
    for what, until in (("labels_crf", "refine"), ("pred_crf", "segment"), ("cam", "localize")):
        objective = tune.measure.Objective(f"dev/{what}/miou", f"evaluate.{what}", until)
        found[what] = [[planned.key for planned in part] for part in parts(plan, objective)]
    before = ["localize.train", "localize.infer", "refine.labels", "refine.train"]
    assert found["labels_crf"] == [before, ["refine.walk", "refine.crf", "evaluate.labels_crf"]]
    whole = [*before, "refine.walk", "refine.crf", "segment.train", "segment.prior"]
    assert found["pred_crf"] == [whole, ["segment.predict", "evaluate.pred_crf"]]
    assert found["cam"] == [["localize.train"], ["localize.infer", "evaluate.cam"]]


def test_a_threshold_that_is_chosen_on_dev_is_chosen_on_all_of_it(here: Dataset) -> None:
    plan = make_plan("cam", "demo", FAST)
    assert len(pieces(plan, choose_objective(plan, here, None), here)) > 1
    assert [set(p) for p in pieces(plan, choose_objective(plan, here, "dev/cam/miou"), here)] == [
        set(here.splits["dev"])
    ]


def test_a_trial_that_is_worse_on_most_images_is_given_up_and_one_like_the_best_is_not() -> None:
    draw = np.random.default_rng(0)
    best = draw.uniform(0.3, 0.8, 40)
    kept = sum(not is_worse(list(best[:16] + draw.normal(0, 0.05, 16)), list(best)) for _ in range(200))
    assert kept >= 180  # one in twenty by chance
    assert is_worse(list(best[:16] - 0.1 + draw.normal(0, 0.05, 16)), list(best))
    assert not is_worse(list(best[:16]), list(best)) and not is_worse([], list(best))
    assert is_worse(list(best[:16] + 0.1), list(best), "min") and not is_worse(list(best[:16] - 0.1), list(best), "min")
    assert not is_worse([float("nan")] * 8, list(best))


def test_losses_are_compared_only_where_learning_rates_are_all_that_differs(here: Dataset) -> None:
    def search(*keys: str):
        return plan_search("cam", "demo", str(here.root), keys=keys, fixed=FAST)

    assert trained_step(search("localize")) == ("localize.train", 1)
    assert trained_step(search("localize", "refine")) == ("localize.train", 1)
    assert trained_step(search("refine")) == ("", 0)
    assert trained_step(plan_search("wildcat", "demo", str(here.root), keys=("localize",))) == ("", 0)
    assert trained_step(plan_search("cam,affinity", "demo", str(here.root), keys=("localize",))) == ("", 0)


def test_a_study_hands_out_the_presets_first_and_what_was_left_again(here: Dataset) -> None:
    search = plan_search("cam,affinity", "demo", str(here.root), keys=("refine.crf",), name="both")
    study = Study(search, Path("work"), trials=5)
    taken = [study.take() for _ in range(3)]
    assert [candidate for _, candidate in taken[:2]] == [part.default for part in search.methods]
    study.note(0, run="r", per_image=[0.5])
    study.end(0, COMPLETE, 0.25)
    study.end(0, COMPLETE, 0.75)  # a trial ends once
    study.end(1, PRUNED)

    later = Study(resumed("both", Path("work")), Path("work"), trials=5)
    assert later.take() == taken[2]
    later.note(2, error="no")
    later.end(2, FAILED)
    assert [(r.state, r.value) for r in later.records] == [(COMPLETE, 0.25), (PRUNED, None), (FAILED, None)]
    assert later.best is not None and later.best.facts == {"run": "r", "per_image": [0.5]} and later.ended == 3
    with pytest.raises(UserError, match="unknown search 'bot'; choose from both"):
        resumed("bot", Path("work"))

    narrow = plan_search("cam", "demo", str(here.root), keys=("refine.crf",), name="one")
    assert best_of("both", narrow, Path("work"), 5) == [search.methods[0].default]


def test_a_search_that_changed_is_not_gone_on_with(here: Dataset) -> None:
    copy = Path("copy").absolute()
    shutil.copytree(here.root, copy)
    search = plan_search("cam", "demo", str(copy), keys=("refine.crf",), name="kept")
    Study(search, Path("work"), trials=1)
    with pytest.raises(UserError, match="was begun with something else: .*space.refine.background.alpha.*--name"):
        Study(plan_search("cam", "demo", str(copy), keys=KEYS, name="kept"), Path("work"), trials=1)
    (copy / "ImageSets" / "Segmentation" / "dev.txt").write_text(here.splits["dev"][0] + "\n")
    with pytest.raises(UserError, match="was begun with something else: digest was"):
        Study(resumed("kept", Path("work")), Path("work"), trials=1)


def test_a_random_search_draws_the_same_however_often_it_is_interrupted(here: Dataset) -> None:
    from tune.drawing import fill

    search = plan_search("cam", "demo", str(here.root), keys=KEYS, sampler="random", name="random")
    study = Study(search, Path("work"), trials=6)
    fill(study, 4)
    first = [study.take() for _ in range(2)]
    again = Study(search, Path("work"), trials=6)
    fill(again, 6)
    drawn = [again.take() for _ in range(6)]
    assert drawn[:2] == first and [number for number, _ in drawn] == list(range(6))
    other = Study(
        plan_search("cam", "demo", str(here.root), keys=KEYS, sampler="random", name="other"), Path("work"), trials=6
    )
    fill(other, 6)
    assert [other.take() for _ in range(6)] == drawn
    assert len({str(candidate) for _, candidate in drawn}) > 3


def test_settings_of_a_method_that_others_lack_are_fixed_where_they_are(here: Dataset) -> None:
    search = plan_search(
        "cam,affinity", "demo", str(here.root), fixed={"refine.walk.beta": "4", "refine.crf.iterations": "2"}
    )
    assert search.fixed_of("cam") == {"refine.crf.iterations": "2"} and "refine.walk.beta" in search.fixed_of(
        "affinity"
    )
    assert search.plan(search.of("affinity").default).settings["refine.walk.beta"] == 4.0
    narrowed = plan_search(
        "cam,affinity", "demo", str(here.root), narrowing=Narrowing({"refine.walk.beta": (2.0, 4.0)}, {}, frozenset())
    )
    assert [list(part.space) for part in narrowed.methods] == [[], ["refine.walk.beta"]]
    assert narrowed.of("cam").default == Candidate("cam", {})


def test_the_interval_of_a_difference_is_that_of_pairs() -> None:
    draw = np.random.default_rng(1)
    first = draw.integers(0, 50, (60, 3, 3)) + 100 * np.eye(3, dtype=int)
    second = first + 8 * np.eye(3, dtype=int)
    low, high = paired_bootstrap(second, first)
    assert 0 < low < high and high - low < (bootstrap(first)[1] - bootstrap(first)[0])
    assert paired_bootstrap(first, first) == (0.0, 0.0)
