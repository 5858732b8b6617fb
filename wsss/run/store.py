"""The step store: finished outputs by step and fingerprint, published once, checked when they are read.

    <store>/<stage>.<implementation>.<step>/<fingerprint>/
        manifest.json    written last; with it the step is complete
        ...              in a folder: the outputs, which came with the manifest in one rename
        <upload>/...     in a bucket: the outputs, under a name of their own

The manifest names every file with size and sha256. In a bucket it is created exclusively and says which upload it
means, so that of several that publish one step none touches another's files.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss import storage
from wsss.errors import UserError
from wsss.progress import say
from wsss.run.fingerprints import file_digest, file_digests

MANIFEST = "manifest.json"
FORMAT = 2
"""Of the manifests written here. Those without a number are the first: `wsss.run.migrate` reads them."""
Manifest = Mapping[str, Any]


class DamagedError(Exception):
    """Files are not those that the manifest names; says which, and what is wrong with them."""


@dataclass(frozen=True)
class StepStore:
    """Finished outputs of steps.

    Attributes:
        url: a folder or s3:// address.
        cache: the local folder of what was downloaded.
    """

    url: str
    cache: Path

    def manifest(self, name: str, fingerprint: str) -> Manifest | None:
        """The manifest of a complete step; None where there is none (or only one of the first format).

        Raises:
            UserError: it was written by a newer version, or the store can't be reached.
        """
        content = self._read(name, fingerprint)
        return None if content is None else parse(content, storage.join(self.url, name, fingerprint, MANIFEST))

    def find(self, name: str, fingerprint: str) -> tuple[Path, Manifest] | None:
        """The local folder of a complete step's outputs, checked against the manifest, and the manifest.

        What lies in a bucket is downloaded. A process reads each file once for its check, and again only where its size
        or time changed. Outputs that are not those of the manifest are no outputs: it is said, and the step counts as
        not computed.

        Raises:
            UserError: see `manifest`; or a name in the manifest would leave the folder.
        """
        content = self._read(name, fingerprint)
        url = storage.join(self.url, name, fingerprint)
        manifest = None if content is None else parse(content, storage.join(url, MANIFEST))
        if content is None or manifest is None:
            return None
        folder = Path(url)
        try:
            if storage.is_remote(self.url):
                folder = self._download(url, self.cache / name / fingerprint, content, manifest)
            else:
                check(folder, manifest)
                _touch(folder)
        except DamagedError as damage:
            if (folder, content) not in _SAID:
                _SAID.add((folder, content))
                say(f"{name}: {damage} in {url}; the step is computed again")
            return None
        return folder, manifest

    def manifests(self, name: str) -> Iterator[Manifest]:
        """The manifests of all complete outputs of a step, such as "refine.affinity.walk"."""
        for fingerprint in storage.list_dirs(storage.join(self.url, name)):
            content = self._read(name, fingerprint)
            manifest = None if content is None else parse(content, storage.join(self.url, name, fingerprint, MANIFEST))
            if manifest is not None:
                yield manifest

    def publish(self, name: str, fingerprint: str, folder: Path) -> None:
        """Put a finished step into the store, unless it is there already; the local folder may be gone afterwards.

        Args:
            name: the step's, such as "refine.affinity.walk".
            fingerprint: the step's.
            folder: its outputs with their manifest (`write_manifest`).

        Raises:
            UserError: the store can't be reached or written; the folder stays as it is, to be published again.
        """
        url = storage.join(self.url, name, fingerprint)
        if not storage.is_remote(self.url):
            storage.remove_unfinished(Path(url).parent)
            storage.upload_folder(folder, url)
            return
        content = (folder / MANIFEST).read_bytes()
        upload = uuid.uuid4().hex
        content = json.dumps({**json.loads(content), "folder": upload}, indent=1).encode()
        storage.upload_folder(folder, storage.join(url, upload))
        if storage.write_bytes(storage.join(url, MANIFEST), content, if_absent=True):
            self._keep(folder, self.cache / name / fingerprint, content)
            abandoned = [each for each in storage.list_dirs(url) if each != upload]
        else:
            abandoned = [upload]
        for each in abandoned:
            storage.remove(storage.join(url, each))

    def remove(self, name: str, fingerprint: str) -> None:
        """Remove a step's output, whether or not it is complete; one that is cut off is not complete any more."""
        self.discard(name, fingerprint)
        if storage.is_remote(self.url):
            storage.remove(storage.join(self.url, name, fingerprint))

    def discard(self, name: str, fingerprint: str) -> None:
        """Remove a step that is not complete or damaged, and its local copy; the holder of its lease calls it."""
        url = storage.join(self.url, name, fingerprint)
        if storage.is_remote(self.url):
            storage.remove(storage.join(url, MANIFEST))
            storage.remove_folder(self.cache / name / fingerprint)
        else:
            storage.remove(url)

    def _read(self, name: str, fingerprint: str) -> bytes | None:
        try:
            return storage.read_bytes(storage.join(self.url, name, fingerprint, MANIFEST))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _download(self, url: str, folder: Path, content: bytes, manifest: Manifest) -> Path:
        """The local copy of a step in a bucket, made where it is not there or is not that of this manifest."""
        if folder.exists():
            with suppress(DamagedError, FileNotFoundError):
                if (folder / MANIFEST).read_bytes() == content:
                    check(folder, manifest)
                    _touch(folder)
                    return folder
            storage.remove_folder(folder)

        def finish(part: Path) -> None:
            check(part, manifest)
            (part / MANIFEST).write_bytes(content)

        outputs = storage.join(url, storage.inside(url, manifest["folder"]).name)
        try:
            storage.download_folder(outputs, folder, list(manifest["files"]), finish)
        except FileNotFoundError:
            raise DamagedError("files that the manifest names are missing") from None
        return folder

    def _keep(self, folder: Path, cached: Path, content: bytes) -> None:
        """Make what was just published the local copy, so that nobody downloads it here."""
        storage.write_bytes(folder / MANIFEST, content)
        storage.remove_folder(cached)
        storage.move_folder(folder, cached)


