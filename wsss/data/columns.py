"""Tables of several columns, CSV or TSV, of which one names the images."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsss.data.csv_rows import DELIMITERS, HEADER, parse
from wsss.data.ids import Fit, fit, shown
from wsss.data.parallel import some
from wsss.data.text import read_lines, read_text
from wsss.errors import UserError, unknown

_LOOKED_AT = 200
"""So many rows tell which column names the images."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        path: the file.
        header: the columns' names.
        lines: of each row the line of the file on which it ends.
        rows: of each row the cells, as many as there are columns, as they are written.
    """

    path: Path
    header: tuple[str, ...]
    lines: tuple[int, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> list[str]:
        """The cells of a column.

        Raises:
            UserError: there is no such column (names those there are).
        """
        if name not in self.header:
            raise unknown(f"column of {self.path}:", name, self.header)
        at = self.header.index(name)
        return [row[at] for row in self.rows]

    def image_column(self, images: Mapping[str, Path]) -> int:
        """The position of the column that names the images: the one with the most cells that do.

        Args:
            images: id to file.

        Raises:
            UserError: no cell names an image.
        """
        hits = Counter({at: self._hits(at, images) for at in range(len(self.header))})
        at, most = max(hits.items(), key=lambda item: (item[1], -item[0]))
        if not most:
            raise UserError(f"no column of {self.path} names the images: {some([*self.header])}")
        return at

    def fit(self, images: Mapping[str, Path]) -> Fit:
        """The images of the rows.

        Raises:
            UserError: see `wsss.data.ids.fit`.
        """
        at = self.image_column(images)
        says = [", ".join(cell for n, cell in enumerate(row) if n != at and cell.strip()) for row in self.rows]
        names = [row[at] for row in self.rows]
        return fit(names, images, str(self.path), [f"line {line}" for line in self.lines], says)

    def by_image(self, name: str, images: Mapping[str, Path]) -> dict[str, str]:
        """Id to the cell of a column, without the spaces around it.

        Raises:
            UserError: no such column, or rows that don't fit, see `wsss.data.ids.fit`.
        """
        cells = self.column(name)
        found = self.fit(images).positions
        return {id: unicodedata.normalize("NFC", cells[at]).strip() for id, at in found.items()}

    def _hits(self, at: int, images: Mapping[str, Path]) -> int:
        cells = list(dict.fromkeys(row[at] for row in self.rows if row[at].strip()))[:_LOOKED_AT]
        if set(cells) <= {"0", "1"} and not self.header[at].casefold().startswith(("image", "file", "id", "name")):
            return 0
        try:
            return len(fit(cells, images, "", [""] * len(cells)).positions)
        except UserError:  # a name that is no single image's is the table's fault, and said when it is read
            return 1


def read_table(path: Path) -> Table:
    """Read a table; of the separators ",", ";", tab and "|" it is the one that makes the most columns.

    Args:
        path: the file; for its encoding see `wsss.data.text.read_text`.

    Raises:
        UserError: it is no table of two columns or more, a column has no name or that of another, or rows have more
            cells than the header.
    """
    text = read_text(path)
    best: list[tuple[int, list[str]]] = []
    for delimiter in DELIMITERS:
        try:
            rows = list(parse(text, delimiter, path))
        except UserError:
            continue  # with another delimiter the quotes may be sound
        if rows and len(rows[0][1]) > max(1, len(best[0][1]) if best else 0):
            best = rows
    if not best:
        first = next((line.strip() for line in read_lines(path) if line.strip()), "nothing")
        raise UserError(f"{path} must begin with the line {','.join(HEADER)}; it begins with {first[:80]}")
    header = tuple(unicodedata.normalize("NFC", cell).strip() for cell in best[0][1])
    if double := [shown(name) for name, count in Counter(header).items() if count > 1 or not name]:
        raise UserError(f"{path}: columns need names of their own, these are not: {some(double)}")
    if wide := [f"line {line}" for line, row in best[1:] if len(row) > len(header)]:
        raise UserError(f"{path} has {len(header)} columns and rows with more cells: {some(wide)}")
    rows_ = tuple((*row, *[""] * (len(header) - len(row))) for _, row in best[1:])
    return Table(path, header, tuple(line for line, _ in best[1:]), rows_)
