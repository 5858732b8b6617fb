"""Tags from annotations in COCO's JSON: a class is in an image that has a box or mask of its category, crowds included.

Source: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss.classes import Classes
from wsss.data.ids import fit
from wsss.data.parallel import some
from wsss.data.places import near
from wsss.data.tags import TagFile, class_name, derived_classes, left_out, refuse_strangers
from wsss.errors import UserError

_PARTS = ("images", "annotations", "categories")


def find_coco(folder: Path) -> list[Path]:
    """The JSON files in a folder and below that hold COCO's annotations of objects; others are passed over."""
    return [path for path in sorted(folder.rglob("*.json")) if path.is_file() and _parts(path) is not None]


def read_coco(paths: Sequence[Path], classes: Classes | None, images: Mapping[str, Path]) -> TagFile:
    """Tags from one or more files; an image that a file lists without annotations shows no class.

    Args:
        paths: the files; where images lie beside one or below, it is of these alone.
        classes: the classes, or None to take the categories that have annotations, in the order of their numbers.
        images: id to file of all images.

    Raises:
        UserError: a file that is no such JSON, annotations of no image or category, an image in two entries, a category
            that is no class.
    """
    tags: dict[str, tuple[str, ...]] = {}
    categories: dict[int, str] = {}
    notes: list[str] = []
    for path in paths:
        listed = listing(path, images)
        if double := [id for id in listed.entries if id in tags]:
            raise UserError(f"{path} and a file before it both list {some(double)}; every image once")
        used = {int(each["category_id"]) for entry in listed.of_image.values() for each in entry}
        categories |= {number: listed.names[number] for number in used}
        tags |= {
            id: tuple(sorted({listed.names[int(each["category_id"])] for each in listed.annotations(entry)}))
            for id, entry in listed.entries.items()
        }
        notes += listed.notes
        if empty := sorted(set(listed.names.values()) - set(categories.values())):
            notes.append(f"categories of {path.name} without an annotation: {some(empty, 5)}")
    where = paths[0]
    if classes is None:
        classes = derived_classes(where, list(dict.fromkeys(categories[id] for id in sorted(categories))), notes)
    else:
        refuse_strangers(where, tags, classes)
    return TagFile(tags, classes, tuple(notes))


@dataclass(frozen=True)
class Listing:
    """What a file lists.

    Attributes:
        names: number to name of the categories.
        entries: id to the entry of the image.
        of_image: the number of an image to its annotations.
        notes: sentences on what was left out.
    """

    names: Mapping[int, str]
    entries: Mapping[str, Mapping[str, Any]]
    of_image: Mapping[Any, Sequence[Mapping[str, Any]]]
    notes: tuple[str, ...]

    def annotations(self, entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Those of an image."""
        return self.of_image.get(entry["id"], ())


def listing(path: Path, images: Mapping[str, Path]) -> Listing:
    """Read a file.

    Args:
        path: the file; where images lie beside it or below, it is of these alone.
        images: id to file of all images.

    Raises:
        UserError: it is no such JSON, or has annotations of no image or category.
    """
    content = _parts(path)
    if content is None:
        raise UserError(f"{path} is no JSON of COCO's form: it needs the lists {', '.join(_PARTS)}")
    try:
        own = {int(each["id"]): class_name(str(each["name"])) for each in content["categories"]}
        listed = {each["id"]: each for each in content["images"]}
        names = [str(each["file_name"]) for each in listed.values()]
        pairs = [(each["image_id"], int(each["category_id"])) for each in content["annotations"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no JSON of COCO's form ({error!r} is missing or wrong)") from None
    lost = [str(at) for at, (image, category) in enumerate(pairs) if image not in listed or category not in own]
    if lost:
        raise UserError(
            f"{path}: {len(lost):,} annotations are of an image or category that it does not list: "
            f"entries {some(lost)} of annotations"
        )
    of_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for each in content["annotations"]:
        of_image[each["image_id"]].append(each)
    found = fit(names, near(images, path.parent), str(path), [f"image {id}" for id in listed])
    entries = [*listed.values()]
    notes = left_out(path, [names[at] for at in found.strangers], "image")
    return Listing(own, {id: entries[at] for id, at in found.positions.items()}, of_image, tuple(notes))


def _parts(path: Path) -> dict[str, Any] | None:
    """The content of a file if it has COCO's lists; None for any other."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(content, dict) and all(isinstance(content.get(part), list) for part in _PARTS)
    return content if whole else None
