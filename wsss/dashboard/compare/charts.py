"""Small drawings in SVG, the same on a page and in a file: curves of losses, a figure with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsss.dashboard.compare.nodes import Node, el

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 420, 190, 52, 22, 8
_STRIP, _THICK = 150, 16


@dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        number: of its run, from 1: decides colour and dashes.
        name: of its run.
        steps, values: its points.
    """

    number: int
    name: str
    steps: Sequence[int]
    values: Sequence[float]


def curves(title: str, lines: Sequence[Line], logarithmic: bool) -> Node:
    """Curves over steps: faint as they were measured, and strong their running mean over a 25th of the points.

    Args:
        title: what a screen reader says.
        lines: with at least one finite value, else the picture is empty.
        logarithmic: of the upright axis; what is not above 0 is left out then.
    """
    lines = [line for each in lines if (line := _drawable(each, logarithmic)).steps]
    if not lines:
        return el("p", "No finite value above 0." if logarithmic else "No finite value.", class_="quiet")
    xs = [step for line in lines for step in line.steps]
    ys = [value for line in lines for value in line.values]
    across = _Axis(min(xs), max(xs), _LEFT, _WIDTH - 8, False)
    upward = _Axis(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP, logarithmic)
    marks = [
        el(
            "g",
            el("line", x1=_LEFT, x2=_WIDTH - 8, y1=f"{upward(y):.1f}", y2=f"{upward(y):.1f}", class_="grid"),
            el("text", f"{y:.4g}", x=_LEFT - 6, y=f"{upward(y) + 4:.1f}", text_anchor="end"),
        )
        for y in upward.ticks()
    ]
    steps = [el("text", f"{x:.6g}", x=f"{across(x):.1f}", y=_HEIGHT - 6, text_anchor="middle") for x in across.ticks(4)]
    return el(
        "svg",
        marks,
        steps,
        [_line(line, across, upward) for line in lines],
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        class_="curves",
        role="img",
        aria_label=title,
    )


def key(number: int) -> Node:
    """The colour and the dashes of a run, for beside its name."""
    line = el("line", x1="0", x2="26", y1="5", y2="5", class_=f"curve run-{number}")
    return el("svg", line, viewBox="0 0 26 10", class_="key", aria_hidden="true")


def interval(value: float, low: float, high: float, ends: tuple[float, float], zero: bool = False) -> Node:
    """A dot with its interval on an axis.

    Args:
        value, low, high: the figure and its interval.
        ends: of the axis.
        zero: mark where 0 is, as far as it is on the axis.
    """
    place = _Axis(*ends, 6, _STRIP - 6, False)
    middle = _THICK / 2
    at = f"{place(0):.1f}"
    return el(
        "svg",
        el("line", x1=at, x2=at, y1="0", y2=_THICK, class_="grid") if zero and ends[0] <= 0 <= ends[1] else None,
        el("line", x1=f"{place(low):.1f}", x2=f"{place(high):.1f}", y1=middle, y2=middle, class_="span"),
        el("circle", cx=f"{place(value):.1f}", cy=middle, r="3.5", class_="dot"),
        viewBox=f"0 0 {_STRIP} {_THICK}",
        class_="interval",
        aria_hidden="true",
    )


@dataclass(frozen=True)
class _Axis:
    """From values to places in pixels; a lone value lies in the middle."""

    low: float
    high: float
    first: float
    last: float
    logarithmic: bool

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.first + share * (self.last - self.first)

    def ticks(self, number: int = 5) -> list[float]:
        """Round values between the ends; the ends themselves where there are too few of them."""
        if self.logarithmic:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            found = [10.0**power for power in powers]
        elif self.high > self.low:
            rough = (self.high - self.low) / number
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            found = [step * place for place in range(first, last + 1)]
        else:
            found = []
        return found if len(found) > 1 else sorted({self.low, self.high})


def _drawable(line: Line, logarithmic: bool) -> Line:
    kept = [
        (step, value)
        for step, value in zip(line.steps, line.values, strict=True)
        if math.isfinite(value) and (value > 0 or not logarithmic)
    ]
    return Line(line.number, line.name, [step for step, _ in kept], [value for _, value in kept])


def _line(line: Line, across: _Axis, upward: _Axis) -> Node:
    said = el("title", f"{line.name}: {line.values[-1]:.4g} at step {line.steps[-1]}")
    xs, ys = [across(step) for step in line.steps], [upward(value) for value in line.values]
    if len(xs) == 1:
        return el("circle", said, cx=f"{xs[0]:.1f}", cy=f"{ys[0]:.1f}", r="3", class_=f"dot run-{line.number}")
    window = len(ys) // 25
    measured = el("polyline", points=_points(xs, ys), class_=f"curve faint run-{line.number}") if window > 1 else None
    smooth = _running_mean(np.array(ys), window) if window > 1 else ys
    return el("g", measured, el("polyline", said, points=_points(xs, smooth), class_=f"curve run-{line.number}"))


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over the window around each value, over what of it there is at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - window // 2, 0), np.minimum(place + window // 2 + 1, len(values))
    mean: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return mean


def _points(xs: Sequence[float], ys: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
