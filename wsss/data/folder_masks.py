"""The masks of a folder that is added: what the user says of them, what they become, and which tags they give."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from wsss.classes import Classes
from wsss.data.agreement import OBJECT_OF_MANY, answers
from wsss.data.coco import find_coco
from wsss.data.coco_masks import COCO, DrawnMasks, coco_masks
from wsss.data.layout import TEST
from wsss.data.mask_values import MaskValues, ValueNames, mask_values
from wsss.data.places import SUFFIX, Pictures
from wsss.data.sources import read_source
from wsss.data.tags import TagFile, Tags, tags_from_masks
from wsss.errors import UserError

ValuesOf = Callable[[Classes], MaskValues | None]
"""From the classes to what the values of the masks stand for; to None where masks are taken as they are."""


@dataclass(frozen=True)
class SaidOfMasks:
    """What the user says of the masks.

    Attributes:
        place: where they lie, see `wsss.data.places.find_pictures`; None also where they are drawn.
        drawn: they are drawn of COCO's annotations.
        valued: their values are named or ignored.
        named: what their values stand for; None where they are indices.
        answers: what the dataset's settings keep of it.
    """

    place: str | Path | None
    drawn: bool
    valued: bool
    named: ValueNames | None
    answers: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        masks: str | Path | None,
        values: str | None,
        ignored: str | None,
        value_255: str | None,
        max_disagreement: float | None,
        background: bool,
    ) -> SaidOfMasks:
        """From the arguments of `wsss.data.folder.add_folder`.

        Raises:
            UserError: one of them is not allowed, or they name 255 twice.
        """
        named = ValueNames.of(values, ignored, background)
        if named and value_255 is not None:
            raise UserError("--value-255 is for masks of 0 and 255 alone; with --mask-values say what 255 is there")
        drawn = masks is not None and str(masks) == COCO
        said = answers(max_disagreement, value_255)
        return cls(None if drawn else masks, drawn, bool(values or ignored), named, said)

    @property
    def object_255(self) -> bool:
        """Whether 255 stands for the object."""
        return self.answers.get("value_255") == "object"

    def folder(self, root: Path) -> Path:
        """The folder that they lie in, for errors; `root` is that of the images."""
        return root if self.place is None or str(self.place).startswith(SUFFIX) else Path(self.place)

    def refuse_without_masks(self, pictures: Pictures) -> None:
        """Refuse what is said of values where there are no masks that could have them.

        Raises:
            UserError: says which options to leave out, or what to give beside them.
        """
        if self.drawn and (self.valued or "value_255" in self.answers):
            raise UserError(
                f"--masks {COCO} draws the masks of the classes; leave --mask-values, --ignore-values and --value-255 "
                "out"
            )
        if self.valued and not pictures.masks:
            raise UserError(
                f"--mask-values and --ignore-values say what masks hold, and {pictures.root} shows none; give their "
                "folder with --masks"
            )

    def refuse_object_of_many(self, classes: Classes, source: str) -> None:
        """Refuse 255 as the object where nothing says of which class it is.

        Raises:
            UserError: there are several classes, and they are not those of folders.
        """
        if self.object_255 and len(classes) > 1 and source != "folders":
            raise UserError(OBJECT_OF_MANY)

    def values_of(self, pictures: Pictures) -> ValuesOf:
        """What reads the values of the masks, once for the same classes; see `mask_values`."""

        @cache
        def values(classes: Classes) -> MaskValues | None:
            if not pictures.masks:
                return None
            return mask_values(pictures.masks, self.named, classes, self.folder(pictures.root))

        return values

    def objects(self, tagged: TagFile, ids: Sequence[str]) -> dict[str, int] | None:
        """Id to the index of the object that 255 is in its mask: the only class, or that of its folder, if it is one.

        None where 255 is void.
        """
        if not self.object_255:
            return None
        if len(tagged.classes) == 1:
            return dict.fromkeys(ids, 1)
        return {id: tagged.classes.index(names[0]) for id, names in tagged.tags.items() if names}


def coco_files(choice: str, root: Path) -> list[Path]:
    """COCO's files that masks are drawn of: the one that the tags come from, else all in the folder.

    Args:
        choice: what `--tags` says, or the folder shows.
        root: the folder of images.

    Raises:
        UserError: there is none.
    """
    if Path(choice).suffix.lower() == ".json" and Path(choice).is_file():
        return [Path(choice)]
    kind, _, rest = choice.partition(":")
    paths = [Path(rest)] if kind == COCO and rest else find_coco(root)
    if not paths:
        raise UserError(
            f"--masks {COCO} needs COCO's JSON of annotations, and {root} holds none; give it with --tags FILE.json"
        )
    return paths


def with_drawn_masks(
    pictures: Pictures, paths: Sequence[Path], classes: Classes, negative: Collection[str]
) -> tuple[Pictures, DrawnMasks]:
    """The images with the masks that are drawn of COCO's files, and what draws them; see `coco_masks`."""
    masks, drawn, notes = coco_masks(paths, classes, pictures.files, negative)
    found = f"{len(masks):,} masks drawn of annotations"
    return replace(pictures, masks=masks, notes=(*pictures.notes, *notes), found=(found,)), drawn


def read_tags_with_masks(
    choice: str,
    pictures: Pictures,
    classes: Classes | None,
    splits: Mapping[str, Sequence[str]],
    values_of: ValuesOf,
    *,
    object_255: bool,
    negative: Collection[str],
    apart: Collection[str],
) -> tuple[TagFile, str]:
    """The tags and where they come from; those that the source lacks for val and test are read from their masks.

    Args:
        choice: what `--tags` says, or the folder shows.
        pictures, classes, negative, apart: see `wsss.data.sources.read_source`.
        splits: those that the folder comes with, empty where they are to be chosen.
        values_of: see `SaidOfMasks.values_of`.
        object_255: 255 in masks is the object.

    Raises:
        UserError: tags from masks without the names of classes, or bad content.
    """

    def of_masks(ids: Sequence[str], its: Classes) -> Tags:
        return tags_from_masks(pictures.masks, ids, its, object_255=object_255, values=values_of(its))

    if choice == "masks":
        if classes is None:
            raise UserError("tags from masks need the class names in the order of their indices: give --classes FILE")
        ids = [id for split, its in splits.items() for id in its if split != TEST or id in pictures.masks]
        return TagFile(of_masks(ids if splits else sorted(pictures.files), classes), classes, ()), "masks"
    tested = [id for split in ("val", TEST) for id in splits.get(split, ())]
    optional = [id for id in tested if id in pictures.masks] + list(splits.get(TEST, ()))
    tagged, source = read_source(choice, pictures, classes, negative=negative, optional=optional, apart=apart)
    bare = [id for id in tested if id in pictures.masks and id not in tagged.tags]
    if not bare:
        return tagged, source
    note = f"tags of {len(bare):,} images of val and test are those of their masks"
    tags = {**tagged.tags, **of_masks(bare, tagged.classes)}
    return TagFile(tags, tagged.classes, (*tagged.notes, note)), source
