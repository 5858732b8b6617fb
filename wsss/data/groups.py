"""Groups: which images belong together (patient, slide, scene, video), so that no split or bootstrap divides them.

A dataset keeps them in groups.csv, image,group, a row for each image; there is none where each image is its own group.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsss.data.columns import Table, read_table
from wsss.data.ids import shown
from wsss.data.name_pattern import match_names
from wsss.data.parallel import some
from wsss.data.text import read_text
from wsss.errors import UserError
from wsss.storage import write_bytes

GROUPS = "groups.csv"
HEADER = ("image", "group")
_COLUMN, _NAME = "column:", "name:"


def read_groups(
    choice: str, ids: Sequence[str], images: Mapping[str, Path], names: Mapping[str, str], table: Path | None
) -> dict[str, str]:
    """The group of each image, by the user's choice.

    Args:
        choice: "column:NAME" of the table of tags, "name:REGEX" with a named group `group` over the file name or the
            path, or a file of two columns, image and group.
        ids: the images that need one.
        images: id to file of all images.
        names: id to path below the folder of images.
        table: the CSV of tags, where tags come from one.

    Raises:
        UserError: another choice, images without a group (all of them), a pattern that does not match them all.
    """
    if choice.startswith(_NAME):
        matches = match_names(choice.removeprefix(_NAME), {id: names[id] for id in ids}, ("group",))
        found = {id: (match["group"] or "").strip() for id, match in matches.items()}
    elif choice.startswith(_COLUMN):
        if table is None:
            raise UserError(f"--groups {choice} needs --tags FILE.csv with that column; tags come from elsewhere here")
        found = read_table(table).by_image(choice.removeprefix(_COLUMN), images)
    else:
        if not Path(choice).is_file():
            raise UserError(
                f"there is no file of groups {choice}; allowed: a CSV file with the columns image and group, "
                "column:NAME of the CSV of tags, or name:REGEX with a named group (?P<group>...)"
            )
        content = read_table(Path(choice))
        found = content.by_image(_group_column(content, images), images)
    if gaps := [shown(id) for id in ids if not found.get(id)]:
        raise UserError(
            f"--groups {choice} says nothing of {len(gaps):,} of {len(ids):,} images: {some(gaps)}; each needs one, "
            "an image on its own one of its own"
        )
    return {id: found[id] for id in ids}


def refuse_divided(splits: Mapping[str, Sequence[str]], groups: Mapping[str, str]) -> None:
    """Refuse splits that share a group.

    Args:
        splits: name to ids.
        groups: id to group.

    Raises:
        UserError: names the groups, with how many images each split has of them.
    """
    places: dict[str, Counter[str]] = defaultdict(Counter)
    for split, ids in splits.items():
        places_of = Counter(groups[id] for id in ids)
        for group, count in places_of.items():
            places[group][split] += count
    divided = [
        f"{shown(group)} ({', '.join(f'{count:,} in {split}' for split, count in counts.items())})"
        for group, counts in sorted(places.items())
        if len(counts) > 1
    ]
    if divided:
        raise UserError(
            f"{len(divided):,} of {len(places):,} groups are in more than one split: {some(divided)}; what was learnt "
            "of a group would be tested on it: move each into one split, or have splits chosen with --splits none"
        )


def sentence(groups: Mapping[str, str]) -> str:
    """How many groups there are, and how large they are."""
    counts = Counter(groups.values())
    least, most = min(counts.values()), max(counts.values())
    sizes = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    named = some([shown(group) for group in sorted(counts)], 3)
    return f"{len(counts):,} {'group' if len(counts) == 1 else 'groups'} of {sizes} images: {named}"


def write_groups(root: Path, groups: Mapping[str, str]) -> None:
    """Write `groups.csv` of a dataset atomically, sorted by id."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEADER)
    rows.writerows(sorted(groups.items()))
    write_bytes(root / GROUPS, text.getvalue().encode())


def read_written_groups(root: Path) -> dict[str, str]:
    """What `write_groups` wrote; nothing where each image is its own group.

    Raises:
        UserError: the file is damaged.
    """
    path = root / GROUPS
    if not path.is_file():
        return {}
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
        if tuple(rows[0]) != HEADER or any(len(row) != 2 or not row[1] for row in rows):
            raise ValueError(f"it must have the columns {', '.join(HEADER)}")
    except (csv.Error, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged ({error}); pull the dataset again or add it again") from None
    return dict(rows[1:])


def _group_column(table: Table, images: Mapping[str, Path]) -> str:
    others = [name for at, name in enumerate(table.header) if at != table.image_column(images)]
    if "group" in others:
        return "group"
    if len(others) == 1:
        return others[0]
    raise UserError(f"{table.path} has no column group, and more than one that may be meant: {some(others)}; rename it")
