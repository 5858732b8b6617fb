"""A folder of images as it lies on disk: where images are, where masks, and what the folders' names say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from wsss.data.files import Files, paths_of, start_of, walk
from wsss.data.files import suffix as suffix_of
from wsss.data.ids import files_by_id, fit_files, shown
from wsss.data.images import SUFFIXES
from wsss.data.parallel import some
from wsss.errors import UserError

PNG = frozenset({".png"})
SUFFIX = "suffix:"
"""What `--masks` begins with where masks lie beside their images."""
IMAGE_FOLDERS = frozenset({"img", "imgs", "image", "images", "jpegimages"})
_BESIDE_IMAGES = frozenset({"mask", "masks"})
_ALWAYS_MASKS = frozenset({"ground_truth", "segmentationclass"})
_ENDINGS = ("_mask", "_gt", "_segmentation", "_label")
_SPLIT = re.compile(r"(train|val|test)(?:ing|id|idation)?(?:\d{4})?")


@dataclass(frozen=True)
class Pictures:
    """The images of a folder and the masks among or beside them.

    Attributes:
        root: the folder.
        files: id to image file.
        masks: id to mask file.
        notes: sentences on what was left out.
        found: sentences on what was recognised.
        apart: folders of masks below, in which no images are looked for.
    """

    root: Path
    files: Files
    masks: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    apart: tuple[Path, ...] = ()

    @property
    def names(self) -> dict[str, str]:
        """Id to the path of its file below the folder, with forward slashes."""
        start = len(start_of(self.root))
        return {id: path[start:] for id, path in self.files.paths.items()}

    def refuse_changes(self, before: np.ndarray) -> None:
        """Check that the images are those of a moment ago.

        Args:
            before: what `states` gave then.

        Raises:
            UserError: names those that are new, gone or other.
        """
        paths = [*self.files.paths.values()]
        other = [paths[at] for at in np.flatnonzero((states(self.files) != before).any(1))]
        known = {*paths, *paths_of(self.masks).values()}
        there = (path for path, _ in walk(self.root, True, self.apart, []) if suffix_of(path) in SUFFIXES)
        new = [path for path in there if path not in known]
        if changed := [*other, *new]:
            start = len(start_of(self.root))
            raise UserError(
                f"{len(changed):,} files in {self.root} changed, went or came while they were read: "
                f"{some([shown(path[start:]) for path in changed])}; wait until what writes there is done, then run "
                "the command again"
            )


def find_pictures(path: Path, masks: str | Path | None = None, *, follow_links: bool = False) -> Pictures:
    """The images below a folder, through all its subfolders, and their masks.

    Masks are what `masks` says; without it the PNGs in folders "mask" or "masks" beside one of images ("val/img" and
    "val/mask"), and in folders "ground_truth" and "SegmentationClass". A mask is known by the path of its image, or the
    end of it, with or without "_mask", "_GT" and the like behind.

    Args:
        path: the folder.
        masks: a folder, or "suffix:ENDING" where a mask lies beside its image and is called like it with ENDING behind.
        follow_links: take what lies behind links that lead out of the folder.

    Raises:
        UserError: no such folder, no image, links that lead out, bad names, masks of no image, or two for one.
    """
    if not path.is_dir():
        raise UserError(f"there is no folder {path}")
    ending = str(masks).removeprefix(SUFFIX) if masks is not None and str(masks).startswith(SUFFIX) else ""
    given = Path(masks) if masks is not None and not ending else None
    recognised = [] if masks is not None else mask_folders(path)
    files = files_by_id(path, below=True, apart=[given] if given else recognised)
    if not follow_links:
        _refuse_links(path, files)
    official: Mapping[str, Path] = {}
    strangers: list[str] = []
    if ending:
        files, official = _beside(files, ending)
        if not official:
            raise UserError(f"no image in {path} has another file called like it with {ending} behind")
    if not files:
        raise UserError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))})")
    if given:
        if not given.is_dir():
            raise UserError(f"there is no folder of masks {given}")
        official, strangers = fit_masks(given, files)
        if not official:
            raise UserError(f"{given} holds no mask <id>.png of any image in {path}")
    where = [f"{folder.relative_to(path).as_posix()}" for folder in recognised]
    for folder in recognised:
        some_masks, unknown = fit_masks(folder, near(files, folder.parent))
        official, strangers = {**official, **some_masks}, [*strangers, *unknown]
    notes = []
    if strangers:
        notes.append(f"masks in {given or path} left out, as there is no such image: {some(strangers, 5)}")
    names = (path[path.rfind("/") + 1 :] for path in files.paths.values())
    if hidden := [shown(name) for name in names if name.startswith(".")]:
        notes.append(f"{len(hidden):,} hidden files are among the images: {some(hidden, 5)}")
    found = [f"{len(official):,} masks" + (f" in {some(where, 5)}" if where else "")] if official else []
    return Pictures(path, files, official, tuple(notes), tuple(found), (given,) if given else tuple(recognised))


def near(files: Mapping[str, Path], folder: Path) -> Files:
    """The images in a folder and below; all of them where none is there."""
    paths, start = paths_of(files), start_of(folder)
    inside = {id: path for id, path in paths.items() if path.startswith(start)}
    return Files(inside or paths)


def split_word(name: str) -> str:
    """The split that a folder's name stands for, "train", "val" or "test"; empty for any other."""
    match = _SPLIT.fullmatch(name.casefold())
    return match[1] if match else ""


