"""Checking a dataset: its files against the manifest, images, masks and tags against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wsss.classes import IGNORE
from wsss.commands import command
from wsss.data import layout
from wsss.data.agreement import OBJECT_OF_MANY, answers, check_masks
from wsss.data.changes import Changes, find_changes, mending, name_of
from wsss.data.images import image_problem, image_size
from wsss.data.manifest import refresh_manifest
from wsss.data.masks import check_mask, check_mask_size, check_mask_values, read_mask
from wsss.data.palette_png import write_palette_png
from wsss.data.parallel import each, some
from wsss.errors import UserError

if TYPE_CHECKING:
    from wsss.data.attempts import Examined
    from wsss.data.dataset import Dataset


def check(dataset: Dataset, *, thorough: bool) -> str:
    """Check every file of the manifest and every id of every split; see `Dataset.check`.

    Args:
        dataset: the dataset.
        thorough: read every file, decode every image and mask, and compare masks with tags. Else of the files that are
            those that were added nothing more is asked: they were looked at then.

    Returns:
        What the user should know though the dataset can be used; often empty.
    """
    changes = find_changes(dataset.root, thorough=thorough)
    if thorough:
        problems, values = _look(dataset)
    else:
        problems, values = _named(dataset), {}
        if touched := {*changes.changed, *changes.missing, *changes.new}:
            problems |= _look(dataset, sorted(_ids_of(touched)), False)[0]
    if problems or changes != Changes():
        raise _refusal(dataset, problems, changes)
    return _agree(dataset, values, False)


def check_added(dataset: Dataset, doubtful: Collection[str], masks: Mapping[str, Examined]) -> str:
    """Check a dataset whose manifest was written just now; the user has the options of `wsss data add` at hand.

    Args:
        dataset: the dataset, not yet published.
        doubtful: the ids of images that were not wholly decoded while they were added.
        masks: what is known of masks, by their path in the dataset's folder; others are read.

    Returns:
        What the user should know though the dataset can be used; often empty.

    Raises:
        UserError: as `Dataset.check`.
    """
    problems, values = _look(dataset, doubtful=doubtful, read=masks)
    if problems:
        raise _refusal(dataset, problems, Changes())
    return _agree(dataset, values, True)


def check_unchanged(dataset: Dataset) -> None:
    """Check that the files of a dataset are those that were added, and nothing else.

    Raises:
        UserError: names those that are not.
    """
    changes = find_changes(dataset.root)
    if changes != Changes():
        raise _refusal(dataset, {}, changes)


def accept(dataset: Dataset, max_disagreement: float | None = None, value_255: str | None = None) -> tuple[int, str]:
    """Take in what changed in a dataset since it was added: its files are checked, and the manifest written anew.

    Args:
        dataset: the dataset, opened after the change; open it again afterwards.
        max_disagreement: the share of masks that may disagree with their image's tags from now on.
        value_255: what 255 stands for where it is all there is beside 0; masks are rewritten for "object".

    Returns:
        How many files had changed, were new or gone, and what the user should know besides.

    Raises:
        UserError: what is there now can't be used; nothing is changed then.
    """
    said = answers(max_disagreement, value_255)
    if said.get("value_255") == "object" and len(dataset.classes) > 1:
        raise UserError(OBJECT_OF_MANY)
    answered = replace(dataset, settings={**dataset.settings, **said})
    changes = find_changes(dataset.root, thorough=True)
    problems, values = _look(dataset)
    if problems:
        raise UserError(f"dataset {dataset.name} can't be used: {some([*problems.values()])}")
    rewritten = []
    if value_255 == "object":
        rewritten = [path for path, found in values.items() if IGNORE in found]
        values = {path: frozenset({1 if v == IGNORE else v for v in found}) for path, found in values.items()}
    note = _agree(answered, values, False)
    for path in rewritten:
        write_palette_png(dataset.root / path, read_mask(dataset.root / path, object_255=1))
    changed = {*changes.changed, *changes.new, *rewritten}
    if said:
        layout.write_description(
            dataset.root, replace(layout.read_description(dataset.root), settings=answered.settings)
        )
        changed.add(layout.DESCRIPTION)
    refresh_manifest(dataset.root, sorted(changed), changes.missing)
    return len(changed) + len(changes.missing), note


def _refusal(dataset: Dataset, problems: Mapping[str, str], changes: Changes) -> UserError:
    """The error for what is wrong, by the file's relative path or the id, and what changed; each file is named once."""
    wrong = [some([*problems.values()])] if problems else []
    mend = f"; {mending(dataset.root)}" if changes != Changes() else ""
    return UserError(f"dataset {dataset.name} can't be used: {', '.join([*wrong, *changes.sentences(problems)])}{mend}")


