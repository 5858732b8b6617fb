"""The figures of an ablation: curves over one or two settings, and a heat map of two, a panel for each metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from wsss.dashboard.plain import plotly_text
from wsss.tables.ablation import Row, in_order, is_miou, label, shown

Figure = dict[str, Any]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a919c", "#9a6324")
"""Okabe and Ito's, for people who see colours differently; markers and dashes tell lines apart too."""
_MARKERS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "pentagon")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SPREAD = 8
"""Numbers whose largest is so many times the smallest lie on a logarithmic axis."""
_GAP = 0.1


def curves(rows: Sequence[Row], keys: Sequence[str], metrics: Sequence[str]) -> Figure:
    """The metric over the first key, a line for each value of the second, with deviations over rngs."""
    along, *other = keys
    xs = in_order(row.setting(along) for row in rows)
    numbers = all(type(x) in (int, float) for x in xs)
    lines = in_order(row.setting(other[0]) for row in rows) if other else [None]
    data, layout = [], _layout(len(metrics))
    for place, metric in enumerate(metrics, 1):
        scale = 100 if is_miou(metric) else 1
        for number, value in enumerate(lines):
            own = [r for r in rows if r.values[metric] and (not other or r.setting(other[0]) == value)]
            data.append(
                {
                    "type": "scatter", "mode": "lines+markers" if numbers else "markers",
                    "x": [r.setting(along) if numbers else plotly_text(shown(r.setting(along))) for r in own],
                    "y": [scale * r.mean(metric) for r in own], "xaxis": f"x{place}", "yaxis": f"y{place}",
                    "error_y": {"array": [_spread(r, metric) * scale for r in own], "thickness": 1.2, "width": 4},
                    "name": plotly_text(f"{other[0].rpartition('.')[2]} {shown(value)}") if other else "",
                    "legendgroup": str(number), "showlegend": bool(other) and place == 1, "hoverinfo": "text",
                    "text": [_hover(r, metric) for r in own],
                    "marker": {"symbol": _MARKERS[number % len(_MARKERS)], "size": 8},
                    "line": {"color": COLOURS[number % len(COLOURS)], "dash": _DASHES[number % len(_DASHES)]},
                }
            )  # fmt: skip
        across = layout[f"xaxis{place}"]
        across["title"] = {"text": plotly_text(along), "standoff": 8}
        if numbers:
            across |= {"tickvals": xs, "ticktext": [shown(x) for x in xs]}
            across |= {"type": "log"} if min(xs) > 0 and max(xs) >= _SPREAD * min(xs) else {}
        else:
            across |= {"type": "category", "categoryarray": [plotly_text(shown(x)) for x in xs]}
        layout["annotations"].append(_title(metric, across))
    return {"data": data, "layout": layout}


def heat_map(rows: Sequence[Row], keys: Sequence[str], metrics: Sequence[str]) -> Figure:
    """The metric over both keys, each cell with its figure; empty with one key."""
    if len(keys) < 2:
        return {}
    across_key, down_key = keys
    xs, ys = (in_order(row.setting(key) for row in rows) for key in keys)
    of_cell = {(row.setting(across_key), row.setting(down_key)): row for row in rows}
    data, layout = [], _layout(len(metrics))
    for place, metric in enumerate(metrics, 1):
        scale = 100 if is_miou(metric) else 1
        cells = [[of_cell.get((x, y)) for x in xs] for y in ys]
        means = [[scale * c.mean(metric) if c and c.values[metric] else None for c in line] for line in cells]
        across = layout[f"xaxis{place}"]
        data.append(
            {
                "type": "heatmap", "z": means, "x": [plotly_text(shown(x)) for x in xs],
                "y": [plotly_text(shown(y)) for y in ys], "colorscale": "Viridis", "xgap": 1, "ygap": 1,
                "text": [[c.text(metric).replace(" ± ", "<br>± ") if c else "" for c in line] for line in cells],
                "hovertext": [[_hover(c, metric) if c else "" for c in line] for line in cells],
                "texttemplate": "%{text}",
                "hoverinfo": "text", "xaxis": f"x{place}", "yaxis": f"y{place}",
                "colorbar": {"x": across["domain"][1], "thickness": 10, "outlinewidth": 0, "xpad": 6},
            }
        )  # fmt: skip
        across |= {"type": "category", "title": {"text": plotly_text(across_key), "standoff": 8}}
        down = {"type": "category", "title": {"text": plotly_text(down_key), "standoff": 4} if place == 1 else {}}
        layout[f"yaxis{place}"] |= down
        layout["annotations"].append(_title(metric, across))
    return {"data": data, "layout": layout}


def _layout(panels: int) -> dict[str, Any]:
    width = (1 + _GAP) / panels - _GAP
    layout: dict[str, Any] = {
        "height": 330, "margin": {"l": 55, "r": 20, "t": 30, "b": 50}, "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)", "hovermode": "closest", "hoverlabel": {"align": "left"}, "annotations": [],
        "font": {"family": "system-ui, sans-serif"}, "legend": {"orientation": "h", "y": -0.2, "yanchor": "top"},
    }  # fmt: skip
    for number in range(1, panels + 1):
        left = (number - 1) * (width + _GAP)
        layout[f"xaxis{number}"] = {"domain": [left, left + width], "anchor": f"y{number}", "automargin": True}
        layout[f"yaxis{number}"] = {"anchor": f"x{number}", "automargin": True, "zeroline": False}
    return layout


def _title(metric: str, across: dict[str, Any]) -> dict[str, Any]:
    text = plotly_text(label(metric)) + (", %" if is_miou(metric) else "")
    left = across["domain"][0]
    return {
        "text": f"<b>{text}</b>", "x": left, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "left",
        "yanchor": "bottom", "showarrow": False,
    }  # fmt: skip


def _spread(row: Row, metric: str) -> float:
    deviation = row.deviation(metric)
    return 0.0 if math.isnan(deviation) else deviation


def _hover(row: Row, metric: str) -> str:
    settings = [f"{key} = {shown(value)}" for key, value in row.settings.items()]
    rngs = f"rng {', '.join(map(str, row.rngs))}"
    return "<br>".join(map(plotly_text, (f"{label(metric)} {row.text(metric)}", *settings, rngs)))
