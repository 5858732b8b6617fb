"""Any folder of images with tags in one of the forms that people have: no VOC, and no mask, needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from wsss.classes import Classes
from wsss.data.addresses import named_files
from wsss.data.agreement import OBJECT_OF_MANY, answers
from wsss.data.assemble import Parts, assemble
from wsss.data.bucket_folder import BucketFolder, laid_out
from wsss.data.coco import find_coco
from wsss.data.coco_masks import COCO, coco_masks
from wsss.data.dataset import Dataset
from wsss.data.examined import examine
from wsss.data.given_splits import read_splits, refuse_shared
from wsss.data.groups import read_groups, sentence
from wsss.data.layout import TEST, Description, home, refuse_taken
from wsss.data.mask_values import MaskReader, MaskValues, ValueNames, refuse_values_without_meaning
from wsss.data.mask_values import mask_values as mask_values_of
from wsss.data.parallel import some
from wsss.data.pixels import Pixels, declared, kinds_of
from wsss.data.places import Pictures, find_pictures, states
from wsss.data.sources import counted, read_source, recognise
from wsss.data.splits import DEV_SHARE, hold_out
from wsss.data.tag_files import TABLES
from wsss.data.tags import TagFile, read_class_list, tags_from_masks, take
from wsss.errors import UserError
from wsss.progress import say
from wsss.storage import is_remote

VAL_SHARE = 0.2
VAL_SHARE_WITHOUT_MASKS = 0.1


def add_folder(
    path: str | Path,
    name: str,
    *,
    tags: str | Path | None = None,
    class_list: str | Path | None = None,
    negative: Collection[str] = (),
    masks: str | Path | None = None,
    groups: str | None = None,
    splits: str | None = None,
    lists: str | Path | None = None,
    dev_list: str | Path | None = None,
    val_share: float | None = None,
    max_disagreement: float | None = None,
    value_255: str | None = None,
    follow_links: bool = False,
    background: bool = True,
    mask_values: str | None = None,
    ignore_values: str | None = None,
    bands: str | None = None,
    stretch: str | None = None,
) -> Dataset:
    """Make a dataset from a folder of images, searched through all its subfolders.

    An image's id is its file name without the suffix, or where such names repeat its path. Without splits of its own,
    val is chosen by hash: a share of the masked ids, or of all ids where there is no mask, and val then serves tag
    metrics. What was recognised is said before anything is written. Tags, classes, groups and lists may lie on this
    machine or at s3:// addresses, wherever the images lie.

    Args:
        path: the folder of images, or the s3:// address of one: images stay there, and masks are copied.
        name: how the dataset will be called.
        tags: see `wsss.data.sources.read_source`, or "masks"; None to take what the folder shows.
        class_list: class names, one a line; without it they are those of the tags. Needed with tags "masks".
        negative: names of classes, as of folders, that stand for no class.
        masks: see `wsss.data.places.find_pictures`; for all or some of the images. "coco" draws them, see
            `wsss.data.coco_masks`.
        groups: see `wsss.data.groups.read_groups`; None where each image is its own.
        splits: see `wsss.data.given_splits.read_splits`.
        lists: a folder with train.txt and, if wanted, val.txt, test.txt and dev.txt.
        dev_list: a file with the dev ids, instead of 10 % of the masked train ids chosen by hash.
        val_share: the share of the ids that goes to val where none is given, 0 to below 1; by default 0.2 of the
            masked ids, or 0.1 of all ids where there is no mask.
        max_disagreement, value_255: what the user says of masks and tags, see `wsss.data.agreement.answers`.
        follow_links: take what lies behind links that lead out of the folder.
        background: whether there is a background; without one every pixel is of a tagged class, or ignored.
        mask_values, ignore_values: what the values of the masks stand for, see `wsss.data.mask_values`.
        bands, stretch: how the images become RGB, see `wsss.data.pixels`.

    Raises:
        UserError: a folder without images, bad names, or bad content; see `assemble`.
    """
    with _opened(path, name) as (path, bucket), named_files(bucket) as named_by:
        drawn_by_coco = masks is not None and str(masks) == COCO
        masks = None if drawn_by_coco else masks
        masks = named_by.masks(masks)
        named = ValueNames.of(mask_values, ignore_values, background)
        if named and value_255 is not None:
            raise UserError("--value-255 is for masks of 0 and 255 alone; with --mask-values say what 255 is there")
        said = answers(max_disagreement, value_255)
        refuse_taken(home(name))
        pictures = find_pictures(path, masks, follow_links=follow_links)
        if bucket:
            bucket.fill(pictures.masks)
        before = states(pictures.files)
        object_255 = value_255 == "object"
        if drawn_by_coco and (mask_values or ignore_values or value_255):
            raise UserError(
                f"--masks {COCO} draws the masks of the classes; leave --mask-values, --ignore-values and --value-255 "
                "out"
            )
        if named and not pictures.masks and (mask_values or ignore_values):
            raise UserError(
                f"--mask-values and --ignore-values say what masks hold, and {path} shows none; give their folder with "
                "--masks"
            )
        examined = examine(pictures.files, name, bucket.reader if bucket else None)
        pixels, kinds = declared({id: its.holds for id, its in examined.items()}, Pixels.of_words(bands, stretch))
        if pixels is not None:
            say(f"{name}: the images are {kinds_of(kinds)}; they are read so: {pixels}")
        choice = named_by.word(tags) or recognise(pictures)
        annotations = _annotated(choice, path) if drawn_by_coco else []
        if drawn_by_coco:
            pictures = replace(pictures, masks={}, found=())
        table = Path(choice) if Path(choice).suffix.lower() in TABLES and Path(choice).is_file() else None
        given, splits_source = read_splits(splits, named_by.local(lists), pictures, table)
        listed = named_by.local(class_list)
        classes = read_class_list(listed) if listed else named.classes if named else None
        classes = classes and Classes(classes.names, background)
        apart = [text.partition(":")[2] for text in (groups, splits) if text and text.startswith("column:")]

        @cache
        def values_of(classes: Classes) -> MaskValues | None:
            where = path if masks is None or str(masks).startswith("suffix:") else Path(masks)
            return mask_values_of(pictures.masks, named, classes, where)

        if classes and pictures.masks:
            values_of(classes)  # values without a name are refused before the tags are read
        found, source = _tags(choice, pictures, classes, given, negative, apart, object_255, values_of)
        found = found._replace(classes=Classes(found.classes.names, background))
        if object_255 and len(found.classes) > 1 and source != "folders":
            raise UserError(OBJECT_OF_MANY)
        values: MaskReader | None = values_of(found.classes) if pictures.masks else None
        if drawn_by_coco:
            masks_of, values, notes = coco_masks(annotations, found.classes, pictures.files, negative)
            drawn = f"{len(masks_of):,} masks drawn of annotations"
            pictures = replace(pictures, masks=masks_of, notes=(*pictures.notes, *notes), found=(drawn,))
        ids = sorted({id for its in given.values() for id in its} if given else pictures.files)
        said_groups = named_by.word(groups)
        found_groups = read_groups(said_groups, ids, pictures.files, pictures.names, table) if said_groups else {}
        if val_share is None:
            val_share = VAL_SHARE if pictures.masks else VAL_SHARE_WITHOUT_MASKS
        train, val = list(given.get("train", () if given else ids)), list(given.get("val", ()))
        if train and "val" not in given and not lists:
            masked = [id for id in train if id in pictures.masks] or train
            val = list(hold_out(train, masked, take(found.tags, train, choice, found.notes), val_share, found_groups))
            held_out = set(val)
            train = [id for id in train if id not in held_out]
        learnt = (*train, *val)
        if given and train and any(found.tags.values()) and not any(found.tags.get(id) for id in learnt):
            raise UserError(
                f"no image of train shows a class in {path}, so that nothing can be learnt: classes are in other "
                "splits alone; have splits chosen anew with --splits none"
            )
        place = bucket.address if bucket else str(path)
        counts = counted((found.tags[id] for id in ids if id in found.tags), found.classes)
        _say_recognised(place, pictures, counts, source, given, splits_source, found_groups)

        dev_file = named_by.local(dev_list)

        def unchanged() -> None:
            bucket.refuse_changes() if bucket else pictures.refuse_changes(before)

        try:
            return assemble(
                Description(
                    name=name,
                    kind="folder",
                    classes=found.classes,
                    tags_source=source,
                    settings={
                        "tags": Path(choice).name if source != "name" else choice,
                        "masks": bool(pictures.masks),
                        "val": splits_source if "val" in given or lists else f"{val_share:g} by hash",
                        "dev": dev_file.name
                        if dev_file
                        else splits_source
                        if "dev" in given
                        else f"{DEV_SHARE:g} by hash",
                        **({"groups": groups} if groups else {}),
                        **({"negative": sorted(negative)} if negative else {}),
                        **said,
                    },
                ),
                Parts(
                    train=train,
                    val=val,
                    dev=given.get("dev"),
                    test=given.get(TEST),
                    images=pictures.files,
                    tags=found.tags,
                    groups=found_groups,
                    official=pictures.masks,
                    notes=[named_by.told(note) for note in (*found.notes, *pictures.notes)],
                    objects=_objects(found, ids) if object_255 else None,
                    unchanged=unchanged,
                    values=values,
                    pixels=pixels,
                    examined=examined,
                    bucket=bucket,
                ),
                dev_file,
            )
        except UserError:
            if pictures.masks and values is None and not object_255:
                refuse_values_without_meaning(pictures.masks, found.classes, path if masks is None else Path(masks))
            raise


@contextmanager
def _opened(path: str | Path, name: str) -> Iterator[tuple[Path, BucketFolder | None]]:
    """The folder, and what it is that lies in a bucket."""
    if not is_remote(path):
        yield Path(path), None
        return
    refuse_taken(home(name))
    with laid_out(str(path), home(name)) as bucket:
        yield bucket.root, bucket


def _objects(found: TagFile, ids: Sequence[str]) -> dict[str, int]:
    """Id to the index of what 255 stands for in its mask: the only class, or that of its folder, if that is one."""
    if len(found.classes) == 1:
        return dict.fromkeys(ids, 1)
    return {id: found.classes.index(names[0]) for id, names in found.tags.items() if names}


def _annotated(choice: str, path: Path) -> list[Path]:
    """COCO's files that masks are drawn of: the one that the tags come from, else all in the folder."""
    if Path(choice).suffix.lower() == ".json" and Path(choice).is_file():
        return [Path(choice)]
    kind, _, rest = choice.partition(":")
    paths = [Path(rest)] if kind == COCO and rest else find_coco(path)
    if not paths:
        raise UserError(
            f"--masks {COCO} needs COCO's JSON of annotations, and {path} holds none; give it with --tags FILE.json"
        )
    return paths


