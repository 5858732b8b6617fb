"""Files by id, and the walk that finds them: of each only its path's text is kept.

A hundred thousand `Path` objects take as much memory as all else that is known of a dataset.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path


class Files(Mapping[str, Path]):
    """Id to file; the `Path` is made when it is asked for.

    Attributes:
        paths: id to the text of the path.
        links: the texts of those that are links.
    """

    def __init__(self, paths: Mapping[str, str], links: frozenset[str] = frozenset()) -> None:
        self.paths = paths
        self.links = links

    def __getitem__(self, id: str) -> Path:
        return Path(self.paths[id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, id: object) -> bool:
        return id in self.paths


def paths_of(files: Mapping[str, Path]) -> Mapping[str, str]:
    """Id to the text of each file's path."""
    return files.paths if isinstance(files, Files) else {id: str(file) for id, file in files.items()}


def chosen(files: Mapping[str, Path], ids: Iterable[str]) -> Files:
    """The files of some ids, in the order of these."""
    paths = paths_of(files)
    return Files({id: paths[id] for id in ids})


def suffix(name: str) -> str:
    """What `Path(name).suffix` is, in small letters."""
    dot, start = name.rfind("."), name.rfind("/") + 1
    return name[dot:].lower() if start < dot < len(name) - 1 else ""


def start_of(folder: Path) -> str:
    """What the paths of files in a folder begin with."""
    text = str(folder)
    return "" if text == "." else text if text.endswith("/") else f"{text}/"


def walk(
    folder: Path, below: bool, apart: Collection[Path], refused: list[OSError]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Path and entry of each file of a folder, sorted within each folder; what a Mac keeps beside a file is left out.

    Args:
        folder: where they lie.
        below: look into subfolders too, hidden ones left out; each folder is looked into once, links among them too.
        apart: folders below that are left out.
        refused: takes what the system says of folders that can't be listed.
    """
    seen = {os.path.realpath(path) for path in apart}
    waiting = [str(folder)]
    while waiting:
        parent = waiting.pop()
        if (real := os.path.realpath(parent)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(parent) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            refused.append(error)
            continue
        start = "" if parent == "." else f"{parent.rstrip('/')}/"
        folders = [entry.name for entry in entries if entry.is_dir()]
        if below:
            waiting += [f"{start}{name}" for name in reversed(folders) if not name.startswith(".")]
        others = {*folders}
        for entry in entries:
            if entry.name not in others and not entry.name.startswith("._"):
                yield f"{start}{entry.name}", entry
