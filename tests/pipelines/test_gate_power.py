"""The gate by simulation, on evaluations of 245 photographs; `python -m pipelines.gate_power` does more of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines import gate_power
from wsss.errors import UserError
from wsss.registry.rules import GateSettings

PROJECT = Path(__file__).parents[2]
SETTINGS = GateSettings(samples=300)


@pytest.fixture(scope="module")
def pair() -> gate_power.Pair:
    return gate_power.read_pair([PROJECT / path for path in gate_power.MATERIAL])


def test_equal_models_are_promoted_in_at_most_the_stated_share_of_trials(pair) -> None:
    """150 trials of 245 paired images; the bound is what a share of 5 % stays below in 99 % of such tests."""
    share = gate_power.promoted_share(gate_power.simulate(pair, 0, 245, 150, SETTINGS), SETTINGS)
    assert share <= 0.05 + 2.33 * (0.05 * 0.95 / 150) ** 0.5


def test_a_larger_difference_and_more_images_are_seen_more_often(pair) -> None:
    few, more, many = (gate_power.simulate(pair, p, n, 25, SETTINGS) for p, n in ((1, 245), (5, 245), (5, 1000)))
    shares = [gate_power.promoted_share(results, SETTINGS) for results in (few, more, many)]
    assert shares[0] < 0.6 < shares[1] <= shares[2]
    assert gate_power.promoted_share(few, GateSettings(margin=3)) == 0


def test_models_are_as_different_as_is_said(pair) -> None:
    assert pair.share(0) == pytest.approx(0.5, abs=1e-5) and 0.5 < pair.share(1) < pair.share(5) < 1
    with pytest.raises(UserError, match="none can be made that is 50 better; take others"):
        pair.share(50)


def test_the_command_prints_a_table_and_writes_page_and_figure(tmp_path, monkeypatch, capsys) -> None:
    material = [str(PROJECT / path) for path in gate_power.MATERIAL]
    (tmp_path / "docs").mkdir()
    page = tmp_path / gate_power.PAGE
    page.write_text("<!-- gate power -->\nold\n<!-- end of gate power -->\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = [*material, "--trials", "2", "--images", "50", "--samples", "200", "--write"]
    assert gate_power.main(options) == 0
    assert "| 50 | " in capsys.readouterr().out and "| 50 | " in page.read_text(encoding="utf-8")
    assert "better by 5" in (tmp_path / gate_power.FIGURE).read_text(encoding="utf-8")
    other = tmp_path / "other.npz"
    arrays = dict(np.load(material[0]))
    np.savez(other, **(arrays | {"ids": np.array(["x"] * len(arrays["ids"]))}))
    assert gate_power.main([material[0], str(other)]) == 2
    assert "are not of the same images and classes" in capsys.readouterr().err
