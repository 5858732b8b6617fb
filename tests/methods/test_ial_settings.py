"""What a round of IAL keeps as labels, and what its settings make of a round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wsss.errors import UserError
from wsss.methods.ial.refinement import agreed_labels, keep_lost_classes
from wsss.methods.ial.settings import RoundsSettings, pairwise_settings, some_ids, thresholds, unary_settings
from wsss.run.plan import make_plan


def test_confident_labels_pixel_by_pixel() -> None:
    draw = np.random.default_rng(0)
    classes = np.array([0, 3, 7], np.uint8)
    unary = draw.dirichlet(np.full(3, 0.2), (9, 8)).transpose(2, 0, 1)
    refined = np.where(draw.random((9, 8)) < 0.7, unary, draw.dirichlet(np.full(3, 0.2), (9, 8)).transpose(2, 0, 1))
    found = agreed_labels(unary, refined, classes, 0.8, 0.9)
    for y in range(9):
        for x in range(8):
            u, r = unary[:, y, x], refined[:, y, x]
            best = int(u.argmax())
            needed = 0.9 if best == 0 else 0.8
            sure = best == int(r.argmax()) and u[best] >= needed and r[best] >= needed
            assert found[y, x] == (classes[best] if sure else 255)
    assert {0, 3, 7, 255} == set(np.unique(found))


def test_the_thresholds_loosen_by_a_twentieth_in_each_round_down_to_one_half() -> None:
    settings = RoundsSettings()
    assert [thresholds(settings, n) for n in (1, 2, 3)] == [
        pytest.approx(pair) for pair in ((0.8, 0.9), (0.75, 0.85), (0.7, 0.8))
    ]
    assert thresholds(settings, 12) == (0.5, 0.5)


def test_a_class_without_a_confident_pixel_keeps_its_region() -> None:
    before = np.array([[0, 3, 3, 7, 255]], np.uint8)
    classes = np.array([0, 3, 7, 9], np.uint8)
    mined = np.array([[255, 255, 7, 255, 255]], np.uint8)
    kept, lost = keep_lost_classes(mined, before, classes)
    assert kept.tolist() == [[0, 3, 7, 255, 255]]  # 7 has a pixel; 9 never had a region
    assert lost == 2
    nothing, lost = keep_lost_classes(np.full((1, 5), 255, np.uint8), before, classes)
    assert (nothing == before).all()
    assert lost == 3


def test_later_rounds_are_shorter_and_gentler() -> None:
    settings = RoundsSettings(epochs=10, lr=0.4, pairwise_epochs=5, pairwise_lr=0.2, later=0.3)
    assert [(s.epochs, s.lr, n) for s, n in (unary_settings(settings, r, 100) for r in (1, 2, 3))] == [
        (10, 0.4, 100),
        (3, 0.2, 100),
        (3, 0.2, 100),
    ]
    later, count = pairwise_settings(settings, 2, 100)
    assert (later.epochs, later.lr, count, later.every_source) == (1, 0.1, 100, True)
    limited = replace(settings, image_limit=150)
    assert [(s.epochs, n) for s, n in (unary_settings(limited, r, 100) for r in (1, 2))] == [(1, 100), (1, 45)]


def test_fewer_images_than_there_are_is_a_draw_without_replacement() -> None:
    ids = [f"{n:03d}" for n in range(50)]
    drawn = some_ids(ids, 20, 0)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 20
    assert drawn != some_ids(ids, 20, 1)
    assert some_ids(ids, 50, 0) == ids


def test_the_refinement_walks_as_affinitynets_presets_do() -> None:
    for preset in ("demo", "small", "medium"):
        own, walk = make_plan("ial", preset).settings, make_plan("affinity", preset).settings
        for name in ("beta", "steps", "radius"):
            assert own[f"refine.rounds.{name}"] == walk[f"refine.walk.{name}"]
    assert make_plan("ial", "small").settings["refine.rounds.beta"] == 16


def test_no_threshold_is_loosened_and_no_later_round_sees_fewer_images_but_in_paper() -> None:
    for preset in ("demo", "small", "medium"):
        settings = make_plan("ial", preset).settings
        assert (settings["refine.rounds.loosen"], settings["refine.rounds.later"]) == (0, 1)
    assert make_plan("ial", "paper").settings["refine.rounds.loosen"] == 0.05


def check(*overrides: str) -> None:
    """Run the checks of the steps' settings, as before any run."""
    for planned in make_plan("ial", "demo", dict(o.split("=") for o in overrides)).steps:
        planned.check()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("refine.rounds.crop=66", r"refine\.rounds\.crop = 66 must be a multiple of 8 plus 1"),
        ("refine.rounds.freeze_bn=true refine.rounds.weights=none", "freeze_bn=true"),
        (
            "refine.rounds.weights=/nowhere",
            r"refine\.rounds\.weights = /nowhere: there is no such file; allowed: .*localize or a file",
        ),
        ("refine.rounds.rounds=0", "at least 1|1 to 20"),
        ("refine.rounds.confident_foreground=0.4", r"0\.5 to 1"),
        ("refine.labels.alpha_low=64", r"refine\.labels\.alpha_low = 64\.0 is above alpha_high"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(override: str, sentence: str) -> None:
    check()
    with pytest.raises(UserError, match=sentence):
        check(*override.split())
