"""Lists of images that people and their tools write: one image a line, by id or file name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from wsss.data.ids import fit, shown
from wsss.data.images import SUFFIXES
from wsss.data.parallel import some
from wsss.data.text import read_lines
from wsss.errors import UserError

_MEMBER = re.compile(r"\s*(\S.*?)\s+1\s*")
_NO_MEMBER = re.compile(r".*\s(-1|0)\s*")
_PAIR = re.compile(r"\s*(\S+)[\s,]+(\S+)\s*")


def read_ids(
    path: Path,
    images: Mapping[str, Path],
    blame: str = "there is no image file for {}; add the files or take the lines out",
) -> tuple[str, ...]:
    """The ids of a list, in its order; blank lines are skipped.

    A line is an id or a file name (see `wsss.data.ids.fit`), or one of VOC's lists of a class, "ID 1", or a pair of an
    image and its mask of the same name, as DeepLab's lists have them.

    Args:
        path: the list.
        images: id to file of the images that may stand in it.
        blame: what is said of lines that mean none of these, `{}` for the lines.

    Raises:
        UserError: no such list, not text, an image that stands there twice, lines that mean no image.
    """
    if not path.is_file():
        raise UserError(f"there is no list {path}")
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    plain = fit([line for _, line in lines], images, str(path), [f"line {number}" for number, _ in lines])
    names = [line for _, line in lines]
    for position in plain.strangers:
        names[position] = _image_in(names[position])
    found = fit(names, images, str(path), [f"line {number}" for number, _ in lines])
    if strangers := [lines[position] for position in found.strangers]:
        problem = blame.replace("{}", some([shown(line.strip()) for _, line in strangers]))
        if any(_NO_MEMBER.fullmatch(line) for _, line in strangers):
            problem += "; lines that end in 0 or -1 say that an image does not belong, take them out"
        raise UserError(f"{path}, line {strangers[0][0]}: {problem}")
    return tuple(sorted(found.positions, key=found.positions.__getitem__))


def _image_in(line: str) -> str:
    """The image of a line of two columns; any other line is given back."""
    if member := _MEMBER.fullmatch(line):
        return member[1]
    if pair := _PAIR.fullmatch(line):
        image, mask = Path(pair[1]), Path(pair[2])
        if image.stem == mask.stem and {image.suffix.lower(), mask.suffix.lower()} <= SUFFIXES:
            return pair[1]
    return line
