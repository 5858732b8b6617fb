"""Records as a few archives of limited size, for places where little may leave; and back.

    DIR/wsss-record-1.zip ... wsss-record-<n>.zip    a file for which one has too little room goes on in the next
    index.json in the first                          {"format", "archives", "files": [...], "left_out": {name: why}}

A file of the index is {"name", "size", "sha256", "parts": [[archive, entry], ...]}; entries are called after the file's
number and the part's. What is worth most comes first: what all runs say of themselves, and their writes, then
evaluations, pictures, models.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from wsss.errors import UserError
from wsss.storage import disk_errors, free_bytes, inside, temporary_folder, unfinished, write_bytes
from wsss.tracking import names
from wsss.tracking.importing import latest_files
from wsss.tracking.offline import FORMAT, MODEL, PROCESS, RUN, RUNS, RunFile, is_going, read_record, record_folders
from wsss.tracking.unsent import DATABASE, copied

SMALLEST = 64 << 10
INDEX = "index.json"
_NAME = "wsss-record-{}.zip"
_MAX_INDEX, _MAX_FILE, _MAX_FILES = 64 << 20, 4 << 30, 200_000
_ENTRY, _END = 256, 1024
"""What an entry and the end of an archive take at most, beside the content."""


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes:
        archives: their paths.
        left_out: names of files, and of records, that did not come along, and why.
    """

    archives: Sequence[Path]
    left_out: Mapping[str, str]