def _touch(folder: Path) -> None:
    """Leave the time of a use: what is old is what was not used for long."""
    with suppress(OSError):
        os.utime(folder / MANIFEST)


_SAID: set[tuple[Path, bytes]] = set()
"""The damages that this process has told of."""


def parse(content: bytes, url: str) -> Manifest | None:
    """A manifest from its bytes; None for one of the first format, and for one that is none.

    Raises:
        UserError: it was written by a newer version.
    """
    try:
        manifest = json.loads(content)
        number = manifest.get("format", 1)
        if isinstance(number, int) and number > FORMAT:
            raise UserError(
                f"{url} was written by a newer version (format {number}, this one knows {FORMAT}); update this one, or "
                "set WSSS_STORE to another store"
            )
        files, _ = manifest["files"], manifest["folder"]
        sound = all(isinstance(file["size"], int) and isinstance(file["sha256"], str) for file in files.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if number == FORMAT and sound else None


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of finished outputs: what is known of them, and size and sha256 of every file."""
    (folder / MANIFEST).unlink(missing_ok=True)
    manifest = {"format": FORMAT, **facts, "folder": "", "files": file_digests(folder)}
    storage.write_bytes(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def is_whole(folder: Path) -> bool:
    """Whether a folder holds finished outputs, as its manifest has them."""
    try:
        manifest = parse((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        if manifest is None:
            return False
        check(folder, manifest)
    except (FileNotFoundError, DamagedError):
        return False
    return True


def check(folder: Path, manifest: Manifest) -> None:
    """Compare files with a manifest.

    Raises:
        DamagedError: one is missing, or its size or sha256 is another.
        UserError: a name would leave the folder.
    """
    files = [(storage.inside(folder, name), expected) for name, expected in manifest["files"].items()]
    for path, expected in files:
        if not path.is_file():
            raise DamagedError(f"{path.relative_to(folder)} is missing")
        if path.stat().st_size != expected["size"]:
            raise DamagedError(f"{path.relative_to(folder)} has {path.stat().st_size:,} of {expected['size']:,} bytes")
    with ThreadPoolExecutor(4) as pool:
        for (path, expected), digest in zip(files, pool.map(lambda file: file_digest(file[0]), files), strict=True):
            if digest != expected["sha256"]:
                raise DamagedError(f"{path.relative_to(folder)} has another sha256 than its manifest says")
