"""From the parts that a source has to a dataset folder: choose dev, link, convert, describe, check, publish."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from wsss.classes import IGNORE
from wsss.data import layout
from wsss.data.attempts import forget
from wsss.data.bucket_folder import BucketFolder
from wsss.data.bucket_images import write_objects
from wsss.data.checking import check_added
from wsss.data.class_hints import class_hints
from wsss.data.dataset import Dataset
from wsss.data.examined import Examined, examine, examine_masks
from wsss.data.files import Files, chosen
from wsss.data.groups import refuse_divided
from wsss.data.ids import refuse_alike, shown
from wsss.data.linking import link_all
from wsss.data.lists import read_ids
from wsss.data.manifest import BACKGROUND_FACT, BUCKET_FACT, MASKS_FACT, PIXELS_FACT, Entry, refresh_manifest
from wsss.data.mask_values import MaskReader
from wsss.data.masks import read_mask
from wsss.data.palette_png import write_palette_png
from wsss.data.parallel import each, some
from wsss.data.pixels import Pixels, with_limits
from wsss.data.splits import DEV_SHARE, hold_out
from wsss.data.tags import Tags, take
from wsss.errors import UserError
from wsss.progress import say


@dataclass(frozen=True)
class Parts:
    """What a source offers.

    Attributes:
        train: ids to train on, dev still among them unless it is given; none where there are images to evaluate on.
        val: ids to report numbers on.
        dev: ids to tune on, apart from train; None to choose them.
        test: ids to predict, whose tags may be missing; None where there is no such split.
        groups: id to group; empty where each image is its own.
        images: id to image file; may hold more ids than the lists.
        tags: id to class names; may hold more ids than the lists.
        official: id to mask file (PNG, or SBD's .mat); dev is chosen from the train ids in here.
        extra: id to mask file, used only where there is no official one.
        lists: list name to ids as the source has them, kept for the record.
        notes: sentences on what of the source was left out, kept in the settings.
        objects: id to the index of what 255 in its mask stands for; None where 255 is void.
        unchanged: refuses files that changed since they were found; called when all were read.
        values: what the values of the masks stand for, where they are no indices.
        pixels: how the images become RGB, without the limits of a stretch.
        examined: id to what is known of its image file, at least for those in the lists; None to read them.
        bucket: where the images are to stay; None to link them into the dataset's folder. Masks are copied then.
    """

    train: Sequence[str]
    val: Sequence[str]
    images: Mapping[str, Path]
    tags: Tags
    official: Mapping[str, Path] = field(default_factory=dict)
    extra: Mapping[str, Path] = field(default_factory=dict)
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    objects: Mapping[str, int] | None = None
    dev: Sequence[str] | None = None
    test: Sequence[str] | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    unchanged: Callable[[], None] = lambda: None
    values: MaskReader | None = None
    pixels: Pixels | None = None
    examined: Mapping[str, Examined] | None = None
    bucket: BucketFolder | None = None


def assemble(description: layout.Description, parts: Parts, dev_list: Path | None = None) -> Dataset:
    """Make `data/<name>`: nothing is there before everything has been checked.

    Args:
        description: what goes into dataset.json.
        parts: images, masks, tags and lists.
        dev_list: a file with the dev ids; without one 10 % of the masked train ids are chosen by hash.

    Raises:
        UserError: the dataset exists, or ids without an image or tags, bad images or masks, a bad dev list; all
            offenders are named at once.
    """
    test = parts.test or ()
    learnt = [*parts.train, *(parts.dev or ()), *parts.val]
    ids = [*learnt, *test]
    if not ids:
        raise UserError(f"dataset {description.name} would have no train image, and none to evaluate on")
    if missing := [id for id in ids if id not in parts.images]:
        raise UserError(f"there is no image file for {some(missing)}; add the files or take the ids out of the lists")
    refuse_alike(ids)
    tags = take(parts.tags, learnt, f"the {description.tags_source} tags", parts.notes)
    tags = {**tags, **{id: parts.tags[id] for id in test if id in parts.tags}}
    lists = _lists(parts, tags, dev_list)
    if notes := [*parts.notes, *class_hints(description.classes.names)]:
        description = replace(description, settings={**description.settings, "notes": notes})
    if not description.classes.background and (bare := [shown(id) for id in ids if not tags[id]]):
        raise UserError(
            f"{some(bare)} have no tag; without a background every pixel is of a tagged class, so give each image its "
            "tags, or leave it out"
        )
    pixels = _with_limits(parts, lists["train"])
    groups = {id: parts.groups[id] for id in ids} if parts.groups else None
    target = layout.home(description.name)
    with layout.building(target) as root:
        images = chosen(parts.images, ids)
        _put_images(images, root, parts.bucket)
        examined = examine(images, description.name) if parts.examined is None else parts.examined
        examined_masks = examine_masks(_put_masks(ids, root, parts), description.name)
        facts, known = _facts(description, parts, pixels), _entries(images, examined, examined_masks)
        manifest = layout.finish(root, description, tags, lists, groups, facts, known)
        dataset = Dataset.open(root, manifest, tags)
        doubtful = {id for id in ids if not _is_sound(examined[id], dataset)}
        note = check_added(dataset, doubtful, examined_masks)
        parts.unchanged()
    forget(description.name)
    if note:
        say(f"{description.name}: {note}")
    return replace(dataset, root=target.absolute())


def write_dev(dataset: Dataset, dev_list: Path | None = None, share: float = DEV_SHARE) -> Dataset:
    """Choose the dev split of a dataset anew; train becomes the other ids of the former train and dev.

    Killed at any point it leaves a dataset that opens, and no id is lost.

    Args:
        dataset: the dataset; the returned one replaces it.
        dev_list: a file with the dev ids; without one a share is chosen by hash.
        share: of the train ids with an official mask, 0 to below 1.

    Raises:
        UserError: a bad list or share; nothing is changed then.
    """
    root = dataset.root
    pool = sorted({*dataset.splits["train"], *dataset.splits["dev"]})
    if dev_list:
        masked = {*layout.ids_in(root / layout.MASKS), *layout.ids_in(root / layout.MASKS_AUG)}
        dev = _read_dev(dev_list, pool, masked, {id: dataset.image_path(id) for id in pool})
    else:
        official = layout.ids_in(root / layout.MASKS)
        names = {id: dataset.tag_names(id) for id in pool}
        groups = dataset.groups if dataset.grouped else None
        dev = list(hold_out(pool, [id for id in pool if id in official], names, share, groups))
    if dataset.grouped:
        refuse_divided({"train": sorted(set(pool) - set(dev)), "dev": dev}, dataset.groups)
    layout.write_list(root, "train", pool)
    layout.write_list(root, "dev", dev)
    layout.write_list(root, "train", sorted(set(pool) - set(dev)))
    settings = {**dataset.settings, "dev": dev_list.name if dev_list else f"{share:g} by hash"}
    layout.write_description(root, replace(layout.read_description(root), settings=settings))
    refresh_manifest(root, [layout.DESCRIPTION, f"{layout.LISTS}/train.txt", f"{layout.LISTS}/dev.txt"])
    return Dataset.open(root)


def _lists(parts: Parts, tags: Tags, dev_list: Path | None) -> dict[str, Sequence[str]]:
    """The lists of the dataset by name; dev is read, given or chosen, and taken out of train.

    Raises:
        UserError: a bad dev list, or a group in two splits.
    """
    masked = sorted(id for id in (*parts.train, *(parts.dev or ())) if id in parts.official)
    if dev_list:
        dev = _read_dev(dev_list, parts.train, {*parts.official, *parts.extra}, parts.images)
    elif parts.dev is not None:
        dev = sorted(parts.dev)
    else:
        dev = sorted(hold_out(parts.train, masked, tags, DEV_SHARE, parts.groups))
    lists = {
        **parts.lists,
        "train": sorted(set(parts.train) - set(dev)),
        "dev": dev,
        "val": sorted(parts.val),
        **({"train_official": masked} if masked else {}),
        **({layout.TEST: sorted(parts.test)} if parts.test is not None else {}),
    }
    if parts.groups:
        named = ("train", "dev", "val", layout.TEST)
        refuse_divided({split: lists[split] for split in named if split in lists}, parts.groups)
    return lists


def _facts(description: layout.Description, parts: Parts, pixels: Pixels | None) -> dict[str, Any]:
    """What the manifest says of the dataset beside its files."""
    return {
        **({} if description.classes.background else {BACKGROUND_FACT: False}),
        **({} if parts.values is None else {MASKS_FACT: parts.values.record()}),
        **({} if pixels is None else {PIXELS_FACT: pixels.record()}),
        **({} if parts.bucket is None else {BUCKET_FACT: parts.bucket.address}),
    }


def _entries(
    images: Files, examined: Mapping[str, Examined], examined_masks: Mapping[str, Examined]
) -> dict[str, Entry]:
    """What the manifest says of images and masks, by their path in the dataset's folder."""
    files = ((layout.image_name(id, path), examined[id]) for id, path in images.paths.items())
    return {name: its.entry for name, its in chain(files, examined_masks.items()) if its.entry is not None}


def _is_sound(image: Examined, dataset: Dataset) -> bool:
    """Whether nothing is left to be checked of an image."""
    turned = dataset.kind == "folder" and image.holds is not None and image.holds.orientation > 1
    return image.sound and not turned and dataset.pixels is None


def _with_limits(parts: Parts, train: Sequence[str]) -> Pixels | None:
    """The conversion with the limits of its stretch, where it has one."""
    if parts.pixels is None or parts.pixels.percentiles is None:
        return parts.pixels
    images = chosen(parts.images, train)
    if parts.bucket is None or parts.examined is None:
        return with_limits(parts.pixels, [*images.values()])
    ids, lying = {path: id for id, path in images.paths.items()}, parts.bucket.images(images)
    known = {id: its.entry for id, its in parts.examined.items() if its.entry is not None}
    return with_limits(parts.pixels, [*images.values()], lambda path: lying.read(id := ids[str(path)], known[id]))


def _put_images(images: Files, root: Path, bucket: BucketFolder | None) -> None:
    """Link images into a dataset's folder, or write where they lie in their bucket."""
    if bucket is None:
        link_all(images, root / layout.IMAGES)
    else:
        write_objects(root, bucket.images(images).objects)


def _put_masks(ids: Sequence[str], root: Path, parts: Parts) -> dict[str, Path]:
    """Put the masks of images into a dataset's folder; those that are taken as they are, by their path in it."""
    official = {id: parts.official[id] for id in ids if id in parts.official}
    extra = {id: parts.extra[id] for id in ids if id in parts.extra and id not in official}
    return {**_put(official, root, layout.MASKS, parts), **_put(extra, root, layout.MASKS_AUG, parts)}


def _put(masks: Mapping[str, Path], root: Path, name: str, parts: Parts) -> dict[str, Path]:
    folder = root / name
    objects, values = parts.objects, parts.values
    changed = objects is not None or values is not None
    others = [(id, path) for id, path in masks.items() if path.suffix.lower() == ".mat" or changed]
    apart = {id for id, _ in others}
    plain = {id: path for id, path in masks.items() if id not in apart}
    link_all(plain, folder, copied=parts.bucket is not None)
    if others:
        folder.mkdir(exist_ok=True)

    def convert(item: tuple[str, Path]) -> None:
        object_255 = None if objects is None else objects.get(item[0], IGNORE)
        write_palette_png(folder / f"{item[0]}.png", read_mask(item[1], object_255=object_255, values=values))

    each(convert, others, "converting masks")
    return {f"{name}/{id}.png": path for id, path in plain.items()}


def _read_dev(path: Path, train: Collection[str], masked: Collection[str], images: Mapping[str, Path]) -> list[str]:
    strangers = "{} are not train ids; dev is a part of train, and never of val"
    dev = sorted(read_ids(path, {id: images[id] for id in train}, strangers))
    if bare := [shown(id) for id in dev if id not in masked]:
        raise UserError(f"{path}: {some(bare)} have no mask; dev is where masks may be looked at")
    if len(dev) == len(train):
        raise UserError(f"{path} names every train id; leave some to train on")
    return dev
