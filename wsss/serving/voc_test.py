"""The archive that PASCAL VOC's evaluation server takes: a model's predictions on the test images.

results/VOC2012/Segmentation/comp6_test_cls/ID.png     palette PNGs of class indices, of the images' sizes
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from wsss.classes import VOC
from wsss.data.ids import files_by_id
from wsss.data.images import image_problem, read_image
from wsss.data.layout import LISTS
from wsss.data.lists import read_ids
from wsss.data.palette_png import encode_palette_png
from wsss.data.parallel import some
from wsss.errors import UserError, unknown
from wsss.progress import ConsoleReporter
from wsss.serving.segmenter import Segmenter
from wsss.storage import disk_errors, remove_unfinished, unfinished

COMPETITIONS = ("comp5", "comp6")
"""Trained on VOC's own data alone, and on any data."""


def write_voc_test(model: Segmenter, images: Path, competition: str, to: Path) -> int:
    """Label the test images, at one scale and without a CRF, and pack the label maps.

    Args:
        model: knows VOC's 20 classes, in their order.
        images: a folder of images ID.jpg. Where `ImageSets/Segmentation/test.txt` lies beside it, as in VOC2012, the
            ids of that list are taken, else every image.
        competition: one of `COMPETITIONS`.
        to: the archive, a gzipped tar; it appears complete or not at all, and equal labels give equal bytes.

    Returns:
        How many images there were.

    Raises:
        UserError: another competition or other classes; no image, or images that are missing or can't be read (names
            the first ten); a full disk.
    """
    if competition not in COMPETITIONS:
        raise unknown("competition", competition, COMPETITIONS)
    if model.classes.names != VOC:
        raise UserError(
            f"model {model.version} knows the classes {some(model.classes.names)}; "
            f"the evaluation server expects VOC's 20: {', '.join(VOC)}"
        )
    paths = _test_images(images)
    report = ConsoleReporter("export.voc-test")
    part = unfinished(to)
    with disk_errors(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(to.parent)
        try:
            with (
                part.open("wb") as raw,
                gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
            ):
                for done, (image_id, path) in enumerate(paths.items(), 1):
                    png = encode_palette_png(model(read_image(path, model.inference.pixels)))
                    member = tarfile.TarInfo(f"results/VOC2012/Segmentation/{competition}_test_cls/{image_id}.png")
                    member.size = len(png)
                    archive.addfile(member, io.BytesIO(png))
                    report.progress(done, len(paths), "images")
            os.replace(part, to)
        finally:
            part.unlink(missing_ok=True)
    return len(paths)


def _test_images(folder: Path) -> Mapping[str, Path]:
    """Id to file, sorted by id, of the images to be labelled."""
    found = files_by_id(folder)
    if not found:
        raise UserError(f"{folder} holds no images; give the folder of the test images, such as VOC2012/JPEGImages")
    listed = folder.parent / LISTS / "test.txt"
    ids = sorted(read_ids(listed, found, f"{folder} lacks the images {{}}") if listed.is_file() else found)
    problems = [(id, image_problem(found[id], decode=False, upright=False)) for id in ids]
    if wrong := [f"{id} {problem}" for id, problem in problems if problem]:
        raise UserError(f"images in {folder} can't be labelled: {some(wrong)}")
    return {id: found[id] for id in ids}
