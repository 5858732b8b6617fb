"""Uploads in parts."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Sequence

from infra.stack.objects.index import Index, Received
from infra.stack.objects.keys import RefusedError
from infra.stack.objects.shelf import Shelf, Stored

GIVEN_UP_S = 7 * 86_400
"""How long an upload may stay unfinished."""


class Uploads:
    """The unfinished uploads of an index; every method may be called from any thread."""

    def __init__(self, index: Index, shelf: Shelf) -> None:
        self.index, self.shelf = index, shelf

    def begin(self, bucket: str, key: str, headers: dict[str, str]) -> str:
        """Begin an upload; its id."""
        self.shelf.setting(bucket)
        upload = uuid.uuid4().hex
        with self.index.change():
            row = (upload, bucket, key, json.dumps(headers), time.time())
            self.index.do("INSERT INTO uploads VALUES (?, ?, ?, ?, ?)", *row)
        return upload

    def part(self, upload: str, number: int, content: Received) -> str:
        """Keep a part; its etag."""
        with self.index.change():
            self._upload(upload)
            for (old,) in self.index.rows("SELECT file FROM parts WHERE upload = ? AND number = ?", upload, number):
                self.index.forget(old)
            row = (upload, number, content.size, content.etag, *self.index.keep(content))
            self.index.do("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?)", *row)
        return content.etag

    def complete(
        self, upload: str, chosen: Sequence[tuple[int, str]], *, absent: bool = False, match: str = ""
    ) -> Stored:
        """Make an object of parts, given by number and etag."""
        bucket, key, headers = self._upload(upload)
        rows = self.index.rows("SELECT number, size, etag, body, file FROM parts WHERE upload = ?", upload)
        parts = {row[0]: row for row in rows}
        if not chosen or [n for n, _ in chosen] != sorted({n for n, _ in chosen}):
            raise RefusedError(400, "InvalidPartOrder", "the parts have to be named in order")
        if any(number not in parts or parts[number][2].strip('"') != etag.strip('"') for number, etag in chosen):
            raise RefusedError(400, "InvalidPart", "a part is not there, or is another")
        path = self.index.incoming / uuid.uuid4().hex
        digest = hashlib.md5(usedforsecurity=False)
        with open(path, "wb") as whole:
            for number, _ in chosen:
                _, _, etag, body, file = parts[number]
                digest.update(bytes.fromhex(etag.strip('"')))
                if file is None:
                    whole.write(body)
                    continue
                with open(self.index.files / file, "rb") as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
        size = sum(parts[number][1] for number, _ in chosen)
        etag = f'"{digest.hexdigest()}-{len(chosen)}"'
        try:
            stored = self.shelf.put(bucket, key, Received(path, size, etag), headers, absent=absent, match=match)
        finally:
            path.unlink(missing_ok=True)
        self.abort(upload)
        return stored

    def abort(self, upload: str) -> None:
        """Forget an upload and its parts."""
        with self.index.change():
            self._forget(upload)

    def expire(self) -> None:
        """Forget uploads that were given up."""
        with self.index.change():
            for (upload,) in self.index.rows("SELECT id FROM uploads WHERE started < ?", time.time() - GIVEN_UP_S):
                self._forget(upload)

    def _upload(self, upload: str) -> tuple[str, str, dict[str, str]]:
        rows = self.index.rows("SELECT bucket, key, headers FROM uploads WHERE id = ?", upload)
        if not rows:
            raise RefusedError(404, "NoSuchUpload", "there is no such upload")
        return rows[0][0], rows[0][1], json.loads(rows[0][2])

    def _forget(self, upload: str) -> None:
        for (file,) in self.index.rows("SELECT file FROM parts WHERE upload = ?", upload):
            self.index.forget(file)
        self.index.do("DELETE FROM parts WHERE upload = ?", upload)
        self.index.do("DELETE FROM uploads WHERE id = ?", upload)
