"""Label maps that were made elsewhere, by other people's code or by hand: a run that begins with the segmenter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from wsss.commands import command
from wsss.data.label_folder import LabelFolder
from wsss.data.label_maps import LabelMapWriter
from wsss.errors import UserError
from wsss.interface import Method, Stage, Step, StepContext
from wsss.settings import setting
from wsss.stages.segment import DEEPLAB
from wsss.stream import ordered_map


@dataclass(frozen=True)
class ReadSettings:
    """Reading label maps that are there."""

    folder: str | None = setting(
        None, "the folder of the label maps: ID.png with class indices, or shards", folder=True
    )
    name: str = setting("elsewhere", "where the label maps come from; tables say it as their supervision")


def check_read(settings: ReadSettings) -> None:
    """Refuse label maps without a folder, and a name that tables can't show.

    Raises:
        UserError: such settings.
    """
    if settings.folder is None:
        raise UserError(
            "method imported has no label maps of its own; bring some in with "
            f"`{command('wsss', 'labels', 'import', 'FOLDER')}`"
        )
    if not Path(settings.folder).is_dir():
        raise UserError(f"refine.read.folder = {settings.folder} is not a folder; it should hold label maps ID.png")
    if not re.fullmatch(r"[\w.-]+", settings.name):
        raise UserError(f"refine.read.name = {settings.name!r} must be letters, digits, '.', '_' and '-'")


def read_labels(context: StepContext) -> None:
    """Check the label maps against the images and write those of train, and of dev where there are any.

    Raises:
        UserError: label maps are missing or don't fit (see `LabelFolder.check`).
    """
    labels = LabelFolder(Path(context.settings.folder))
    ids = labels.check(context.dataset)
    with LabelMapWriter(context.out / "labels_crf") as writer:
        for done, (image_id, found) in enumerate(zip(ids, ordered_map(labels.read, ids), strict=True), 1):
            writer.add(image_id, found)
            context.report.progress(done, len(ids), "images")


def declares(settings: ReadSettings) -> frozenset[str]:
    """Whatever the labels were made with is supervision."""
    return frozenset({f"labels from {settings.name}"})


REFINE = Stage(
    "refine",
    "imported",
    (Step("read", 2, ReadSettings, read_labels, outputs=("labels_crf",), declares=declares, check=check_read),),
)

METHOD = Method(
    name="imported",
    title="Imported labels",
    year=2018,
    citation="Chen, Papandreou, Kokkinos, Murphy, Yuille: DeepLab, TPAMI 2018; the labels are their makers'",
    summary="What the segmentation network learns from label maps that were made elsewhere and imported.",
    stages={"refine": REFINE, "segment": DEEPLAB},
)