def _agree(dataset: Dataset, values: dict[str, frozenset[int]], adding: bool) -> str:
    folders = (layout.MASKS, layout.MASKS_AUG)
    masks = {id: path for folder in folders for id, path in layout.ids_of(values, folder).items()}
    by_id = {id: values[path] for id, path in masks.items()}
    paths = {id: dataset.root / path for id, path in masks.items()}
    answer = f"`{command('wsss', 'data', 'accept', name_of(dataset.root))} ANSWER`"
    return check_masks(by_id, paths, dataset, "say so with ANSWER" if adding else f"{answer} says so")


def _named(dataset: Dataset) -> dict[str, str]:
    """What is wrong with what the lists and the tags name, by id; no file is looked at."""
    untagged = set(dataset.splits.get(layout.TEST, ()))
    problems = {}
    for id in dict.fromkeys(id for ids in dataset.splits.values() for id in ids):
        if not dataset.has_image(id):
            problems[id] = f"{id} is in a list but has no image in {layout.IMAGES}"
        elif id not in untagged and not dataset.has_tags(id):
            problems[id] = f"{id} has no row in {layout.TAGS}"
    return problems


def _ids_of(names: Collection[str]) -> set[str]:
    """The ids of the images and masks among files of a dataset."""
    return {id for folder in (layout.IMAGES, layout.MASKS, layout.MASKS_AUG) for id in layout.ids_of(names, folder)}


def _look(
    dataset: Dataset,
    ids: Collection[str] | None = None,
    thorough: bool = True,
    doubtful: Collection[str] | None = None,
    read: Mapping[str, Examined] | None = None,
) -> tuple[dict[str, str], dict[str, frozenset[int]]]:
    """What is wrong, by the file's relative path or the id, and the values in each mask where all were looked at.

    Args:
        dataset: the dataset.
        ids: those that are looked at; None for all of the splits.
        thorough: decode images and masks, not only their headers.
        doubtful: ids of the images that were not decoded before; None for all.
        read: see `check_added`.
    """
    named = _named(dataset)

    def is_sound(id: str) -> bool:
        return doubtful is not None and id not in doubtful

    masks = {f"{folder}/{id}" for folder in (layout.MASKS, layout.MASKS_AUG) for id in _masked(dataset, folder)}
    wanted = None if ids is None else set(ids)
    every = (id for split in dataset.splits.values() for id in split if wanted is None or id in wanted)
    looked_at = sorted({id for id in every if masks or not is_sound(id)})

    def look(id: str) -> tuple[dict[str, str], dict[str, frozenset[int]]] | None:
        of_id = [f"{folder}/{id}" for folder in (layout.MASKS, layout.MASKS_AUG) if f"{folder}/{id}" in masks]
        if id in named and not dataset.has_image(id):
            return None
        return _look_at(dataset, id, of_id, thorough, is_sound(id), read or {}) if of_id or not is_sound(id) else None

    found = [its for its in each(look, looked_at, "checking") if its is not None]
    problems = {path: problem for these, _ in found for path, problem in these.items()}
    return {**named, **problems}, {path: values for _, these in found for path, values in these.items()}


def _masked(dataset: Dataset, folder: str) -> Collection[str]:
    return layout.ids_in(dataset.root / folder, layout.PNG)


def _look_at(
    dataset: Dataset, id: str, masks: Sequence[str], thorough: bool, sound: bool, read: Mapping[str, Examined]
) -> tuple[dict[str, str], dict[str, frozenset[int]]]:
    problems: dict[str, str] = {}
    values: dict[str, frozenset[int]] = {}
    path = dataset.image_path(id)
    relative = path.relative_to(dataset.root).as_posix()
    upright = dataset.kind == "folder"
    if sound and not masks:
        return {}, {}
    try:
        file = dataset.image_file(id)
    except UserError as error:
        return {relative: str(error)}, {}
    if not sound and (problem := image_problem(file, decode=thorough, upright=upright, pixels=dataset.pixels)):
        return {relative: f"image {relative} {problem}"}, {}
    size = image_size(file, dataset.pixels, relative) if masks else (0, 0)
    for mask in (f"{name}.png" for name in masks):
        try:
            known, path = read.get(mask), dataset.root / mask
            if known and known.holds and known.labels is not None:
                check_mask_size(known.holds.size, f"mask {mask}", size)
                seen = check_mask_values(known.labels, path, f"mask {mask}", dataset.classes)
            else:
                seen = check_mask(path, f"mask {mask}", size, dataset.classes, decode=thorough)
            if thorough and not values:
                values[mask] = seen
        except UserError as error:
            problems[mask] = str(error)
    return problems, values
