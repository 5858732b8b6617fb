"""Tables as Markdown, as CSV, and for a terminal, where nothing is cut: what finds no room is left out and named."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import rich.table

from wsss.console import Console

_UNBOUNDED = 10_000
_LATEX = {letter: rf"\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",
}


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: what stands above it.
        rank: 0 stays in every terminal; of the others the highest is left out first.
        right: its cells stand on the right.
        wrap: the longest line of a cell, in characters; a longer one goes on below, between words where it can.
        below: where there is no room for it, its cells are listed below the table, beside those of the first column.
    """

    head: str
    rank: int = 0
    right: bool = False
    wrap: int | None = None
    below: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of texts under their columns.

    Attributes:
        title: a line above it.
        columns: their heads and what gives way where there is no room.
        rows: a text for each column.
    """

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[str]]


def as_markdown(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table without a line break at its end."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def as_latex(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A LaTeX table of package booktabs, its first column on the left, without a line break at its end."""
    names = list(head)
    lines = [" & ".join(map(latex_text, line)) + r" \\" for line in (names, *rows)]
    ruled = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{'l' * len(names)}}}", *ruled, r"\end{tabular}"])


def latex_text(text: str) -> str:
    """A text with what LaTeX takes for commands written so that it is printed."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def as_csv(head: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """Comma-separated values without a line break at their end; None is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue().rstrip("\n")


def as_text(tables: Iterable[Table], note: str = "", *, width: int | None = None, wide: bool = False) -> str:
    """Tables for a terminal, below each other.

    Args:
        tables: each under its title.
        note: sentences below them all; what was left out is added.
        width: in columns; the terminal's by default, 80 where there is none.
        wide: leave nothing out and wrap nothing, however long the lines get.
    """
    console = Console(_UNBOUNDED if wide else width)
    parts, left_out = [], []
    for table in tables:
        text, dropped = _fitted(table, console, wide)
        parts.append(f"{table.title}\n{text}" if table.title else text)
        left_out += [column.head for column in dropped if not column.below and column.head not in left_out]
        parts += [_listed(table, column) for column in dropped if column.below]
    if left_out:
        note = f"{note} Left out for want of room: {', '.join(left_out)}; --wide shows all.".strip()
    if note:
        parts.append(textwrap.fill(note, console.width, break_on_hyphens=False))
    return "\n\n".join(parts)


def _listed(table: Table, column: Column) -> str:
    """A column as lines, each beside the row's first cell."""
    cell = table.columns.index(column)
    width = max(len(row[0]) for row in table.rows)
    return "\n".join([f"{column.head}:", *(f"  {row[0].ljust(width)}  {row[cell]}" for row in table.rows)])


def _fitted(table: Table, console: Console, wide: bool) -> tuple[str, list[Column]]:
    """The table with the columns that fit, and the others."""
    shown = list(range(len(table.columns)))
    dropped: list[int] = []
    unbounded = console.options.update(max_width=_UNBOUNDED)
    while not wide and console.measure(_rich(table, shown, wide), options=unbounded).maximum > console.width:
        least = max(shown, key=lambda index: (table.columns[index].rank, index))
        if table.columns[least].rank == 0:
            break
        shown.remove(least)
        dropped.append(least)
    with console.capture() as capture:
        console.print(_rich(table, shown, wide))
    lines = (line.rstrip() for line in capture.get().splitlines())
    return "\n".join(line for line in lines if line), [table.columns[index] for index in sorted(dropped)]


def _rich(table: Table, shown: Sequence[int], wide: bool) -> rich.table.Table:
    drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for column in (table.columns[index] for index in shown):
        head = column.head if wide else column.head.replace(" (", "\n(")
        drawn.add_column(
            head,
            justify="right" if column.right else "left",
            overflow="fold",
            max_width=None if wide else column.wrap,
        )
    for row in table.rows:
        drawn.add_row(*(row[index] for index in shown))
    return drawn
