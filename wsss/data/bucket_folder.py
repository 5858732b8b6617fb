"""A folder of a bucket that is being added: laid out on the disk, its images as empty files and all else whole.

What finds tags, splits, groups and masks in a folder finds them here by their names; images are read from the bucket.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from wsss import storage
from wsss.data.attempts import Examined
from wsss.data.bucket_images import BucketImages, fetch, image_cache, patiently
from wsss.data.examined import Reader, seen
from wsss.data.files import paths_of, start_of, suffix
from wsss.data.images import SUFFIXES
from wsss.data.manifest import Entry
from wsss.data.parallel import each, some
from wsss.errors import UserError
from wsss.storage import StoredFile

_THREADS = 16
TEXTS = frozenset({".csv", ".tsv", ".txt", ".json", ".xml", ".npz"})
"""Files beside images that say something of them."""


class BucketFolder:
    """What lies below an address.

    Attributes:
        address: s3://...
        root: the folder on the disk.
        listed: name below the address to what the bucket says of the object.
    """

    def __init__(self, address: str, root: Path) -> None:
        self.address = address.rstrip("/")
        self.root = root
        self.listed = _list(self.address)
        if not self.listed:
            raise UserError(f"{address} holds no object; check the bucket and the folder's name")
        for name in self.listed:
            if suffix(name) in SUFFIXES:
                path = storage.inside(root, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        self._download([name for name in self.listed if suffix(name) in TEXTS])

    def fill(self, files: Mapping[str, Path]) -> None:
        """Download files that are empty so far, such as masks."""
        start = len(start_of(self.root))
        names = [path[start:] for path in paths_of(files).values() if path.startswith(start_of(self.root))]
        self._download([name for name in names if name in self.listed])

    def local(self, address: str) -> Path | None:
        """The path in the folder of what lies at an address; None where that is not below the folder's."""
        name = address.removeprefix(f"{self.address}/")
        return None if name == address else storage.inside(self.root, name)

    @property
    def reader(self) -> Reader:
        """How `wsss.data.examined.examine` reads the images."""
        return Reader(self._look, self._state, lambda path: f"{self.address}/{self.name_of(path)}", _THREADS)

    def name_of(self, path: str) -> str:
        """The name below the address of a file below the folder."""
        return path.removeprefix(start_of(self.root))

    def _look(self, path: str) -> tuple[str, Examined]:
        """The state of an image in the bucket, and what is in it; kept in the cache of images."""
        name = self.name_of(path)
        data = fetch(storage.join(self.address, name))
        entry = Entry(hashlib.sha256(data).hexdigest(), len(data))
        image_cache().put(entry.sha256, data)
        return self._state(path), seen(data, entry)

    def _state(self, path: str) -> str:
        its = self.listed[self.name_of(path)]
        return f"{its.size} {its.mark}"

    def images(self, images: Mapping[str, Path]) -> BucketImages:
        """Where images lie, by their ids."""
        return BucketImages(self.address, {id: self.name_of(path) for id, path in paths_of(images).items()})

    def refuse_changes(self) -> None:
        """Check that the bucket holds what it held.

        Raises:
            UserError: names the objects that are new, gone or other.
        """
        now = _list(self.address)
        changed = [name for name in {**self.listed, **now} if _mark(now.get(name)) != _mark(self.listed.get(name))]
        if changed:
            raise UserError(
                f"{len(changed):,} objects in {self.address} changed, went or came while they were read: "
                f"{some(changed)}; wait until what writes there is done, then run the command again"
            )

    def told(self, text: str) -> str:
        """A sentence with the address in the place of the folder."""
        return text.replace(str(self.root), self.address)

    def _download(self, names: list[str]) -> None:
        def download(name: str) -> None:
            storage.write_bytes(storage.inside(self.root, name), fetch(storage.join(self.address, name)))

        each(download, names, "fetching")


@contextmanager
def laid_out(address: str, beside: Path) -> Iterator[BucketFolder]:
    """A folder of a bucket for as long as the block lasts; what is refused in it speaks of the address.

    Args:
        address: s3://...
        beside: the temporary folder is made next to this one.

    Raises:
        UserError: nothing is there, or a name would leave the folder.
    """
    beside.parent.mkdir(parents=True, exist_ok=True)
    storage.remove_unfinished(beside.parent)
    root = storage.unfinished(beside)
    with storage.disk_errors(root):
        root.mkdir()
        try:
            yield BucketFolder(address, root)
        except UserError as error:
            raise UserError(str(error).replace(str(root), address.rstrip("/"))) from None
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _list(address: str) -> dict[str, StoredFile]:
    listed = patiently(lambda: [*storage.list_tree(address)])
    return {its.name: its for its in listed if its.name and not its.name.endswith("/")}


def _mark(its: StoredFile | None) -> tuple[int, str] | None:
    return its and (its.size, its.mark)
