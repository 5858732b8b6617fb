"""The page of measured speed, from the JSON of the benchmarks.

    python -m pipelines.performance FILE... > docs/performance.md      from files of `wsss bench NAME --json`

`make performance` runs every benchmark and writes the page.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from wsss.commands import command
from wsss.errors import UserError
from wsss.failures import ended

Report = Mapping[str, Any]
HEADING = """\
# What is measured about speed

Written by `make performance`, from the JSON of every `wsss bench NAME`. Ours and the peer run in the same call, in
turns; medians are given, and the quartiles of the ratio. A ratio is better when it is higher; the aim is what it has to
reach.
"""
NO_GPU = "No GPU was at hand: the rows of one, `cuda-`, are empty."
COLUMNS = ("key", "what", "ours", "peer", "unit", "ratio", "quartiles", "aim")


def main(arguments: list[str] | None = None) -> int:
    """Print the page; 2 when a file is not the JSON of a benchmark."""
    return ended("wsss", lambda: _print(arguments))


def _print(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.performance", description="The page of measured speed.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what `bench NAME --json` printed")
    print(page([_report(path) for path in parser.parse_args(arguments).files]), end="")


def page(reports: Sequence[Report]) -> str:
    """The Markdown page of some benchmarks' reports: a part for each machine, in it a table for each benchmark."""
    parts = [HEADING]
    for _, of_one in groupby(sorted(reports, key=_machine_text), _machine_text):
        parts += _machine_part(sorted(of_one, key=lambda report: report["name"]))
    return "\n".join(parts)


def _machine_text(report: Report) -> str:
    return json.dumps(report["machine"], sort_keys=True)


def _machine_part(reports: Sequence[Report]) -> Iterator[str]:
    machine = dict(reports[0]["machine"])
    cpu, cores, gpu = (machine.pop(name) for name in ("cpu", "cores", "gpu"))
    yield f"## {cpu}, {cores} cores, {gpu or 'no GPU'}\n"
    yield ", ".join(f"{name} {version or 'not installed'}" for name, version in machine.items()) + ".\n"
    if gpu is None:
        yield NO_GPU + "\n"
    for report in reports:
        changed = ", with changes that are not committed" if report["dirty"] else ""
        yield f"### {report['name']}\n"
        yield f"Commit {str(report['commit'])[:9]}{changed}.\n"
        yield _table(COLUMNS, [_cells(row) for row in report["rows"]])
        yield from (_growth(row) for row in report["rows"] if row.get("points"))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    spread = " – ".join(map(_number, row["spread"] or ()))
    numbers = (_number(row[name]) for name in ("ours", "peer"))
    return f"`{row['key']}`", row["what"], *numbers, row["unit"], _number(row["ratio"]), spread, _number(row["aim"])


def _growth(row: Mapping[str, Any]) -> str:
    """The points behind a row about growth, measured and as the expected power of the size has them, drawn and listed.

    The expected curve goes through the first point; the drawing is in decimal logarithms.
    """
    sizes, times = zip(*row["points"], strict=True)
    expected = [times[0] * (size / sizes[0]) ** row["peer"] for size in sizes]
    lines = [f"    line [{', '.join(f'{math.log10(value):.2f}' for value in each)}]" for each in (times, expected)]
    axis = ", ".join(f'"{size:g}"' for size in sizes)
    drawing = [
        "```mermaid",
        "xychart-beta",
        f'    title "{row["key"]}: measured, and the expected power of the size"',
        f"    x-axis [{axis}]",
        '    y-axis "log10 ms"',
        *lines,
        "```\n",
    ]
    points = [tuple(map(_number, point)) for point in zip(sizes, times, expected, strict=True)]
    return "\n".join(drawing) + "\n" + _table((f"size of `{row['key']}`", "ms", "expected ms"), points)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _report(path: Path) -> Report:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not the JSON of a benchmark: {error}") from error
    if not isinstance(report, dict) or not {"name", "machine", "commit", "dirty", "rows"} <= set(report):
        raise UserError(
            f"{path} is not the JSON of a benchmark; write it with: {command('wsss', 'bench', 'NAME', '--json')}"
        )
    return report


if __name__ == "__main__":
    sys.exit(main())
