"""Ablations: curves and a heat map over one or two settings, from whatever finished runs differ in them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dash import Dash, Input, Output, ctx, dcc, html
from dash.development.base_component import Component

from wsss.dashboard.page import Context, Page, State, address, aria, empty, keep_address, threaded
from wsss.dashboard.plain import Cell, named, table
from wsss.dashboard.searches.ablation_figures import curves, heat_map
from wsss.errors import UserError, unknown
from wsss.scores import metric_names
from wsss.tables import ablation
from wsss.tables.ablation import Base, Row, Runs, check_keys, label, shown
from wsss.tracking.query import RunRecord

PATH = "/ablations"
CHOICES = {"of": "Runs", "metric": "Objective", "key": "Setting", "against": "and", "base": "Others"}
"""What is chosen, as the address calls it, each after what it depends on; and how people call it."""
_BETWEEN = " · "
_TOLD = 3
"""So many of the other settings tell a set of runs from another."""


@dataclass(frozen=True)
class Choice:
    """What is shown, all of it known to be there.

    Attributes:
        kinds: what there is, by name.
        of: the name of the runs that are shown: of one dataset, method and preset.
        metric: the objective.
        keys: one or two settings.
        bases: what else the runs may have in common.
        base: the number of the one that is shown, from 0.
    """

    kinds: Mapping[str, Runs]
    of: str
    metric: str
    keys: tuple[str, ...]
    bases: Sequence[Base]
    base: int

    @property
    def runs(self) -> Runs:
        return self.kinds[self.of]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The objective and its twin on train, as far as there is one."""
        twin = "train/" + self.metric.partition("/")[2]
        there = any(twin in record.metrics for record in self.bases[self.base].records)
        return (self.metric, twin) if there and self.metric.endswith(f"/{metric_names.MIOU}") else (self.metric,)

    @property
    def rows(self) -> list[Row]:
        """A row for each combination."""
        return self.bases[self.base].rows(self.keys, self.metrics)

    @property
    def values(self) -> dict[str, str | None]:
        """What is chosen, as the address has it."""
        against = self.keys[1] if len(self.keys) > 1 else None
        return {"of": self.of, "metric": self.metric, "key": self.keys[0], "against": against, "base": str(self.base)}

    @property
    def options(self) -> dict[str, list[dict[str, str]]]:
        """What can be chosen."""
        keys = [*self.runs.varied]
        bases = [{"label": _base_text(base), "value": str(number)} for number, base in enumerate(self.bases)]
        return {
            "of": _options(self.kinds),
            "metric": _options(self.runs.metrics),
            "key": _options(keys),
            "against": _options(key for key in keys if key != self.keys[0]),
            "base": bases,
        }


def chosen(records: Sequence[RunRecord], asked: Mapping[str, str | None]) -> Choice | None:
    """What is asked for, completed by what tells most; None where no runs differ in a setting alone.

    Args:
        records: the methods' runs.
        asked: what of `CHOICES` is given.

    Raises:
        UserError: it asks for what is not there.
    """
    kinds = {_BETWEEN.join(kind): runs for kind, runs in ablation.kinds(records).items() if runs.metrics}
    of, metric = asked.get("of"), asked.get("metric")
    if of and of not in kinds:
        raise unknown("kind of runs", of, kinds)
    telling = next((name for name, runs in kinds.items() if of in (None, "", name) and _telling(runs, metric)), None)
    if telling is None and not of:
        return None
    of = of or telling or ""
    runs = kinds[of]
    metric = metric or runs.metrics[0]
    if metric not in runs.metrics:
        raise unknown("objective", metric, runs.metrics)
    keys = tuple(key for name in ("key", "against") if (key := asked.get(name))) or runs.telling_keys(metric)
    if keys:
        check_keys(runs, keys)
    bases = runs.bases(keys, metric) if keys else []
    if not bases:
        alone = f"{' and '.join(keys)} alone" if keys else "a setting alone"
        raise UserError(f"no two runs of {of} with {metric} differ in {alone}; choose other settings")
    number = asked.get("base") or "0"
    if not number.isdecimal() or int(number) >= len(bases):
        raise UserError(f"there is no set {number} of runs that differ in {' and '.join(keys)}: 0 to {len(bases) - 1}")
    return Choice(kinds, of, metric, keys, bases, int(number))


