"""Where the tags of a folder of images come from, by the user's choice, or as the folder shows it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from wsss.classes import Classes
from wsss.data.boxes import read_boxes
from wsss.data.coco import find_coco, read_coco
from wsss.data.ids import files_by_id, fit_files, shown
from wsss.data.name_pattern import match_names
from wsss.data.parallel import each, some
from wsss.data.places import Pictures, class_folders, ending_of_masks, near
from wsss.data.tag_files import TABLES, read_tags
from wsss.data.tags import TagFile, class_name, derived_classes, is_background, left_out, refuse_strangers, split_labels
from wsss.errors import UserError

ROBOFLOW = "_classes.csv"
XML = frozenset({".xml"})
OPTIONS = (
    "--tags FILE.csv (or .tsv, .npz, COCO's .json), folders (a folder for each class), 'name:REGEX' (the class in the "
    "name), coco (JSON files in the folder), xml (boxes in VOC's form), roboflow (its _classes.csv), or masks"
)
_NO_OBJECT = frozenset({"good", "ok", "normal", "negative", "negatives", "no_defect", "healthy", "none", "empty"})
_DIGITS = re.compile(r"[01](?:[ ,;_]?[01])*")
_IN_BRACKETS = re.compile(r".*\[[01](?:[ ,;_]?[01])*\][^\]]*")
IN_BRACKETS = r"name:.*\[(?P<classes>[01 ,;_]+)\][^\]]*"


def recognise(pictures: Pictures) -> str:
    """The choice of tags that a folder shows, where it shows one alone.

    Raises:
        UserError: it shows none, or more than one: the user is asked.
    """
    root, names = pictures.root, pictures.names
    folders = class_folders(names)
    bracketed = sum(bool(_IN_BRACKETS.fullmatch(name.rpartition("/")[2])) for name in names.values())
    tables = [root / f"{stem}{suffix}" for stem in ("tags", "labels") for suffix in (*TABLES, ".npz")]
    seen = {
        "roboflow": bool(_roboflow(root)),
        "coco": bool(find_coco(root)),
        "xml": bool(_annotations(root)),
        "folders": len(folders) == len(names) and len(set(folders.values())) > 1,
        f"'{IN_BRACKETS}'": 2 * bracketed > len(names),
    } | {str(path): True for path in tables if path.is_file()}
    choices = [choice for choice, holds in seen.items() if holds]
    if len(choices) == 1:
        return choices[0].strip("'")
    if not choices:
        ending = ending_of_masks(pictures.files)
        masks = f"; if the files *{ending} are masks, say --masks suffix:{ending}" if ending else ""
        raise UserError(f"{root} does not show where its tags are; say so: {OPTIONS}{masks}")
    raise UserError(f"the tags of {root} may be meant in more than one way; say which: --tags {' or '.join(choices)}")


def read_source(
    choice: str,
    pictures: Pictures,
    classes: Classes | None,
    *,
    negative: Collection[str] = (),
    optional: Collection[str] = (),
    apart: Collection[str] = (),
) -> tuple[TagFile, str]:
    """The tags, and the short name of where they come from.

    Args:
        choice: what `--tags` says, but for "masks".
        pictures: the images.
        classes: the classes, or None to take them from the source.
        negative: names of classes that stand for no class.
        optional: ids that need no tag.
        apart: columns of a table that say something else.

    Raises:
        UserError: another choice, or bad content; see the readers.
    """
    kind, _, rest = choice.partition(":")
    root = pictures.root
    readers: dict[str, Callable[[], TagFile]] = {
        "folders": lambda: _from_folders(pictures, classes, negative, rest),
        "name": lambda: _from_names(rest, pictures, classes, optional),
        "coco": lambda: read_coco([Path(rest)] if rest else _some(find_coco(root), root), classes, pictures.files),
        "xml": lambda: _from_xml(Path(rest) if rest else root, classes, pictures.files),
        "roboflow": lambda: _from_roboflow(root, classes, pictures.files, apart),
    }
    path = Path(choice)
    if kind in readers and not path.is_file():
        found, source = readers[kind](), kind
    elif path.suffix.lower() == ".json":
        found, source = read_coco([_file(path)], classes, pictures.files), "coco"
    elif path.is_dir() and _annotations(path):
        found, source = _from_xml(path, classes, pictures.files), "xml"
    elif path.is_dir() and find_coco(path):
        found, source = read_coco(find_coco(path), classes, pictures.files), "coco"
    elif path.suffix.lower() in (*TABLES, ".npz"):
        found, source = read_tags(path, classes, pictures.files, apart), path.suffix.lower()[1:]
    else:
        raise UserError(f"tags can't be read from {choice}; allowed: {OPTIONS}")
    return _without(found, negative), source


def counted(tags: Iterable[tuple[str, ...]], classes: Classes) -> str:
    """How many images show each class, and none."""
    alike = Counter(tags)
    counts = Counter[str]()
    for names, count in alike.items():
        counts.update(dict.fromkeys(names, count))
    parts = [f"{name} {counts[name]:,}" for name in classes.names]
    return f"{some(parts, 20)}, no class {alike[()]:,}"


def _from_folders(pictures: Pictures, classes: Classes | None, negative: Collection[str], one: str) -> TagFile:
    found = class_folders(pictures.names)
    folders = sorted(set(found.values()))
    if not folders:
        raise UserError(
            f"{pictures.root} has no folder for each class, its images lie in no folder; allowed: {OPTIONS}"
        )
    said = {*negative, *(classes.names if classes else ())}
    if unclear := [name for name in folders if name.casefold() in _NO_OBJECT and name not in said]:
        raise UserError(
            f"folder {some([*map(shown, unclear)])} of {pictures.root} may be a class, or hold images without any: say "
            f"--negative {','.join(unclear)} if they show none, or name the classes in a file with --classes FILE"
        )
    none = {folder for folder in folders if folder in negative or is_background(folder)}
    names = {folder: () if folder in none else (class_name(one or folder),) for folder in folders}
    tags = {id: names[folder] for id, folder in found.items()}
    if classes:
        refuse_strangers(pictures.root, tags, classes)
    own = sorted({name for each in names.values() for name in each})
    return TagFile(tags, classes or derived_classes(pictures.root, own, ()), ())


def _from_names(pattern: str, pictures: Pictures, classes: Classes | None, optional: Collection[str]) -> TagFile:
    """A named group for each class that holds 0 or 1, or "classes" with a digit for each, or "class" with names."""
    matches = match_names(pattern, pictures.names, (), optional)
    groups = next(iter(matches.values())).re.groupindex
    if "classes" in groups:
        return _from_digits(pattern, pictures, matches, classes)
    if "class" in groups:
        whole = frozenset(classes.names if classes else ())
        tags = {id: split_labels(class_name(match["class"] or ""), whole) for id, match in matches.items()}
        own = sorted({name for names in tags.values() for name in names})
    else:
        own = [name for name in groups if name != "group"]
        if not own:
            raise UserError(
                f"the pattern {pattern} names no class; name a group after each class, (?P<NAME>[01]), or one group "
                "(?P<classes>[01 ]+) with a digit for each class, or (?P<class>...) with the class's name"
            )
        _refuse_values({id: [match[name] or "" for name in own] for id, match in matches.items()}, pictures, pattern)
        tags = {id: tuple(name for name in own if match[name] == "1") for id, match in matches.items()}
    if classes:
        refuse_strangers(pictures.root, tags, classes)
    return TagFile(tags, classes or derived_classes(pictures.root, own, ()), ())


def _from_digits(
    pattern: str, pictures: Pictures, matches: Mapping[str, re.Match[str]], classes: Classes | None
) -> TagFile:
    texts = {id: (match["classes"] or "").strip() for id, match in matches.items()}
    digits = {id: re.sub(r"[ ,;_]", "", text) if _DIGITS.fullmatch(text) else "" for id, text in texts.items()}
    lengths = Counter(map(len, digits.values()))
    wanted = len(classes) if classes else lengths.most_common(1)[0][0]
    names = pictures.names
    if wrong := [f"{shown(names[id])} ({texts[id]!r})" for id, own in digits.items() if len(own) != wanted]:
        raise UserError(
            f"the pattern {pattern} finds other than {wanted} digits of 0 and 1 in {len(wrong):,} of {len(digits):,} "
            f"names, such as {some(wrong, 5)}"
        )
    if classes is None:
        raise UserError(
            f"the names hold {wanted} digits, one for each class: give the {wanted} names in their order, one a line, "
            "with --classes FILE"
        )
    tags = {id: tuple(n for n, one in zip(classes.names, own, strict=True) if one == "1") for id, own in digits.items()}
    return TagFile(tags, classes, ())


def _refuse_values(values: Mapping[str, Sequence[str]], pictures: Pictures, pattern: str) -> None:
    names = pictures.names
    strange = {id: own for id, own in values.items() if not {*own} <= {"0", "1"}}
    wrong = [f"{shown(names[id])} ({some([*map(repr, own)])})" for id, own in strange.items()]
    if wrong:
        raise UserError(f"the pattern {pattern} finds other values than 0 and 1 in {len(wrong):,} names: {some(wrong)}")


def _from_xml(folder: Path, classes: Classes | None, images: Mapping[str, Path]) -> TagFile:
    """The classes of the boxes and polygons of each annotation below a folder."""
    paths = _annotations(folder)
    if not paths:
        raise UserError(f"{folder} holds no annotation of VOC's form (an XML file for each image)")
    files, strangers = fit_files(files_by_id(folder, XML, below=True, whole=True), images, folder)
    ids = [*files]
    found = dict(zip(ids, each(lambda id: read_boxes(files[id]), ids, "reading boxes"), strict=True))
    tags = {id: tuple(sorted(name for name in names if not is_background(name))) for id, names in found.items()}
    if classes:
        refuse_strangers(folder, tags, classes)
    own = sorted({name for names in tags.values() for name in names})
    notes = left_out(folder, strangers, "annotation")
    return TagFile(tags, classes or derived_classes(folder, own, notes), tuple(notes))


def _from_roboflow(root: Path, classes: Classes | None, images: Mapping[str, Path], apart: Collection[str]) -> TagFile:
    """A table with a column for each class in every folder of images."""
    parts = [read_tags(path, classes, near(images, path.parent), apart) for path in _some(_roboflow(root), root)]
    if len({frozenset(part.classes.names) for part in parts}) > 1:
        raise UserError(f"the files {ROBOFLOW} in {root} differ in their columns; they must name the same classes")
    tags = {id: names for part in parts for id, names in part.tags.items()}
    return TagFile(tags, parts[0].classes, tuple(note for part in parts for note in part.notes))


def _roboflow(root: Path) -> list[Path]:
    return sorted(root.rglob(ROBOFLOW))


def _annotations(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.xml") if b"<annotation" in path.read_bytes()[:2000])


def _some(paths: list[Path], root: Path) -> list[Path]:
    if not paths:
        raise UserError(f"{root} holds no such file; allowed: {OPTIONS}")
    return paths


def _file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"there is no tags file {path}")
    return path


def _without(found: TagFile, negative: Collection[str]) -> TagFile:
    """The same, where some names stand for no class."""
    if not negative:
        return found
    tags = {id: tuple(name for name in names if name not in negative) for id, names in found.tags.items()}
    names = [name for name in found.classes.names if name not in negative]
    return TagFile(tags, Classes(tuple(names)) if names else found.classes, found.notes)
