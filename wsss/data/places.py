"""A folder of images as it lies on disk: where images are, where masks, and what the folders' names say."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

from wsss.data.ids import files_by_id, fit_files, shown
from wsss.data.images import SUFFIXES
from wsss.data.parallel import some
from wsss.errors import UserError

PNG = frozenset({".png"})
IMAGE_FOLDERS = frozenset({"img", "imgs", "image", "images", "jpegimages"})
_BESIDE_IMAGES = frozenset({"mask", "masks"})
_ALWAYS_MASKS = frozenset({"ground_truth", "segmentationclass"})
_ENDINGS = ("_mask", "_gt", "_segmentation", "_label")
_SUFFIX = "suffix:"
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
    """

    root: Path
    files: Mapping[str, Path]
    masks: Mapping[str, Path]
    notes: tuple[str, ...] = ()
    found: tuple[str, ...] = ()

    @cached_property
    def names(self) -> dict[str, str]:
        """Id to the path of its file below the folder, with forward slashes."""
        return {id: below(self.root, file) for id, file in self.files.items()}

    def refuse_changes(self, before: Mapping[str, tuple[int, int]], after: Pictures) -> None:
        """Check that the images are those of a moment ago.

        Args:
            before: what `states` gave then.
            after: what the folder holds now.

        Raises:
            UserError: names those that are new, gone or other.
        """
        now = states(self.files)
        other = [id for id, state in before.items() if now[id] != state]
        new = [id for id in after.files if id not in before]
        if other or new:
            names = {**after.names, **self.names}
            raise UserError(
                f"{len(other) + len(new):,} files in {self.root} changed, went or came while they were read: "
                f"{some([shown(names[id]) for id in (*other, *new)])}; wait until what writes there is done, then run "
                "the command again"
            )


def below(root: Path, file: Path) -> str:
    """The path of a file below a folder that it was found in, with forward slashes."""
    return file.as_posix().removeprefix(f"{root.as_posix()}/") if root.parts else file.as_posix()


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
    ending = str(masks).removeprefix(_SUFFIX) if masks is not None and str(masks).startswith(_SUFFIX) else ""
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
    if hidden := [shown(file.name) for file in files.values() if file.name.startswith(".")]:
        notes.append(f"{len(hidden):,} hidden files are among the images: {some(hidden, 5)}")
    found = [f"{len(official):,} masks" + (f" in {some(where, 5)}" if where else "")] if official else []
    return Pictures(path, files, official, tuple(notes), tuple(found))


def near(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The images in a folder and below; all of them where none is there."""
    inside = {id: file for id, file in files.items() if folder in file.parents}
    return inside or dict(files)


def split_word(name: str) -> str:
    """The split that a folder's name stands for, "train", "val" or "test"; empty for any other."""
    match = _SPLIT.fullmatch(name.casefold())
    return match[1] if match else ""


def split_depth(names: Mapping[str, str]) -> int | None:
    """How deep the folders lie that are called like splits: 0 at the top; None where not all images lie in one.

    Args:
        names: id to path.
    """
    folders = [PurePosixPath(name).parts[:-1] for name in names.values()]
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
    found = {}
    for id, name in names.items():
        folders = [part for at, part in enumerate(PurePosixPath(name).parts[:-1]) if at != depth]
        if own := [part for part in folders if part.casefold() not in IMAGE_FOLDERS]:
            found[id] = own[0]
    return found


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


def states(files: Mapping[str, Path]) -> dict[str, tuple[int, int]]:
    """Id to size in bytes and time of the last change in ns; (0, 0) for a file that is gone."""

    def state(file: Path) -> tuple[int, int]:
        try:
            touched = os.stat(file)
        except OSError:
            return 0, 0
        return touched.st_size, touched.st_mtime_ns

    return {id: state(file) for id, file in files.items()}


def _beside(files: Mapping[str, Path], ending: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """The images, and the masks by the id of their image."""
    masks = {id.removesuffix(ending): file for id, file in files.items() if id.endswith(ending)}
    masks = {id: file for id, file in masks.items() if id in files}
    taken = {f"{id}{ending}" for id in masks}
    return {id: file for id, file in files.items() if id not in taken}, masks


def _refuse_links(root: Path, files: Mapping[str, Path]) -> None:
    """Refuse images behind links that lead out of the folder."""
    home, links = os.path.realpath(root), {}
    leads_out = cache(lambda folder: os.path.commonpath([home, os.path.realpath(folder)]) != home)
    for file in files.values():
        path = str(file)
        if leads_out(os.path.realpath(path) if os.path.islink(path) else os.path.dirname(path)):
            links[shown(file.relative_to(root).as_posix())] = path
    if links:
        raise UserError(
            f"{len(links):,} images in {root} lie behind links that lead out of it: {some([*links])}; if they are "
            f"meant, say so with --follow-links, else take the links away"
        )
