"""Image-level tags: from VOC's XML boxes or from masks, taken for the ids that need them, and as a dataset keeps them.

Everywhere here tags are a mapping from id to the names of the classes in the image; an empty tuple is a background
image, a missing id an error.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from wsss.classes import BACKGROUND, IGNORE, Classes
from wsss.data.boxes import read_boxes
from wsss.data.csv_rows import HEADER, parse_rows
from wsss.data.ids import files_by_id, fit_files, shown
from wsss.data.mask_values import MaskValues
from wsss.data.masks import read_mask, values_in
from wsss.data.parallel import each, some
from wsss.data.text import read_lines
from wsss.errors import UserError
from wsss.storage import write_bytes

Tags = Mapping[str, tuple[str, ...]]

_SEPARATORS = re.compile(r"[;|,]")
_UNFIT = re.compile(r"[;|,\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def tags_from_xml(folder: Path, ids: Sequence[str], classes: Classes, images: Mapping[str, Path]) -> Tags:
    """The classes of every box of `<folder>/<id>.xml`, difficult and truncated ones included.

    Args:
        folder: of the annotations.
        ids: of the images that need tags.
        classes: the classes that boxes may have.
        images: id to file of all images.

    Raises:
        UserError: annotations that are missing, damaged or name an unknown class, all named at once.
    """
    advice = "choose --tags masks or --tags FILE (a CSV with the header image,labels, or an npz)"
    if not folder.is_dir():
        raise UserError(f"tags can't be taken from boxes: there is no folder {folder}; {advice}")

    annotations, _ = fit_files(files_by_id(folder, frozenset({".xml"})), images, folder)

    def names(id: str) -> tuple[str, ...]:
        found = read_boxes(annotations.get(id, folder / f"{id}.xml"))
        if strange := sorted(found - set(classes.names)):
            raise UserError(f"{id}.xml names the unknown class {', '.join(map(repr, strange))}")
        return tuple(name for name in classes.names if name in found)

    try:
        return dict(zip(ids, each(names, ids, "reading boxes"), strict=True))
    except UserError as error:
        raise UserError(f"tags can't be taken from the boxes in {folder}: {error}; mend them, or {advice}") from None


def tags_from_masks(
    masks: Mapping[str, Path],
    ids: Sequence[str],
    classes: Classes,
    *,
    object_255: bool = False,
    values: MaskValues | None = None,
) -> Tags:
    """The classes that have at least one pixel in an image's mask; 255 is index 1 where it stands for the object.

    Raises:
        UserError: ids without a mask, or masks with an index that no class has, all named at once.
    """
    if missing := [id for id in ids if id not in masks]:
        raise UserError(f"tags can't be taken from masks: there is none for {some(missing)}; choose --tags FILE")

    def indices(id: str) -> list[int]:
        present = values_in(read_mask(masks[id], object_255=1 if object_255 else None, values=values))
        return sorted(present - {0, IGNORE})

    found = dict(zip(ids, each(indices, ids, "reading masks"), strict=True))
    strange = [id for id, present in found.items() if present and max(present) > len(classes)]
    if strange:
        raise UserError(f"masks with an index above {len(classes)}, the number of classes: {some(strange)}")
    return {id: tuple(classes.names[index - 1] for index in present) for id, present in found.items()}


class TagFile(NamedTuple):
    """What a file of tags says of the images there are.

    Attributes:
        tags: id to class names; images without a row are missing.
        classes: the given ones or, where there are none, those of the tags, sorted.
        notes: sentences on what was left out.
    """

    tags: Tags
    classes: Classes
    notes: tuple[str, ...]


def take(tags: Tags, ids: Sequence[str], source: str, notes: Sequence[str] = ()) -> Tags:
    """The rows of `ids`.

    Raises:
        UserError: ids without a row, all named at once; `source` says where the tags are from, the notes what else is
            known of them.
    """
    if missing := [id for id in ids if id not in tags]:
        problem = f"{source} has no row for {some([shown(id) for id in missing])}"
        advice = "every image needs one, with an empty label for background"
        raise UserError("; ".join((problem, advice, *notes)))
    return {id: tags[id] for id in ids}


def read_written(path: Path, classes: Classes) -> Tags:
    """The tags of a file that `write_csv` wrote, whose ids are taken to the letter.

    Raises:
        UserError: it is damaged, or names an image twice or an unknown class.
    """
    tags: dict[str, tuple[str, ...]] = {}
    strange: dict[int, tuple[str, ...]] = {}
    double = []
    known = frozenset(classes.names)
    labels = cache(lambda cell: split_labels(cell, known))  # most cells are the same few
    for row in parse_rows(path):
        id = row.image
        if id in tags:
            double.append(f"{shown(id)} (line {row.line})")
        tags[id] = labels(row.labels)
        if not known.issuperset(tags[id]):
            strange[row.line] = tags[id]
    if double:
        raise UserError(f"{path} names {some(double)} more than once; every image once")
    refuse_unknown(path, strange, classes)
    return tags


def write_csv(path: Path, tags: Tags, classes: Classes) -> None:
    """Write `tags.csv` atomically: rows sorted by id, labels in the order of the classes, joined by ";".

    Raises:
        UserError: a class name that holds a separator, a line break or another control character.
    """
    if bad := [name for name in classes.names if _UNFIT.search(name) or name != name.strip()]:
        named = some([ascii(name) for name in bad])
        raise UserError(f"class names can't hold ';', '|', ',', control characters or outer spaces: {named}")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEADER)
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
    names = [class_name(line) for line in read_lines(path)]
    return _classes(path, [name for name in names if name and not is_background(name)])


def class_name(text: str) -> str:
    """A class name as it is kept: the same however its accents are stored, without spaces around it."""
    return unicodedata.normalize("NFC", text).strip()


def is_background(name: str) -> bool:
    """Whether a name stands for no class at all."""
    return name.casefold() == BACKGROUND


def split_labels(cell: str, whole: frozenset[str]) -> tuple[str, ...]:
    """The class names in a cell, sorted; `whole` are the names of classes where they are known."""
    text = cell.strip()
    words = text.split()
    if text in whole:
        parts = [text]
    elif words and whole.issuperset(words):
        parts = words
    else:
        parts = _SEPARATORS.split(text)
    return tuple(sorted({name for part in parts if (name := part.strip()) and not is_background(name)}))


def refuse_unknown(path: Path, labels: Mapping[int, Sequence[str]], classes: Classes) -> None:
    """Refuse names that are no classes.

    Args:
        path: of the file.
        labels: the names by the line where they stand.
        classes: those there are.

    Raises:
        UserError: names all that are none, with their lines.
    """
    known = set(classes.names)
    strange = [
        f"{', '.join(repr(name) for name in names if name not in known)} (line {line})"
        for line, names in sorted(labels.items())
        if not known.issuperset(names)
    ]
    if strange:
        raise UserError(
            f"{path} names unknown classes: {some(strange)}; the classes are {', '.join(classes.names)} "
            "(separate labels by ';' where names hold spaces)"
        )


def refuse_strangers(where: Path, tags: Tags, classes: Classes) -> None:
    """Refuse tags that are no classes.

    Raises:
        UserError: names them, with how many images have each.
    """
    counts = Counter(name for names in tags.values() for name in names if name not in classes.names)
    if counts:
        named = some([f"{name!r} ({count:,} images)" for name, count in sorted(counts.items())])
        raise UserError(f"{where} names unknown classes: {named}; the classes are {', '.join(classes.names)}")


def left_out(path: Path, names: Sequence[str], what: str = "row") -> list[str]:
    """A note on the names in a file that mean no image; nothing without any."""
    if not names:
        return []
    rows = f"1 {what}" if len(names) == 1 else f"{len(names):,} {what}s"
    return [f"{rows} of {path} left out, as there is no such image: {some(list(map(shown, names)), 5)}"]


def derived_classes(path: Path, names: Sequence[str], notes: Sequence[str]) -> Classes:
    """The classes of a source that is asked for them.

    Raises:
        UserError: there is none, or a name can't be a class.
    """
    if not names:
        problem = f"{path} names no class at all; an image-level method needs at least one tag"
        raise UserError("; ".join((problem, *notes)))
    return _classes(path, names)


def _classes(path: Path, names: Sequence[str]) -> Classes:
    try:
        return Classes(tuple(names))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