def bytes_of(text: str) -> int:
    """A size such as "16MB", "500kB" or "16000000" in bytes.

    Raises:
        UserError: it is none, or smaller than an archive can be.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|k|m|g)b?", text.strip().lower())
    size = int(float(match[1]) * {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}[match[2]]) if match else 0
    if size < SMALLEST:
        raise UserError(f"--limit {text!r} must be a size of at least {SMALLEST // 1024} kB, such as 16MB")
    return size


def pack(out: Path, to: Path, limit: int, files: int) -> Packed:
    """Pack the records of OUT.

    Args:
        out: the folder that `wsss run --offline` wrote.
        to: the folder of the archives, missing or empty.
        limit: the most bytes of an archive.
        files: the most archives.

    Raises:
        UserError: there is no record, `to` holds something, or not even the records without their files fit.
    """
    folders = record_folders(out)
    if not folders:
        raise UserError(f"{out} holds no record of a run; name the folder that `wsss run --offline` wrote")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} exists and is not an empty folder; name another")
    left_out: dict[str, str] = {}
    with disk_errors(to), ExitStack() as stack:
        to.parent.mkdir(parents=True, exist_ok=True)
        sources = _sources(out, folders, left_out, stack)
        part = unfinished(to)
        part.mkdir()
        stack.callback(shutil.rmtree, part, ignore_errors=True)
        count = _write(part, sources, left_out, limit, files)
        if to.exists():
            to.rmdir()
        part.rename(to)
    return Packed([to / _NAME.format(number) for number in range(1, count + 1)], left_out)


def _sources(
    out: Path, folders: Sequence[Path], left_out: dict[str, str], stack: ExitStack
) -> list[tuple[str, Path, bool]]:
    """Name in the pack, where it is, and whether nothing goes without it; in order of worth."""
    ranked: list[tuple[int, int, str, Path, bool]] = []
    for number, folder in enumerate(folders):
        start = f"{RUNS}/{folder.name}"
        try:
            file = RunFile.read(folder)
            if is_going(folder, file):
                raise UserError("its run still goes on")
            writes = read_record(folder)
        except UserError as error:
            left_out[start] = str(error)
            continue
        settled = stack.enter_context(temporary_folder())
        if file.status == "RUNNING":
            # Its process died, which only this machine knows.
            file = replace(file, status="FAILED", writes=len(writes))
        file.write(settled)
        ranked.append((0, number, f"{start}/{RUN}", settled / RUN, True))
        ranked.append((0, number, f"{start}/{PROCESS}", folder / PROCESS, True))
        database = stack.enter_context(copied(folder / DATABASE))
        ranked.append((0, number, f"{start}/{DATABASE}", database, True))
        for artifact, path in latest_files(writes).items():
            ranked.append((_worth(artifact), number, f"{start}/{path}", inside(folder, path), False))
    return [(name, path, needed) for _, _, name, path, needed in sorted(ranked, key=lambda item: item[:2])]


def _worth(artifact: str) -> int:
    first = artifact.split("/")[1]
    return {names.PANELS: 2, names.MAPS: 2, MODEL: 3}.get(first, 1)


class _Archives:
    """Archives that are filled one after the other; the first keeps room for the index."""

    def __init__(self, folder: Path, limit: int, files: int, reserved: int) -> None:
        self._folder, self._limit, self._files, self._reserved = folder, limit, files, reserved
        self._open: list[zipfile.ZipFile] = []
        self._used: list[int] = []
        self._next()

    @property
    def count(self) -> int:
        return len(self._open)

    def _next(self) -> None:
        path = self._folder / _NAME.format(self.count + 1)
        self._open.append(zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED))
        self._used.append(_END + (0 if self.count > 1 else self._reserved))

    def _room(self) -> int:
        return self._limit - self._used[-1] - _ENTRY

    def fits(self, size: int) -> bool:
        """Whether so many bytes, compressed, still find room."""
        free = (self._files - self.count) * (self._limit - _END - _ENTRY)
        return size <= self._room() or size + size // 100 + _ENTRY <= self._room() + free

    def add(self, number: int, content: bytes, size: int) -> list[list[Any]] | None:
        """Write a file of so many bytes when compressed; its parts, None where it did not fit after all."""
        parts: list[list[Any]] = []
        while content or not parts:
            room = self._room()
            if room < SMALLEST // 4 and size > room:
                if self.count == self._files:
                    return None
                self._next()
                continue
            # Deflate adds 5 bytes for every 16 kB that it can't make smaller.
            piece = content if size <= room else content[: room - room // 1000 - 64]
            entry = f"{number:06d}.{len(parts) + 1:03d}"
            self._write(entry, piece)
            parts.append([self.count, entry])
            content = content[len(piece) :]
            size = _deflated(content)
        return parts

    def _write(self, entry: str, content: bytes) -> None:
        info = zipfile.ZipInfo(entry)
        info.compress_type = zipfile.ZIP_DEFLATED
        self._open[-1].writestr(info, content)
        self._used[-1] += info.compress_size + _ENTRY

    def close(self, index: bytes) -> None:
        """Write the index into the first archive, and end."""
        self._open[0].writestr(INDEX, index)
        for archive in self._open:
            archive.close()


def _write(
    folder: Path, sources: Sequence[tuple[str, Path, bool]], left_out: dict[str, str], limit: int, files: int
) -> int:
    """Write the archives; how many."""
    longest = sum(len(name) for name, _, _ in sources) + sum(len(f"{n}{why}") for n, why in left_out.items())
    reserved = min(limit // 2, longest // 2 + 120 * (len(sources) + len(left_out)) + 4096)
    archives = _Archives(folder, limit, files, reserved)
    packed: list[dict[str, Any]] = []
    for number, (name, path, needed) in enumerate(sources):
        content = path.read_bytes()
        size = _deflated(content)
        parts = archives.add(number, content, size) if archives.fits(size) else None
        if parts is None:
            if needed:
                raise UserError(
                    f"the records alone do not fit into {files} archives of {limit:,} bytes; allow more with --limit "
                    "or --files, or pack fewer runs at once"
                )
            left_out[name] = f"{len(content):,} bytes did not fit"
            continue
        sha256 = hashlib.sha256(content).hexdigest()
        packed.append({"name": name, "size": len(content), "sha256": sha256, "parts": parts})
    index = {"format": FORMAT, "archives": archives.count, "files": packed, "left_out": left_out}
    archives.close(json.dumps(index).encode())
    if any((folder / _NAME.format(n + 1)).stat().st_size > limit for n in range(archives.count)):
        raise UserError(
            f"an index of {len(packed)} files does not fit into an archive of {limit:,} bytes; raise --limit"
        )
    return archives.count


def _deflated(content: bytes) -> int:
    compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -15)
    return len(compressor.compress(content)) + len(compressor.flush())


@contextmanager
def opened(places: Sequence[Path]) -> Iterator[tuple[Path, Collection[str]]]:
    """The folder of records that some places are or hold, and the names of the files that were left out.

    Args:
        places: one folder as `wsss run --offline` wrote it or a folder of packs, or the packs.

    Raises:
        UserError: they are something else, an archive is missing or damaged, or a name in it would leave the folder.
    """
    if len(places) == 1 and places[0].is_dir() and not (places[0] / _NAME.format(1)).exists():
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
        missing = [name for n in range(index["archives"]) if (name := _NAME.format(n + 1)) not in by_name]
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
    first = by_name.get(_NAME.format(1))
    if first is None:
        raise UserError(
            f"{', '.join(given) or 'nothing'} lacks {_NAME.format(1)}, which has the index; put it beside them"
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
        raise UserError(f"{_NAME.format(1)} has no index that can be read ({error}); copy it again") from None
    if not sound:
        raise UserError(f"the index in {_NAME.format(1)} is not what `wsss pack` writes")
    return dict(index)


def _unpack_file(by_name: Mapping[str, zipfile.ZipFile], file: Mapping[str, Any], folder: Path) -> None:
    target = inside(folder, file["name"])
    content = io.BytesIO()
    try:
        for number, entry in file["parts"]:
            content.write(_read(by_name[_NAME.format(number)], entry, file["size"] - content.tell()))
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
