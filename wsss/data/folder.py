"""Any folder of images with a CSV of tags: no VOC, and no mask, needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from wsss.classes import Classes
from wsss.data.agreement import OBJECT_OF_MANY, answers
from wsss.data.assemble import Parts, assemble
from wsss.data.dataset import Dataset
from wsss.data.ids import files_by_id, fit_files, shown
from wsss.data.images import SUFFIXES
from wsss.data.layout import Description
from wsss.data.lists import read_ids
from wsss.data.mask_values import MaskValues, ValueNames
from wsss.data.mask_values import mask_values as mask_values_of
from wsss.data.parallel import some
from wsss.data.pixels import Pixels, counted, declared
from wsss.data.splits import DEV_SHARE, choose
from wsss.data.tags import TagFile, Tags, read_class_list, read_tags, tags_from_masks, take
from wsss.errors import UserError
from wsss.progress import say

VAL_SHARE = 0.2
VAL_SHARE_WITHOUT_MASKS = 0.1


def add_folder(
    path: Path,
    name: str,
    *,
    tags: str,
    class_list: Path | None = None,
    masks: Path | None = None,
    lists: Path | None = None,
    dev_list: Path | None = None,
    val_share: float | None = None,
    max_disagreement: float | None = None,
    value_255: str | None = None,
    background: bool = True,
    mask_values: str | None = None,
    ignore_values: str | None = None,
    bands: str | None = None,
    stretch: str | None = None,
) -> Dataset:
    """Make a dataset from a folder of images, searched through all its subfolders.

    An image's id is its file name without the suffix, so two files of the same name are refused. Without lists, val is
    chosen by hash: a share of the masked ids, or of all ids where there is no mask, and val then serves tag metrics.

    Args:
        path: the folder of images.
        name: how the dataset will be called.
        tags: a .csv or .npz file, or "masks".
        class_list: class names, one a line; without it they are those of the tags, sorted. Needed with tags "masks".
        masks: a folder of `<id>.png`, for all or some of the images.
        lists: a folder with train.txt and, if wanted, val.txt.
        dev_list: a file with the dev ids, instead of 10 % of the masked train ids chosen by hash.
        val_share: the share of the ids that goes to val where no lists are given, 0 to below 1; by default 0.2 of the
            masked ids, or 0.1 of all ids where there is no mask.
        max_disagreement, value_255: what the user says of masks and tags, see `wsss.data.agreement.answers`.
        background: whether there is a background; without one every pixel is of a tagged class, or ignored.
        mask_values, ignore_values: what the values of the masks stand for, see `wsss.data.mask_values`.
        bands, stretch: how the images become RGB, see `wsss.data.pixels`.

    Raises:
        UserError: a folder without images, doubled file names, or bad content; see `assemble`.
    """
    named = ValueNames.of(mask_values, ignore_values, background)
    if named and masks is None and (mask_values or ignore_values):
        raise UserError("--mask-values and --ignore-values say what masks hold; give their folder with --masks")
    if named and value_255 is not None:
        raise UserError("--value-255 is for masks of 0 and 255 alone; with --mask-values say what 255 is there")
    images = find_images(path, masks)
    pixels, kinds = declared(images, Pixels.of_words(bands, stretch))
    if pixels is not None:
        say(f"{name}: the images are {counted(kinds)}; they are read so: {pixels}")
    official, notes = _masks(masks, images, path) if masks else ({}, [])
    if val_share is None:
        val_share = VAL_SHARE if official else VAL_SHARE_WITHOUT_MASKS
    train, val = _read_lists(lists, images) if lists else (sorted(images), [])
    said = answers(max_disagreement, value_255)
    object_255 = value_255 == "object"
    classes = read_class_list(class_list) if class_list else named.classes if named else None
    classes = classes and Classes(classes.names, background)
    if tags == "masks" and classes is None:
        raise UserError("tags from masks need the class names in the order of their indices: give --classes FILE")
    values = mask_values_of(official, named, classes, masks) if masks and classes else None
    found, source = _tags(tags, classes, official, [*train, *val], images, object_255, values)
    found = found._replace(classes=Classes(found.classes.names, background))
    if masks and not classes:
        values = mask_values_of(official, named, found.classes, masks)
    if object_255 and len(found.classes) > 1:
        raise UserError(OBJECT_OF_MANY)
    if not lists:
        train, val = _split(train, take(found.tags, train, tags, found.notes), official, val_share)
    return assemble(
        Description(
            name=name,
            kind="folder",
            classes=found.classes,
            tags_source=source,
            settings={
                "tags": Path(tags).name,
                "masks": masks is not None,
                "val": lists.name if lists else f"{val_share:g} by hash",
                "dev": dev_list.name if dev_list else f"{DEV_SHARE:g} by hash",
                **said,
            },
        ),
        Parts(
            train=train,
            val=val,
            images=images,
            tags=found.tags,
            official=official,
            notes=(*found.notes, *notes),
            object_255=object_255,
            values=values,
            pixels=pixels,
        ),
        dev_list,
    )


def find_images(path: Path, masks: Path | None = None) -> dict[str, Path]:
    """The images below `path` by id, behind links to folders too.

    Hidden files and what lies in the folder of masks are left out.

    Raises:
        UserError: no such folder, no image in it, a folder that can't be listed, or two images of the same id.
    """
    if not path.is_dir():
        raise UserError(f"there is no folder {path}")
    images = files_by_id(path, below=True, apart=masks)
    if not images:
        raise UserError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))})")
    return images


def _masks(folder: Path, images: Mapping[str, Path], path: Path) -> tuple[Mapping[str, Path], list[str]]:
    """The masks by id, and a note on those of no image."""
    if not folder.is_dir():
        raise UserError(f"there is no folder of masks {folder}")
    masks, strangers = fit_files(files_by_id(folder, frozenset({".png"})), images, folder)
    if not masks:
        raise UserError(f"{folder} holds no mask <id>.png of any image in {path}")
    return masks, [f"masks in {folder} left out, as there is no such image: {some(strangers, 5)}"] if strangers else []


def _tags(
    choice: str,
    classes: Classes | None,
    masks: Mapping[str, Path],
    ids: Sequence[str],
    images: Mapping[str, Path],
    object_255: bool,
    values: MaskValues | None,
) -> tuple[TagFile, str]:
    if choice == "masks" and classes is not None:
        found = tags_from_masks(masks, ids, classes, object_255=object_255, values=values)
        return TagFile(found, classes, ()), "masks"
    return read_tags(Path(choice), classes, images), Path(choice).suffix.lower()[1:]


def _read_lists(folder: Path, images: Mapping[str, Path]) -> tuple[Sequence[str], Sequence[str]]:
    train = read_ids(folder / "train.txt", images)
    val = read_ids(folder / "val.txt", images) if (folder / "val.txt").is_file() else ()
    if shared := sorted(set(train) & set(val)):
        raise UserError(
            f"{folder}: {some([shown(id) for id in shared])} are in train.txt and in val.txt; splits must be disjoint"
        )
    return train, val


def _split(
    ids: Sequence[str], tags: Tags, masks: Mapping[str, Path], val_share: float
) -> tuple[Sequence[str], Sequence[str]]:
    val = choose([id for id in ids if id in masks] or ids, tags, val_share)
    return [id for id in ids if id not in set(val)], val
