"""Plans: precedence of settings, names that don't exist, combinations that don't fit."""

from __future__ import annotations

from typing import Any

import pytest

from wsss import methods
from wsss.errors import UserError
from wsss.run.plan import Plan, all_settings, make_plan
from wsss.run.preset import PRESETS
from wsss.settings import as_text


@pytest.mark.parametrize("method", methods.names())
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_of_every_method_is_valid(method: str, preset: str) -> None:
    plan = make_plan(method, preset)
    assert make_plan(method, preset, given(plan)).settings == plan.settings


def test_medium_is_small_for_longer_on_a_larger_network_at_published_sizes() -> None:
    for method in methods.names():
        small, medium, paper = (make_plan(method, preset).settings for preset in ("small", "medium", "paper"))
        for key, value in medium.items():
            name = key.rpartition(".")[2]
            if name == "backbone":
                assert value == "resnet50"
            elif name == "image_limit":
                assert value == (None if small[key] is None else 20 * small[key])
            elif name == "rates":
                assert value == [3, 6, 9, 12]
            elif name in ("epochs", "crop", "scale_low", "scale_high") and key in paper:
                assert value == paper[key] or key == "segment.train.epochs"
            elif name not in ("side", "width"):
                assert value == small[key]
        for planned in make_plan(method, "medium").steps:
            if method != "imported":
                planned.check()


@pytest.mark.parametrize("method", methods.names())
def test_settings_are_read_back_from_the_texts_that_a_run_logs(method: str) -> None:
    plan = make_plan(method, "demo")
    texts = {key: as_text(value) for key, value in given(plan).items()}
    assert make_plan(method, "demo", texts).settings == plan.settings


def given(plan: Plan) -> dict[str, Any]:
    """The settings of a plan that have a value."""
    return {key: value for key, value in plan.settings.items() if value is not None}


@pytest.mark.parametrize("method", methods.names())
def test_a_method_is_named_as_its_file(method: str) -> None:
    assert methods.load(method).name == method


def test_an_override_wins_over_the_preset_and_the_preset_over_the_default() -> None:
    default = next(s.default for s in all_settings(methods.load("affinity")) if s.key == "localize.train.backbone")
    assert default == "resnet50"
    assert make_plan("affinity", "demo").settings["localize.train.backbone"] == "tiny"
    chosen = make_plan("affinity", "demo", {"localize.train.backbone": "vgg16"})
    assert chosen.settings["localize.train.backbone"] == "vgg16"


def test_a_refiner_can_be_exchanged() -> None:
    plan = make_plan("affinity", "demo", {"refine.name": "cam"})
    assert [p.key for p in plan.steps if p.stage == "refine"] == ["refine.background", "refine.crf"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("afinity", "demo"), "unknown method 'afinity'; choose from affinity, bound, cam, "),
        (("affinity", "tiny"), "unknown preset 'tiny'; choose from demo, medium, paper, small"),
        (("affinity", "demo", {"refine.name": "magic"}), "unknown refine implementation 'magic'; choose from"),
        (("bound", "demo", {"refine.name": "cam"}), "method bound has no stage refine; its stages are segment"),
        (("affinity", "demo", {"refine.wlak.beta": 8}), "'refine.wlak'; choose from .*refine.walk"),
        (("affinity", "demo", {"refine.walk.betta": 8}), "'betta'; choose from .*beta"),
        (
            ("affinity", "demo", {"refine.walk.beta": 1000}),
            "refine.walk.beta = 1000.0 is out of range; allowed: 1 to 64",
        ),
        (("affinity", "demo", {"localize.train.backbone": "resnet7"}), "allowed: one of tiny, resnet18"),
        (("affinity", "demo", {"epochs": 3}), "unknown step in setting 'epochs'"),
    ],
)
def test_what_does_not_exist_names_what_does(arguments: tuple, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_plan(*arguments)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("localize.train.freeze_bn", True, "freeze_bn=true keeps the batch norm of initial weights, but weights=none"),
        ("localize.train.weights", "imagenet", '"tiny" has no pretrained weights'),
        (
            "localize.train.weights",
            "nowhere.safetensors",
            r"weights = nowhere\.safetensors: there is no such file; allowed: imagenet, none or a file",
        ),
        ("localize.train.scale_low", 3, "scale_low = 3.0 is above scale_high"),
        ("refine.labels.alpha_low", 64, "alpha_low = 64.0 is above alpha_high"),
        ("refine.train.radius", 9, "radius = 9 does not fit a crop of 65 px"),
        ("refine.train.crop", 100, "must be a multiple of 8 plus 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_any_work(
    key: str, value: object, sentence: str
) -> None:
    plan = make_plan("affinity", "demo", {key: value})
    with pytest.raises(UserError, match=sentence):
        for planned in plan.steps:
            planned.check()


@pytest.mark.parametrize("method", methods.names())
def test_only_the_bound_and_what_comes_from_elsewhere_see_more_than_tags(method: str) -> None:
    more = {"bound": {"masks"}, "imported": {"labels from elsewhere"}}
    for preset in PRESETS:
        assert (
            make_plan(method, preset).supervision == methods.load(method).supervision == more.get(method, frozenset())
        )


def test_weights_stand_for_those_of_every_step_that_begins_with_imagenet() -> None:
    settings = make_plan("affinity", "small", {"weights": "tests/conftest.py"}).settings
    for step in ("localize.train", "refine.train", "segment.train"):
        assert settings[f"{step}.weights"] == "tests/conftest.py"
    chosen = make_plan("affinity", "small", {"weights": "file", "refine.train.weights": "localize"}).settings
    assert (chosen["refine.train.weights"], chosen["segment.train.weights"]) == ("localize", "file")


def test_weights_that_no_step_would_take_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"weights = localize .* none with preset demo; set .*: localize.train.weights, "
    ):
        make_plan("cam", "demo", {"weights": "localize"})


@pytest.mark.parametrize("chosen", [{"weights": "localize"}, {"segment.train.weights": "localize"}])
def test_a_word_that_a_step_does_not_know_is_no_file(chosen: dict[str, str]) -> None:
    sentence = (
        r"(localize|segment)\.train\.weights = localize: there is no such file; allowed: imagenet, none or a file"
    )
    for method in ("cam", "affinity"):
        with pytest.raises(UserError, match=sentence):
            for planned in make_plan(method, "small", chosen).steps:
                planned.check()
    for planned in make_plan("affinity", "small", {"refine.train.weights": "localize"}).steps:
        planned.check()
