"""Image-level tags: from VOC's XML boxes, from masks, or from a file (CSV or npz).

Everywhere here tags are a mapping from id to the names of the classes in the image; an empty tuple is a background
image, a missing id an error.
"""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsss.classes import BACKGROUND, IGNORE, Classes
from wsss.data.images import image_id
from wsss.data.masks import read_mask, values_in
from wsss.data.parallel import each, some
from wsss.errors import UserError
from wsss.storage import write_bytes

Tags = Mapping[str, tuple[str, ...]]

_SEPARATORS = re.compile(r"[;|,]")


def tags_from_xml(folder: Path, ids: Sequence[str], classes: Classes) -> Tags:
    """The classes of every box of `<folder>/<id>.xml`, difficult and truncated ones included.

    Raises:
        UserError: annotations that are missing, damaged or name an unknown class, all named at once.
    """
    advice = "choose --tags masks or --tags FILE (a CSV with the header image,labels, or an npz)"
    if not folder.is_dir():
        raise UserError(f"tags can't be taken from boxes: there is no folder {folder}; {advice}")

    def names(id: str) -> tuple[str, ...]:
        try:
            root = ElementTree.parse(folder / f"{id}.xml").getroot()
        except FileNotFoundError:
            raise UserError(f"{id}.xml is missing") from None
        except (ElementTree.ParseError, OSError) as error:
            raise UserError(f"{id}.xml can't be read ({error})") from None
        found = {(box.findtext("name") or "").strip() for box in root.findall("object")}
        if strange := sorted(found - set(classes.names)):
            raise UserError(f"{id}.xml names the unknown class {', '.join(map(repr, strange))}")
        return tuple(name for name in classes.names if name in found)

    try:
        return dict(zip(ids, each(names, ids, "reading boxes"), strict=True))
    except UserError as error:
        raise UserError(f"tags can't be taken from the boxes in {folder}: {error}; mend them, or {advice}") from None


def tags_from_masks(
    masks: Mapping[str, Path], ids: Sequence[str], classes: Classes, *, object_255: bool = False
) -> Tags:
    """The classes that have at least one pixel in an image's mask; 255 is index 1 where it stands for the object.

    Raises:
        UserError: ids without a mask, or masks with an index that no class has, all named at once.
    """
    if missing := [id for id in ids if id not in masks]:
        raise UserError(f"tags can't be taken from masks: there is none for {some(missing)}; choose --tags FILE")

    def indices(id: str) -> list[int]:
        values = values_in(read_mask(masks[id], object_255=object_255))
        return sorted(values - {0, IGNORE})

    found = dict(zip(ids, each(indices, ids, "reading masks"), strict=True))
    strange = [id for id, present in found.items() if present and max(present) > len(classes)]
    if strange:
        raise UserError(f"masks with an index above {len(classes)}, the number of classes: {some(strange)}")
    return {id: tuple(classes.names[index - 1] for index in present) for id, present in found.items()}


def read_tags(path: Path, classes: Classes | None) -> tuple[Tags, Classes]:
    """Tags from a `.csv` or `.npz` file.

    Args:
        path: the file; see `read_csv` and `read_npz`.
        classes: the classes, or None to take them from the file.

    Raises:
        UserError: no such file, another suffix, or bad content.
    """
    readers = {".csv": read_csv, ".npz": read_npz}
    if path.suffix.lower() not in readers:
        raise UserError(f"tags can't be read from {path}; choose xml, masks, or a .csv or .npz file")
    if not path.is_file():
        raise UserError(f"there is no tags file {path}")
    return readers[path.suffix.lower()](path, classes)


