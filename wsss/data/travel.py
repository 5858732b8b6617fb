"""Datasets that travel: put into the store once, under a name of their content, and fetched where they are needed.

<store>/.datasets/<key>/dataset.tar    every file that the manifest names, but for masks that were not asked for
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from filelock import FileLock

from wsss import storage
from wsss.data.changes import here
from wsss.data.dataset import Dataset
from wsss.data.layout import MASKS, MASKS_AUG
from wsss.data.manifest import MANIFEST, file_entry, open_manifest, read_manifest
from wsss.data.parallel import some
from wsss.errors import UserError

FOLDER, TAR = ".datasets", "dataset.tar"


def travel_key(dataset: Dataset, splits: Collection[str]) -> str:
    """What names a dataset with the masks of some splits: 64 hexadecimal digits over its name and its content."""
    entries = read_manifest(dataset.root)
    masks = {path: entries[path].sha256 for path in _masks(dataset, splits)}
    content = [dataset.name, dataset.digest, masks]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def send_dataset(dataset: Dataset, store: str, splits: Collection[str]) -> str:
    """Put a dataset into a store, unless it is there.

    Args:
        dataset: of which everything travels but masks.
        store: a folder or s3:// address.
        splits: those whose masks travel too, such as ("dev",).

    Returns:
        Its key.

    Raises:
        UserError: the store can't be used, or a file is missing.
    """
    key = travel_key(dataset, splits)
    url = storage.join(store, FOLDER, key)
    if not storage.exists(storage.join(url, TAR)):
        with storage.temporary_folder() as folder, storage.disk_errors(folder):
            out = folder / key
            out.mkdir()
            _pack(dataset, splits, out / TAR)
            storage.upload_folder(out, url)
    return key


def fetch_dataset(store: str, key: str, splits: Collection[str], folder: Path) -> Dataset:
    """Bring a dataset that was sent here, once for all processes of this machine, checked against its key.

    Args:
        store: a folder or s3:// address.
        key: from `send_dataset`.
        splits: those whose masks came along.
        folder: where it is to lie; one that is there already is opened as it is.

    Raises:
        UserError: the store has not got it, or what came is another.
    """

    def unpack(part: Path) -> None:
        _unpack(part)
        if travel_key(Dataset.open(part), splits) != key:
            raise UserError(f"dataset {key[:12]} came out of {store} as another than it was; remove it there")

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            try:
                storage.download_folder(storage.join(store, FOLDER, key), folder, [TAR], unpack)
            except FileNotFoundError:
                raise UserError(f"{store} has not got dataset {key[:12]}, which was put there before") from None
    return Dataset.open(folder)


def _masks(dataset: Dataset, splits: Collection[str]) -> list[str]:
    """The masks of splits, as the manifest calls them; those that are not there are left out."""
    ids = {id for split in splits for id in dataset.splits.get(split, ())}
    names = [f"{folder}/{id}.png" for id in sorted(ids) for folder in (MASKS, MASKS_AUG)]
    return [name for name in names if (dataset.root / name).is_file()]


def _pack(dataset: Dataset, splits: Collection[str], target: Path) -> None:
    """Write the files as a tar: sorted, with no times and no owners; images in a bucket stay there."""
    others = [
        name for name in here(open_manifest(dataset.root)) if PurePosixPath(name).parts[0] not in (MASKS, MASKS_AUG)
    ]
    names = sorted([MANIFEST, *others, *_masks(dataset, splits)])
    if missing := [name for name in names if not (dataset.root / name).is_file()]:
        raise UserError(f"dataset {dataset.name} can't be sent to other machines: {some(missing)} missing")
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = (dataset.root / name).stat().st_size
            with (dataset.root / name).open("rb") as file:
                tar.addfile(member, file)


def _unpack(folder: Path) -> None:
    """Replace the tar in a folder by its files, each checked against the manifest."""
    with tarfile.open(folder / TAR) as tar:
        for member in tar:
            content = tar.extractfile(member)
            target = storage.inside(folder, member.name)
            if content is None:
                raise UserError(f"{member.name} in {TAR} is no file")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                while block := content.read(1 << 20):
                    file.write(block)
    (folder / TAR).unlink()
    entries = read_manifest(folder)
    paths = [path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST]
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    if wrong := [name for name, path in names.items() if entries.get(name) != file_entry(path)]:
        raise UserError(f"of a dataset that was sent {some(wrong)} came as another file than the manifest says")
