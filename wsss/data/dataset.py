"""Images and tags: all that a method learns from. Masks are not reachable from here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsss.classes import Classes
from wsss.commands import command
from wsss.data import layout
from wsss.data.bucket_images import BucketImages
from wsss.data.digest import digest
from wsss.data.groups import GROUPS, read_written_groups
from wsss.data.image_memory import ImageMemory
from wsss.data.images import image_size, read_image
from wsss.data.manifest import BACKGROUND_FACT, MANIFEST, PIXELS_FACT, Entry, Manifest, open_manifest
from wsss.data.parallel import some, uncollected
from wsss.data.pixels import Pixels
from wsss.data.tags import Tags, read_written
from wsss.errors import UserError


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset folder, opened without decoding an image.

    Attributes:
        name: how it is called.
        root: its folder, absolute; see `wsss.data.layout` for what is in it.
        kind: "voc", "sbd", "folder" or "shapes".
        classes: the C foreground classes, and whether there is a background.
        tags_source: where the tags come from: "xml", "masks", "csv", "npz" or "program".
        settings: what it was made with.
        splits: "train", "dev", "val" (disjoint, each may be empty), where there are masks "train_official": the ids of
            train on whose masks train figures are reported, and where there is one "test", whose tags may be missing.
        digest: sha256 in hexadecimal over classes, split ids, image hashes, tags and groups, the conversion of its
            pixels, and that there is no background; masks don't enter it.
        pixels: how what its files hold becomes RGB; None where they are plain RGB.
    """

    name: str
    root: Path
    kind: str
    classes: Classes
    tags_source: str
    settings: Mapping[str, Any] = field(repr=False)
    splits: Mapping[str, tuple[str, ...]] = field(repr=False)
    digest: str
    _images: Mapping[str, str] = field(repr=False)
    _tags: Mapping[str, np.ndarray] = field(repr=False)
    _groups: Mapping[str, str] = field(default_factory=dict, repr=False)
    _memory: ImageMemory | None = field(default=None, repr=False)
    pixels: Pixels | None = None
    _bucket: BucketImages | None = field(default=None, repr=False)
    _entries: Mapping[str, Entry] = field(default_factory=dict, repr=False)

    @classmethod
    @uncollected()
    def open(cls, root: Path, manifest: Manifest | None = None, tags: Tags | None = None) -> Dataset:
        """Open the dataset folder `root`.

        Args:
            root: the folder.
            manifest, tags: what its `manifest.json` and `tags.csv` say, where that is known already.

        Raises:
            UserError: it is not a dataset folder, a part is damaged, the tags name an unknown class, splits overlap.
        """
        root = root.absolute()
        description = layout.read_description(root)
        manifest = manifest or open_manifest(root)
        classes = replace(description.classes, background=manifest.facts.get(BACKGROUND_FACT, True))
        entries, pixels = manifest.files, _pixels(root, manifest.facts)
        images = layout.ids_of(entries, layout.IMAGES)
        tags = read_written(root / layout.TAGS, classes) if tags is None else tags
        rows = {names: _row(names, classes) for names in set(tags.values())}  # most are the same few
        own = {id: id for id in images}  # an id is one text wherever it stands
        tag_rows = {own.get(id, id): rows[names] for id, names in tags.items()}
        splits = {split: tuple(own.get(id, id) for id in ids) for split, ids in layout.read_splits(root).items()}
        groups = read_written_groups(root)
        if groups and (bare := [id for ids in splits.values() for id in ids if id not in groups]):
            raise UserError(f"{root}: {some(bare)} have no group in {GROUPS}; pull the dataset again or add it again")
        return cls(
            name=description.name,
            root=root,
            kind=description.kind,
            classes=classes,
            tags_source=description.tags_source,
            settings=description.settings,
            splits=splits,
            digest=digest(classes, splits, images, entries, tag_rows, groups, pixels),
            _images=images,
            _tags=tag_rows,
            _groups=groups,
            pixels=pixels,
            _bucket=(bucket := BucketImages.of(root, manifest, images)),
            _entries=manifest.files if bucket else {},
        )

    @property
    def grouped(self) -> bool:
        """Whether images were put into groups; else each is its own."""
        return bool(self._groups)

    @property
    def groups(self) -> Mapping[str, str]:
        """Id to the name of the image's group: what no split and no bootstrap divides."""
        return self._groups or {id: id for id in self._images}

    def groups_of(self, ids: Sequence[str]) -> tuple[str, ...]:
        """The group of each image; empty where each is its own."""
        return tuple(self._groups[id] for id in ids) if self._groups else ()

    @property
    def has_background(self) -> bool:
        """Whether index 0 is the background; else it occurs in no mask, label map or prediction."""
        return self.classes.background

    def image_path(self, id: str) -> Path:
        """The file of an image, which is not there where images lie in a bucket; `image_file` is read instead.

        Raises:
            UserError: the dataset has no such image.
        """
        try:
            return self.root / self._images[id]
        except KeyError:
            raise UserError(f"dataset {self.name} has no image {id!r}") from None

    def image_file(self, id: str) -> Path | bytes:
        """What an image is read from: the path of its file, or the bytes of an object in a bucket.

        Raises:
            UserError: the dataset has no such image; the object is gone, or another than the one that was added.
        """
        if self._bucket is None or id not in self._bucket.objects:
            return self.image_path(id)
        return self._bucket.read(id, self._entries[self._images[id]])

    @property
    def address(self) -> str:
        """Where the images lie, s3://...; empty where they lie in the dataset's folder."""
        return self._bucket.address if self._bucket else ""

    def image(self, id: str) -> np.ndarray:
        """The image, uint8 H x W x 3, RGB: as stored in the file, or what `pixels` makes of that.

        Raises:
            UserError: no such image, or its file is missing, damaged or not what `pixels` is for.
        """
        path, pixels = self.image_path(id), self._pixels_of(id)

        def read() -> np.ndarray:
            return read_image(self.image_file(id), pixels, str(path))

        return self._memory.image(id, read) if self._memory else read()

    def in_memory(self, limit: int) -> Dataset:
        """The same dataset, whose images stay in memory once they were read, as far as `limit` bytes go.

        Processes that are forked afterwards share them.
        """
        return replace(self, _memory=ImageMemory(list(self._images), limit))

    def size(self, id: str) -> tuple[int, int]:
        """Height and width of the image in pixels, from its header."""
        return image_size(self.image_file(id), self._pixels_of(id), str(self.image_path(id)))

    def _pixels_of(self, id: str) -> Pixels | None:
        """The conversion of an image's file; a picture from elsewhere (`with_picture`) is RGB."""
        return None if Path(self._images[id]).is_absolute() else self.pixels

    def candidates(self, id: str) -> np.ndarray:
        """The label-map indices that can occur in an image: uint8, the background's 0 where there is one, and the tags.

        Raises:
            UserError: the dataset has no tag row for the id.
        """
        background = np.zeros(int(self.has_background), np.uint8)
        return np.concatenate([background, np.flatnonzero(self.tags(id)).astype(np.uint8) + 1])

    def tags(self, id: str) -> np.ndarray:
        """The tags, bool [C], read-only; all False is a background image.

        Raises:
            UserError: the dataset has no tag row for the id.
        """
        try:
            return self._tags[id]
        except KeyError:
            raise UserError(f"dataset {self.name} has no tag row for {id!r} in {self.root / layout.TAGS}") from None

    def tag_names(self, id: str) -> tuple[str, ...]:
        """The names of the classes in an image, in the order of the classes."""
        return tuple(name for name, present in zip(self.classes.names, self.tags(id), strict=True) if present)

    def with_picture(self, file: Path, tags: Iterable[str]) -> Dataset:
        """A dataset of one image from anywhere, of the same classes: split "train" is that image alone.

        The training images of this dataset stay in the split "references", for steps that look at related images. The
        digest stays too, so that nothing that is kept by its fingerprint may be made with it.

        Args:
            file: the image; its id is the name without the suffix.
            tags: the names of the classes in it.

        Raises:
            UserError: a tag that is no class of the dataset.
        """
        row = np.zeros(len(self.classes), bool)
        row[[self.classes.index(name) - 1 for name in tags]] = True
        none = dict.fromkeys(self.splits, ())
        return replace(
            self,
            splits={**none, "train": (file.stem,), "references": self.splits["train"]},
            _images={**self._images, file.stem: str(file.absolute())},
            _tags={**self._tags, file.stem: row},
            _memory=None,
        )

    def only(self, split: str, ids: Sequence[str]) -> Dataset:
        """Some images of one split, the other splits empty; what is made of it has fingerprints of its own."""
        content = json.dumps([self.digest, split, list(ids)])
        return replace(
            self,
            splits={**dict.fromkeys(self.splits, ()), split: tuple(ids)},
            digest=hashlib.sha256(content.encode()).hexdigest(),
        )

    @property
    def has_images(self) -> bool:
        """Whether it has any image; one that a record describes has none."""
        return bool(self._images)

    def has_image(self, id: str) -> bool:
        """Whether the manifest names an image of that id."""
        return id in self._images

    def has_tags(self, id: str) -> bool:
        """Whether there is a tag row for the id."""
        return id in self._tags

    def check_trainable(self) -> None:
        """Check that there is something to learn from.

        Raises:
            UserError: the dataset is one to evaluate or predict on alone.
        """
        if not self.splits["train"]:
            raise UserError(
                f"dataset {self.name} holds no image to train on; it is for `{command('wsss', 'evaluate')}` and "
                f"`{command('wsss', 'predict')}` alone"
            )

    def check(self, *, thorough: bool = False) -> str:
        """Check that the dataset is what was added, and that every id of every split has an RGB image and a tag row.

        Masks are of their images' sizes. Masks that are gone all together are no fault: a dataset may do without.

        Args:
            thorough: read every file, also those that nobody touched since the last check, decode every image and mask,
                and compare the masks' classes with the tags.

        Returns:
            What the user should know though the dataset can be used, such as masks that disagree with the tags, as long
            as they are few; empty if there is nothing.

        Raises:
            UserError: names all offenders at once (the first ten, and how many more); masks and tags contradict each
                other, or 255 is all that the masks hold beside 0 (see `wsss.data.agreement`).
        """
        from wsss.data.checking import check

        return check(self, thorough=thorough)


def _pixels(root: Path, facts: Mapping[str, Any]) -> Pixels | None:
    try:
        return Pixels.of_record(facts.get(PIXELS_FACT))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{root / MANIFEST} is damaged ({error}); pull the dataset again or add it again") from None


def _row(present: Collection[str], classes: Classes) -> np.ndarray:
    row = np.array([name in present for name in classes.names])
    row.flags.writeable = False
    return row
