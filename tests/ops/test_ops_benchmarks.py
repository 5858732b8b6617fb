"""The benchmarks' common language: rows, ratios, the machine, one JSON object."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import common, cuda, scaling
from wsss.errors import UserError


def test_a_row_quotes_medians_the_ratio_of_pairs_and_its_quartiles():
    row = common.row_of("key", "what", 2.0, [0.1, 0.2, 0.4], [0.3, 0.2, 2.0])
    assert (row.ours, row.peer, row.unit) == (200.0, 300.0, "ms")
    assert row.ratio == pytest.approx(3.0) and row.spread == pytest.approx((2.0, 4.0))


def test_without_the_peer_there_is_no_ratio():
    row = common.compare("key", "what", 2.0, lambda: None, None, rounds=3)
    assert row.peer is None and row.ratio is None and row.spread is None and row.ours >= 0


def test_the_two_sides_take_turns():
    calls = []
    common.compare("key", "what", 2.0, lambda: calls.append("ours"), lambda: calls.append("peer"), rounds=3)
    assert calls == ["ours", "peer"] * 4


def test_growth_is_the_exponent_of_the_power_law_that_fits_best(monkeypatch):
    monkeypatch.setattr(scaling, "fastest", lambda program: program())
    sizes = (10, 20, 40)
    row = scaling.power_law("key", "what", 1.0, sizes, [lambda size=size: 0.002 * size**1.5 for size in sizes])
    assert row.ours == pytest.approx(1.5) and row.ratio == pytest.approx(2 / 3) and row.unit == "exponent"
    assert [size for size, _ in row.points] == [10, 20, 40] and row.points[0][1] == pytest.approx(2 * 10**1.5)


def test_without_a_gpu_its_rows_are_empty(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rows = list(cuda.rows())
    assert {row.key for row in rows} == set(cuda.WHAT)
    assert all(row.ours is row.peer is row.ratio is row.aim is None for row in rows)


def test_a_kernel_stands_beside_what_the_bandwidth_allows():
    image = np.random.default_rng(0).integers(0, 256, (1, 24, 32, 3), dtype=np.uint8)
    rows = list(cuda.kernels(image, torch.device("cpu")))
    assert [row.key for row in rows] == ["cuda-splat", "cuda-blur", "cuda-slice"]
    assert all(row.peer / row.ours == pytest.approx(row.ratio, rel=0.5) and row.ratio > 0 for row in rows)


def test_json_is_one_object_with_the_machine_and_the_commit(capsys):
    assert common.run_benchmark("confusion", as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"name", "machine", "commit", "rows"} <= set(report) and report["machine"]["cores"] >= 1
    (row,) = report["rows"]
    assert row["key"] == "confusion"
    assert {"what", "ours", "peer", "unit", "ratio", "aim"} <= set(row)


def test_the_table_names_every_row(capsys):
    common.run_benchmark("confusion", as_json=False)
    assert "confusion" in capsys.readouterr().out


def test_names_are_listed_and_unknown_ones_refused(capsys):
    assert common.run_benchmark("", as_json=False) == 0
    assert {"confusion", "crf", "scaling", "walk"} <= set(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="unknown benchmark 'speed'; choose from"):
        common.run_benchmark("speed", as_json=False)


def test_what_needs_a_clone_of_the_project_says_so(monkeypatch):
    """As from a wheel, which has no `infra`."""
    for name in [name for name in sys.modules if name.startswith(("benchmarks.stack", "infra"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "infra", None)
    with pytest.raises(UserError, match="stack needs infra, which is no part of an installed wsss; run it in a clone"):
        common.run_benchmark("stack", as_json=False)
