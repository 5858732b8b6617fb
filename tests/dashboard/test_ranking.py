"""Which rows an address of the leaderboard means, in which order: by the server, as a plain sort would have it."""

import json
import random
from dataclasses import replace

import pytest
from compare_examples import record

from wsss.dashboard.leaderboard.ranking import EVERY, View, choices, columns
from wsss.errors import UserError
from wsss.tables.compare import table
from wsss.tracking import names


@pytest.fixture(scope="module")
def rows():
    draw = random.Random(0)
    records = []
    for number in range(60):
        some = {"val__pred_crf": draw.random()} if number % 7 else {}
        method = draw.choice(["affinity", "cam", "Zoom"])
        records.append(record(f"r{number}", group=f"g{number}", method=method, minutes=number, **some))
    return table(records)


def test_rows_are_sorted_as_a_plain_sort_does_and_those_without_a_value_come_last(rows):
    for direction in ("asc", "desc"):
        shown = View.of({"dataset": "shapes", "sort": f"method:asc,val/pred_crf:{direction}"}).rows(rows)
        sign = 1 if direction == "asc" else -1

        def key(row, sign=sign):
            figure = row.figures.get("val/pred_crf")
            return row.method.casefold(), figure is None, sign * figure.mean if figure else 0

        assert shown == sorted(shown, key=key) and len(shown) == len(rows)


def test_the_best_comes_first_where_nothing_is_said(rows):
    best = max((row for row in rows if row.figures), key=lambda row: row.figures["val/pred_crf"].mean)
    assert View.of({"dataset": "shapes"}).rows(rows)[0] == best


@pytest.mark.parametrize(
    ("key", "condition", "check"),
    [
        ("method", {"type": "contains", "filter": "AFF"}, lambda row: row.method == "affinity"),
        ("method", {"type": "notEqual", "filter": "cam"}, lambda row: row.method != "cam"),
        ("val/pred_crf", {"type": "greaterThan", "filter": 50}, lambda row: row.figures and value(row) > 0.5),
        (
            "val/pred_crf",
            {"type": "inRange", "filter": 20, "filterTo": 40},
            lambda row: row.figures and 0.2 <= value(row) <= 0.4,
        ),
    ],
)
def test_filters_mean_what_the_grid_says(rows, key, condition, check):
    shown = View.of({"dataset": "shapes", "filter": json.dumps({key: condition})}).rows(rows)
    assert sorted(row.newest for row in shown) == sorted(row.newest for row in rows if check(row))
    assert 0 < len(shown) < len(rows)


def value(row):
    return row.figures["val/pred_crf"].mean


def test_dataset_method_and_supervision_are_chosen():
    rows = table([record("a", supervision=["masks"]), record("b", group="h", method="cam")])
    offered = {"dataset": ["shapes", EVERY], "method": ["affinity", "cam"], "supervision": ["masks", "tags"]}
    assert choices(rows, View()) == offered
    elsewhere = choices(rows, View.of({"dataset": "gone", "method": "other", "supervision": "boxes"}))
    assert all(
        name in elsewhere[key] for key, name in (("dataset", "gone"), ("method", "other"), ("supervision", "boxes"))
    )
    assert [row.newest for row in View.of({"dataset": EVERY, "supervision": "tags"}).rows(rows)] == ["b"]
    assert [row.newest for row in View.of({"dataset": "shapes", "method": "affinity,x"}).rows(rows)] == ["a"]
    assert View.of({"dataset": "photos"}).rows(rows) == []


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"sort": "beauty:asc"}, "can't sort by 'beauty:asc'; it is COLUMN:asc or COLUMN:desc, of method"),
        ({"split": "test"}, "unknown split 'test'; choose from dev, train, val"),
        ({"filter": "{"}, "the filter in this address can't be read"),
        ({"filter": '{"method": {"type": "__class__", "filter": ""}}'}, "the filter in this address can't be read"),
        ({"filter": "[1]"}, "the filter in this address can't be read"),
    ],
)
def test_an_address_that_can_not_be_read_is_a_sentence(state, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(").replace("[", r"\[")):
        View.of(state)


def test_a_row_says_time_memory_its_ratio_to_the_bound_and_what_is_not_finished():
    bound = record("b", group="h", method="bound", val__pred_crf=0.8, supervision=["masks"])
    other = record("other", group="i", tags={names.BACKBONE: "large"}, val__pred_crf=0.4)
    runs = [
        with_steps(record("r0", 0, val__pred_crf=0.4), 10, 100),
        with_steps(record("r1", 1, val__pred_crf=0.6), 30, 50),
    ]
    rows = {row.newest: row for row in table([bound, other, *runs, with_status(record("r2", 2, minutes=5), "RUNNING")])}
    row = rows["r2"]
    assert row.of_bound == {"val/pred_crf": pytest.approx(0.5 / 0.8)} and rows["other"].of_bound == {}
    assert (row.seconds, row.memory, row.unfinished) == (20, 100, {"RUNNING": 1})
    shown = {key: column.shown(row) for key, column in columns().items()}
    assert shown["bound"] == "62" and shown["seconds"] == "20" and shown["memory"] == "100"
    assert shown["status"] == "1 running" and shown["val/pred_crf"] == "50.0 ± 14.1 (of 2)"


def with_steps(run, seconds, megabytes):
    return replace(run, metrics=run.metrics | {"time/a_s": seconds, "memory/a_mb": megabytes})


def with_status(run, status):
    return replace(run, status=status)
