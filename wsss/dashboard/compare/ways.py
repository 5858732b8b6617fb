"""What a comparison says of how runs came to their scores: rungs, settings, surroundings, seconds, losses."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from wsss.dashboard.compare import charts
from wsss.dashboard.compare.elements import MINUS, Names, percent, points, section, table
from wsss.dashboard.compare.nodes import Node, el
from wsss.interface import STAGES
from wsss.tables.comparison import RUNGS, facts_that_differ, ladder, seconds, settings_that_differ
from wsss.tracking.curves import POINTS, Curve
from wsss.tracking.query import RunRecord


def differing(runs: Sequence[RunRecord], names: Names) -> list[Node]:
    """What differs between the runs: settings, what is behind them, seconds."""
    same = "The same in all of them." if len(runs) > 1 else "One run differs from nothing."
    settings, facts = settings_that_differ(runs), facts_that_differ(runs)
    return [
        texts("settings", "Settings that differ", settings, names, same, folded=True),
        texts("facts", "Data, commit and machine that differ", facts, names, same),
        times(seconds(runs), names),
    ]


def rungs(runs: Sequence[RunRecord], names: Names) -> Node:
    """Where the points went: the mean IoU of each thing a method makes, and what each step added."""
    title = "Where the points went: mean IoU from cam to segmentation, %"
    ladders = [ladder(run) for run in runs]
    keys = [rung for rung in RUNGS if any(rung in each for each in ladders)]
    if not keys:
        none = el("p", "None of the runs was scored against masks.", class_="quiet")
        return section("ladder", title, none, copied=False)
    rows = []
    for split, what in keys:
        cells = []
        for each in ladders:
            value = each.get((split, what))
            if value is None:
                cells.append(el("td", "–", class_="none", data_value=""))
                continue
            before = [each[key] for key in _before(split, what) if key in each][:1]
            step = points(value - before[0]) if before else ""
            cells.append(
                el(
                    "td",
                    el("span", percent(value), class_="figure"),
                    el("small", step, class_="loss" if step.startswith(MINUS) else "gain"),
                    class_="filled",
                    style=f"--share: {100 * value:.1f}%",
                    data_value=f"{value:.6f}",
                )
            )
        rows.append(el("tr", el("th", what, el("small", split), scope="row"), cells))
    head = el("tr", el("th", "what", scope="col"), [names.head(place) for place in range(len(runs))])
    note = (
        "Small: points more than what it was made from, on the same split. Up to labels_crf an image's tags are known, "
    )
    note += "from pred on they are not. Over each run's own classes."
    return section("ladder", title, table(head, rows, "ladder"), note=note)


def texts(
    key: str, title: str, values: Mapping[str, Sequence[str]], names: Names, none: str, *, folded: bool = False
) -> Node:
    """Texts of each run that differ.

    Args:
        key: of the section.
        title: its heading.
        values: what it is to its text in each run, "" where a run has none.
        names: of the runs.
        none: what is said where nothing differs.
        folded: what only some of the runs have, and the others have alike, lies folded below the rest.
    """
    head = el("tr", el("th", "", scope="col"), [names.head(place) for place in range(len(names.short))])

    def of(chosen: Mapping[str, Sequence[str]]) -> Node:
        rows = [
            el("tr", el("th", name, scope="row"), [_text(text) for text in of_runs]) for name, of_runs in chosen.items()
        ]
        return table(head, rows, "texts")

    both = {
        name: of_runs for name, of_runs in values.items() if not folded or len({text for text in of_runs if text}) > 1
    }
    some = {name: of_runs for name, of_runs in values.items() if name not in both}
    body: list[Node] = [of(both) if both else el("p", none, class_="quiet")]
    if some:
        body.append(el("details", el("summary", f"{len(some)} that only some of the runs have"), of(some)))
    return section(key, title, body, copied=bool(values))


def times(values: Mapping[str, Sequence[float]], names: Names) -> Node:
    """Seconds of each step."""
    title = "Seconds of each step"
    if not values:
        return section("seconds", title, el("p", "No step has ended yet.", class_="quiet"), copied=False)

    def cell(value: float) -> Node:
        if math.isnan(value):
            return el("td", "–", class_="number none", data_value="")
        return el("td", f"{value:,.1f}", class_="number", data_value=f"{value:.3f}")

    sums = [float(np.nansum(column)) for column in zip(*values.values(), strict=True)]
    rows = [el("tr", el("th", step, scope="row"), map(cell, of_runs)) for step, of_runs in values.items()]
    rows.append(el("tr", el("th", "together", scope="row"), map(cell, sums), class_="mean"))
    head = el("tr", el("th", "step", scope="col"), [names.head(place) for place in range(len(names.short))])
    note = "A step that was taken from the store says the seconds of whoever computed it."
    return section("seconds", title, table(head, rows, "texts"), note=note)


def losses(of_runs: Sequence[Sequence[Curve]], names: Names, logarithmic: bool) -> Node:
    """The losses of each stage, a panel for each name that one of the runs has more than a point of."""
    title = "Losses"
    panels: dict[tuple[str, str], list[tuple[int, Curve]]] = {}
    for number, curves in enumerate(of_runs, 1):
        for curve in curves:
            panels.setdefault((curve.stage, curve.name), []).append((number, curve))
    drawn = {key: lines for key, lines in panels.items() if any(len(curve.steps) > 1 for _, curve in lines)}
    if not drawn:
        return section("losses", title, el("p", "No run kept a loss.", class_="quiet"), copied=False)
    figures = []
    for (stage, name), lines in sorted(drawn.items(), key=lambda each: STAGES.index(each[0][0])):
        shown = [charts.Line(number, names.texts[number - 1], c.steps, c.values) for number, c in lines]
        picture = charts.curves(f"{stage}, {name}", shown, logarithmic)
        legend = [el("span", charts.key(number), names.short[number - 1]) for number, _ in lines]
        figures.append(
            el("figure", el("figcaption", f"{stage}: {name}"), picture, el("div", legend, class_="run-legend"))
        )
    points = ["stage\tloss\trun\tsteps\tvalues"] + [
        "\t".join(
            (
                *key,
                names.texts[number - 1],
                " ".join(map(str, curve.steps)),
                " ".join(f"{value:.5g}" for value in curve.values),
            )
        )
        for key, lines in drawn.items()
        for number, curve in lines
    ]
    note = f"Over training steps, at most {POINTS} points of each; strong is the running mean. A step that was taken "
    note += "from the store left its last loss alone: a dot."
    kept = el("pre", "\n".join(points), hidden=True, data_tsv=True)
    return section("losses", title, el("div", figures, class_="figures"), kept, note=note)


def _text(text: str) -> Node:
    """A cell; of a hash the beginning, and the rest on hover and where it is copied."""
    short = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24,}(\.dir)?", r"\1", text)
    return el("td", short or "–", data_value=text, title=text if short != text else None)


def _before(split: str, what: str) -> list[tuple[str, str]]:
    """What a thing is made from on the same split, the nearest first."""
    order = ["cam", "labels", "labels_crf", "pred", "pred_crf"]
    if what.startswith("direct"):
        order = ["direct", "direct_crf"]
    return [(split, each) for each in reversed(order[: order.index(what)])]
