"""Ids: what an image is called, found among files, and found again in the rows, lists and masks that people write.

An id is the name of the image's file without its suffix, as it is on disk. Everything that names an image, a row of a
CSV or npz file, a line of a list, the file of a mask or of boxes, comes through `fit`, which refuses two for one image.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from wsss.data.files import Files, paths_of, start_of, suffix, walk
from wsss.data.images import SUFFIXES
from wsss.data.parallel import some
from wsss.errors import UserError

_RESERVED = "__metadata__"
"""What safetensors keeps for itself among the names in a file."""


def shown(name: str) -> str:
    """A name as messages show it: as it is, but in quotes and escaped where the eye would miss a part of it."""
    return name if name.isprintable() and name == name.strip() and name else ascii(name)


def files_by_id(
    folder: Path,
    suffixes: frozenset[str] = SUFFIXES,
    *,
    below: bool = False,
    apart: Collection[Path] = (),
    whole: bool = False,
) -> Files:
    """The files of a folder by id; no such folder is an empty one.

    An id is the file's name without its suffix; where such names repeat in subfolders, all ids are relative paths. What
    a Mac keeps beside a file ("._NAME") is left out, and so are hidden folders.

    Args:
        folder: where they lie.
        suffixes: of the files that count, in small letters.
        below: look into subfolders too, also into those that are links; each folder is looked into once.
        apart: folders below that are left out.
        whole: ids are relative paths whether names repeat or not.

    Raises:
        UserError: a folder that can't be listed, two files of one id, or a name that can't be an id; all are named.
    """
    if not folder.is_dir():
        return Files({})
    refused: list[OSError] = []
    files, links, odd = [], [], []
    for path, entry in walk(folder, below, apart, refused):
        if suffix(path) in suffixes:
            files.append(path)
            if entry.is_symlink():
                links.append(path)
            if not entry.is_file() and os.path.exists(path):
                odd.append(path)  # such as a pipe, which would be waited for
    if refused:
        named = [f"{shown(str(error.filename))} ({(error.strerror or str(error)).lower()})" for error in refused]
        raise UserError(f"these folders can't be listed: {some(named)}; change their permissions or move them away")
    start = len(start_of(folder))
    if odd:
        places = [shown(path[start:]) for path in odd]
        raise UserError(f"{folder}: {some(places)} have the names of images and are no files; move them away")
    found, clashes = _keyed((path_id(path[path.rfind("/") + 1 :]), path) for path in files)
    if whole or (below and clashes):
        found, clashes = _keyed((path_id(path[start:]), path) for path in files)
    if wrong := [shown(path[path.rfind("/") + 1 :]) for id, path in found.items() if not _can_be_an_id(id)]:
        raise UserError(
            f"{folder}: {some(wrong)} can't be the name of an image: names are UTF-8, not blank, without line breaks, "
            f"not . or .. and not {_RESERVED}; rename the file"
        )
    if double := [" and ".join(shown(path[start:]) for path in paths) for paths in clashes]:
        raise UserError(
            f"files in {folder} are known by their name without suffix; these clash, rename one: {some(double)}"
        )
    return Files(found, frozenset(links))


def path_id(name: str) -> str:
    """The id of a file in a folder where ids are relative paths: its path with forward slashes, without the suffix."""
    folder, slash, file = name.rpartition("/")
    dot = file.rfind(".")
    return f"{folder}{slash}{file[:dot] if 0 < dot < len(file) - 1 else file}"  # as `Path.stem` has it


def refuse_alike(ids: Iterable[str]) -> None:
    """Refuse ids that a file system may take for one another, as not all tell capitals or forms of Unicode apart.

    Raises:
        UserError: names them all.
    """
    folded: dict[str, str] = {}
    alike_ids: dict[str, list[str]] = defaultdict(list)
    for id in ids:
        form = unicodedata.normalize("NFC", id).casefold()
        if form in folded:
            alike_ids[form] = [*(alike_ids[form] or [folded[form]]), id]
        else:
            folded[form] = id
    if alike := [" and ".join(map(shown, sorted(same))) for same in alike_ids.values()]:
        raise UserError(
            f"{some(alike)} differ in capitals or in the form of their accents alone, and would be one file on some "
            "machines; rename one of each"
        )
    folders = {PurePosixPath(folder) for folder in {id.rpartition("/")[0] for id in folded}}
    within = {parent for folder in folders for parent in (folder, *folder.parents)}
    beside = [path_id(folder.as_posix()) for folder in sorted(within) if folder.suffix in SUFFIXES]
    if both := [shown(folded[id]) for id in beside if id in folded]:
        raise UserError(f"beside {some(both)} there are folders that are called like the image's file; rename them")


@dataclass(frozen=True)
class Fit:
    """Which images the names in a file, or of files, mean.

    Attributes:
        positions: id of an image to the position of its name.
        strangers: the positions of the names that mean no image.
    """

    positions: Mapping[str, int]
    strangers: Sequence[int]


def fit(
    names: Sequence[str],
    images: Mapping[str, Path],
    where: str,
    places: Sequence[str],
    says: Sequence[str] | None = None,
) -> Fit:
    """Find the image that each name means.

    A name is an id or a file name, as it is on disk; else one after a path of Unix or Windows, or with another image
    suffix; else the same but for spaces around it and the form of Unicode (composed or not); else the end of an id
    that is a path. A name that is one image's file name and another's id is what all names of the file are, file names
    or ids.

    Args:
        names: as they are written.
        images: id to file.
        where: the names come from, for the messages.
        places: where in it each stands, for the messages, such as "line 3".
        says: what it says of each, so that the message shows where two differ.

    Raises:
        UserError: two names of one image, or a name that may mean two images; all are named.
    """
    candidates = _candidates(names, images)
    if unclear := [position for position, ids in enumerate(candidates) if len(ids) > 1]:
        raise UserError(
            f"{where} names {some([f'{shown(names[at])} ({places[at]})' for at in unclear])}, which may be more than "
            f"one image ({some(sorted(map(shown, candidates[unclear[0]])))}); write the path below the folder, or "
            "rename one of the files"
        )
    positions: dict[str, int] = {}
    double, strangers = [], []
    for position, ids in enumerate(candidates):
        for id in ids:
            if positions.setdefault(id, position) != position:
                two = [positions[id], position]
                differ = says is not None and says[two[0]] != says[two[1]]
                told = [f"{places[at]}{f' says {shown(says[at])}' if says and differ else ''}" for at in two]
                double.append(f"{shown(id)} ({' and '.join(told)})")
        if not ids:
            strangers.append(position)
    if double:
        raise UserError(f"{where} names {some(double)} more than once; every image once")
    return Fit(positions, strangers)


def fit_files(files: Mapping[str, Path], images: Mapping[str, Path], where: Path) -> tuple[dict[str, Path], list[str]]:
    """The files that belong to images, such as masks, by the id of their image; and the names of those that don't.

    Args:
        files: name without suffix to file.
        images: id to image file.
        where: the files lie, for the messages.

    Raises:
        UserError: two files for one image, see `fit`.
    """
    paths = list(files.values())
    found = fit(list(files), images, str(where), [shown(path.name) for path in paths])
    return {id: paths[at] for id, at in found.positions.items()}, [shown(paths[at].name) for at in found.strangers]


def _keyed(files: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[list[str]]]:
    """The first file of each id, and the files of each id that has more than one."""
    found: dict[str, str] = {}
    more: dict[str, list[str]] = defaultdict(list)
    for id, file in files:
        if found.setdefault(id, file) is not file:
            more[id].append(file)
    several = [[found[id], *files] for id, files in more.items()]
    return found, [files for files in several if len({os.path.realpath(file) for file in files}) > 1]


def _can_be_an_id(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    if not name.strip() or name == _RESERVED or "\n" in name or "\r" in name:
        return False
    return name.rpartition("/")[2] not in (".", "..")


def _candidates(names: Sequence[str], images: Mapping[str, Path]) -> list[Collection[str]]:
    file_names = {f"{id}{_ending(path)}": id for id, path in paths_of(images).items()}
    several = {name for name, id in file_names.items() if name in images and name != id}

    @cache
    def tables() -> tuple[Mapping[str, set[str]], Mapping[str, set[str]], Mapping[str, set[str]]]:
        """Where each name is there to the letter, as nearly always, these are not made."""
        columns = ({id: id for id in images}, file_names)
        return _table(columns), _table(columns, _plain), _table_of_ends(images)

    def look_up(name: str) -> Collection[str]:
        if name not in several and (name in file_names or name in images):
            return (file_names.get(name, name),)
        to_the_letter, loose, ends = tables()
        return _look_up(name, to_the_letter, loose) or _look_up_end(name, ends)

    found = [look_up(name) for name in names]
    if any(len(candidates) > 1 for candidates in found):
        readings = [[file_names[name] for name in names]] if file_names.keys() >= set(names) else []
        readings += [[*names]] if images.keys() >= set(names) else []
        if len(readings) == 1:
            return [(id,) for id in readings[0]]
    return found


def _ending(path: str) -> str:
    """The suffix as it is written."""
    return path[len(path) - len(suffix(path)) :]


def _table(columns: Iterable[Mapping[str, str]], form: Callable[[str], str] = str) -> Mapping[str, set[str]]:
    table: dict[str, set[str]] = {}
    for column in columns:
        for name, id in column.items():
            table.setdefault(form(name), set()).add(id)
    return table


def _table_of_ends(ids: Iterable[str]) -> Mapping[str, set[str]]:
    """The last parts of ids that are paths, such as "b/c" and "c" of "a/b/c", in their plain form."""
    table: dict[str, set[str]] = {}
    for id in ids:
        for end in _ends(_plain(id))[1:]:
            table.setdefault(end, set()).add(id)
    return table


def _look_up(name: str, exact: Mapping[str, set[str]], loose: Mapping[str, set[str]]) -> set[str]:
    written = list(dict.fromkeys((*_ends(name), *_ends(name.replace("\\", "/")))))
    bare = (*map(_bare, written), *(_bare(text.strip()) for text in written))
    forms = [form for form in (*written, *bare) if form]
    hits = [exact[form] for form in forms if form in exact]
    hits += [loose[_plain(form)] for form in forms if _plain(form) in loose]
    return hits[0] if hits else set()


def _look_up_end(name: str, ends: Mapping[str, set[str]]) -> set[str]:
    """The images whose path ends as the name does."""
    plain = _plain(name.replace("\\", "/")) if ends else ""
    return ends.get(plain) or ends.get(_plain(_bare(plain)), set())


def _ends(name: str) -> list[str]:
    """A path, and what is left of it when one folder after the other is taken away in front."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _bare(name: str) -> str:
    """A file's name, or its path, without the suffix of an image, if it has one."""
    return path_id(name) if PurePosixPath(name).suffix.lower() in SUFFIXES else name


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()
