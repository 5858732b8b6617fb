import json
import shlex
import shutil

import numpy as np
import pytest
from mlflow import MlflowClient
from ray import tune as ray_tune

from tune.runner import SEARCH_RUN, TRIAL, run_search
from tune.search import plan_search
from tune.space import default_objective, domain, last_stage, search_space
from wsss.cli.runs import parse_settings
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.run.plan import make_plan
from wsss.settings import Search, choice, loguniform, uniform
from wsss.tracking import names
from wsss.tracking.query import runs

FAST = {"localize.train.epochs": "1", "localize.train.crop": "33"}
KEYS = ("refine.background.alpha", "refine.crf.bilateral_weight")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("workspace")
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        make_shapes(folder / "data" / "little", images=16, val_images=2, size=40, classes=2)
        yield folder


@pytest.mark.parametrize(
    ("search", "inside"),
    [
        (uniform(0.5, 32), lambda v: 0.5 <= v <= 32),
        (loguniform(1e-3, 1e-1), lambda v: 1e-3 <= v <= 1e-1),
        (choice(2.0, 4.0), lambda v: v in (2.0, 4.0)),
        (Search("int", 1, 3), lambda v: v in (1, 2, 3)),
    ],
)
def test_every_kind_of_search_draws_from_its_range(search, inside):
    drawn = [domain(search).sample() for _ in range(200)]
    assert all(map(inside, drawn)) and len(set(drawn)) > 1


def test_both_ends_of_an_integer_range_are_drawn_and_loguniform_is_even_in_the_logarithm():
    assert {domain(Search("int", 1, 3)).sample() for _ in range(200)} == {1, 2, 3}
    drawn = np.array([domain(loguniform(1e-4, 1e-2)).sample() for _ in range(2000)])
    assert 0.45 < (drawn < 1e-3).mean() < 0.55
    assert isinstance(domain(choice(1)), ray_tune.search.sample.Categorical)


def test_by_default_the_settings_of_the_objective_s_stage_are_searched():
    plan = make_plan("affinity", "demo")
    assert default_objective(plan) == "dev/labels_crf/miou"
    for objective, stage in [("dev/labels_crf/miou", "refine"), ("dev/pred/miou", "segment"), ("tags/map", "segment")]:
        assert last_stage(plan, objective) == stage
        space = search_space(plan, stage)
        assert space and all(key.startswith(f"{stage}.") for key in space)
    assert "refine.walk.beta" in search_space(plan, "refine")
    assert default_objective(make_plan("bound", "demo")) == "dev/pred_crf/miou"


def test_keys_name_settings_steps_and_stages_and_fixed_ones_are_left_out():
    plan = make_plan("affinity", "demo")
    assert list(search_space(plan, "refine", ["refine.walk.beta"])) == ["refine.walk.beta"]
    crf = search_space(plan, "refine", ["refine.crf"], fixed=["refine.crf.bilateral_srgb"])
    assert list(crf) == ["refine.crf.bilateral_weight"]
    assert "localize.train.lr" in search_space(plan, "refine", ["localize", "refine.crf"])
    with pytest.raises(UserError, match=r"unknown searchable setting 'refine\.wal'; choose from .*refine\.walk\.beta"):
        search_space(plan, "refine", ["refine.wal"])
    with pytest.raises(UserError, match="unknown searchable setting"):
        search_space(plan, "refine", ["segment.train.lr"])


def test_no_search_looks_at_val():
    with pytest.raises(UserError, match="looks at the masks of val; a search may look at those of dev alone"):
        last_stage(make_plan("cam", "demo"), "val/pred_crf/miou")
    with pytest.raises(UserError, match="unknown maps in the objective: 'cam'; choose from"):
        last_stage(make_plan("bound", "demo"), "dev/cam/miou")


def test_without_masks_on_dev_an_objective_has_to_be_named(workspace):
    root = workspace / "data" / "unmasked"
    shutil.copytree(workspace / "data" / "little", root)
    for mask in root.glob("SegmentationClass*/*.png"):
        mask.unlink()
    with pytest.raises(UserError, match="no masks for its split dev.* --objective"):
        plan_search("cam", "demo", "unmasked", trials=2)
    assert plan_search("cam", "demo", "unmasked", trials=2, objective="tags/map").mode == "max"
    assert plan_search("cam", "demo", "unmasked", trials=2, objective="train/loss").mode == "min"


def test_equal_searches_have_equal_names(workspace):
    one, same = (plan_search("cam", "demo", "little", trials=2, fixed=FAST) for _ in range(2))
    assert one.name == same.name != plan_search("cam", "demo", "little", trials=2).name


def test_a_search_runs_reuses_and_is_found_again(workspace):
    search = plan_search("cam", "demo", "little", trials=2, keys=KEYS, fixed=FAST)
    found = run_search(search)
    assert found.trials == 2 and found.failed == 0 and set(found.settings) == set(KEYS)

    trials = {record.id: record for record in runs()}
    assert len(trials) == 2 and found.run in trials
    assert {record.tags[names.MLFLOW_PARENT] for record in trials.values()} == {found.search_run}
    assert all(TRIAL in record.tags for record in trials.values())
    values = [record.metrics["dev/labels_crf/miou"] for record in trials.values()]
    assert found.value == pytest.approx(max(values))
    best = {key: json.loads(trials[found.run].params[key]) for key in KEYS}
    assert best == found.settings

    store = workspace / "work" / "store"
    assert len(list((store / "localize.cam.train").iterdir())) == 1
    assert len(list((store / "refine.cam.crf").iterdir())) == len({str(r.params) for r in trials.values()})
    assert not list(store.glob("segment*")) and not (workspace / ".dvc").exists()

    words = shlex.split(found.command)
    assert parse_settings(words[words.index("--set") + 1 :: 2]) == {
        **FAST,
        **{key: str(value) for key, value in found.settings.items()},
    }

    parent = MlflowClient().get_run(found.search_run)
    assert parent.info.status == "FINISHED" and parent.data.tags[names.KIND] == SEARCH_RUN
    assert parent.data.metrics["dev/labels_crf/miou"] == pytest.approx(found.value)

    assert run_search(search) == found
    assert {record.id for record in runs()} == set(trials)
