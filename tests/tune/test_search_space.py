"""What a search draws: every preset lies in its own space, and every setting that can be drawn can be run."""

from __future__ import annotations

import optuna
import pytest

from tune.drawing import draw
from tune.objective import Objective
from tune.space import Narrowing, search_space
from wsss import methods
from wsss.errors import UserError
from wsss.run.plan import Plan, make_plan
from wsss.run.preset import PRESETS
from wsss.settings import Search, Setting, choice, factor, loguniform, settings_of, uniform

PLANS = {f"{method}-{preset}": (method, preset) for method in methods.names() for preset in PRESETS}


def searchable(plan: Plan) -> list[tuple[Setting, object]]:
    settings = [s for p in plan.steps for s in settings_of(p.step.settings, f"{p.key}.") if s.search is not None]
    return [(setting, plan.settings[setting.key]) for setting in settings]


@pytest.mark.parametrize("name", PLANS)
def test_every_preset_lies_in_its_own_space_and_the_space_in_what_is_allowed(name: str) -> None:
    for setting, value in searchable(make_plan(*PLANS[name])):
        space = setting.space(value)
        if value is None and setting.search is not None and setting.search.kind == "factor":
            assert space is None, "around no value there is nothing to search"
            continue
        assert space is not None and space.holds(value), f"{setting.key} = {value} is outside {space}"
        for drawn in space.values or (space.low, space.high):
            assert setting.low is None or drawn >= setting.low, setting.key
            assert setting.high is None or drawn <= setting.high, setting.key
        assert space.values or space.low < space.high, setting.key


@pytest.mark.parametrize("name", PLANS)
def test_what_is_drawn_around_a_preset_can_be_run(name: str) -> None:
    """No step refuses it, at the ends of its ranges either: exponents don't cross."""
    method, preset = PLANS[name]
    plan = make_plan(method, preset)
    spaces = search_space(
        plan, aim(plan, "segment"), {setting.key.partition(".")[0] for setting, _ in searchable(plan)}
    )
    ends = [{k: (s.values or (s.low, s.high))[end] for k, s in spaces.items()} for end in (0, -1)]
    crossed = [{key: ends[number % 2 ^ flip][key] for number, key in enumerate(spaces)} for flip in (0, 1)]
    for values in (*ends, *crossed):
        for planned in make_plan(method, preset, values).steps:
            if any(key.startswith(f"{planned.key}.") for key in values):
                planned.step.check(planned.settings)


def test_a_choice_leaves_out_what_the_step_refuses_beside_the_preset():
    assert "localize.train.transplant" not in search_space(
        make_plan("fcn_mil", "demo"), aim(make_plan("fcn_mil", "demo"), "localize")
    )
    assert "localize.train.transplant" in search_space(
        make_plan("fcn_mil", "paper"), aim(make_plan("fcn_mil", "paper"), "localize")
    )


def test_a_factor_is_around_the_preset_s_value_within_what_is_allowed() -> None:
    setting = Setting("lr", float, 0.01, "", "ours", 0, 1, None, "", factor(0.1, 10), False, (), False, False)
    assert setting.space(0.01) == loguniform(0.001, 0.1)
    assert setting.space(0.5) == loguniform(0.05, 1)
    assert factor(0.1, 10).text == "0.1 to 10 × the preset"


def aim(plan: Plan, until: str) -> Objective:
    """The objective whose stage is that one."""
    what = {"localize": "cam", "refine": "labels_crf", "segment": "pred_crf"}[until]
    return Objective(f"dev/{what}/miou", f"evaluate.{what}", until)


@pytest.mark.parametrize(
    ("how", "inside"),
    [
        (uniform(0.5, 32), lambda v: 0.5 <= v <= 32),
        (loguniform(1e-3, 1e-1), lambda v: 1e-3 <= v <= 1e-1),
        (choice(2.0, 4.0), lambda v: v in (2.0, 4.0)),
        (Search("int", 1, 3), lambda v: v in (1, 2, 3)),
    ],
)
def test_every_kind_of_search_draws_from_its_range(how, inside):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [draw(study.ask(), "x", how) for _ in range(60)]
    assert all(map(inside, drawn)) and len(set(drawn)) > 1 and all(map(how.holds, drawn))


def test_what_cannot_move_the_objective_is_not_searched():
    """A step that the objective's does not come from: FCN-MIL predicts beside its maps, and labels come from these."""
    plan = make_plan("fcn_mil", "demo")
    space = search_space(plan, aim(plan, "refine"), ["localize", "refine"])
    assert space and not any(key.startswith("localize.predict.") for key in space)


def test_a_file_narrows_the_space_and_pins(tmp_path):
    plan = make_plan("affinity", "demo")
    file = tmp_path / "space.json"
    file.write_text(
        '{"refine.walk.beta": [4, 8], "refine.walk.radius": {"low": 3, "high": 5}, "refine.crf.iterations": 3}'
    )
    narrowing = Narrowing.read(file)
    space = search_space(plan, aim(plan, "refine"), narrowing=narrowing)
    assert space == {"refine.walk.beta": choice(4.0, 8.0), "refine.walk.radius": Search("int", 3, 5)}
    assert narrowing.fixed == {"refine.crf.iterations": "3"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "can't be read"),
        ("[1]", "no JSON object"),
        ('{"refine.walk.beta": {"low": 8, "high": 4}}', "a range is"),
        ('{"refine.walk.beta": {"low": 8}}', "a range is"),
        ('{"refine.walk.beta": []}', "empty list"),
        ('{"refine.walk.bet": [1]}', "unknown setting.*refine.walk.beta"),
        ('{"segment.train.lr": [0.1]}', "unknown setting that the objective depends on"),
        ('{"refine.walk.beta": [-3]}', "refine.walk.beta"),
    ],
)
def test_a_space_that_can_not_be_is_refused(tmp_path, content, said):
    plan, file = make_plan("affinity", "demo"), tmp_path / "space.json"
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        search_space(plan, aim(plan, "refine"), narrowing=Narrowing.read(file))


def test_by_default_the_settings_of_one_stage_are_searched():
    plan = make_plan("affinity", "demo")
    for stage in ("localize", "refine", "segment"):
        space = search_space(plan, aim(plan, stage))
        assert space and all(key.startswith(f"{stage}.") for key in space)
    assert "refine.walk.beta" in search_space(plan, aim(plan, "refine"))


def test_keys_name_settings_steps_and_stages_and_fixed_ones_are_left_out():
    plan = make_plan("affinity", "demo")
    assert list(search_space(plan, aim(plan, "refine"), ["refine.walk.beta"])) == ["refine.walk.beta"]
    crf = search_space(plan, aim(plan, "refine"), ["refine.crf"], fixed=["refine.crf.bilateral_srgb"])
    assert list(crf) == ["refine.crf.bilateral_weight"]
    assert "localize.train.lr" in search_space(plan, aim(plan, "refine"), ["localize", "refine.crf"])
    with pytest.raises(UserError, match=r"unknown searchable setting 'refine\.wal'; choose from .*refine\.walk\.beta"):
        search_space(plan, aim(plan, "refine"), ["refine.wal"])
    with pytest.raises(UserError, match="unknown searchable setting"):
        search_space(plan, aim(plan, "refine"), ["segment.train.lr"])


def test_where_everything_is_set_there_is_nothing_to_search():
    plan = make_plan("cam", "demo")
    with pytest.raises(UserError, match="nothing to search up to stage localize of method cam.*--set"):
        search_space(plan, aim(plan, "localize"), fixed=["localize.train.lr"])
