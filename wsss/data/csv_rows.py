"""Rows of the CSV files that spreadsheets, scripts and annotation tools write, whatever their dialect."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wsss.data.parallel import some
from wsss.data.text import read_text
from wsss.errors import UserError

HEADER = ("image", "labels")
DELIMITERS = ",;\t|"
_EXCEL = re.compile(r'"?sep=.?"?', re.IGNORECASE)


class Row(NamedTuple):
    """The row of an image: the line of the file on which it ends, and its two cells as they are written."""

    line: int
    image: str
    labels: str


def read_rows(path: Path) -> list[Row] | None:
    """The rows of a CSV file with the header `image,labels`; None where it has another.

    Columns are separated as in the header, by ",", ";", tab or "|"; Excel's line "sep=;" may stand before it. Blank
    rows, and blank cells after the second, are what spreadsheets leave and don't count.

    Args:
        path: the file; for its encoding see `wsss.data.text.read_text`.

    Raises:
        UserError: a row of another width or without an image (all named), a quote that doesn't end.
    """
    text = read_text(path)
    for delimiter in DELIMITERS:
        rows = parse(text, delimiter, path)
        try:
            header = next(rows, None)
        except UserError:
            continue  # with another delimiter the quotes may be sound
        if header and tuple(cell.strip().lower() for cell in header[1]) == HEADER:
            return _two_columns(list(rows), path, delimiter)
    return None


def parse_rows(path: Path) -> Iterator[Row]:
    """The rows of a CSV file as this program writes it, to the letter: UTF-8, commas, the header `image,labels`.

    Raises:
        UserError: it is not; rows of another width are named together.
    """
    rows = parse(read_text(path), ",", path, spaces=False)
    first = next(rows, None)
    if first is None or tuple(first[1]) != HEADER:
        raise UserError(f"{path} must begin with the line image,labels; it begins with {[first] if first else []}")
    for line, cells in rows:
        if len(cells) != len(HEADER) or not cells[0].strip():
            _two_columns([(line, cells), *rows], path, ",")  # names this row and all further ones
        yield Row(line, *cells)


def parse(text: str, delimiter: str, path: Path, spaces: bool | None = None) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row that is not blank, without the blank cells after the second.

    Args:
        text: of the file.
        delimiter: between cells.
        path: of the file, for the messages.
        spaces: whether they are skipped after a delimiter; None to do so where they stand before a quote.

    Raises:
        UserError: a quote that doesn't end, or a letter after one that does.
    """
    if spaces is None:  # after a delimiter, before a quote
        spaces = bool(re.search(rf'{re.escape(delimiter)} +"(?!")', text))
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=spaces)
    try:
        for number, row in enumerate(rows):
            while len(row) > len(HEADER) and not row[-1].strip():
                row.pop()
            excel = number == 0 and _EXCEL.fullmatch(delimiter.join(row).strip())
            if any(cell.strip() for cell in row) and not excel:
                yield rows.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{path} can't be read as a CSV file (line {rows.line_num}: {error}); look for a quote too many or too few"
        ) from None


def _two_columns(rows: list[tuple[int, list[str]]], path: Path, delimiter: str) -> list[Row]:
    separator = "|" if delimiter == ";" else ";"
    if wrong := [f"line {line}" for line, row in rows if len(row) != len(HEADER)]:
        raise UserError(f"{path} needs two columns, image and labels, separate labels by {separator!r}: {some(wrong)}")
    if nameless := [f"line {line}" for line, row in rows if not row[0].strip()]:
        raise UserError(f"{path} has labels without the name of an image: {some(nameless)}")
    found: list[Row] = []
    while rows:  # no row is there twice, and labels are the same few
        line, (image, labels) = rows.pop()
        found.append(Row(line, image, sys.intern(labels)))
    return found[::-1]
