"""Images that lie in a bucket: fetched when they are read, compared with what was added, kept in a bounded folder.

A dataset of such images has everything but them in its folder: the manifest holds their hashes, and where they lie as a
fact; `objects.csv` has the object of each image. What is fetched is kept by its hash (`wsss.storage.object_cache`), for
all datasets and processes of a machine, up to WSSS_DATA_CACHE bytes in WSSS_DATA_CACHE_FOLDER.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wsss import storage
from wsss.data.manifest import BUCKET_FACT, MANIFEST, Entry, Manifest
from wsss.data.parallel import some
from wsss.data.text import read_text
from wsss.errors import UserError
from wsss.storage import ObjectCache, UnreachableError, inside_name, write_bytes

OBJECTS = "objects.csv"
LIMIT, FOLDER = "WSSS_DATA_CACHE", "WSSS_DATA_CACHE_FOLDER"
DEFAULT_LIMIT = "20GB"
PATIENCE_S = 60.0
"""So long a bucket that does not answer, or says that it is busy, is asked again."""
Answer = TypeVar("Answer")
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class BucketImages:
    """Where the images of a dataset lie.

    Attributes:
        address: the folder of the bucket, s3://...
        objects: id to the object's name below it.
    """

    address: str
    objects: Mapping[str, str]

    @classmethod
    def of(cls, root: Path, manifest: Manifest, ids: Iterable[str]) -> BucketImages | None:
        """Where the images of a dataset's folder lie; None where they lie in it.

        Raises:
            UserError: the manifest or `objects.csv` is damaged.
        """
        address = manifest.facts.get(BUCKET_FACT)
        if address is None:
            return None
        if not isinstance(address, str) or not storage.is_remote(address):
            raise UserError(f"{root / MANIFEST} is damaged ({address!r} is no s3:// address); pull the dataset again")
        objects = read_objects(root)
        if bare := [id for id in ids if id not in objects]:
            raise UserError(f"{root / OBJECTS} says nothing of {some(bare)}; pull the dataset again or add it again")
        return cls(address, objects)

    def read(self, id: str, entry: Entry) -> bytes:
        """The file of an image.

        Args:
            id: of the image.
            entry: its hash and size.

        Raises:
            UserError: the object is gone or another than the one that was added, the bucket or the cache refuses.
        """
        cache = image_cache()
        data = cache.get(entry.sha256)
        if data is None:
            url = storage.join(self.address, self.objects[id])
            data = fetch(url)
            if hashlib.sha256(data).hexdigest() != entry.sha256:
                raise UserError(
                    f"{url} is not the object that was added ({len(data):,} bytes, {entry.size:,} then); put that "
                    "back, or add the dataset again under another name"
                )
            cache.put(entry.sha256, data)
        return data


def fetch(url: str) -> bytes:
    """An object, asked for again while the bucket is busy or away.

    Raises:
        UserError: it is gone, or the bucket refuses or stays away for `PATIENCE_S`.
    """
    try:
        return patiently(lambda: storage.read_bytes(url))
    except FileNotFoundError:
        raise UserError(
            f"{url} is no longer there; put the object back, or add the dataset again under another name"
        ) from None


def patiently(ask: Callable[[], Answer]) -> Answer:
    """What a bucket answers, asked again while it is busy or away.

    Raises:
        UserError: it refuses, or stays away for `PATIENCE_S`.
    """
    end, pause = time.monotonic() + PATIENCE_S, 0.5
    while True:
        try:
            return ask()
        except UnreachableError:
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause *= 2


def image_cache() -> ObjectCache:
    """Where fetched images are kept on this machine.

    Raises:
        UserError: WSSS_DATA_CACHE is no size.
    """
    text = os.environ.get(LIMIT) or DEFAULT_LIMIT
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|GB|TB)", text.strip().upper())
    if not match:
        raise UserError(f"{LIMIT} is {text!r}; it must be a size such as 500MB, 20GB or 1TB")
    folder = Path(os.environ.get(FOLDER) or "~/.cache/wsss/images").expanduser()
    mend = f"set {LIMIT} to fewer bytes than {text}, or {FOLDER} to a folder with more room"
    return ObjectCache(folder, int(float(match[1]) * _UNITS[match[2]]), mend)


def write_objects(root: Path, objects: Mapping[str, str]) -> None:
    """Write `objects.csv` of a dataset, atomically: image,object, sorted by image."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("image", "object"))
    rows.writerows(sorted(objects.items()))
    write_bytes(root / OBJECTS, text.getvalue().encode())


def read_objects(root: Path) -> dict[str, str]:
    """What `write_objects` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        rows = csv.reader(io.StringIO(read_text(root / OBJECTS), newline=""), strict=True)
        if next(rows, []) != ["image", "object"]:
            raise ValueError("it must have the columns image, object")
        return {id: inside_name("the bucket", name) for id, name in rows}
    except (csv.Error, ValueError) as error:
        raise UserError(f"{root / OBJECTS} is damaged ({error}); pull the dataset again or add it again") from None
