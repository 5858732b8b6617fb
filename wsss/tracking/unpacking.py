"""Reading packs (`wsss.tracking.packing`), which may come from anybody: names stay inside, sizes are the index's."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from wsss.errors import UserError
from wsss.storage import free_bytes, inside, temporary_folder, write_bytes
from wsss.tracking.packing import ARCHIVE, INDEX
from wsss.tracking.record import FORMAT, RUNS

_MAX_INDEX, _MAX_FILE, _MAX_FILES = 64 << 20, 4 << 30, 200_000


@contextmanager
def opened(places: Sequence[Path]) -> Iterator[tuple[Path, Collection[str]]]:
    """The folder of records that some places are or hold, and the names of the files that were left out.

    Args:
        places: one folder as `wsss run --offline` wrote it or a folder of packs, or the packs.

    Raises:
        UserError: they are something else, an archive is missing or damaged, or a name in it would leave the folder.
    """
    if len(places) == 1 and places[0].is_dir() and not (places[0] / ARCHIVE.format(1)).exists():
        yield places[0], ()
        return
    archives = [path for place in places for path in (sorted(place.glob("*.zip")) if place.is_dir() else [place])]
    with temporary_folder() as folder:
        yield folder, _unpack(archives, folder)


def _unpack(archives: Sequence[Path], folder: Path) -> Collection[str]:
    with ExitStack() as stack:
        by_name: dict[str, zipfile.ZipFile] = {}
        for path in archives:
            try:
                by_name[path.name] = stack.enter_context(zipfile.ZipFile(path))
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError(f"{path} is no archive that can be read ({error}); copy it again") from None
        index = _index(by_name, [path.name for path in archives])
        missing = [name for n in range(index["archives"]) if (name := ARCHIVE.format(n + 1)) not in by_name]
        if missing:
            raise UserError(
                f"of {index['archives']} archives {', '.join(missing)} are not here; put them beside the first"
            )
        size = sum(file["size"] for file in index["files"])
        if size > free_bytes(folder):
            raise UserError(
                f"the records take {size / 1e9:.1f} GB, {folder.parent} has less; set TMPDIR to a larger disk"
            )
        for file in index["files"]:
            _unpack_file(by_name, file, folder)
        return list(index["left_out"])


def _index(by_name: Mapping[str, zipfile.ZipFile], given: Sequence[str]) -> dict[str, Any]:
    first = by_name.get(ARCHIVE.format(1))
    if first is None:
        raise UserError(
            f"{', '.join(given) or 'nothing'} lacks {ARCHIVE.format(1)}, which has the index; put it beside them"
        )
    try:
        content = _read(first, INDEX, _MAX_INDEX)
        index = json.loads(content)
        if isinstance(index["format"], int) and index["format"] > FORMAT:
            raise UserError(
                f"the archives were packed by a newer version (format {index['format']}, this one knows {FORMAT}); "
                "update this one"
            )
        files, left_out = index["files"], index["left_out"]
        sound = (
            isinstance(index["archives"], int)
            and 1 <= index["archives"] <= 99
            and len(files) <= _MAX_FILES
            and all(isinstance(f["size"], int) and 0 <= f["size"] <= _MAX_FILE for f in files)
            and all(PurePosixPath(f["name"]).parts[0] == RUNS and isinstance(f["sha256"], str) for f in files)
            and all(isinstance(name, str) for name in left_out)
        )
    except (KeyError, ValueError, TypeError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{ARCHIVE.format(1)} has no index that can be read ({error}); copy it again") from None
    if not sound:
        raise UserError(f"the index in {ARCHIVE.format(1)} is not what packing writes")
    return dict(index)


def _unpack_file(by_name: Mapping[str, zipfile.ZipFile], file: Mapping[str, Any], folder: Path) -> None:
    target = inside(folder, file["name"])
    content = io.BytesIO()
    try:
        for number, entry in file["parts"]:
            content.write(_read(by_name[ARCHIVE.format(number)], entry, file["size"] - content.tell()))
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file['name']} can't be unpacked ({error}); copy the archives again") from None
    if content.tell() != file["size"] or hashlib.sha256(content.getvalue()).hexdigest() != file["sha256"]:
        raise UserError(f"{file['name']} is not what was packed; copy the archives again")
    write_bytes(target, content.getvalue())


def _read(archive: zipfile.ZipFile, entry: str, most: int) -> bytes:
    """An entry of so many bytes at most, however many it claims to have.

    Raises:
        ValueError: it has more.
    """
    with archive.open(entry) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{entry} has more than {most:,} bytes")
    return content
