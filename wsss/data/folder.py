"""Any folder of images with tags in one of the forms that people have: no VOC, and no mask, needed."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from wsss.classes import Classes
from wsss.data.addresses import named_files
from wsss.data.assemble import Parts, assemble
from wsss.data.bucket_folder import BucketFolder, laid_out
from wsss.data.dataset import Dataset
from wsss.data.examined import Examined, examine
from wsss.data.folder_masks import SaidOfMasks, coco_files, read_tags_with_masks, with_drawn_masks
from wsss.data.given_splits import read_splits, refuse_shared
from wsss.data.groups import read_groups, sentence
from wsss.data.layout import TEST, Description, home, refuse_taken
from wsss.data.mask_values import MaskReader, ValueNames, refuse_values_without_meaning
from wsss.data.parallel import some
from wsss.data.pixels import Pixels, declared, kinds_of
from wsss.data.places import Pictures, find_pictures, states
from wsss.data.sources import counted, recognise
from wsss.data.splits import DEV_SHARE, hold_out
from wsss.data.tag_files import TABLES
from wsss.data.tags import Tags, read_class_list, take
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
    with _opened(path, name) as (root, bucket), named_files(bucket) as named_by:
        said = SaidOfMasks.of(
            named_by.masks(masks), mask_values, ignore_values, value_255, max_disagreement, background
        )
        refuse_taken(home(name))

        pictures = _pictures(root, bucket, said, follow_links)
        before = states(pictures.files)
        examined = examine(pictures.files, name, bucket.reader if bucket else None)
        pixels = _pixels(name, examined, bands, stretch)

        choice = named_by.word(tags) or recognise(pictures)
        annotations = coco_files(choice, root) if said.drawn else []
        table = Path(choice) if Path(choice).suffix.lower() in TABLES and Path(choice).is_file() else None
        given, splits_source = read_splits(splits, named_by.local(lists), pictures, table)

        classes = _classes(named_by.local(class_list), said.named, background)
        values_of = said.values_of(pictures)
        if classes:
            values_of(classes)  # values without a name are refused before the tags are read
        tagged, source = read_tags_with_masks(
            choice,
            pictures,
            classes,
            given,
            values_of,
            object_255=said.object_255,
            negative=negative,
            apart=[text.partition(":")[2] for text in (groups, splits) if text and text.startswith("column:")],
        )
        tagged = tagged._replace(classes=Classes(tagged.classes.names, background))
        said.refuse_object_of_many(tagged.classes, source)
        values: MaskReader | None = values_of(tagged.classes)
        if said.drawn:
            pictures, values = with_drawn_masks(pictures, annotations, tagged.classes, negative)

        ids = sorted({id for its in given.values() for id in its} if given else pictures.files)
        said_groups = named_by.word(groups)
        group_of = read_groups(said_groups, ids, pictures.files, pictures.names, table) if said_groups else {}
        train, val = list(given.get("train", () if given else ids)), list(given.get("val", ()))
        if val_share is None:
            val_share = VAL_SHARE if pictures.masks else VAL_SHARE_WITHOUT_MASKS
        if train and "val" not in given and not lists:
            tags_of = take(tagged.tags, train, choice, tagged.notes)
            train, val = _val_held_out(train, pictures.masks, tags_of, val_share, group_of)
        if given:
            _refuse_nothing_to_learn(root, train, val, tagged.tags)

        place = bucket.address if bucket else str(root)
        counts = counted((tagged.tags[id] for id in ids if id in tagged.tags), tagged.classes)
        _say_recognised(place, pictures, counts, source, given, splits_source, group_of)

        dev_file = named_by.local(dev_list)
        val_from = splits_source if "val" in given or lists else f"{val_share:g} by hash"
        dev_from = splits_source if "dev" in given else f"{DEV_SHARE:g} by hash"
        settings = {
            "tags": Path(choice).name if source != "name" else choice,
            "masks": bool(pictures.masks),
            "val": val_from,
            "dev": dev_file.name if dev_file else dev_from,
            **({"groups": groups} if groups else {}),
            **({"negative": sorted(negative)} if negative else {}),
            **said.answers,
        }
        parts = Parts(
            train=train,
            val=val,
            dev=given.get("dev"),
            test=given.get(TEST),
            images=pictures.files,
            tags=tagged.tags,
            groups=group_of,
            official=pictures.masks,
            notes=[named_by.told(note) for note in (*tagged.notes, *pictures.notes)],
            objects=said.objects(tagged, ids),
            unchanged=bucket.refuse_changes if bucket else partial(pictures.refuse_changes, before),
            values=values,
            pixels=pixels,
            examined=examined,
            bucket=bucket,
        )
        try:
            return assemble(Description(name, "folder", tagged.classes, source, settings), parts, dev_file)
        except UserError:
            if pictures.masks and values is None and not said.object_255:
                refuse_values_without_meaning(pictures.masks, tagged.classes, said.folder(root))
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


def _pictures(root: Path, bucket: BucketFolder | None, said: SaidOfMasks, follow_links: bool) -> Pictures:
    """The images, and the masks that lie there; those that are to be drawn come later."""
    pictures = find_pictures(root, said.place, follow_links=follow_links)
    said.refuse_without_masks(pictures)
    if said.drawn:
        pictures = replace(pictures, masks={}, found=())
    if bucket:
        bucket.fill(pictures.masks)
    return pictures


def _pixels(name: str, examined: Mapping[str, Examined], bands: str | None, stretch: str | None) -> Pixels | None:
    """How the images become RGB, said where they are not read as usual."""
    pixels, kinds = declared({id: its.holds for id, its in examined.items()}, Pixels.of_words(bands, stretch))
    if pixels is not None:
        say(f"{name}: the images are {kinds_of(kinds)}; they are read so: {pixels}")
    return pixels


def _classes(class_list: Path | None, named: ValueNames | None, background: bool) -> Classes | None:
    """The classes of the user's list, or those that values of masks are named; None to take those of the tags."""
    classes = read_class_list(class_list) if class_list else named.classes if named else None
    return classes and Classes(classes.names, background)


def _val_held_out(
    train: Sequence[str], masks: Container[str], tags: Tags, share: float, groups: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Train and val, which is chosen of the ids with a mask, or of all where none has one."""
    masked = [id for id in train if id in masks] or train
    val = list(hold_out(train, masked, tags, share, groups))
    held_out = set(val)
    return [id for id in train if id not in held_out], val


def _refuse_nothing_to_learn(root: Path, train: Sequence[str], val: Sequence[str], tags: Tags) -> None:
    """Refuse splits of which others alone show classes."""
    if train and any(tags.values()) and not any(tags.get(id) for id in (*train, *val)):
        raise UserError(
            f"no image of train shows a class in {root}, so that nothing can be learnt: classes are in other "
            "splits alone; have splits chosen anew with --splits none"
        )


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
