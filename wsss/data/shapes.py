"""`shapes`: the built-in dataset, scenes drawn by program in the layout of PASCAL VOC."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsss.classes import IGNORE, Classes
from wsss.data import layout, splits
from wsss.data.creatures import MAX_CLASSES, head_of
from wsss.data.manifest import BACKGROUND_FACT, PIXELS_FACT
from wsss.data.palette_png import write_palette_png
from wsss.data.parallel import each
from wsss.data.pixels import Pixels, with_limits
from wsss.data.scenes import GROUNDS, Place, Scene, draw_scene
from wsss.data.tags import Tags
from wsss.errors import UserError

ANNOTATIONS = "Annotations"
MIN_SIZE = 32
MAX_SIZE = 2048


def class_names(count: int) -> tuple[str, ...]:
    """The names of the first `count` classes, such as "disc-eyes": silhouette and mark of the head."""
    return tuple("-".join(head_of(cls)) for cls in range(count))


def make_shapes(
    root: Path,
    *,
    images: int = 400,
    val_images: int | None = None,
    size: int = 96,
    classes: int = 6,
    rng: int = 0,
    name: str = "shapes",
    single: bool = False,
    tag_noise: float = 0.0,
    group_size: int = 1,
    background: bool = True,
    bands: bool = False,
) -> None:
    """Draw the dataset into the folder `root`: images, masks, boxes, tags and lists.

    A scene depends on rng, size, classes, `single`, its list and its number alone, so that a larger dataset begins with
    the smaller one. The first scenes of train and of val show one class each, so that each occurs where there is room.

    Args:
        root: an empty folder, or one that is to be made.
        images: scenes with tags, at least 2; a tenth of them becomes dev.
        val_images: scenes of val; a quarter of `images` when None.
        size: height and width in pixels, 32 to 2048.
        classes: 1 to 64.
        rng: the random seed, at least 0.
        name: what the dataset is called.
        single: each scene shows exactly one creature.
        tag_noise: the share of the tag rows, 0 to 1, of train (with dev) and of val, in which one class is wrong:
            another one, that is not there, stands instead. Boxes and masks stay right.
        group_size: so many scenes in a row are of one place, and a group: one ground, and one class that most of them
            show, whatever the ground. 1 to 10,000; with 1 each scene is a place of its own.
        background: False makes each kind of ground a class, after those of the creatures, named as `scenes.GROUNDS`:
            there is no background then, and no empty scene but for its ground.
        bands: TIFFs of 4 bands of 16 bits: the picture in grey three times, and what tells its classes (their indices,
            spread over the values, with noise) in the fourth.

    Raises:
        UserError: a number out of its range, or noise where there is no other class.
    """
    val_images = max(1, images // 4) if val_images is None else val_images
    _in_range("images", images, 2, 10**6)
    _in_range("val_images", val_images, 0, 10**6)
    _in_range("size", size, MIN_SIZE, MAX_SIZE)
    _in_range("classes", classes, 1, MAX_CLASSES)
    _in_range("rng", rng, 0, 2**63 - 1)
    _in_range("tag_noise", tag_noise, 0, 1)
    _in_range("group_size", group_size, 1, 10**4)
    if tag_noise and classes == 1:
        raise UserError("shapes can't be drawn with tag_noise and classes = 1: a wrong tag needs a second class")
    names = class_names(classes)
    grounds = () if background else tuple(f"ground-{kind}" for kind in GROUNDS[:classes])
    pixels = Pixels((4, 3, 2), (2.0, 98.0)) if bands else None
    for folder in (layout.IMAGES, layout.MASKS, ANNOTATIONS):
        (root / folder).mkdir(parents=True, exist_ok=True)

    def draw(job: tuple[int, int]) -> tuple[str, tuple[str, ...]]:
        part, number = job
        main = number if number < classes else None
        place = None if group_size == 1 else Place.of([rng, part, number // group_size], classes)
        scene = draw_scene(np.random.default_rng([rng, *job]), size, classes, main, single=single, place=place)
        id = f"{('train', 'val')[part]}_{number:06d}"
        shown = {*scene.classes}
        labels = scene.labels
        if grounds:
            labels = np.where(labels == 0, np.uint8(classes + 1 + scene.ground), labels)
            shown.add(classes + scene.ground)
        if bands:
            write_bands(root / layout.IMAGES / f"{id}.tif", scene.image, labels, np.random.default_rng([rng, 1, *job]))
        else:
            Image.fromarray(scene.image).save(root / layout.IMAGES / f"{id}.png", compress_level=1)
        write_palette_png(root / layout.MASKS / f"{id}.png", labels)
        _write_boxes(root / ANNOTATIONS / f"{id}.xml", id, scene, names)
        return id, tuple((*names, *grounds)[cls] for cls in sorted(shown))

    jobs = [(0, number) for number in range(images)] + [(1, number) for number in range(val_images)]
    tags = dict(each(draw, jobs, "drawing shapes"))
    train, val = list(tags)[:images], list(tags)[images:]
    for part, ids in enumerate((train, val)):
        tags |= _wrong_tags(ids, tags, (*names, *grounds), tag_noise, [rng, part])
    groups = {id: f"{id[:-7]}_place_{int(id[-6:]) // group_size:06d}" for id in tags} if group_size > 1 else None
    dev = splits.hold_out(train, train, tags, splits.DEV_SHARE, groups)
    held_out = set(dev)
    pixels = with_limits(pixels, [root / layout.IMAGES / f"{id}.tif" for id in train if id not in held_out])
    facts: dict[str, Any] = {} if background else {BACKGROUND_FACT: False}
    facts |= {} if pixels is None else {PIXELS_FACT: pixels.record()}
    layout.finish(
        root,
        layout.Description(
            name=name,
            kind="shapes",
            classes=Classes((*names, *grounds), background),
            tags_source="program",
            settings={"images": images, "val_images": val_images, "size": size, "classes": classes, "rng": rng}
            | ({"single": True} if single else {})
            | ({"tag_noise": tag_noise} if tag_noise else {})
            | ({"group_size": group_size} if group_size > 1 else {})
            | ({} if background else {"background": False})
            | ({"bands": True} if bands else {}),
        ),
        tags,
        {
            "train": [id for id in train if id not in held_out],
            "dev": dev,
            "val": val,
            "train_official": train,
            "trainval": [*train, *val],
        },
        groups,
        facts,
    )


def write_bands(path: Path, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
    """Write a picture as a TIFF of 4 bands of 16 bits, as satellites have them: the fourth band tells the classes.

    Args:
        path: of the file.
        image: uint8 H x W x 3; its grey, at a sensor's 11 bits, is in the first three bands.
        labels: uint8 H x W; each index is one level of the fourth band, of which 255 shows nothing.
        rng: of the noise.
    """
    import tifffile

    grey = image.astype(np.float64).mean(2, keepdims=True) * 8
    level = np.where(labels == IGNORE, 0.0, 400.0 + 250.0 * labels)[..., None]
    values = np.concatenate([grey, grey, grey, level], 2) + rng.normal(0, 20, (*labels.shape, 4))
    tifffile.imwrite(path, values.clip(0, 65535).astype(np.uint16), photometric="minisblack", planarconfig="contig")


def _wrong_tags(
    ids: Sequence[str], tags: Tags, names: Sequence[str], share: float, seed: Sequence[int]
) -> dict[str, tuple[str, ...]]:
    """New rows for a share of the rows of `ids`: in each, a class that is there is replaced by one that is not.

    Rows without a class, or with all of them, can't be wrong in this way; the share is of all rows, as far as the
    others suffice.
    """
    draw = np.random.default_rng([*seed, len(ids)])
    candidates = [id for id in ids if 0 < len(tags[id]) < len(names)]
    wrong = {}
    for number in draw.permutation(len(candidates))[: round(share * len(ids))]:
        present = tags[candidates[number]]
        others = [name for name in names if name not in present]
        left, instead = present[int(draw.integers(len(present)))], others[int(draw.integers(len(others)))]
        kept = {instead, *present} - {left}
        wrong[candidates[number]] = tuple(name for name in names if name in kept)
    return wrong


def _in_range(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"shapes can't be drawn with {name} = {value}; allowed: {low} to {high}")


def _write_boxes(path: Path, id: str, scene: Scene, names: tuple[str, ...]) -> None:
    """The boxes of the visible creatures as VOC writes them: corners counted from 1, both included."""
    height, width = scene.instances.shape
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = f"{id}.png"
    _children(ET.SubElement(root, "size"), width=width, height=height, depth=3)
    ET.SubElement(root, "segmented").text = "1"
    for number, cls in enumerate(scene.classes, 1):
        rows, columns = np.nonzero(scene.instances == number)
        creature = ET.SubElement(root, "object")
        _children(creature, name=names[cls], truncated=0, difficult=0)
        box = ET.SubElement(creature, "bndbox")
        _children(box, xmin=columns.min() + 1, ymin=rows.min() + 1, xmax=columns.max() + 1, ymax=rows.max() + 1)
    ET.indent(root)
    path.write_bytes(ET.tostring(root) + b"\n")


def _children(parent: ET.Element, **texts: object) -> None:
    for name, text in texts.items():
        ET.SubElement(parent, name).text = str(text)
