"""PASCAL VOC 2012 in the VOCdevkit layout, with SBD's masks for the 10,582-image train_aug list.

Source: Everingham et al., The PASCAL Visual Object Classes Challenge 2012; Hariharan et al., Semantic Contours from
Inverse Detectors, ICCV 2011.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from wsss.classes import VOC, Classes
from wsss.data import sbd
from wsss.data.agreement import OBJECT_OF_MANY, answers
from wsss.data.assemble import Parts, assemble
from wsss.data.dataset import Dataset
from wsss.data.groups import read_groups
from wsss.data.ids import files_by_id, fit_files
from wsss.data.layout import IMAGES, LISTS, MASKS, MASKS_AUG, Description
from wsss.data.lists import read_ids
from wsss.data.mask_values import MaskValues, ValueNames
from wsss.data.mask_values import mask_values as values_of
from wsss.data.splits import DEV_SHARE
from wsss.data.tag_files import TABLES, read_tags
from wsss.data.tags import TagFile, read_class_list, tags_from_masks, tags_from_xml
from wsss.errors import UserError, unknown

PNG = frozenset({".png"})


def add_voc(
    path: Path,
    name: str = "voc",
    *,
    tags: str = "xml",
    sbd_path: Path | None = None,
    train_list: str | None = None,
    dev_list: Path | None = None,
    class_list: Path | None = None,
    groups: str | None = None,
    max_disagreement: float | None = None,
    value_255: str | None = None,
    background: bool = True,
    mask_values: str | None = None,
    ignore_values: str | None = None,
) -> Dataset:
    """Make a dataset from a folder in the VOCdevkit layout.

    Args:
        path: the folder that holds VOCdevkit, VOCdevkit itself, or its VOC2012.
        name: how the dataset will be called.
        tags: "xml" (the boxes), "masks", or a .csv or .npz file.
        sbd_path: benchmark_RELEASE; gives masks to the ids that have none.
        train_list: "train" (1,464 ids on VOC 2012) or "train_aug" (10,582); by default train_aug where it is known,
            which it is from ImageSets/Segmentation/train_aug.txt or from SBD.
        dev_list: a file with the dev ids, instead of those chosen by hash.
        class_list: class names, one a line, where they are not those of VOC.
        groups: see `wsss.data.groups.read_groups`; None where each image is its own.
        max_disagreement, value_255: what the user says of masks and tags, see `wsss.data.agreement.answers`.
        background: whether there is a background; without one every pixel is of a tagged class, or ignored.
        mask_values, ignore_values: what the values of the masks stand for, see `wsss.data.mask_values`.

    Raises:
        UserError: not the layout, or bad content; see `assemble`.
    """
    root = find_voc(path)
    named = ValueNames.of(mask_values, ignore_values, background)
    if named and (sbd_path or value_255 is not None):
        raise UserError(
            "--mask-values, --ignore-values and --no-background are for masks other than VOC's; leave them out with "
            "--sbd and --value-255"
        )
    given_classes = read_class_list(class_list) if class_list else named.classes if named else None
    classes = Classes(given_classes.names if given_classes else VOC, background)
    if train_list not in (None, "train", "train_aug"):
        raise unknown("train list", str(train_list), ("train", "train_aug"))
    own = files_by_id(root / IMAGES)
    boundaries = sbd.Benchmark.find(sbd_path, own) if sbd_path else None
    images = {**(boundaries.images if boundaries else {}), **own}
    lists = {}
    for needed in ("train", "val"):
        if not (root / LISTS / f"{needed}.txt").is_file():
            raise UserError(f"{root / LISTS} has no {needed}.txt; it is part of the VOCdevkit")
        lists[needed] = read_ids(root / LISTS / f"{needed}.txt", images)
    given = root / LISTS / "train_aug.txt"
    if train_list != "train" and (boundaries or given.is_file()):
        if given.is_file():
            lists["train_aug"] = read_ids(given, images)
        lists["train_aug"] = train_aug(lists, boundaries)
    chosen = train_list or ("train_aug" if "train_aug" in lists else "train")
    if chosen not in lists:
        raise UserError(f"train_aug is not known: give SBD with --sbd PATH, or put train_aug.txt into {root / LISTS}")

    held_out = set(lists["val"])
    train = [id for id in lists[chosen] if id not in held_out]
    masks, further = (
        fit_files(files_by_id(root / folder, PNG), images, root / folder)[0] for folder in (MASKS, MASKS_AUG)
    )
    official = {id: masks[id] for id in (*lists["train"], *lists["val"]) if id in masks}
    extra = {**(boundaries.masks if boundaries else {}), **masks, **further}
    said = answers(max_disagreement, value_255)
    object_255 = value_255 == "object"
    if object_255 and len(classes) > 1:
        raise UserError(OBJECT_OF_MANY)
    ids, all_masks = [*train, *lists["val"]], {**extra, **official}
    pngs = {id: mask for id, mask in all_masks.items() if mask.suffix.lower() == ".png"}
    values = values_of(pngs, named, classes, root / MASKS)
    apart = [groups.removeprefix("column:")] if groups and groups.startswith("column:") else []
    found, source = find_tags(
        tags,
        root / "Annotations",
        ids,
        classes,
        all_masks,
        images,
        object_255=object_255,
        apart=apart,
        values=values,
    )
    table = Path(tags) if Path(tags).suffix.lower() in TABLES and Path(tags).is_file() else None
    file_names = {id: file.name for id, file in images.items()}
    found_groups = read_groups(groups, ids, images, file_names, table) if groups else {}
    return assemble(
        Description(
            name=name,
            kind="voc",
            classes=classes,
            tags_source=source,
            settings={
                "tags": source if source == tags else Path(tags).name,
                "train_list": chosen,
                "sbd": boundaries is not None,
                "dev": dev_list.name if dev_list else f"{DEV_SHARE:g} by hash",
                **({"groups": groups} if groups else {}),
                **said,
            },
        ),
        Parts(
            train=train,
            val=lists["val"],
            images=images,
            tags=found.tags,
            groups=found_groups,
            official=official,
            extra=extra,
            lists={list: ids for list, ids in lists.items() if list == "train_aug"},
            notes=found.notes,
            objects=dict.fromkeys(ids, 1) if object_255 else None,
            values=values,
        ),
        dev_list,
    )


def find_voc(path: Path) -> Path:
    """The VOC2012 folder in or at `path`.

    Raises:
        UserError: there is none.
    """
    for root in (path, path / "VOC2012", path / "VOCdevkit" / "VOC2012"):
        if (root / IMAGES).is_dir():
            return root
    raise UserError(f"{path} is not VOC: it holds neither VOCdevkit/VOC2012 nor VOC2012 nor {IMAGES}")


def train_aug(lists: dict[str, tuple[str, ...]], boundaries: sbd.Benchmark | None) -> tuple[str, ...]:
    """train_aug = (SBD train + SBD val + VOC train) minus VOC val, sorted; a list that is given goes first.

    Args:
        lists: VOC's "train" and "val", and its "train_aug" where it is given.
        boundaries: SBD, needed where the list is not given.
    """
    ids = set(lists.get("train_aug", ()))
    if not ids and boundaries:
        ids = {*boundaries.train, *boundaries.val, *lists["train"]}
    return tuple(sorted(ids - set(lists["val"])))


def find_tags(
    choice: str,
    annotations: Path,
    ids: list[str],
    classes: Classes,
    masks: Mapping[str, Path],
    images: Mapping[str, Path],
    *,
    object_255: bool = False,
    apart: Sequence[str] = (),
    values: MaskValues | None = None,
) -> tuple[TagFile, str]:
    """The tags, and where they come from, by the user's choice: "xml", "masks" or a file.

    Args:
        choice: the user's.
        annotations: the folder of the XML files.
        ids: whose tags are wanted.
        classes: the foreground classes.
        masks: id to mask file.
        images: id to file of all images.
        object_255: 255 in the masks stands for the object, index 1.
        apart: columns of a table that say something else.
        values: what their values stand for, where they are no indices.
    """
    if choice == "xml":
        return TagFile(tags_from_xml(annotations, ids, classes, images), classes, ()), "xml"
    if choice == "masks":
        from_masks = tags_from_masks(masks, ids, classes, object_255=object_255, values=values)
        return TagFile(from_masks, classes, ()), "masks"
    return read_tags(Path(choice), classes, images, apart), Path(choice).suffix.lower()[1:]
