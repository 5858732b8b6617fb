"""Settings: typed, checked against their range, described in words."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from wsss.errors import UserError
from wsss.settings import choice, flatten, parse, setting, settings_of


@dataclass(frozen=True)
class Example:
    """A class with every type of setting."""

    size: int = setting(4, "a number", low=1, high=8, unit="px", search=choice(2, 4))
    rate: float = setting(0.5, "a share", low=0, high=1)
    name: str = setting("a", "a name", choices=("a", "b"))
    on: bool = setting(True, "a switch")
    scales: tuple[float, ...] = setting((1.0, 2.0), "several numbers", low=0.1)
    limit: float | None = setting(None, "perhaps a number", low=0)


@dataclass(frozen=True)
class Several:
    """Words."""

    names: tuple[str, ...] = setting((), "names")
    name: str = setting("", "a name")


def test_defaults_hold_where_nothing_is_said() -> None:
    assert parse(Example, {}) == Example()


def test_text_becomes_the_settings_type() -> None:
    parsed = parse(
        Example, {"size": "8", "rate": "1e-1", "name": "b", "on": "false", "scales": "0.5, 1", "limit": "none"}
    )
    assert parsed == Example(8, 0.1, "b", False, (0.5, 1.0), None)
    assert parse(Example, {"limit": "3"}).limit == 3.0
    assert parse(Example, {"size": "2.0", "on": 0, "scales": "[1]"}) == Example(size=2, on=False, scales=(1.0,))
    assert parse(Several, {"names": "a, b", "name": 2012}) == Several(("a", "b"), "2012")


def test_flattened_settings_parse_back_to_themselves() -> None:
    changed = parse(Example, {"size": 2, "scales": (0.3,)})
    assert parse(Example, flatten(changed)) == changed


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("size", "9", "x.size = 9 is out of range; allowed: 1 to 8 px"),
        ("size", "2.5", "x.size = '2.5' is not a valid int; allowed: 1 to 8"),
        ("size", True, "is not a valid int"),
        ("size", "true", "is not a valid int"),
        ("size", "nan", "x.size = 'nan' is not a valid int; allowed: 1 to 8"),
        ("size", 1e400, "is not a valid int"),
        ("size", "1e400", "is not a valid int"),
        ("limit", "1e400", "x.limit = inf is out of range; allowed: finite numbers, at least 0"),
        ("limit", 1e400, "x.limit = inf is out of range; allowed: finite numbers, at least 0"),
        ("limit", "nan", "x.limit = nan is out of range"),
        ("limit", True, "x.limit = True is not a valid float"),
        ("scales", "1, inf", "out of range; allowed: finite numbers, at least 0.1"),
        ("scales", (1.0, True), "not a valid list of numbers"),
        ("scales", (), "not a valid list of numbers"),
        ("scales", 1.0, "not a valid list of numbers"),
        ("name", True, "not a valid str"),
        ("rate", "nan", "out of range"),
        ("rate", "fast", "not a valid float"),
        ("name", "c", "allowed: one of a, b"),
        ("on", "perhaps", "allowed: true or false"),
        ("scales", "1,0", "allowed: at least 0.1"),
        ("scales", "", "not a valid list of numbers"),
        ("size", "none", "not a valid int"),
        ("sise", "4", "choose from limit, name, on, rate, scales, size"),
    ],
)
def test_bad_values_say_what_is_allowed(name: str, value: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        parse(Example, {name: value}, "x.")


def test_a_description_says_all_there_is() -> None:
    first = settings_of(Example, "stage.step.")[0]
    assert (first.key, first.default, first.meaning, first.allowed, first.unit) == (
        "stage.step.size",
        4,
        "a number",
        "1 to 8 px",
        "px",
    )
    assert first.search == choice(2, 4)