def layout(context: Context, asked: State) -> Component:
    """What can be chosen, the figures, and the table that they are drawn from."""
    choice = chosen(context.reading.runs(), asked)
    if choice is None:
        said = "No two finished runs differ in a setting alone. This makes some, three values with two rngs each:"
        return empty(said, "python", "-m", "tune", "--grid", "refine.walk.beta=2,8,32", "--grid", "rng=0,1")
    values, options = choice.values, choice.options
    note = (
        "Finished runs that differ in these settings and the rng alone: mean and deviation over rngs. Choose by dev; "
        "train is analysis, since networks learned from its images."
    )
    fields = [
        named(
            text,
            dcc.Dropdown(options[name], values[name], id=f"ablations-{name}", clearable=name == "against"),
            f"ablations-{name}",
        )
        for name, text in CHOICES.items()
    ]
    over = heat_map(choice.rows, choice.keys, choice.metrics)
    return html.Div(
        [
            html.H2("Ablations"),
            html.P(note, className="quiet"),
            html.Div(fields, className="form"),
            _graph("curves", curves(choice.rows, choice.keys, choice.metrics), "Curves"),
            html.Div(_graph("map", over, "Heat map"), id="ablations-over", style=_shown(over)),
            html.Div(_table(choice), id="ablations-rows"),
        ]
    )


def callbacks(app: Dash, context: Context) -> None:
    """Another choice draws anew; what depends on it and is no more is completed by what tells most."""
    inputs = {name: Input(f"ablations-{name}", "value") for name in CHOICES}
    keep_address(app, PATH, **inputs)

    def draw(*values: str | None) -> list[Any]:
        asked = dict(zip(CHOICES, values, strict=True))
        changed = str(ctx.triggered_id or "").removeprefix("ablations-")
        order = [*CHOICES]
        # A key stays while another takes its place beside it.
        later = order[order.index(changed) + 1 :] if changed in order else []
        kept = {
            name: value for name, value in asked.items() if name not in later or (changed, name) == ("key", "against")
        }
        if kept.get("against") == kept.get("key"):
            kept.pop("against", None)
        choice = chosen(context.reading.runs(), kept)
        if choice is None:
            raise UserError("these runs are gone; load the page anew")
        over = heat_map(choice.rows, choice.keys, choice.metrics)
        return [
            *choice.values.values(),
            *choice.options.values(),
            curves(choice.rows, choice.keys, choice.metrics),
            over,
            _shown(over),
            _table(choice),
        ]

    app.callback(
        *(Output(f"ablations-{name}", "value") for name in CHOICES),
        *(Output(f"ablations-{name}", "options") for name in CHOICES),
        Output("ablations-curves", "figure"),
        Output("ablations-map", "figure"),
        Output("ablations-over", "style"),
        Output("ablations-rows", "children"),
        *inputs.values(),
        prevent_initial_call=True,
    )(threaded(draw))


def _telling(runs: Runs, metric: str | None) -> bool:
    return bool(runs.telling_keys(metric if metric in runs.metrics else runs.metrics[0]))


def _options(names: Any) -> list[dict[str, str]]:
    return [{"label": name, "value": name} for name in names]


def _base_text(base: Base) -> str:
    """What tells a set of runs from the others of a choice."""
    told = [f"{key} {text}" for key, text in base.settings.items() if text]
    more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return ", ".join(told[:_TOLD]) + more or "all equal"


def _shown(figure: Any) -> dict[str, str]:
    return {} if figure else {"display": "none"}


def _graph(name: str, figure: Any, label_: str) -> Component:
    config: Any = {"displaylogo": False, "displayModeBar": False}
    drawn = dcc.Graph(
        id=f"ablations-{name}",
        figure=figure,
        config=config,
        responsive=True,
        className="figure",
        style={"height": "330px"},
    )
    return html.Section(drawn, **aria(label=label_))


def _table(choice: Choice) -> Component:
    rows: list[list[Cell]] = [
        [
            *(shown(row.settings[key]) for key in choice.keys),
            " ".join(map(str, row.rngs)),
            *(row.text(metric) for metric in choice.metrics),
            _links(row),
        ]
        for row in choice.rows
    ]
    base = choice.bases[choice.base]
    also = _base_text(base)
    caption = f"{choice.of}; {'' if also == 'all equal' else also + '; '}data {base.data[:8] or 'without a version'}"
    heads = [*choice.keys, "rngs", *map(label, choice.metrics), "runs"]
    return table(heads, rows, caption, [*range(len(choice.keys)), *range(len(choice.keys) + 1, len(heads) - 1)])


def _links(row: Row) -> list[str | Component]:
    parts: list[str | Component] = []
    for run in row.runs:
        parts += [" " if parts else "", dcc.Link(run[:8], href=address("/lineage", run=run))]
    return parts


PAGE = Page(PATH, "Ablations", layout, callbacks)