def _tags(
    choice: str,
    pictures: Pictures,
    classes: Classes | None,
    given: Mapping[str, Sequence[str]],
    negative: Collection[str],
    apart: Sequence[str],
    object_255: bool,
    values_of: Callable[[Classes], MaskValues | None],
) -> tuple[TagFile, str]:
    """The tags and where they come from; those that the source lacks for val and test are read from their masks."""
    if choice == "masks":
        if classes is None:
            raise UserError("tags from masks need the class names in the order of their indices: give --classes FILE")
        ids = [id for split, its in given.items() for id in its if split != TEST or id in pictures.masks]
        ids = ids if given else sorted(pictures.files)
        values = values_of(classes)
        from_masks = tags_from_masks(pictures.masks, ids, classes, object_255=object_255, values=values)
        return TagFile(from_masks, classes, ()), "masks"
    tested = [id for split in ("val", TEST) for id in given.get(split, ())]
    optional = [id for id in tested if id in pictures.masks] + list(given.get(TEST, ()))
    found, source = read_source(choice, pictures, classes, negative=negative, optional=optional, apart=apart)
    bare = [id for id in tested if id in pictures.masks and id not in found.tags]
    if not bare:
        return found, source
    values = values_of(found.classes)
    from_masks = tags_from_masks(pictures.masks, bare, found.classes, object_255=object_255, values=values)
    note = f"tags of {len(bare):,} images of val and test are those of their masks"
    return TagFile({**found.tags, **from_masks}, found.classes, (*found.notes, note)), source


def _say_recognised(
    place: str,
    pictures: Pictures,
    counts: str,
    source: str,
    given: Mapping[str, Sequence[str]],
    splits_source: str,
    groups: Mapping[str, str],
) -> None:
    parts = [f"{len(pictures.files):,} images", f"tags ({source}): {counts}"]
    if given:
        refuse_shared(given)
        parts.append(f"splits ({splits_source}): {', '.join(f'{split} {len(ids):,}' for split, ids in given.items())}")
    parts += pictures.found
    if groups:
        parts.append(sentence(groups))
    if any("/" in id for id in pictures.files):
        parts.append(f"ids are paths, such as {some(sorted(pictures.files), 1).partition(' and ')[0]}")
    say(f"recognised in {place}: {'; '.join(parts)}")