def split_depth(names: Mapping[str, str]) -> int | None:
    """How deep the folders lie that are called like splits: 0 at the top; None where not all images lie in one.

    Args:
        names: id to path.
    """
    folders = [PurePosixPath(folder).parts for folder in {name.rpartition("/")[0] for name in names.values()}]
    for depth in range(min(map(len, folders), default=0)):
        if all(split_word(parts[depth]) for parts in folders):
            return depth
    return None


def class_folders(names: Mapping[str, str]) -> dict[str, str]:
    """Id to the first folder in its path that is neither a split's nor one called "img" or the like.

    Args:
        names: id to path; images that lie in no such folder are left out.
    """
    depth = split_depth(names)

    @cache
    def own(folder: str) -> str:
        folders = [part for at, part in enumerate(PurePosixPath(folder).parts) if at != depth]
        return next((part for part in folders if part.casefold() not in IMAGE_FOLDERS), "")

    found = {id: own(name.rpartition("/")[0]) for id, name in names.items()}
    return {id: folder for id, folder in found.items() if folder}


def mask_folders(root: Path) -> list[Path]:
    """The folders below that hold masks, as their names say."""
    found = []
    for parent, folders, _ in os.walk(root):
        beside_images = any(name.casefold() in IMAGE_FOLDERS for name in folders)
        for name in sorted(folders):
            plain = name.casefold()
            if plain in _ALWAYS_MASKS or (plain in _BESIDE_IMAGES and beside_images):
                found.append(Path(parent, name))
        folders[:] = [name for name in folders if not name.startswith(".") and Path(parent, name) not in found]
    return found


def fit_masks(folder: Path, files: Mapping[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """The masks of a folder by the id of their image, and the names of those that have none.

    Raises:
        UserError: two masks for one image.
    """
    masks = files_by_id(folder, PNG, below=True, whole=True)
    found, strangers = fit_files(masks, files, folder)
    if found:
        return found, strangers
    for ending in _ENDINGS:
        bare = {id[: -len(ending)]: path for id, path in masks.items() if id.casefold().endswith(ending)}
        if bare and (fitted := fit_files(bare, files, folder))[0]:
            return fitted
    return found, strangers


def ending_of_masks(files: Mapping[str, Path]) -> str:
    """What the names of a third of the images or more have behind those of others, such as "_GT"; empty without."""
    for ending in _ENDINGS:
        found = [id for id in files if id.casefold().endswith(ending) and id[: -len(ending)] in files]
        if 3 * len(found) >= len(files):
            return found[0][-len(ending) :]
    return ""


def states(files: Mapping[str, Path]) -> np.ndarray:
    """Size in bytes and time of the last change in ns, int64 N x 2 in the files' order; 0 for a file that is gone."""
    found = np.zeros((len(files), 2), np.int64)
    for at, path in enumerate(paths_of(files).values()):
        try:
            touched = os.stat(path)
        except OSError:
            continue
        found[at] = touched.st_size, touched.st_mtime_ns
    return found


def _beside(files: Files, ending: str) -> tuple[Files, Files]:
    """The images, and the masks by the id of their image."""
    masks = {id.removesuffix(ending): path for id, path in files.paths.items() if id.endswith(ending)}
    masks = {id: path for id, path in masks.items() if id in files}
    taken = {f"{id}{ending}" for id in masks}
    return Files({id: path for id, path in files.paths.items() if id not in taken}, files.links), Files(masks)


def _refuse_links(root: Path, files: Files) -> None:
    """Refuse images behind links that lead out of the folder."""
    home = os.path.realpath(root)
    leads_out = cache(lambda folder: os.path.commonpath([home, os.path.realpath(folder)]) != home)
    start = len(start_of(root))
    outside = [
        shown(path[start:])
        for path in files.paths.values()
        if leads_out(os.path.realpath(path) if path in files.links else os.path.dirname(path))
    ]
    if outside:
        raise UserError(
            f"{len(outside):,} images in {root} lie behind links that lead out of it: {some(outside)}; if they are "
            f"meant, say so with --follow-links, else take the links away"
        )
