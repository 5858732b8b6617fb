"""Files that options name by an s3:// address (lists, classes, tags, groups), here for as long as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wsss import storage
from wsss.data.bucket_folder import TEXTS, BucketFolder
from wsss.data.bucket_images import patiently
from wsss.data.files import suffix
from wsss.errors import UserError


class NamedFiles:
    """What options name, wherever it lies.

    Args:
        until: ends when what is fetched is needed no longer; its folder is made when there is something.
        bucket: the dataset's own folder, where that lies in a bucket: what is below it is here already.
    """

    def __init__(self, until: ExitStack, bucket: BucketFolder | None) -> None:
        self._until = until
        self._bucket = bucket
        self._fetched: dict[str, Path] = {}

    def local(self, choice: str | Path | None) -> Path | None:
        """The path of a file, or of a folder with files, that is named by its path or address.

        Raises:
            UserError: there is nothing at the address, or the bucket refuses.
        """
        if choice is None or not storage.is_remote(choice):
            return None if choice is None else Path(choice)
        address = str(choice).rstrip("/")
        if self._bucket and (path := self._bucket.local(address)) and path.exists():
            return path
        if address not in self._fetched:
            self._fetched[address] = self._fetch(address)
        return self._fetched[address]

    def word(self, choice: str | Path | None) -> str | None:
        """An option's word that may be a pattern or the like, where it is an address the path of what that means."""
        if choice is None:
            return None
        return str(self.local(choice) if storage.is_remote(choice) else choice)

    def masks(self, choice: str | Path | None) -> str | Path | None:
        """What names masks, where it is an address the path of the folder that means.

        Raises:
            UserError: it does not lie below the address of the images.
        """
        if choice is None or not storage.is_remote(choice):
            return choice
        if path := self._bucket and self._bucket.local(str(choice).rstrip("/")):
            return path
        raise UserError(
            f"--masks {choice} does not lie below the address of the images; copy them there, or give a folder on this "
            "machine"
        )

    def told(self, text: str) -> str:
        """A sentence with addresses in the place of the paths on this disk."""
        for address, path in self._fetched.items():
            text = text.replace(str(path), address)
        return self._bucket.told(text) if self._bucket else text

    def _fetch(self, address: str) -> Path:
        target = self._until.enter_context(storage.temporary_folder()) / address.rpartition("/")[2]
        try:
            storage.write_bytes(target, patiently(lambda: storage.read_bytes(address)))
            return target
        except FileNotFoundError:
            names = [its.name for its in patiently(lambda: [*storage.list_tree(address)])]
        texts = [name for name in names if suffix(name) in TEXTS]
        if not texts:
            raise UserError(
                f"there is neither a file {address} nor a folder of that name with lists or tables in it; check the "
                "bucket and the name"
            )
        for name in texts:
            content = patiently(lambda name=name: storage.read_bytes(storage.join(address, name)))  # type: ignore[misc]
            storage.write_bytes(storage.inside(target, name), content)
        return target


@contextmanager
def named_files(bucket: BucketFolder | None) -> Iterator[NamedFiles]:
    """What options name, for as long as the block lasts; what is refused in it speaks of addresses."""
    with ExitStack() as until:
        files = NamedFiles(until, bucket)
        try:
            yield files
        except UserError as error:
            raise UserError(files.told(str(error))) from None


def folder_name(path: str | Path) -> str:
    """The last name of a folder's path or address: what a dataset is called where the user does not say."""
    return Path(str(path).rstrip("/") if storage.is_remote(path) else Path(path).resolve()).name
