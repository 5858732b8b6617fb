"""The Semantic Boundaries Dataset in its benchmark_RELEASE layout.

Source: Hariharan et al., Semantic Contours from Inverse Detectors, ICCV 2011. Its own train (8,498) and val (2,857)
lists are not those of VOC 2012: some of its train images are in VOC's val.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsss.classes import VOC, Classes
from wsss.data.agreement import answers
from wsss.data.assemble import Parts, assemble
from wsss.data.dataset import Dataset
from wsss.data.groups import read_groups
from wsss.data.ids import files_by_id, fit_files
from wsss.data.layout import Description
from wsss.data.lists import read_ids
from wsss.data.splits import DEV_SHARE
from wsss.data.tag_files import TABLES, read_tags
from wsss.data.tags import TagFile, tags_from_masks
from wsss.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """SBD on disk.

    Attributes:
        train: the ids of its train list.
        val: the ids of its val list.
        images: id to image file.
        masks: id to the .mat file of the class mask.
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    images: Mapping[str, Path]
    masks: Mapping[str, Path]

    @classmethod
    def find(cls, path: Path, others: Mapping[str, Path] | None = None) -> Benchmark:
        """Look at benchmark_RELEASE, the folder that holds it, or its `dataset` folder.

        Args:
            path: one of these.
            others: id to file of images that its lists may name too, such as VOC's.

        Raises:
            UserError: it is none of these, or a list is missing or names images that are nowhere.
        """
        for root in (path, path / "dataset", path / "benchmark_RELEASE" / "dataset"):
            if (root / "cls").is_dir():
                own = files_by_id(root / "img")
                images = {**own, **(others or {})}
                return cls(
                    train=read_ids(root / "train.txt", images),
                    val=read_ids(root / "val.txt", images),
                    images=own,
                    masks=fit_files(files_by_id(root / "cls", frozenset({".mat"})), images, root / "cls")[0],
                )
        raise UserError(f"{path} is not SBD: it holds neither benchmark_RELEASE/dataset/cls nor dataset/cls nor cls")


def add_sbd(
    path: Path,
    name: str = "sbd",
    *,
    tags: str = "masks",
    dev_list: Path | None = None,
    groups: str | None = None,
    max_disagreement: float | None = None,
) -> Dataset:
    """Make a dataset of SBD alone, with its own train and val lists and its own masks.

    Args:
        path: benchmark_RELEASE, the folder that holds it, or its `dataset` folder.
        name: how the dataset will be called.
        tags: "masks", or a .csv or .npz file.
        dev_list: a file with the dev ids, instead of those chosen by hash.
        groups: see `wsss.data.groups.read_groups`; None where each image is its own.
        max_disagreement: the share of masks that may disagree with the tags, see `wsss.data.agreement.answers`.

    Raises:
        UserError: not the layout, or bad content; see `assemble`.
    """
    benchmark = Benchmark.find(path)
    classes = Classes(VOC)
    ids = [*benchmark.train, *benchmark.val]
    source = "masks" if tags == "masks" else Path(tags).suffix.lower()[1:]
    apart = [groups.removeprefix("column:")] if groups and groups.startswith("column:") else []
    found = (
        TagFile(tags_from_masks(benchmark.masks, ids, classes), classes, ())
        if tags == "masks"
        else read_tags(Path(tags), classes, benchmark.images, apart)
    )
    table = Path(tags) if Path(tags).suffix.lower() in TABLES and Path(tags).is_file() else None
    file_names = {id: file.name for id, file in benchmark.images.items()}
    found_groups = read_groups(groups, ids, benchmark.images, file_names, table) if groups else {}
    return assemble(
        Description(
            name=name,
            kind="sbd",
            classes=classes,
            tags_source=source,
            settings={
                "tags": Path(tags).name,
                "dev": dev_list.name if dev_list else f"{DEV_SHARE:g} by hash",
                **({"groups": groups} if groups else {}),
                **answers(max_disagreement),
            },
        ),
        Parts(
            train=benchmark.train,
            val=benchmark.val,
            images=benchmark.images,
            tags=found.tags,
            groups=found_groups,
            official=benchmark.masks,
            notes=found.notes,
        ),
        dev_list,
    )
