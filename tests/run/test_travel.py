"""Datasets that travel through the store: what comes out is what went in, by its content, and nothing of it twice."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from wsss import storage
from wsss.data import Dataset, open_dataset
from wsss.data.travel import FOLDER, TAR, fetch_dataset, send_dataset
from wsss.errors import UserError
from wsss.run.fingerprints import mask_digests
from wsss.scores import Masks


def test_a_dataset_comes_out_as_it_went_in_with_the_masks_of_dev_alone(
    tiny_shapes: Dataset, place: str, tmp_path: Path
) -> None:
    key = send_dataset(tiny_shapes, place, ("dev",))
    there = fetch_dataset(place, key, ("dev",), tmp_path / "elsewhere" / "data" / "shapes")
    assert (there.name, there.digest, there.splits) == (tiny_shapes.name, tiny_shapes.digest, tiny_shapes.splits)
    dev = tiny_shapes.splits["dev"]
    assert mask_digests(there.only("dev", dev)) == mask_digests(tiny_shapes.only("dev", dev))
    assert dev and Masks(there).ids("dev") == dev and not Masks(there).ids("train") and not Masks(there).ids("val")


def test_equal_datasets_are_sent_once_and_byte_for_byte_alike(tiny_shapes: Dataset, tmp_path: Path) -> None:
    shutil.copytree(tiny_shapes.root, tmp_path / "copy", copy_function=shutil.copyfile)
    stores = [str(tmp_path / name) for name in ("one", "other")]
    keys = [
        send_dataset(dataset, store, ("dev", "val"))
        for dataset, store in zip((tiny_shapes, open_dataset(tmp_path / "copy")), stores, strict=True)
    ]
    one, other = (Path(store, FOLDER, key, TAR) for store, key in zip(stores, keys, strict=True))
    assert keys[0] == keys[1] and one.read_bytes() == other.read_bytes()
    before = one.stat().st_mtime_ns
    assert send_dataset(tiny_shapes, stores[0], ("dev", "val")) == keys[0] and one.stat().st_mtime_ns == before
    assert send_dataset(tiny_shapes, stores[0], ("dev",)) != keys[0]


@pytest.mark.parametrize("name", ["../outside", "/outside", "JPEGImages/more.png"])
def test_what_is_not_in_the_manifest_or_would_leave_the_folder_is_refused(
    tiny_shapes: Dataset, tmp_path: Path, name: str
) -> None:
    store = str(tmp_path / "store")
    key = send_dataset(tiny_shapes, store, ("dev",))
    with tarfile.open(storage.join(store, FOLDER, key, TAR), "a") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match="does not stay inside|came as another file"):
        fetch_dataset(store, key, ("dev",), tmp_path / "data" / "shapes")
    assert not (tmp_path / "data" / "shapes").exists() and not list(tmp_path.rglob("outside"))


def test_a_dataset_that_is_not_there_or_lacks_a_file_is_told(tiny_shapes: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has not got dataset 0000"):
        fetch_dataset(str(tmp_path), "0" * 64, ("dev",), tmp_path / "data" / "shapes")
    shutil.copytree(tiny_shapes.root, tmp_path / "copy")
    gone = next((tmp_path / "copy" / "JPEGImages").iterdir())
    gone.unlink()
    with pytest.raises(UserError, match=f"can't be sent to other machines: JPEGImages/{gone.name} missing"):
        send_dataset(open_dataset(tmp_path / "copy"), str(tmp_path / "store"), ("dev",))
    assert not (tmp_path / "store").exists()
