"""The splits that a dataset comes with: folders train, val and test, lists, or a column of its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from wsss.data.columns import read_table
from wsss.data.ids import shown
from wsss.data.layout import SPLITS, TEST
from wsss.data.lists import read_ids
from wsss.data.parallel import some
from wsss.data.places import Pictures, split_depth, split_word
from wsss.errors import UserError

Splits = Mapping[str, Sequence[str]]
NAMES = (*SPLITS, TEST)
_COLUMN = "column:"


def read_splits(choice: str | None, lists: Path | None, pictures: Pictures, table: Path | None) -> tuple[Splits, str]:
    """The splits a folder comes with, empty where they are to be chosen, and where they are from.

    Args:
        choice: "folders", "column:NAME" of the table of tags, "none", or a split's name that all images are of; None
            for the folders where there are folders of more than one split.
        lists: a folder with train.txt, val.txt, test.txt or dev.txt, any of them.
        pictures: the images.
        table: the table of tags, where tags come from one.

    Raises:
        UserError: another choice, images that are in no split or in two, a column with other values.
    """
    if lists is not None:
        if choice is not None:
            raise UserError("splits come from --lists or from --splits, not from both")
        return _of_lists(lists, pictures.files), lists.name
    if choice is None or choice == "folders":
        return _of_folders(pictures, asked=choice is not None)
    if choice in ("train", "val", TEST):
        return {choice: sorted(pictures.files)}, choice
    if choice == "none":
        return {}, "chosen"
    if not choice.startswith(_COLUMN):
        raise UserError(
            f"--splits {choice} is unknown; allowed: folders, column:NAME, none (they are chosen by hash), or train, "
            "val or test where all images are of that one"
        )
    if table is None:
        raise UserError(f"--splits {choice} needs --tags FILE.csv with that column; tags come from elsewhere here")
    return _of_column(choice.removeprefix(_COLUMN), pictures.files, table), choice


def refuse_shared(splits: Splits) -> None:
    """Refuse splits that share images.

    Raises:
        UserError: names them.
    """
    counts = Counter(id for ids in splits.values() for id in ids)
    if shared := sorted(id for id, count in counts.items() if count > 1):
        raise UserError(
            f"{len(shared):,} images are in more than one split: {some([*map(shown, shared)])}; splits must be disjoint"
        )


def _of_folders(pictures: Pictures, *, asked: bool) -> tuple[Splits, str]:
    names = pictures.names
    depth = split_depth(names)
    found: dict[str, list[str]] = {}
    if depth is not None:
        for id in sorted(names):
            found.setdefault(split_word(PurePosixPath(names[id]).parts[depth]), []).append(id)
    if asked and not found:
        raise UserError(f"not every image of {pictures.root} lies in a folder train, val or test")
    return (found, "folders") if asked or len(found) > 1 else ({}, "chosen")


def _of_lists(folder: Path, images: Mapping[str, Path]) -> Splits:
    there = [name for name in NAMES if (folder / f"{name}.txt").is_file()]
    if not {"train", "val", TEST} & set(there):
        raise UserError(f"there is no list {folder / 'train.txt'}, nor val.txt, nor test.txt")
    splits = {name: read_ids(folder / f"{name}.txt", images) for name in there}
    own = {id for name in there if name != "dev" for id in splits[name]}
    shared = {name: splits[name] for name in there if name != "dev"}
    counts = Counter(id for ids in shared.values() for id in ids)
    if double := sorted(id for id in own if counts[id] > 1):
        lists = " and in ".join(f"{name}.txt" for name in shared if set(shared[name]) & set(double))
        named = some([shown(id) for id in double])
        raise UserError(f"{folder}: {named} are in {lists}; splits must be disjoint")
    if "dev" in splits:  # a part of train, whether train's list holds it or not
        dev = set(splits["dev"])
        splits["train"] = tuple(id for id in splits.get("train", ()) if id not in dev)
        refuse_shared(splits)
    return splits


def _of_column(name: str, images: Mapping[str, Path], table: Path) -> Splits:
    values = read_table(table).by_image(name, images)
    words = {id: value.casefold() if value.casefold() == "dev" else split_word(value) for id, value in values.items()}
    if wrong := Counter(values[id] for id, word in words.items() if not word):
        named = some([f"{value!r} ({count:,} images)" for value, count in sorted(wrong.items())])
        raise UserError(f"{table}: column {name} holds {named}; allowed: train, dev, val, test, one in each row")
    there = set(words.values())
    return {split: sorted(id for id, word in words.items() if word == split) for split in NAMES if split in there}
