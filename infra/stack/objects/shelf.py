"""Buckets and objects with their versions."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from infra.stack.objects.index import Index, Received
from infra.stack.objects.keys import RefusedError

LAST = "\U0010ffff"
"""Comes after every text that a key may go on with."""
_COLUMNS = "id, bucket, key, version, latest, marker, size, etag, modified, headers, file"


@dataclass(frozen=True)
class Stored:
    """A version of an object, or the mark of a deletion; `modified` in seconds since 1970."""

    id: int
    bucket: str
    key: str
    version: str
    latest: bool
    marker: bool
    size: int
    etag: str
    modified: float
    headers: dict[str, str]
    file: str | None


class Shelf:
    """The buckets of an index; every method may be called from any thread."""

    def __init__(self, index: Index) -> None:
        self.index = index

    # Buckets

    def buckets(self) -> list[tuple[str, float]]:
        """Names, and when each was made."""
        return self.index.rows("SELECT name, created FROM buckets ORDER BY name")

    def make(self, bucket: str) -> None:
        """Make a bucket."""
        try:
            with self.index.change():
                self.index.do("INSERT INTO buckets (name, created) VALUES (?, ?)", bucket, time.time())
        except sqlite3.IntegrityError:
            raise RefusedError(409, "BucketAlreadyOwnedByYou", f"{bucket} is there already") from None

    def remove(self, bucket: str) -> None:
        """Remove an empty bucket."""
        self.setting(bucket)
        with self.index.change():
            if self.index.rows("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", bucket):
                raise RefusedError(409, "BucketNotEmpty", f"{bucket} has objects or versions of them")
            self.index.do("DELETE FROM buckets WHERE name = ?", bucket)

    def setting(self, bucket: str) -> tuple[str, int | None]:
        """A bucket's versioning ("", "Enabled" or "Suspended") and for how many days old versions stay."""
        rows = self.index.rows("SELECT versioning, days FROM buckets WHERE name = ?", bucket)
        if not rows:
            raise RefusedError(404, "NoSuchBucket", f"there is no bucket {bucket}")
        return rows[0]

    def set(self, bucket: str, column: str, value: str | int | None) -> None:
        """Change a bucket's `versioning` or `days`."""
        self.setting(bucket)
        with self.index.change():
            self.index.do(f"UPDATE buckets SET {column} = ? WHERE name = ?", value, bucket)

    # Objects

    def find(self, bucket: str, key: str, version: str = "") -> Stored:
        """An object: its newest version, or one that is named."""
        self.setting(bucket)
        which, value = ("version = ?", version) if version else ("latest = ?", 1)
        rows = self.index.rows(
            f"SELECT {_COLUMNS} FROM objects WHERE bucket = ? AND key = ? AND {which}", bucket, key, value
        )
        if not rows or rows[0][5]:
            raise RefusedError(404, "NoSuchVersion" if version else "NoSuchKey", "nothing is stored there")
        return _stored(rows[0])

    def read(self, stored: Stored, first: int, count: int) -> Iterator[bytes]:
        """Bytes of an object."""
        if stored.file is None:
            rows = self.index.rows("SELECT body FROM objects WHERE id = ?", stored.id)
            yield bytes(rows[0][0])[first : first + count] if rows else b""
            return
        with open(self.index.files / stored.file, "rb") as file:
            file.seek(first)
            while count > 0 and (chunk := file.read(min(count, 1 << 20))):
                count -= len(chunk)
                yield chunk

    def put(
        self,
        bucket: str,
        key: str,
        content: Received,
        headers: dict[str, str],
        *,
        absent: bool = False,
        match: str = "",
    ) -> Stored:
        """Store an object.

        Args:
            bucket: where to.
            key: its name.
            content: its bytes.
            headers: what comes back with it.
            absent: only if there is none (If-None-Match: *).
            match: only if the one that is there has this etag (If-Match).
        """
        versioning, _ = self.setting(bucket)
        with self.index.change():
            now = self.index.rows(
                "SELECT etag FROM objects WHERE bucket = ? AND key = ? AND latest AND NOT marker", bucket, key
            )
            if match and not now:
                raise RefusedError(404, "NoSuchKey", "nothing is stored there")
            if (absent and now) or (match and now[0][0].strip('"') != match.strip('"')):
                raise RefusedError(412, "PreconditionFailed", "the condition does not hold")
            row = (0, content.size, content.etag, json.dumps(headers), *self.index.keep(content))
            return self._replace(bucket, key, versioning, row)

    def delete(self, bucket: str, key: str, version: str = "") -> Stored | None:
        """Delete an object, which leaves a mark where versions are kept, or one version of it for good."""
        versioning, _ = self.setting(bucket)
        with self.index.change():
            if version or not versioning:
                self._drop(bucket, key, version or "null")
                return None
            return self._replace(bucket, key, versioning, (1, 0, "", "{}", None, None))

    def keys(self, bucket: str, prefix: str, after: str, count: int) -> list[Stored]:
        """Objects, sorted by their keys: those from a prefix on, behind a key."""
        self.setting(bucket)
        rows = self.index.rows(
            f"SELECT {_COLUMNS} FROM objects WHERE bucket = ? AND latest AND NOT marker AND key >= ? AND key < ? "
            "AND key > ? ORDER BY key LIMIT ?",
            *(bucket, prefix, prefix + LAST, after, count),
        )
        return [_stored(row) for row in rows]

    def versions(self, bucket: str, prefix: str, after: tuple[str, int], count: int) -> list[Stored]:
        """Versions and marks, sorted by key, the newest first; behind a key and the number of one of its versions."""
        self.setting(bucket)
        key, number = after
        rows = self.index.rows(
            f"SELECT {_COLUMNS} FROM objects WHERE bucket = ? AND key >= ? AND key < ? "
            "AND (key > ? OR (key = ? AND id < ?)) ORDER BY key, id DESC LIMIT ?",
            *(bucket, prefix, prefix + LAST, key, key, number, count),
        )
        return [_stored(row) for row in rows]

    def number(self, bucket: str, key: str, version: str) -> int:
        """The number of a version, for `versions`; 0, behind all of a key's, where there is none."""
        rows = self.index.rows(
            "SELECT id FROM objects WHERE bucket = ? AND key = ? AND version = ?", bucket, key, version
        )
        return rows[0][0] if rows else 0

    def expire(self) -> None:
        """Remove old versions, as the buckets' lifecycles say."""
        with self.index.change():
            old = self.index.rows(
                "SELECT bucket, key, version FROM objects JOIN buckets ON bucket = name "
                "WHERE NOT latest AND days IS NOT NULL AND replaced < ? - 86400 * days",
                time.time(),
            )
            for bucket, key, version in old:
                self._drop(bucket, key, version)

    # Within

    def _replace(self, bucket: str, key: str, versioning: str, row: tuple[object, ...]) -> Stored:
        """A new newest version: marker, size, etag, headers, body, file."""
        now = time.time()
        version = uuid.uuid4().hex if versioning == "Enabled" else "null"
        if version == "null":
            self._drop(bucket, key, "null")
        self.index.do(
            "UPDATE objects SET latest = 0, replaced = ? WHERE bucket = ? AND key = ? AND latest", now, bucket, key
        )
        self.index.do(
            "INSERT INTO objects (bucket, key, version, latest, modified, marker, size, etag, headers, body, file) "
            "VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?)",
            *(bucket, key, version, now, *row),
        )
        return _stored(
            self.index.rows(f"SELECT {_COLUMNS} FROM objects WHERE bucket = ? AND key = ? AND latest", bucket, key)[0]
        )

    def _drop(self, bucket: str, key: str, version: str) -> None:
        """Remove a version; the one before it is the newest then."""
        this = (bucket, key, version)
        rows = self.index.rows("SELECT file FROM objects WHERE bucket = ? AND key = ? AND version = ?", *this)
        self.index.do("DELETE FROM objects WHERE bucket = ? AND key = ? AND version = ?", *this)
        self.index.do(
            "UPDATE objects SET latest = 1, replaced = NULL WHERE id = "
            "(SELECT max(id) FROM objects WHERE bucket = ? AND key = ?)",
            bucket,
            key,
        )
        for (file,) in rows:
            self.index.forget(file)


def _stored(row: tuple[object, ...]) -> Stored:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values |= {"headers": json.loads(str(values["headers"])), "latest": bool(values["latest"])}
    return Stored(**values | {"marker": bool(values["marker"])})  # type: ignore[arg-type]
