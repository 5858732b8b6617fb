"""Files of the user that become files of a dataset: links wherever the file system allows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from wsss.data.files import paths_of, suffix
from wsss.data.ids import shown
from wsss.data.parallel import some
from wsss.errors import UserError


def link_all(sources: Mapping[str, Path], folder: Path, *, copied: bool = False) -> None:
    """Link each file into `folder` as `<id><suffix>`; the folder is made only when there is something to link.

    Args:
        sources: id to file.
        folder: where to.
        copied: copy the files, which will not stay where they are.

    Raises:
        UserError: files that can't be read (names the first ten, and how many more).
    """
    paths = paths_of(sources)
    if closed := [shown(path) for path in paths.values() if not os.access(path, os.R_OK)]:
        raise UserError(f"{some(closed)} can't be read; change the permissions, or take away links that lead nowhere")
    for below in {id.rpartition("/")[0] for id in paths}:
        os.makedirs(f"{folder}/{below}", exist_ok=True)
    put: Callable[[str, str], object] = shutil.copyfile if copied else _link
    for id, path in paths.items():
        put(path, f"{folder}/{id}{suffix(path)}")


def _link(source: str, target: str) -> None:
    """Make `target` the same file as `source`: a hard link, else a symbolic link, else a copy."""
    file = os.path.realpath(source) if os.path.islink(source) else source
    for way in (os.link, lambda file, target: os.symlink(os.path.abspath(file), target)):
        try:
            way(file, target)
        except OSError:
            continue
        return
    shutil.copyfile(file, target)
