"""What `benchmarks.data` measures in a process that holds no more than `wsss data add` does, as forks cost by that."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.highest import highest
from wsss.data.dataset import Dataset
from wsss.data.folder import add_folder
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


def times(images: str, name: str) -> tuple[float, float]:
    """Seconds that `add` and its peer `read` take, in the same process."""
    Image.preinit()  # its readers are loaded
    begun = time.perf_counter()
    read(images)
    between = time.perf_counter()
    add(images, name)
    return time.perf_counter() - between, between - begun


def read(name: str) -> None:
    """The peer: each image is read, hashed, and its header parsed."""
    for parent, _, files in os.walk(Path("images", name)):
        for file_name in files:
            path = f"{parent}/{file_name}"
            with open(path, "rb") as file:
                hashlib.file_digest(file, "sha256")
            with Image.open(path):
                pass


def add(images: str, name: str) -> Dataset:
    """Make a dataset of a folder of images."""
    return add_folder(Path("images", images), name, tags=f"images/{images}.csv")


def peak(name: str) -> int | None:
    """Bytes at the peak of adding, opening and checking."""
    add(name, f"{name}-measured")
    dataset = open_dataset(f"{name}-measured")
    dataset.check()
    return highest()
