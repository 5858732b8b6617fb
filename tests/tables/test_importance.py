"""Which settings mattered in a search."""

from __future__ import annotations

import pytest
from search_examples import SPACE

from wsss.tables.importance import importances


def test_what_is_important_is_found_whatever_is_good() -> None:
    """Only the first setting decides; made large or made small, the best tenth lies at one end of it."""
    given = [({"refine.walk.alpha": 1 + n % 31, "refine.walk.beta": (2.0, 4.0, 8.0)[n % 3]}, n % 31) for n in range(93)]
    for mode in ("max", "min"):
        shares = importances(given, SPACE, mode)
        assert next(iter(shares)) == "refine.walk.alpha" and sum(shares.values()) == pytest.approx(1)
        assert shares["refine.walk.alpha"] > 0.9
    assert importances(given[:1], SPACE, "max") == {}
