"""Whether label maps agree with the tags of their images.

Two people wrote them, often with two lists of classes: where they contradict each other, every figure would be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss.classes import BACKGROUND, IGNORE, VOC
from wsss.data.palette_png import voc_indices
from wsss.data.parallel import each, some
from wsss.errors import UserError, unknown

if TYPE_CHECKING:
    from wsss.data.dataset import Dataset

MASKS_LIMIT = 0.1
"""The share of masks that may disagree; on VOC 2012 and SBD it is below 0.01."""
VALUE_255 = ("void", "object")
"""What 255 may stand for where it is all that there is beside 0."""


OBJECT_OF_MANY = (
    "--value-255 object needs a dataset of one class, or --tags folders, where an object is of its folder's class; "
    "write objects as their class index"
)


def answers(max_disagreement: float | None = None, value_255: str | None = None) -> dict[str, Any]:
    """What the user says of masks and tags, as a dataset's settings keep it.

    Args:
        max_disagreement: the share of masks that may disagree with their image's tags, 0 to 1; None for `MASKS_LIMIT`.
        value_255: "void" or "object", or None where the question does not arise.

    Raises:
        UserError: another share or word.
    """
    if max_disagreement is not None and not 0 <= max_disagreement <= 1:
        raise UserError(f"--max-disagreement {max_disagreement:g} is no share; allowed: 0 to 1")
    if value_255 is not None and value_255 not in VALUE_255:
        raise unknown("meaning of 255", value_255, VALUE_255)
    said = {"max_disagreement": max_disagreement, "value_255": value_255}
    return {key: value for key, value in said.items() if value is not None}


@dataclass(frozen=True)
class Agreement:
    """How label maps agree with the tags of their images.

    Attributes:
        images: how many were compared.
        differing: id to what is said of it, such as "tag cat, mask shows dog": the maps that show a class that the tags
            exclude, or none of those that they name.
        partial: the ids of maps that show only some of the tagged classes, as small and void objects have it.
        void_alone: no map shows a class, and some hold 255.
    """

    images: int
    differing: Mapping[str, str]
    partial: tuple[str, ...]
    void_alone: bool

    @property
    def share(self) -> float:
        """The share of maps that differ, 0 to 1."""
        return len(self.differing) / max(1, self.images)

    def sentence(self, what: str) -> str:
        """How many disagree, and which pairs; empty where all agree and few show only some of the tagged classes."""
        parts = []
        if self.differing:
            pairs = [f"{pair}: {count:,}" for pair, count in Counter(self.differing.values()).most_common()]
            parts.append(
                f"{len(self.differing):,} of {self.images:,} {what} disagree with their image's tags "
                f"({some(pairs, 5)}; such as {some(sorted(self.differing), 3)})"
            )
        if len(self.partial) > MASKS_LIMIT * self.images:
            parts.append(
                f"{len(self.partial):,} of {self.images:,} {what} show only some of their image's tags "
                f"(such as {some(sorted(self.partial), 3)})"
            )
        return "; ".join(parts)


def compare(values: Mapping[str, frozenset[int]], dataset: Dataset, *, void_hides: bool = False) -> Agreement:
    """Compare label maps with the tags of a dataset.

    Args:
        values: id to the values in its label map.
        dataset: whose tags they are.
        void_hides: a map that shows none of the tagged classes, but 255, agrees.
    """
    differing, partial = {}, []
    for id, found in values.items():
        shown = {dataset.classes.names[value - 1] for value in found if 0 < value <= len(dataset.classes)}
        tags = set(dataset.tag_names(id))
        hidden = void_hides and IGNORE in found
        if shown - tags or (tags and not shown and not hidden):
            differing[id] = _pair(tags - shown or tags, shown - tags, IGNORE in found)
        elif tags - shown:
            partial.append(id)
    foreground = any(value not in (0, IGNORE) for found in values.values() for value in found)
    return Agreement(
        images=len(values),
        differing=differing,
        partial=tuple(partial),
        void_alone=not foreground and any(IGNORE in found for found in values.values()),
    )


def check_masks(values: Mapping[str, frozenset[int]], paths: Mapping[str, Path], dataset: Dataset, mend: str) -> str:
    """Compare the masks of a dataset with its tags.

    Args:
        values: id to the values in its mask.
        paths: id to the mask's file.
        dataset: whose settings hold the user's `answers`.
        mend: how the user gives an answer, with ANSWER in its place.

    Returns:
        What the user should know all the same; empty where all agree.

    Raises:
        UserError: more masks disagree than may, nobody has said what 255 stands for, or the palettes' indices change
            from mask to mask.
    """
    said = dataset.settings.get("value_255")
    agreement = compare(values, dataset, void_hides=said == "void")
    if agreement.void_alone and said is None:
        raise UserError(_question(dataset, mend))
    limit = dataset.settings.get("max_disagreement", 1 if dataset.settings.get("tag_noise") else MASKS_LIMIT)
    from_masks = dataset.tags_source == "masks"
    palettes, changing = _palettes([paths[id] for id in (values if from_masks else agreement.differing)])
    sentence = "; ".join(part for part in (agreement.sentence("masks"), palettes) if part)
    if (agreement.share > limit or (from_masks and changing)) and limit < 1:
        raise UserError(
            f"dataset {dataset.name} can't be used: {sentence}. At most {limit:.0%} may disagree. Indices are read as "
            f"{_order(dataset)}: if the masks count otherwise, give their order with --classes FILE, else mend the "
            f"masks or the tags; if this is meant, {mend.replace('ANSWER', '--max-disagreement 1')}"
        )
    return sentence


def check_labels(values: Mapping[str, frozenset[int]], dataset: Dataset, folder: Path, limit: float) -> str:
    """Compare label maps from elsewhere with the tags of a dataset.

    Args:
        values: id to the values in its label map.
        dataset: whose tags they are.
        folder: where they lie, for the error.
        limit: the share of them that may disagree, 0 to 1.

    Returns:
        What the user should know all the same; empty where all agree.

    Raises:
        UserError: more disagree than may.
    """
    agreement = compare(values, dataset)
    sentence = agreement.sentence("label maps")
    if agreement.share > limit:
        void = f"Beside 0 they hold {IGNORE} alone, which is void: write objects as their class index. "
        raise UserError(
            f"the label maps in {folder} don't fit {dataset.name}: {sentence}. At most {limit:.0%} may. "
            f"{void if agreement.void_alone else ''}Indices are read as {_order(dataset)}; if this is meant, allow it "
            "with --max-disagreement 1"
        )
    return sentence and f"{folder}: {sentence}"


def _pair(tags: set[str], shown: set[str], void: bool) -> str:
    named = f"tag {' and '.join(sorted(tags))}" if tags else "no tag"
    return f"{named}, mask shows {' and '.join(sorted(shown)) or ('void alone' if void else 'nothing')}"


def _order(dataset: Dataset) -> str:
    return some([f"{index} {name}" for index, name in enumerate(dataset.classes.names, 1)], 20)


def _question(dataset: Dataset, mend: str) -> str:
    void = mend.replace("ANSWER", "--value-255 void")
    if len(dataset.classes) > 1:
        way = f"write each object as its class index ({_order(dataset)})"
    else:
        way = f"{mend.replace('ANSWER', '--value-255 object')} (it becomes index 1, {dataset.classes.names[0]})"
    return (
        f"dataset {dataset.name} can't be used: its masks hold 0 and {IGNORE} alone, and {IGNORE} is void, where "
        f"nothing is scored. If it stands for the object, {way}; if it is void, {void}"
    )


def _palettes(paths: list[Path]) -> tuple[str, bool]:
    """What to say of palettes with VOC's colours under other indices, and whether an index changes its colour."""
    found = dict(zip(paths, each(voc_indices, paths, "comparing colours"), strict=True))
    moved = {path: colours for path, colours in found.items() if any(index != voc for index, voc in colours.items())}
    if not moved:
        return "", False
    path, colours = next(iter(moved.items()))
    index, voc = next((index, voc) for index, voc in colours.items() if index != voc)
    name = {0: BACKGROUND, IGNORE: "void"}.get(voc) or VOC[voc - 1]
    meanings = {pair for colours in found.values() for pair in colours.items()}
    note = (
        f"{len(moved):,} palettes have VOC's colours under other indices, as an optimiser leaves them (in {path.name} "
        f"index {index} has the colour of VOC's {voc}, {name})"
    )
    return note, len(meanings) > len({index for index, _ in meanings})
