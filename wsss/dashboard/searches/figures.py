"""The figures of a search: history, settings against values, importance, quality against seconds.

Each is a plotly figure as JSON has it, of ordinary SVG traces. A point's `customdata` is its trial as people count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wsss.dashboard.plain import plotly_text
from wsss.dashboard.searches.trials import WORDS, Watch, is_complete, settings_text
from wsss.settings import Search
from wsss.tables.ablation import hashable, in_order, is_miou, shown
from wsss.tables.importance import importances
from wsss.tracking import names
from wsss.tracking.searches import Trial

Figure = dict[str, Any]
SCALE = ("#fde725", "#b5de2b", "#6ece58", "#35b779", "#1f9e89", "#26828e", "#31688e", "#3e4989", "#482878")
"""Viridis from bright to dark."""
_MANY = 200
"""Lines of so many trials cover each other."""
BLUE, ORANGE, GREY, PICKED = "#0072b2", "#d55e00", "#8a919c", "#d55e00"


def history(watch: Watch, picked: int | None) -> Figure:
    """The value of each trial in the order in which they were begun, and the best so far."""
    objective = watch.record.objective
    every = [trial for _, trial in sorted(watch.trials.items())]
    complete = [trial for trial in every if is_complete(trial) and trial.value is not None]
    given_up = [trial for trial in every if trial.state == names.PRUNED and trial.so_far is not None]
    running = [trial for trial in every if trial.state == names.RUNNING and trial.so_far is not None]
    failed = [trial for trial in every if trial.state == names.FAILED]
    heights = [_value(trial, objective) for trial in (*complete, *given_up, *running)]
    lowest = min(heights, default=0.0)
    better = max if watch.mode == "max" else min
    best: list[float] = []
    for trial in complete:
        value = _value(trial, objective)
        best.append(better(best[-1], value) if best else value)
    data = [
        _dots("complete", complete, objective, {"color": BLUE, "size": 7}),
        _dots("given up", given_up, objective, {"color": GREY, "size": 7, "symbol": "x-thin-open"}),
        _dots("running", running, objective, {"color": GREY, "size": 7, "symbol": "circle-open"}),
        _dots("failed", failed, objective, {"color": ORANGE, "size": 8, "symbol": "triangle-up"}, lowest),
        {
            "type": "scatter", "mode": "lines", "name": "best so far", "x": [trial.number + 1 for trial in complete],
            "y": best, "line": {"shape": "hv", "color": BLUE, "width": 1.5}, "hoverinfo": "skip",
        },
    ]  # fmt: skip
    data = [trace for trace in data if trace["x"]]
    return _figure([*data, _ring(data, picked)], _axis("trial"), _axis(_said(objective)))


def front(watch: Watch, picked: int | None) -> Figure:
    """Quality against seconds: the complete trials, and the line of those that none surpasses in both."""
    objective = watch.record.objective
    complete = [t for _, t in sorted(watch.trials.items()) if is_complete(t) and t.value is not None and t.seconds]
    sign = 1 if watch.mode == "max" else -1
    on_front: list[Trial] = []
    for trial in sorted(complete, key=lambda trial: (trial.seconds, -sign * (trial.value or 0.0))):
        if not on_front or sign * (trial.value or 0.0) > sign * (on_front[-1].value or 0.0):
            on_front.append(trial)
    dots = _dots("complete", complete, objective, {"color": BLUE, "size": 7})
    dots["x"] = [trial.seconds for trial in complete]
    line = {
        "type": "scatter", "mode": "lines", "name": "none is better and faster", "hoverinfo": "skip",
        "x": [trial.seconds for trial in on_front], "y": [_value(trial, objective) for trial in on_front],
        "line": {"shape": "hv", "color": BLUE, "width": 1.5},
    }  # fmt: skip
    return _figure([line, dots, _ring([dots], picked)], _axis("seconds"), _axis(_said(objective)))


def importance(watch: Watch, method: str, space: Mapping[str, Search]) -> Figure:
    """How much each setting decided whether a trial was among the best; empty where that can't be said yet."""
    own = [trial for trial in watch.of_method(method) if is_complete(trial) and trial.value is not None]
    shares = importances([(trial.settings, trial.value or 0.0) for trial in own], space, watch.mode)
    if not shares:
        return _said_only("Too few complete trials, or no setting varies among them.")
    keys = [*shares][::-1]
    bars = {
        "type": "bar", "orientation": "h", "x": [round(shares[key], 4) for key in keys], "y": [*map(plotly_text, keys)],
        "text": [f"{shares[key]:.2f}" for key in keys], "textposition": "outside", "cliponaxis": False,
        "marker": {"color": BLUE}, "hoverinfo": "skip",
    }  # fmt: skip
    across = _axis("share of the importance") | {"range": [0, 1.15 * max(shares.values())]}
    return _figure([bars], across, {"automargin": True, "ticks": ""})


