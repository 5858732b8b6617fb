"""Records as a few archives of limited size, for places where little may leave.

    DIR/wsss-record-1.zip ... wsss-record-<n>.zip    a file for which one has too little room goes on in the next
    index.json in the first                          {"format", "archives", "files": [...], "left_out": {name: why}}

A file of the index is {"name", "size", "sha256", "parts": [[archive, entry], ...]}; entries are called after the file's
number and the part's. What is worth most comes first: what all runs say of themselves, and their writes, then
evaluations, pictures, models.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsss.commands import command
from wsss.errors import UserError
from wsss.storage import disk_errors, inside, temporary_folder, unfinished
from wsss.tracking import names
from wsss.tracking.importing import latest_files
from wsss.tracking.record import FORMAT, MODEL, PROCESS, RUN, RUNS, RunFile, is_going, read_record, record_folders
from wsss.tracking.unsent import DATABASE, copied

SMALLEST = 64 << 10
INDEX = "index.json"
ARCHIVE = "wsss-record-{}.zip"
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
        run = command("wsss", "run", "--offline", "OUT")
        raise UserError(f"{out} holds no record of a run; name the folder of `{run}`")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} exists and is not an empty folder; name another")
    left_out: dict[str, str] = {}
    with disk_errors(to), ExitStack() as stack:
        sources = _sources(out, folders, left_out, stack)
        if not sources:
            raise UserError(f"no record in {out} can be packed: {'; '.join(left_out.values())}")
        to.parent.mkdir(parents=True, exist_ok=True)
        part = unfinished(to)
        part.mkdir()
        stack.callback(shutil.rmtree, part, ignore_errors=True)
        count = _write(part, sources, left_out, limit, files)
        if to.exists():
            to.rmdir()
        part.rename(to)
    return Packed([to / ARCHIVE.format(number) for number in range(1, count + 1)], left_out)


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
        path = self._folder / ARCHIVE.format(self.count + 1)
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
    if any((folder / ARCHIVE.format(n + 1)).stat().st_size > limit for n in range(archives.count)):
        raise UserError(
            f"an index of {len(packed)} files does not fit into an archive of {limit:,} bytes; raise --limit"
        )
    return archives.count


def _deflated(content: bytes) -> int:
    compressor = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -15)
    return len(compressor.compress(content)) + len(compressor.flush())
