"""A file of records that grows by one record at a time and survives a kill of the process that writes it."""

from __future__ import annotations

import json
import threading
import zlib
from pathlib import Path
from typing import Any


class RecordFile:
    """Named records, each some bytes with a few facts about them; `add` and `read` may be called from any thread.

    On disk a record is a line, a checksum and JSON, and the bytes. A record that a kill or a full disk cut short is
    dropped when the file is opened again, and with it whatever follows.

    Attributes:
        facts: what `add` was told about each record, by id in the order of adding.

    Args:
        path: the file; its folder must exist.
        resume: keep the whole records of a file that is there; else it is emptied.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self.facts: dict[str, dict[str, Any]] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._file = path.open("r+b" if resume and path.exists() else "w+b", buffering=0)
        self._end = self._scan()
        self._file.truncate(self._end)

    def add(self, id: str, data: bytes, **facts: Any) -> None:
        """Append a record.

        Raises:
            ValueError: there is one of this id.
        """
        header = json.dumps([id, len(data), facts]).encode()
        line = b"%08x %s\n" % (zlib.crc32(data, zlib.crc32(header)), header)
        with self._lock:
            if id in self.facts:
                raise ValueError(f"{id!r} was added twice")
            self._file.seek(self._end)
            self._file.write(line + data)
            self._enter(id, len(line), len(data), facts)

    def read(self, id: str) -> bytes:
        """The bytes of a record."""
        start, size = self._places[id]
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def remove(self) -> None:
        """Close the file and delete it."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _enter(self, id: str, line: int, size: int, facts: dict[str, Any]) -> None:
        self.facts[id] = facts
        self._places[id] = (self._end + line, size)
        self._end += line + size

    def _scan(self) -> int:
        """Enter the whole records that are there; where they end."""
        self._end = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    checksum, header = line[:-1].split(b" ", 1)
                    id, size, facts = json.loads(header)
                    data = file.read(size)
                    whole = len(data) == size and zlib.crc32(data, zlib.crc32(header)) == int(checksum, 16)
                except (TypeError, ValueError):
                    break
                if not whole:
                    break
                self._enter(id, len(line), size, facts)
        return self._end