def parallel(watch: Watch, method: str, space: Mapping[str, Search], picked: int | None) -> Figure:
    """A line for each trial through its settings to its value; better ones darker, thicker and above the others."""
    objective = watch.record.objective
    own = watch.of_method(method)
    keys = [key for key in space if any(key in trial.settings for trial in own)]
    ended = [trial for trial in own if trial.value is not None and is_complete(trial)]
    if not own or not keys:
        return _said_only("No trial of this method yet.")
    scales = [_Scale.of([trial.settings.get(key) for trial in own], space[key]) for key in keys]
    values = [_value(trial, objective) for trial in own if _height(trial) is not None]
    last = _Scale.linear(values)
    data = []
    others = [trial for trial in own if not is_complete(trial)]
    if others:
        line = {"color": GREY, "width": 1, "dash": "dot"}
        left = _lines("given up, failed or running", others, keys, scales, last, objective, line)
        data.append(left | {"opacity": 0.6})
    worst_first = sorted(ended, key=lambda trial: (trial.value or 0.0) * (1 if watch.mode == "max" else -1))
    for number in range(len(SCALE)):
        bin_ = worst_first[len(ended) * number // len(SCALE) : len(ended) * (number + 1) // len(SCALE)]
        if bin_:
            line = {"color": SCALE[number], "width": 1 + 1.5 * number / len(SCALE) * (len(ended) <= _MANY)}
            # Of many all but the best are seen through.
            seen_through = {"opacity": 0.4} if len(ended) > _MANY and number < len(SCALE) - 1 else {}
            data.append(_lines("", bin_, keys, scales, last, objective, line) | seen_through)
    chosen = [trial for trial in own if trial.number + 1 == picked]
    line = {"color": PICKED, "width": 4}
    data.append(_lines(f"trial {picked}" if chosen else "", chosen, keys, scales, last, objective, line))
    marks = [mark for place, scale in enumerate([*scales, last]) for mark in scale.marks(place)]
    heads = [*(_head(key) for key in keys), _said(objective).replace(" ", "<br>", 1)]
    across = {
        "tickvals": [*range(len(heads))], "ticktext": heads, "side": "top",
        "showgrid": True, "gridwidth": 1.5, "range": [-0.15, len(keys) + 0.35], "zeroline": False, "fixedrange": True,
        "ticklabeloverflow": "allow", "tickangle": 0, "tickfont": {"size": 11},
    }  # fmt: skip
    upright = {"visible": False, "range": [-0.06, 1.06], "fixedrange": True}
    figure = _figure(data, across, upright, height=380)
    figure["layout"] |= {"annotations": marks, "margin": {"l": 60, "r": 80, "t": 60, "b": 30}}
    return figure


class _Scale:
    """Where values lie on an upright axis, from 0 to 1, and the texts beside it."""

    def __init__(self, places: Mapping[Any, float], texts: Sequence[tuple[float, str]]) -> None:
        self._places, self._texts = places, texts

    @classmethod
    def of(cls, values: Sequence[Any], how: Search) -> _Scale:
        known = [hashable(value) for value in values if value is not None]
        if how.kind in ("choice",) or not all(type(value) in (int, float) for value in known):
            order = in_order([*map(hashable, how.values), *known])
            places = {value: (n + 0.5) / len(order) for n, value in enumerate(order)}
            return cls(places, [(place, shown(value)) for value, place in places.items()])
        return cls.linear(known, logarithmic=how.kind == "loguniform" and min(known) > 0)

    @classmethod
    def linear(cls, values: Sequence[float], *, logarithmic: bool = False) -> _Scale:
        if not values:
            return cls({}, [])
        into, out = (math.log, math.exp) if logarithmic else (float, float)
        low, high = into(min(values)), into(max(values))
        spread = high - low or 1.0
        ticks = [low + spread * share for share in (0, 0.25, 0.5, 0.75, 1)] if high > low else [low]
        return cls(
            {value: (into(value) - low) / spread for value in values},
            [((tick - low) / spread, f"{out(tick):.3g}") for tick in ticks],
        )

    def __call__(self, value: Any) -> float | None:
        return self._places.get(hashable(value))

    def marks(self, place: int) -> list[dict[str, Any]]:
        return [
            {"x": place, "y": at, "text": plotly_text(text), "showarrow": False, "xanchor": "left", "xshift": 4,
             "font": {"size": 10}}
            for at, text in self._texts
        ]  # fmt: skip


def _lines(
    name: str,
    trials: Sequence[Trial],
    keys: Sequence[str],
    scales: Sequence[_Scale],
    last: _Scale,
    objective: str,
    line: Mapping[str, Any],
) -> dict[str, Any]:
    """The lines of some trials as one trace, a gap after each."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    texts: list[str] = []
    numbers: list[int] = []
    for trial in trials:
        heights = [scale(trial.settings.get(key)) for key, scale in zip(keys, scales, strict=True)]
        heights.append(None if _height(trial) is None else last(_value(trial, objective)))
        xs += [*range(len(heights)), None]
        ys += [*heights, None]
        texts += [_hover(trial, objective)] * (len(heights) + 1)
        numbers += [trial.number + 1] * (len(heights) + 1)
    return {
        "type": "scatter", "mode": "lines", "x": xs, "y": ys, "text": texts, "customdata": numbers, "name": name,
        "line": dict(line), "hoverinfo": "text", "showlegend": bool(name), "connectgaps": False,
    }  # fmt: skip


def _dots(
    name: str, trials: Sequence[Trial], objective: str, marker: Mapping[str, Any], height: float | None = None
) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": [trial.number + 1 for trial in trials],
        "y": [_value(trial, objective) if height is None else height for trial in trials], "marker": dict(marker),
        "text": [_hover(trial, objective) for trial in trials], "hoverinfo": "text",
        "customdata": [trial.number + 1 for trial in trials],
    }  # fmt: skip


def _ring(data: Sequence[Mapping[str, Any]], picked: int | None) -> dict[str, Any]:
    """A ring around the trial that is picked."""
    at = [
        (x, y)
        for trace in data
        for x, y, number in zip(trace["x"], trace["y"], trace.get("customdata", ()), strict=False)
        if number == picked
    ]
    return {
        "type": "scatter", "mode": "markers", "x": [x for x, _ in at], "y": [y for _, y in at], "hoverinfo": "skip",
        "showlegend": False,
        "marker": {"size": 15, "symbol": "circle-open", "color": PICKED, "line": {"width": 3}},
    }  # fmt: skip


def _head(key: str) -> str:
    """A setting's key in two lines."""
    step, _, setting = key.rpartition(".")
    return f"{plotly_text(step)}<br>{plotly_text(setting)}"


def _height(trial: Trial) -> float | None:
    return trial.value if is_complete(trial) else trial.so_far


def _value(trial: Trial, objective: str) -> float:
    return (100 if is_miou(objective) else 1) * (_height(trial) or 0.0)


def _said(objective: str) -> str:
    return plotly_text(f"{objective.removesuffix('/miou')} mIoU, %" if is_miou(objective) else objective)


def _hover(trial: Trial, objective: str) -> str:
    value = "" if _height(trial) is None else f", {_value(trial, objective):.4g}"
    of = "" if is_complete(trial) or not value else " so far"
    head = f"trial {trial.number + 1}, {WORDS[trial.state]}{value}{of}, {trial.method}"
    return "<br>".join(plotly_text(text) for text in (head, *settings_text(trial.settings).split()))


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title, "standoff": 8}, "automargin": True, "zeroline": False}


def _figure(data: Sequence[Any], across: Mapping[str, Any], upright: Mapping[str, Any], height: int = 300) -> Figure:
    """On the page's own ground; the colours of text and grid are those of the page's style."""
    return {
        "data": list(data),
        "layout": {
            "height": height, "margin": {"l": 50, "r": 15, "t": 10, "b": 45}, "xaxis": dict(across),
            "yaxis": dict(upright), "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
            "hovermode": "closest", "hoverlabel": {"align": "left"}, "font": {"family": "system-ui, sans-serif"},
            "legend": {"orientation": "h", "y": -0.16, "yanchor": "top", "x": 0}, "uirevision": "kept",
        },
    }  # fmt: skip


def _said_only(sentence: str) -> Figure:
    figure = _figure([], {"visible": False}, {"visible": False}, height=300)
    figure["layout"]["annotations"] = [{"text": sentence, "showarrow": False, "xref": "paper", "yref": "paper"}]
    return figure
