"""The table of methods: runs that differ in the rng alone make a row, with the published numbers beside it."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby

from wsss.errors import UserError
from wsss.scores import metric_names
from wsss.scores.scored import SCORED, reported
from wsss.tables.catalogue import roles
from wsss.tables.groups import same_but_for_rng
from wsss.tables.published import Published, published
from wsss.tables.render import Column, Table, as_csv, as_latex, as_markdown, as_text
from wsss.tracking import names
from wsss.tracking.query import RunRecord

COLUMNS = tuple((split, what) for split, what in reported() if split == SCORED[what].reported[-1])
"""Split and what is scored."""

PUBLISHED_ON = "val"
PUBLISHED = f"published, VOC 2012 {PUBLISHED_ON}"


def check_known(records: Iterable[RunRecord], method: str | None, dataset: str | None) -> None:
    """Refuse a method and a dataset that no finished run has, where there are runs of others.

    Args:
        records: all finished runs.
        method, dataset: what was asked for; None for any.

    Raises:
        UserError: no run has the name; names those that there are.
    """
    records = list(records)
    if not records:
        return
    for what, name, known in (
        ("method", method, {record.method for record in records}),
        ("dataset", dataset, {record.dataset for record in records}),
    ):
        if name and name not in known:
            raise UserError(f"there is no finished run of {what} {name!r}; there are of {', '.join(sorted(known))}")


@dataclass(frozen=True)
class Figure:
    """The mean of a mIoU over rngs, in [0, 1].

    Attributes:
        mean: over the rngs.
        deviation: the sample's standard deviation; None of a single rng.
        rngs: how many.
    """

    mean: float
    deviation: float | None
    rngs: int


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the rng.

    Attributes:
        method, preset, dataset, supervision, backbone, pretraining: of all of them; supervision says what was seen
            beyond tags.
        group: what they have in common.
        rngs: their seeds.
        runs: their ids; of several runs with one rng the newest.
        newest: the id of the last of them.
        figures: "<split>/<what>" to its mIoU; what was not measured is absent.
        published: results of the same method by others, on VOC 2012 val.
        of_bound: "<split>/<what>" to the ratio of its mIoU to that of the bound with the same dataset, preset and
            backbone; absent where either was not measured.
        seconds: of all steps together, the mean over rngs; None where no time was recorded. A step whose output was
            there already counts with what it took when it was made.
        memory: the most that a step of them used, in MB; None where none was recorded.
        unfinished: "RUNNING", "FAILED" and the like to the number of such runs, whose figures count as far as there are
            any.
    """

    method: str
    preset: str
    dataset: str
    supervision: str
    backbone: str
    group: str
    rngs: tuple[int, ...]
    runs: tuple[str, ...]
    newest: str
    figures: dict[str, Figure]
    published: tuple[Published, ...]
    pretraining: str = ""
    of_bound: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    memory: float | None = None
    unfinished: dict[str, int] = field(default_factory=dict)


def table(records: Iterable[RunRecord]) -> list[Row]:
    """The rows, by dataset, preset and method; the trials of a search are left out."""
    rows = _beside_bound([_row(group) for group in same_but_for_rng(records)])
    return sorted(rows, key=lambda row: (row.dataset, row.preset, row.method, row.group))


def _beside_bound(rows: Sequence[Row]) -> list[Row]:
    """The rows with their ratios to the bound's; of several bounds to the one with most rngs."""
    role, bounds = roles(), {}
    for row in sorted(rows, key=lambda row: len(row.rngs)):
        if role.get(row.method) == "bound":
            bounds[row.dataset, row.preset, row.backbone] = row.figures
    return [
        replace(row, of_bound=_ratios(row, bounds.get((row.dataset, row.preset, row.backbone), {}))) for row in rows
    ]


def _ratios(row: Row, bound: Mapping[str, Figure]) -> dict[str, float]:
    known = [key for key in row.figures if key in bound and bound[key].mean > 0]
    return {key: row.figures[key].mean / bound[key].mean for key in known}


def _row(records: Sequence[RunRecord]) -> Row:
    newest = max(records, key=lambda record: record.start)
    figures = {}
    for split, what in reported():
        key = metric_names.metric(split, what, metric_names.MIOU)
        if values := [record.metrics[key] for record in records if key in record.metrics]:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            figures[f"{split}/{what}"] = Figure(statistics.fmean(values), deviation, len(values))
    seconds = [sum(times) for record in records if (times := _steps(record, metric_names.TIME))]
    memory = [value for record in records for value in _steps(record, metric_names.MEMORY)]
    return Row(
        newest.method,
        newest.preset,
        newest.dataset,
        ", ".join(sorted(newest.supervision)),
        newest.tags.get(names.BACKBONE, ""),
        newest.group,
        tuple(record.rng for record in records),
        tuple(record.id for record in records),
        newest.id,
        figures,
        tuple(p for p in published() if p.method == newest.method and p.split == PUBLISHED_ON),
        newest.tags.get(names.PRETRAINING, ""),
        seconds=statistics.fmean(seconds) if seconds else None,
        memory=max(memory, default=None),
        unfinished=dict(Counter(record.status for record in records if record.status != "FINISHED")),
    )


