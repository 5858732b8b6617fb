"""A dataset as one file that needs nothing else: what is in it, what it looks like, and what is wrong with it."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from wsss.dashboard.compare.nodes import Child, Node, el, markup
from wsss.data.alike import find_alike, sentence
from wsss.data.dataset import Dataset
from wsss.data.layout import SPLITS, TEST
from wsss.data.manifest import MASKS_FACT, open_manifest
from wsss.data.parallel import each
from wsss.data.summary import Summary, sizes, summary, with_class
from wsss.data.thumbnails import image_thumbnail, mask_thumbnail
from wsss.errors import UserError
from wsss.git import VERSION
from wsss.scores import Masks

MOST_TOGETHER = 40
"""So many classes, the most frequent, are shown with each other."""
MOST_EXAMPLES, OF_A_CLASS = 60, 3
_MOST_SIZES = 20
_ASSETS = Path(__file__).parents[1] / "assets"
_STYLE = """
.drawn caption { text-align: left; color: var(--quiet); padding: 0 0 .2rem; }
.drawn .together td { min-width: 1.9rem; border: 1px solid var(--line); }
.drawn .wide { overflow-wrap: anywhere; max-width: 18rem; }
.drawn .upright { max-height: 14rem; overflow-wrap: anywhere; }
dd, .drawn p { overflow-wrap: anywhere; max-width: 60rem; }
"""


def sheet(dataset: Dataset) -> tuple[str, list[str]]:
    """A dataset as an HTML page that opens without a network and runs no script.

    Every file is compared with what was added, every image and mask decoded, and images of different splits compared.

    Returns:
        The page, and the problems that were found, one sentence each.

    Raises:
        UserError: the dataset's manifest is damaged, or an image that is not of the test split has no tag row.
    """
    counted, problems = summary(dataset), problems_of(dataset)
    parts = [
        _facts(dataset),
        _section("problems", "Problems", _problems(problems)),
        _section("images", "Images", _images(dataset, counted)),
        _section("classes", "Images of each class", _classes(counted)),
        _section("together", "Classes that occur together", *_together(counted)),
        _section("sizes", "Sizes", *_sizes(dataset)),
        *_values(dataset),
        _section("examples", "Examples", _examples(dataset)),
    ]
    return _page(dataset.name, parts), problems


def problems_of(dataset: Dataset) -> list[str]:
    """What `wsss data check` finds, one sentence each."""
    found = []
    for look in (lambda: dataset.check(thorough=True), lambda: sentence(find_alike(dataset))):
        try:
            found.append(look())
        except UserError as error:
            found.append(str(error))
    return [problem for problem in found if problem]


def _facts(dataset: Dataset) -> Node:
    groups = f"{len(set(dataset.groups.values())):,} groups" if dataset.grouped else "each image is its own"
    facts = [
        ("kind", dataset.kind),
        ("classes", f"{len(dataset.classes)}" + ("" if dataset.has_background else ", no background")),
        ("tags from", dataset.tags_source),
        ("groups", groups),
        ("images are read", str(dataset.pixels) if dataset.pixels else "as RGB, as stored"),
        ("digest", dataset.digest),
        *(("note", note) for note in dataset.settings.get("notes", ())),
    ]
    return el("dl", [part for word, text in facts for part in (el("dt", word), el("dd", text))])


def _problems(problems: Sequence[str]) -> list[Node]:
    if not problems:
        return [el("p", "None: images, tags and masks are sound, and no two splits share an image.")]
    return [el("p", problem, class_="note") for problem in problems]


def _images(dataset: Dataset, counted: Summary) -> Node:
    rows: list[tuple[str, Sequence[int]]] = [
        ("images", counted.images),
        ("with a mask", counted.masked),
        ("without any class", counted.untagged),
    ]
    if dataset.grouped:
        rows.insert(1, ("groups", [len(set(dataset.groups_of(dataset.splits[split]))) for split in counted.splits]))
    head = _row("", [*counted.splits, "all"], "th")
    return _table(head, [_row(name, [f"{n:,}" for n in (*its, sum(its))]) for name, its in rows], "images by split")


def _classes(counted: Summary) -> Node:
    most = max(1, int(counted.tagged.sum(0).max()))
    rows = []
    for index, name in enumerate(counted.classes):
        its = counted.tagged[:, index].tolist()
        total = sum(its)
        cells = [el("td", f"{count:,}", class_="number") for count in its]
        bar = el("td", el("span", f"{total:,}", class_="figure"), class_="filled", style=f"--share: {total / most:.1%}")
        rows.append(el("tr", el("th", name, scope="row", class_="wide"), cells, bar))
    return _table(_row("class", [*counted.splits, "all"], "th"), rows, "images whose tags name the class")


def _together(counted: Summary) -> list[Node]:
    shown = counted.frequent(MOST_TOGETHER)
    both = counted.together[np.ix_(shown, shown)]
    apart = np.where(np.eye(len(shown), dtype=bool), 0, both)
    most = max(1, int(apart.max()))
    names = [counted.classes[index] for index in shown]
    head = el("tr", el("th", "", scope="col"), [el("th", name, scope="col", class_="upright") for name in names])
    rows = []
    for row, name in enumerate(names):
        cells = [
            el("td", el("strong", f"{count:,}"), title=f"{name}: {count:,} images")
            if row == column
            else el(
                "td",
                f"{count:,}" if count else "·",
                class_="shade right",
                style=f"--share: {80 * count / most:.0f}%",
                title=f"{name} and {names[column]}: {count:,} images",
            )
            for column, count in enumerate(both[row].tolist())
        ]
        rows.append(el("tr", el("th", name, scope="row", class_="wide"), cells))
    note = (
        f"The {len(shown)} most frequent of {len(counted.classes)} classes."
        if len(shown) < len(counted.classes)
        else ""
    )
    caption = "images whose tags name both; bold: all images of a class"
    return [*([el("p", note, class_="quiet")] if note else []), _table(head, rows, caption, "heat together")]


def _sizes(dataset: Dataset) -> list[Node]:
    found = sizes(dataset)
    counts = sorted(found.counts.items(), key=lambda item: (-item[1], item[0]))
    parts = []
    if found.unread:
        some = ", ".join(found.unread[:5])
        parts.append(el("p", f"The size of {len(found.unread):,} images can't be read, such as {some}.", class_="note"))
    if not counts:
        return [*parts, el("p", "No image has a size that can be read.")]
    if len(counts) == 1:
        (height, width), count = counts[0]
        return [*parts, el("p", f"All {count:,} images are {width} x {height} px.")]
    widths, heights = [width for (_, width), _ in counts], [height for (height, _), _ in counts]
    said = f"{len(counts):,} sizes: {min(widths)} to {max(widths)} px wide, {min(heights)} to {max(heights)} px high"
    if len(counts) > _MOST_SIZES:
        said += f"; the {_MOST_SIZES} most frequent:"
    rows = [_row(f"{width} x {height}", [f"{count:,}"]) for (height, width), count in counts[:_MOST_SIZES]]
    head = _row("width x height, px", ["images"], "th")
    return [*parts, el("p", said), _table(head, rows, "sizes of images")]


def _values(dataset: Dataset) -> list[Node]:
    values = open_manifest(dataset.root).facts.get(MASKS_FACT)
    if not values:
        return []
    rows = [
        el(
            "tr",
            el("th", value, scope="row"),
            el("td", its["name"], class_="wide"),
            [el("td", number, class_="number") for number in (str(its["index"]), f"{its['pixels']:,}")],
        )
        for value, its in values.items()
    ]
    head = _row("value", ["stands for", "index now", "pixels"], "th")
    return [_section("values", "Values of the masks that were added", _table(head, rows, "values of masks"))]


def _examples(dataset: Dataset) -> Node:
    chosen = example_ids(dataset)
    split_of = {id: split for split in (*SPLITS, TEST) for id in dataset.splits.get(split, ())}
    return el("ul", each(lambda id: _example(dataset, id, split_of[id]), chosen, "drawing examples"), class_="examples")


def example_ids(dataset: Dataset) -> list[str]:
    """Images that show each class, or none: of train first, `OF_A_CLASS` of each and `MOST_EXAMPLES` in all."""
    of_classes = [
        [id for split in SPLITS for id in with_class(dataset, split, number)[:OF_A_CLASS]][:OF_A_CLASS]
        for number in (*range(1, len(dataset.classes) + 1), 0)
    ]
    in_turn = (ids[place] for place in range(OF_A_CLASS) for ids in of_classes if place < len(ids))
    test = dataset.splits.get(TEST, ())[:OF_A_CLASS]
    chosen = set([*dict.fromkeys(in_turn)][: MOST_EXAMPLES - len(test)]) | set(test)
    order = (id for ids in of_classes for id in ids)
    return [id for id in dict.fromkeys((*order, *test)) if id in chosen]


def _example(dataset: Dataset, id: str, split: str) -> Node:
    tags = (", ".join(dataset.tag_names(id)) or "no class") if dataset.has_tags(id) else "no tags"
    masks = Masks(dataset)
    try:
        pictures = [_picture("image/jpeg", image_thumbnail(dataset, id), f"{id}: {tags}")]
        if masks.path(id) is not None:
            pictures.append(_picture("image/png", mask_thumbnail(masks.read(id)), f"mask of {id}"))
    except UserError as error:
        pictures = [el("p", str(error), class_="note")]
    return el(
        "li",
        el("span", pictures, class_="pictures"),
        el("span", id, class_="id"),
        el("span", f"{split}: {tags}", class_="tags"),
    )


def _picture(kind: str, content: bytes, said: str) -> Node:
    return el("img", src=f"data:{kind};base64,{base64.b64encode(content).decode()}", alt=said)


def _section(key: str, title: str, *body: Child | Sequence[Child]) -> Node:
    return el("section", el("h2", title), *body, id=key)


def _row(name: str, cells: Collection[str], tag: str = "td") -> Node:
    scope = {"scope": "col"} if tag == "th" else {}
    first = el("th", name, scope="col" if tag == "th" else "row")
    return el("tr", first, [el(tag, cell, class_="number", **scope) for cell in cells])


def _table(head: Node, rows: Sequence[Node], caption: str, kind: str = "plain") -> Node:
    made = el("table", el("caption", caption), el("thead", head), el("tbody", rows), class_=kind)
    return el("div", made, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _page(name: str, parts: Sequence[Node]) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    body = el(
        "body",
        el("header", el("span", "wsss", class_="brand"), el("span", f"version {VERSION}", class_="quiet")),
        el("main", el("h1", f"Dataset {name}"), parts, class_="drawn"),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{markup(el("title", f"Dataset {name}"))}'
        f"<style>{_style()}</style></head>{markup(body)}</html>\n"
    )


@cache
def _style() -> str:
    paths = [_ASSETS / "wsss.css", _ASSETS / "compare.css", _ASSETS / "data.css"]
    return "\n".join([*(path.read_text(encoding="utf-8") for path in paths), _STYLE])
