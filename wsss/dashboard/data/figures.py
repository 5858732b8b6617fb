"""The figures of a dataset: its classes by split, classes that occur together, sizes of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from dash import html
from dash.development.base_component import Component

from wsss.dashboard.page import problem
from wsss.dashboard.plain import figure, graph, plotly_text, table
from wsss.data.summary import Sizes, Summary

MOST = 30
"""So many classes are shown where none is chosen."""
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
"""Of the splits; by Okabe and Ito, apart for people who see colours differently."""
_PATTERNS = ("", "/", ".", "x")
_NUMBERED = 25
"""Of so many classes the numbers stand in the heat map."""


def shown(counted: Summary, chosen: list[int] | None) -> list[int]:
    """The classes that are shown, from 0."""
    wanted = sorted({number - 1 for number in chosen or () if 1 <= number <= len(counted.classes)})
    return wanted or counted.frequent(MOST)


def class_figures(counted: Summary, shown: list[int]) -> list[Component]:
    """Images of each class by split, as bars and numbers, and how classes occur together; `shown` from 0."""
    names = [counted.classes[index] for index in shown]
    labels = [plotly_text(name) for name in names]
    bars = [
        go.Bar(
            y=list(range(len(shown))),
            x=counted.tagged[row, shown].tolist(),
            name=split,
            orientation="h",
            marker={"color": colour, "pattern": {"shape": pattern}},
            customdata=labels,
            hovertemplate=f"%{{customdata}}, {split}: %{{x:,}} images<extra></extra>",
        )
        for row, (split, colour, pattern) in enumerate(zip(counted.splits, _COLOURS, _PATTERNS, strict=False))
    ]
    ticks = {
        "tickmode": "array",
        "tickvals": list(range(len(shown))),
        "ticktext": [plotly_text(_short(name)) for name in names],
    }
    counts = figure(
        "Images of each class",
        *bars,
        height=90 + 22 * len(shown),
        barmode="stack",
        legend={"orientation": "h", "traceorder": "normal", "y": 1.0, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    )
    counts.update_yaxes(autorange="reversed", **ticks)
    rows = [
        [name, *(f"{count:,}" for count in counted.tagged[:, index].tolist()), f"{counted.tagged[:, index].sum():,}"]
        for name, index in zip(names, shown, strict=True)
    ]
    numbers = table(("class", *counted.splits, "all"), rows, "Images by class and split", numbers=range(1, 6))
    return [
        html.Div(
            [graph(counts, "Bars: images of each class by split; the numbers are in the table"), numbers],
            className="pair",
        ),
        graph(_together(counted, shown, labels, ticks), "Heat map: how many images have both of two classes"),
    ]


def _together(counted: Summary, shown: list[int], labels: list[str], ticks: dict[str, Any]) -> go.Figure:
    both = counted.together[np.ix_(shown, shown)]
    own = np.diag(both)
    # A class's own count would drown the rest: it stands there as a number.
    off = np.where(np.eye(len(shown), dtype=bool), np.nan, both)
    share = np.divide(both, own[:, None], out=np.zeros(both.shape), where=own[:, None] > 0)
    said = [
        [
            f"{labels[row]}: {own[row]:,} images"
            if row == column
            else f"{labels[row]} and {labels[column]}: {both[row, column]:,} images, "
            f"{share[row, column]:.0%} of {labels[row]}"
            for column in range(len(shown))
        ]
        for row in range(len(shown))
    ]
    numbered = {"text": both, "texttemplate": "%{text:,}"} if len(shown) <= _NUMBERED else {}
    heat = go.Heatmap(
        z=off,
        hovertext=said,
        hoverinfo="text",
        colorscale="Cividis",
        colorbar={"title": "images", "thickness": 12},
        **numbered,
    )
    alone = [
        {"x": place, "y": place, "text": f"{count:,}", "showarrow": False} for place, count in enumerate(own.tolist())
    ]
    made = figure("Images with both of two classes", heat, height=140 + 26 * len(shown))
    if numbered:
        made.update_layout(annotations=alone)
    made.update_xaxes(side="bottom", tickangle=-45, showgrid=False, **ticks)
    made.update_yaxes(autorange="reversed", showgrid=False, **ticks)
    return made


def sizes_figure(found: Sizes) -> Component:
    """Widths and heights of the images."""
    counts = sorted(found.counts.items(), key=lambda item: -item[1])
    parts: list[Component] = []
    if found.unread:
        some = ", ".join(found.unread[:5])
        parts.append(
            problem(f"The size of {len(found.unread):,} images can't be read, such as {some}; check the files.")
        )
    if not counts:
        return html.Div([*parts, html.P("No image has a size that can be read.")])
    heights = [height for (height, _), _ in counts]
    widths = [width for (_, width), _ in counts]
    (height, width), most = counts[0]
    said = (
        f"{len(counts):,} sizes: {min(widths)} to {max(widths)} px wide, {min(heights)} to {max(heights)} px high; "
        f"the most frequent is {width} x {height}, of {most:,} images."
    )
    alone = f"All {most:,} images are {width} x {height} px."
    parts.append(html.P(said if len(counts) > 1 else alone))
    if len(counts) > 1:
        largest = counts[:2000]
        dots = go.Scatter(
            x=[width for (_, width), _ in largest],
            y=[height for (height, _), _ in largest],
            customdata=[count for _, count in largest],
            mode="markers",
            marker={
                "size": [4 + 18 * (count / most) ** 0.5 for _, count in largest],
                "color": _COLOURS[0],
                "opacity": 0.5,
                "line": {"width": 0},
            },
            hovertemplate="%{x} x %{y} px: %{customdata:,} images<extra></extra>",
        )
        made = figure("Width and height of the images, px", dots, height=320)
        made.update_xaxes(title="width", rangemode="tozero")
        made.update_yaxes(title="height", rangemode="tozero")
        parts.append(graph(made, "Dots: widths and heights of the images; a larger dot is more images"))
    return html.Div(parts)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"
