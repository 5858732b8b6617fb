"""What is computed before the first trial says how far it is."""

from __future__ import annotations

import pytest

import tune.told
from tune.told import News, told
from wsss.errors import UserError


def test_news_come_before_the_result(monkeypatch) -> None:
    monkeypatch.setattr(tune.told, "_EVERY_S", -1.0)

    def work(report):
        reporter = report("localize.train")
        reporter.metrics({"train/loss": 0.5}, 1)
        for done in (1, 2):
            reporter.progress(done, 2, "images", "loss 0.5")
        return False, 3.0

    assert list(told(work)) == [
        News("localize.train", 1, 2, "images", "loss 0.5"),
        News("localize.train", 2, 2, "images", "loss 0.5"),
        (False, 3.0),
    ]


def test_news_are_few() -> None:
    def work(report):
        reporter = report("localize.train")
        for done in range(1000):
            reporter.progress(done, 1000, "images")
        return "result"

    assert list(told(work)) == ["result"]


def test_a_failure_is_raised() -> None:
    def work(report):
        raise UserError("no images")

    with pytest.raises(UserError, match="no images"):
        list(told(work))
