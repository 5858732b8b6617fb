"""What `benchmarks.data` measures in a process that holds no more than `wsss data add` does, as forks cost by that."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.highest import highest
from wsss.data.dataset import Dataset
from wsss.data.folder import add_folder
from wsss.data.stored_images import stored
from wsss.data.workspace import open_dataset

SIDE = 64
_DRAWN = 256
_IN_A_FOLDER = 1000


def write_images(root: Path, count: int) -> None:
    """JPEGs of 64 x 64 px, no two of one content, in folders of a thousand, and beside the folder `<root>.csv`."""
    draw = np.random.default_rng(0)
    drawn = [_jpeg(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(_DRAWN)]
    for number in range(count):
        folder = root / f"{number // _IN_A_FOLDER:03}"
        if number % _IN_A_FOLDER == 0:
            folder.mkdir(parents=True)
        start, rest = drawn[number % _DRAWN][:2], drawn[number % _DRAWN][2:]
        comment = b"\xff\xfe\x00\x0a%08d" % number
        (folder / f"{number:06}.jpg").write_bytes(start + comment + rest)
    lines = (f"{number:06}.jpg,{'cat' if number % 3 else 'dog'}\n" for number in range(count))
    root.with_suffix(".csv").write_text("image,labels\n" + "".join(lines), encoding="utf-8")


def _jpeg(colours: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def times(images: str, name: str) -> dict[str, float]:
    """Seconds of `add` and of loops that do ever more for each image, all in the same process.

    "read" reads and hashes it; "header", the peer of `add`, parses its header as well; "pixels" decodes it as well;
    "link" links it into a folder, and nothing else.
    """
    Image.preinit()  # its readers are loaded
    paths = [f"{parent}/{file}" for parent, _, files in os.walk(Path("images", images)) for file in files]
    return {
        "read": _seconds(lambda: [_hash(path) for path in paths]),
        "header": _seconds(lambda: _headers(images)),
        "pixels": _seconds(lambda: [(_hash(path), stored(Path(path), decode=True)) for path in paths]),
        "link": _seconds(lambda: _link(paths, f"{name}-links")),
        "add": _seconds(lambda: add(images, name)),
    }


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _hash(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _headers(name: str) -> None:
    for parent, _, files in os.walk(Path("images", name)):
        for file_name in files:
            path = f"{parent}/{file_name}"
            _hash(path)
            with Image.open(path):
                pass


def _link(paths: Sequence[str], folder: str) -> None:
    Path(folder).mkdir()
    for path in paths:
        os.link(path, f"{folder}/{path.rpartition('/')[2]}")


def add(images: str, name: str) -> Dataset:
    """Make a dataset of a folder of images."""
    return add_folder(Path("images", images), name, tags=f"images/{images}.csv")


def peak(name: str) -> int | None:
    """Bytes at the peak of adding, opening and checking."""
    add(name, f"{name}-measured")
    dataset = open_dataset(f"{name}-measured")
    dataset.check()
    return highest()