def read_csv(path: Path, classes: Classes | None, *, exact: bool = False) -> tuple[Tags, Classes]:
    """Tags from a CSV with the header `image,labels`.

    The labels of a row are separated by ";", "|" or "," (in quotes). In a file without any of these they are separated
    by spaces, unless the whole cell is the name of a class. An empty cell, or "background", is a background image.

    Args:
        path: the file, UTF-8.
        classes: the classes, or None to take the names found, sorted.
        exact: the image column holds ids; otherwise file names or ids.

    Raises:
        UserError: a wrong header, a row of another width, an image that stands there twice, an unknown class.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV file in UTF-8 ({error})") from None
    if not rows or [cell.strip().lower() for cell in rows[0]] != ["image", "labels"]:
        first = ",".join(rows[0]) if rows else "nothing"
        raise UserError(f"{path} must begin with the line image,labels; it begins with {first}")
    body = [(number, row) for number, row in enumerate(rows[1:], 2) if row]
    if wrong := [f"line {number}" for number, row in body if len(row) != 2]:
        raise UserError(f"{path} needs two columns, image and labels, separate labels by ';': {some(wrong)}")
    spaced = not any(_SEPARATORS.search(row[1]) for _, row in body)
    whole = set(classes.names) if classes else set()

    tags: dict[str, tuple[str, ...]] = {}
    double, strange = [], []
    for number, (image, cell) in body:
        id = image.strip() if exact else image_id(image.strip())
        cell = cell.strip()
        parts = [cell] if cell in whole else cell.split() if spaced else _SEPARATORS.split(cell)
        names = {name.strip() for name in parts} - {"", BACKGROUND}
        if id in tags:
            double.append(f"{id} (line {number})")
        if classes and (unknown := sorted(names - whole)):
            strange.append(f"{', '.join(map(repr, unknown))} (line {number})")
        tags[id] = tuple(sorted(names))
    if double:
        raise UserError(f"{path} holds more than one row for {some(double)}")
    if strange:
        assert classes is not None
        raise UserError(
            f"{path} names unknown classes: {some(strange)}; the classes are {', '.join(classes.names)} "
            "(separate labels by ';' where names hold spaces)"
        )
    return tags, classes or _derived(path, sorted({name for names in tags.values() for name in names}))


def read_npz(path: Path, classes: Classes | None) -> tuple[Tags, Classes]:
    """Tags from an npz file with `ids` (N names), `labels` (N x C, 0 or 1) and `classes` (C names).

    Args:
        path: the file; read without pickle.
        classes: the classes, whose order may differ from the file's, or None to take the file's.

    Raises:
        UserError: a damaged file, missing arrays, shapes that don't fit, doubled ids, other classes.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, labels, names = (np.asarray(arrays[key]) for key in ("ids", "labels", "classes"))
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not an npz file with plain arrays ids, labels and classes ({error})") from None
    if ids.ndim != 1 or names.ndim != 1 or labels.shape != (len(ids), len(names)):
        raise UserError(f"{path}: labels must be {len(ids)} x {len(names)} (ids x classes), it is {labels.shape}")
    if ids.dtype.kind != "U" or names.dtype.kind != "U" or not np.isin(labels, (0, 1)).all():
        raise UserError(f"{path}: ids and classes must be text, labels 0 or 1")
    if len(set(ids.tolist())) < len(ids):
        raise UserError(f"{path} holds more than one row for the same id")
    columns = names.tolist()
    if classes is None:
        classes = _derived(path, columns)
    elif differing := sorted(set(columns) ^ set(classes.names)):
        raise UserError(f"{path} and the dataset differ in the classes {', '.join(differing)}; they must be the same")
    tags = {
        image_id(id): tuple(columns[column] for column in np.flatnonzero(row))
        for id, row in zip(ids.tolist(), labels, strict=True)
    }
    return tags, classes


def take(tags: Tags, ids: Sequence[str], source: str) -> Tags:
    """The rows of `ids`.

    Raises:
        UserError: ids without a row, all named at once; `source` says where the tags are from.
    """
    if missing := [id for id in ids if id not in tags]:
        raise UserError(
            f"{source} has no row for {some(missing)}; every image needs one, with an empty label for background"
        )
    return {id: tags[id] for id in ids}


def write_csv(path: Path, tags: Tags, classes: Classes) -> None:
    """Write `tags.csv` atomically: rows sorted by id, labels in the order of the classes, joined by ";".

    Raises:
        UserError: a class name that holds a separator.
    """
    if bad := [name for name in classes.names if _SEPARATORS.search(name) or name != name.strip()]:
        raise UserError(f"class names can't hold ';', '|', ',' or outer spaces: {some(bad)}")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("image", "labels"))
    for id in sorted(tags):
        rows.writerow((id, ";".join(name for name in classes.names if name in tags[id])))
    write_bytes(path, text.getvalue().encode())


def read_class_list(path: Path) -> Classes:
    """The classes of a text file, one name a line, in the file's order.

    Raises:
        UserError: no such file, or names that can't be classes.
    """
    if not path.is_file():
        raise UserError(f"there is no class list {path}")
    names = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    return Classes(tuple(name for name in names if name != BACKGROUND))


def _derived(path: Path, names: Sequence[str]) -> Classes:
    if not names:
        raise UserError(f"{path} names no class at all; an image-level method needs at least one tag")
    return Classes(tuple(names))
