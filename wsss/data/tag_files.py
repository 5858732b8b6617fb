"""Files of tags that people have: tables (CSV, TSV), and npz."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from wsss.classes import Classes
from wsss.data.columns import Table, read_table
from wsss.data.csv_rows import Row, read_rows
from wsss.data.ids import fit, shown
from wsss.data.parallel import some, uncollected
from wsss.data.tags import TagFile, class_name, derived_classes, is_background, left_out, refuse_unknown, split_labels
from wsss.errors import UserError

TABLES = (".csv", ".tsv", ".txt")
_VALUES = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True, "FALSE": False, "TRUE": True}


@uncollected()
def read_tags(path: Path, classes: Classes | None, images: Mapping[str, Path], apart: Collection[str] = ()) -> TagFile:
    """Tags from a table (`.csv`, `.tsv`, `.txt`) or an `.npz` file.

    Args:
        path: the file; see `read_csv` and `read_npz`.
        classes: the classes, or None to take them from the file.
        images: id to file of all images; rows of others are left out, and said.
        apart: columns of a table that say something else.

    Raises:
        UserError: no such file, another suffix, or bad content.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES and suffix != ".npz":
        raise UserError(f"tags can't be read from {path}; choose xml, masks, or a .csv or .npz file")
    if not path.is_file():
        raise UserError(f"there is no tags file {path}")
    return read_npz(path, classes, images) if suffix == ".npz" else read_csv(path, classes, images, apart)


def read_csv(path: Path, classes: Classes | None, images: Mapping[str, Path], apart: Collection[str] = ()) -> TagFile:
    """Tags from a table with the columns image and labels, or with one column of 0 and 1 for each class.

    Its dialect is found out (see `wsss.data.csv_rows`). The labels of a row are separated by ";", "|" or "," (in
    quotes). Where the classes are given, a cell of words that are all classes is separated at its spaces too. An empty
    cell, or "background", is a background image. Without a column labels, every column but that of the images is a
    class, or where classes are given those that are called like them.

    Args:
        path: the file.
        classes: the classes, or None to take the names found, sorted, or the columns in their order.
        images: id to file; the image column holds ids or file names, see `wsss.data.ids.fit`.
        apart: columns that say something else.

    Raises:
        UserError: not such a file, an image that stands there twice, an unknown class, a class's column with other
            values than 0 and 1 (all are listed).
    """
    rows = read_rows(path)
    if rows is None:
        table = read_table(path)
        found = [name for name in table.header if name.casefold() in ("labels", "label")]
        if not found:
            return _one_column_per_class(table, classes, images, apart)
        if len(found) > 1:
            raise UserError(f"{path} has the columns {' and '.join(found)}; rename the one that does not hold the tags")
        at, cells = table.image_column(images), table.column(found[0])
        rows = [Row(*row) for row in zip(table.lines, (row[at] for row in table.rows), cells, strict=True)]
    split = cache(split_labels)  # most cells are the same few
    told_of = cache(lambda cell: ", ".join(split(cell, frozenset())) or "none")
    told = [told_of(row.labels) for row in rows]
    found_images = fit([row.image for row in rows], images, str(path), [f"line {row.line}" for row in rows], told)
    whole = frozenset(classes.names) if classes else frozenset()
    named = cache(class_name)
    labels = {id: split(named(rows[at].labels), whole) for id, at in found_images.positions.items()}
    if classes:
        refuse_unknown(path, {rows[at].line: labels[id] for id, at in found_images.positions.items()}, classes)
    notes = left_out(path, [rows[at].image for at in found_images.strangers])
    if classes is None:
        classes = derived_classes(path, sorted({name for names in labels.values() for name in names}), notes)
    return TagFile(labels, classes, tuple(notes))


def _one_column_per_class(
    table: Table, classes: Classes | None, images: Mapping[str, Path], apart: Collection[str]
) -> TagFile:
    at = table.image_column(images)
    others = [name for n, name in enumerate(table.header) if n != at and name not in apart]
    columns = {class_name(name): name for name in others if not is_background(name)}
    if classes:
        if missing := [name for name in classes.names if name not in columns]:
            begins = ",".join(table.header)[:80]
            raise UserError(
                f"{table.path} must begin with the line image,labels; it begins with {begins}"
                if len(missing) == len(classes)
                else f"{table.path} has no column for the classes {some(missing)}; its columns are {some(others)}"
            )
        columns = {name: columns[name] for name in classes.names}
    cells = {name: table.column(column) for name, column in columns.items()}
    strange = {name: sorted({cell.strip() for cell in its} - _VALUES.keys()) for name, its in cells.items()}
    if wrong := [f"{shown(name)} ({some([*map(ascii, values)], 5)})" for name, values in strange.items() if values]:
        if len(wrong) == len(columns):
            begins = ",".join(table.header)[:80]
            raise UserError(
                f"{table.path} must begin with the line image,labels; it begins with {begins}, and these columns hold "
                f"other values than 0 and 1: {some(wrong)}"
            )
        raise UserError(
            f"{table.path}: these columns hold other values than 0 and 1: {some(wrong)}; name the columns that are "
            "classes in a file, with --classes FILE, or call the column of tags labels"
        )
    found = table.fit(images)
    rows = {name: [_VALUES[cell.strip()] for cell in its] for name, its in cells.items()}
    tags = {id: tuple(name for name, its in rows.items() if its[row]) for id, row in found.positions.items()}
    notes = left_out(table.path, [table.rows[row][at] for row in found.strangers])
    return TagFile(tags, classes or derived_classes(table.path, [*columns], notes), tuple(notes))


def read_npz(path: Path, classes: Classes | None, images: Mapping[str, Path]) -> TagFile:
    """Tags from an npz file with `ids` (N names), `labels` (N x C, 0 or 1) and `classes` (C names).

    Args:
        path: the file; read without pickle.
        classes: the classes, whose order may differ from the file's, or None to take the file's.
        images: id to file; ids may be file names too.

    Raises:
        UserError: a damaged file, missing arrays, shapes that don't fit, doubled ids, other classes.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, labels, names = (np.asarray(arrays[key]) for key in ("ids", "labels", "classes"))
        rows, columns = ids.tolist(), names.tolist()
    except Exception as error:  # readers of zip and npy raise a dozen unrelated types on damaged files
        raise UserError(f"{path} is not an npz file with plain arrays ids, labels and classes ({error})") from None
    if ids.ndim != 1 or names.ndim != 1 or labels.shape != (len(ids), len(names)):
        raise UserError(f"{path}: labels must be {len(ids)} x {len(names)} (ids x classes), it is {labels.shape}")
    if ids.dtype.kind != "U" or names.dtype.kind != "U" or not np.isin(labels, (0, 1)).all():
        raise UserError(f"{path}: ids and classes must be text, labels 0 or 1")
    columns = [class_name(name) for name in columns]
    found = fit(rows, images, str(path), [f"row {number}" for number in range(1, len(rows) + 1)])
    notes = left_out(path, [rows[at] for at in found.strangers])
    if classes is None:
        classes = derived_classes(path, columns, notes)
    elif differing := sorted(set(columns) ^ set(classes.names)):
        raise UserError(f"{path} and the dataset differ in the classes {', '.join(differing)}; they must be the same")
    tags = {id: tuple(columns[column] for column in np.flatnonzero(labels[at])) for id, at in found.positions.items()}
    return TagFile(tags, classes, tuple(notes))
