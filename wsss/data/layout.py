"""The folder a dataset lives in: where its files are, and how it is built and published at once.

A dataset is a folder `data/<name>/` of the workspace:

    dataset.json                      name, kind, class names, where the tags come from, the settings it was made with
    tags.csv                          image,labels: one row for each id; labels joined by ";"; empty for background
    manifest.json                     sha256 and size of every other file
    groups.csv                        image,group: which images belong together; missing where each is its own group
    objects.csv                       image,object: where images lie that are in a bucket and not in JPEGImages
    JPEGImages/<id>.<jpg|png|...>     RGB images; an id may hold folders
    SegmentationClass/<id>.png        masks (the official ones of VOC); may be missing
    SegmentationClassAug/<id>.png     further masks (SBD's), only for ids without an official one; may be missing
    ImageSets/Segmentation/*.txt      train, dev and val, disjoint, one id a line; train_official: the train ids with an
                                      official mask, dev included; test, if there is one: images without masks, or
                                      whose masks are to be looked at once; the other lists as the source has them
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wsss.classes import Classes
from wsss.commands import command
from wsss.data.bucket_images import OBJECTS
from wsss.data.files import Files, suffix
from wsss.data.groups import GROUPS, write_groups
from wsss.data.ids import files_by_id, path_id, shown
from wsss.data.images import SUFFIXES
from wsss.data.manifest import MANIFEST, Entry, Manifest, names_below, refresh_manifest, write_manifest
from wsss.data.parallel import some
from wsss.data.tags import write_csv
from wsss.data.text import read_lines
from wsss.errors import UserError
from wsss.storage import disk_errors, inside_name, remove_unfinished, unfinished, write_bytes

DESCRIPTION = "dataset.json"
TAGS = "tags.csv"
IMAGES = "JPEGImages"
MASKS = "SegmentationClass"
MASKS_AUG = "SegmentationClassAug"
LISTS = "ImageSets/Segmentation"
PNG = frozenset({".png"})
SPLITS = ("train", "dev", "val")
"""Those that every dataset has, though they may be empty; "test" may come to them."""
TEST = "test"


@dataclass(frozen=True)
class Description:
    """What `dataset.json` says.

    Attributes:
        name: how the dataset is called on the command line.
        kind: "voc", "sbd", "folder" or "shapes".
        classes: the foreground classes.
        tags_source: "xml", "masks", "csv", "npz" or "program".
        settings: what it was made with, JSON-ready.
    """

    name: str
    kind: str
    classes: Classes
    tags_source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def home(name: str) -> Path:
    """The folder of the dataset called `name` in the workspace, which is the current folder.

    Raises:
        UserError: the name can't be a folder's.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
        fitting = re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "photos"
        raise UserError(
            f"{name!r} can't name a dataset; use letters, digits, '.', '_', '-', a letter or digit first, "
            f"such as --name {fitting}"
        )
    return Path("data") / name


@contextlib.contextmanager
def building(target: Path) -> Iterator[Path]:
    """An empty folder that becomes `target` when the block ends well, and is removed when it does not.

    What a killed process left is removed by the next one that builds the same target.

    Raises:
        UserError: the target exists, before or after; the disk is full.
    """
    refuse_taken(target)
    partial = unfinished(target)
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(target.parent)
        partial.mkdir()
        try:
            yield partial
            if target.exists():
                raise UserError(f"{target} was made by another process in the meantime")
            os.rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def refuse_taken(target: Path) -> None:
    """Refuse to make a dataset where there is something.

    Raises:
        UserError: there is.
    """
    if target.exists():
        raise UserError(_taken(target))


def _taken(target: Path) -> str:
    """That a dataset can't be made where there is something: only what is a dataset and nothing else may be removed."""
    known = {DESCRIPTION, TAGS, GROUPS, OBJECTS, MANIFEST, IMAGES, MASKS, MASKS_AUG, LISTS.partition("/")[0]}
    if not (target / DESCRIPTION).is_file():
        return f"{target} exists and is no dataset; leave it, and choose another name with --name"
    if {path.name for path in target.iterdir()} <= known:
        return f"{target} exists and is a dataset; choose another name with --name, or remove it if it is not needed"
    return f"{target} exists, a dataset with other files beside it; leave it, and choose another name with --name"


def image_name(id: str, file: str) -> str:
    """What the manifest calls the image of an id that is added from a file."""
    return f"{IMAGES}/{id}{suffix(file)}"


def read_list(path: Path) -> tuple[str, ...]:
    """The ids of a list of a dataset, one a line, to the letter and in the file's order; empty lines are skipped.

    Raises:
        UserError: no such file, an id that stands there twice, or one that can't be a file's name in a folder.
    """
    if not path.is_file():
        raise UserError(f"there is no list {path}")
    ids = tuple(line for line in read_lines(path) if line)
    if len(set(ids)) < len(ids):
        double = sorted(shown(id) for id, count in Counter(ids).items() if count > 1)
        raise UserError(f"{path} names {some(double)} more than once; every id once")
    for id in ids:
        inside_name(path.parent, id)
    return ids