def _steps(record: RunRecord, prefix: str) -> list[float]:
    """What was recorded of each step of a run, such as its seconds."""
    return [value for key, value in record.metrics.items() if key.startswith(prefix)]


def render_json(rows: Sequence[Row]) -> str:
    """The rows as a JSON list, everything in them."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def render_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, mIoU in percent."""
    return as_markdown(*_for_a_page(rows, COLUMNS, _others, "newest run"))


def render_latex(rows: Sequence[Row]) -> str:
    """The rows as a LaTeX table (package booktabs), mIoU in percent; figures that no row has are left out."""
    measured = [column for column in COLUMNS if any("/".join(column) in row.figures for row in rows)]
    return as_latex(
        *_for_a_page(rows, measured, lambda row: "; ".join(f"{p.miou:.1f} {p.title}" for p in row.published))
    )


def _for_a_page(
    rows: Sequence[Row], columns: Sequence[tuple[str, str]], others: Callable[[Row], str], *more: str
) -> tuple[list[str], list[list[str]]]:
    head = ["method", "preset", "dataset", "supervision", "backbone", "rngs", *map(_head, columns), PUBLISHED, *more]
    lines = [
        [row.method, row.preset, row.dataset, row.supervision or "tags", row.backbone or "-", str(len(row.rngs)),
         *(_measured(row, column) for column in columns), others(row), *([row.newest] if more else [])]
        for row in rows
    ]  # fmt: skip
    return head, lines


def render_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV: mIoU in [0, 1], seeds and ids of the runs separated by spaces."""
    heads = ["method", "preset", "dataset", "supervision", "backbone", "rngs", "runs"]
    for split, what in COLUMNS:
        key = metric_names.metric(split, what, metric_names.MIOU)
        heads += [key, f"{key}/deviation"]
    lines = []
    for row in rows:
        figures = [row.figures.get(f"{split}/{what}") for split, what in COLUMNS]
        values = [value for f in figures for value in ((f.mean, f.deviation) if f else (None, None))]
        described = [row.method, row.preset, row.dataset, row.supervision or "tags", row.backbone]
        lines.append([*described, " ".join(map(str, row.rngs)), " ".join(row.runs), *values, _others(row)])
    return as_csv([*heads, PUBLISHED], lines)


def render_text(rows: Sequence[Row], width: int | None = None, wide: bool = False) -> str:
    """The rows for a terminal, mIoU in percent, in a table for each dataset and preset.

    Args:
        rows: sorted by dataset and preset.
        width: in columns, the terminal's by default.
        wide: leave nothing out: every figure, the sources of what was published, the ids of the runs.
    """
    measured = [column for column in COLUMNS if any("/".join(column) in row.figures for row in rows)]
    columns = (
        Column("method"),
        Column("supervision", rank=2, wrap=14),
        Column("backbone", rank=8),
        Column("rngs", rank=3, right=True),
        *(Column(_head(column), rank=_figure_rank(*column), right=True) for column in measured),
        Column(PUBLISHED if wide else "published (VOC val)", rank=4, wrap=16),
        Column("runs" if wide else "newest run", rank=9, below=True),
    )
    tables = [
        Table(f"{dataset}, preset {preset}", columns, [list(_cells(row, measured, wide)) for row in group])
        for (dataset, preset), group in groupby(rows, lambda row: (row.dataset, row.preset))
    ]
    note = "mIoU in percent, mean ± deviation over rngs."
    return as_text(tables, note if wide else f"{note} Ids of all runs: --wide or --csv.", width=width, wide=wide)


def _cells(row: Row, measured: Sequence[tuple[str, str]], wide: bool) -> Iterator[str]:
    yield from (row.method, row.supervision or "tags", row.backbone or "-", str(len(row.rngs)))
    yield from (_measured(row, column) for column in measured)
    yield _others(row) if wide else ", ".join(f"{p.miou:.1f}" for p in row.published) or "-"
    yield " ".join(row.runs) if wide else row.newest


def _figure_rank(split: str, what: str) -> int:
    """The most telling figure of a split stays longest; the others come after what is said of the row."""
    of_split = [column for column in COLUMNS if column[0] == split]
    before_last = len(of_split) - 1 - of_split.index((split, what))
    return 1 if before_last == 0 else 4 + before_last


def _head(column: tuple[str, str]) -> str:
    split, what = column
    return f"{what} ({split})"


def _others(row: Row) -> str:
    others = (f"{p.miou:.1f} {p.title} ({p.source})" if p.source else f"{p.miou:.1f} {p.title}" for p in row.published)
    return "; ".join(others) or "-"


def _measured(row: Row, column: tuple[str, str]) -> str:
    figure = row.figures.get("/".join(column))
    if figure is None:
        return "-"
    text = f"{100 * figure.mean:.1f}"
    if figure.deviation is not None:
        text += f" ± {100 * figure.deviation:.1f}"
    return text if figure.rngs == len(row.rngs) else f"{text} (of {figure.rngs})"