def read_splits(root: Path) -> dict[str, tuple[str, ...]]:
    """The splits of a dataset by name, see `wsss.data.dataset.Dataset`.

    Raises:
        UserError: a list is missing or damaged, or splits share images.
    """
    splits = {name: read_list(root / LISTS / f"{name}.txt") for name in SPLITS}
    if (test := root / LISTS / f"{TEST}.txt").is_file():
        splits[TEST] = read_list(test)
    dev, val = set(splits["dev"]), set(splits["val"])
    if shared := sorted({id for split in SPLITS for id in splits[split]} & set(splits.get(TEST, ()))):
        raise UserError(f"{root}: {some(shared)} of test are in another split too; splits must be disjoint")
    for split in ("train", "dev"):
        if shared := [id for id in splits[split] if id in val]:
            raise UserError(f"{root}: {some(shared)} of {split} are in val too; nothing may be learnt or tuned on val")
    splits["train"] = tuple(id for id in splits["train"] if id not in dev)
    official = root / LISTS / "train_official.txt"
    if official.is_file():
        train = set(splits["train"])
        splits["train_official"] = tuple(id for id in read_list(official) if id in train)
    return splits


def write_list(root: Path, name: str, ids: Iterable[str]) -> None:
    """Write `ImageSets/Segmentation/<name>.txt` atomically, one id a line."""
    write_bytes(root / LISTS / f"{name}.txt", "".join(f"{id}\n" for id in ids).encode())


def ids_of(names: Iterable[str], folder: str) -> dict[str, str]:
    """Of the paths in a dataset, such as its manifest has them, those in one of its folders, by id."""
    start = f"{folder}/"
    return {path_id(name[len(start) :]): name for name in names if name.startswith(start)}


def ids_in(folder: Path, suffixes: frozenset[str] = SUFFIXES) -> Files:
    """The files of a folder of a dataset by id."""
    return files_by_id(folder, suffixes, below=True, whole=True)


def masks_in(root: Path) -> dict[str, str]:
    """Id to the path of its mask in a dataset's folder, the official one first."""
    names = {folder: names_below(root / folder) for folder in (MASKS_AUG, MASKS)}
    return {
        name.removesuffix(".png"): f"{folder}/{name}"
        for folder, its in names.items()
        for name in its
        if name.endswith(".png")
    }


def mask_counts(root: Path, splits: Mapping[str, Iterable[str]], names: Iterable[str]) -> list[int]:
    """How many ids of each named split have a mask file."""
    masked = masks_in(root).keys()
    return [len(masked & set(splits[name])) for name in names]


def read_description(root: Path) -> Description:
    """Read `dataset.json`.

    Raises:
        UserError: it is missing or not what `describe` wrote.
    """
    path = root / DESCRIPTION
    try:
        found = json.loads(path.read_text("utf-8"))
        return Description(
            name=found["name"],
            kind=found["kind"],
            classes=Classes(tuple(found["classes"])),
            tags_source=found["tags_source"],
            settings=found.get("settings", {}),
        )
    except FileNotFoundError:
        raise UserError(
            f"{root} has no {DESCRIPTION}, so it is no dataset; make one with `{command('wsss', 'data', 'add')}`"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); add the dataset again") from None


def write_description(root: Path, description: Description) -> None:
    """Write `dataset.json` atomically."""
    content = {
        "name": description.name,
        "kind": description.kind,
        "classes": list(description.classes.names),
        "tags_source": description.tags_source,
        "settings": dict(description.settings),
    }
    write_bytes(root / DESCRIPTION, (json.dumps(content, indent=2) + "\n").encode())


def rename(root: Path, name: str) -> None:
    """Give a finished dataset folder another name in its `dataset.json`; the digest stays."""
    write_description(root, replace(read_description(root), name=name))
    refresh_manifest(root, [DESCRIPTION])


def finish(
    root: Path,
    description: Description,
    tags: Mapping[str, tuple[str, ...]],
    lists: Mapping[str, Iterable[str]],
    groups: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    known: Mapping[str, Entry] | None = None,
) -> Manifest:
    """Finish a dataset folder whose images and masks are in place: write its description, tags, lists and manifest.

    Args:
        root: the folder.
        description: what goes into dataset.json.
        tags: id to the names of the classes in it, in any order; an empty tuple is a background image.
        lists: list name to ids; "train", "dev" and "val" are needed (each may be empty).
        groups: id to group of every image; None where each is its own.
        facts: what the manifest says of the dataset, see `wsss.data.manifest.Manifest`.
        known: files that were hashed already, by their path below the folder.

    Returns:
        The manifest that was written.
    """
    write_description(root, description)
    write_csv(root / TAGS, tags, description.classes)
    if groups:
        write_groups(root, groups)
    for name, ids in lists.items():
        write_list(root, name, ids)
    return write_manifest(root, facts, known)
