"""A comparison as one file that needs nothing else: the Compare page's sections, and the viewer with its images."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from wsss.dashboard.compare import scored, ways
from wsss.dashboard.compare.chosen import MOST, one_of, place
from wsss.dashboard.compare.elements import Names, section, table
from wsss.dashboard.compare.nodes import Node, el, markup
from wsss.dashboard.masks.files import QUALITY
from wsss.dashboard.masks.shown_maps import Wanted, shown
from wsss.dashboard.reading import Reading
from wsss.errors import UserError
from wsss.git import VERSION
from wsss.scores import Masks
from wsss.scores.metric_names import IOU
from wsss.tables.comparison import Comparison, compare
from wsss.tracking import names as known
from wsss.tracking.maps import grey_png
from wsss.tracking.query import RunRecord

LARGEST_MB = 30
"""The largest report: what a browser opens at once and a mail still carries."""
_ASSETS = Path(__file__).parents[1] / "assets"


def report(
    reading: Reading, run_ids: Sequence[str], *, split: str = "", what: str = "", base: str = "", images: int = 12
) -> str:
    """The comparison of runs as an HTML page that opens without a network.

    Args:
        reading: of the tracking store.
        run_ids: 1 to `MOST` methods' runs.
        split, what: what is compared; empty for the most telling that the runs have.
        base: the id of the run that differences are taken to; empty for the first.
        images: how many images go into the viewer, the worst ones; 0 for none.

    Raises:
        UserError: too many runs, a run that is none, a base that is not among them, a report larger than `LARGEST_MB`,
            or the tracking store can't be used.
    """
    ids = list(dict.fromkeys(run_ids))
    if not 1 <= len(ids) <= MOST:
        raise UserError(f"a report compares 1 to {MOST} runs, these are {len(ids)}")
    runs = []
    for found in reading.whole(ids):
        if isinstance(found, UserError):
            raise found
        runs.append(found)
    if base and base not in ids:
        raise UserError(f"the base {base} is not among the runs; choose one of {', '.join(ids)}")
    split, what = place(runs, split, what)
    comparison = compare(runs, split, what, reading.evaluation)
    base = one_of(runs, base, split, what)
    sections = _sections(comparison, Names.of(runs), base, reading)
    pictures, data = _pictures(reading, comparison, images)
    page = _page([*sections[:3], pictures, *sections[3:]], data)
    if len(page.encode()) > LARGEST_MB * 1_000_000:
        raise UserError(
            f"the report would have {len(page.encode()) / 1e6:.0f} MB, more than {LARGEST_MB}; take fewer images with "
            "--images, or fewer runs"
        )
    return page


def _sections(comparison: Comparison, names: Names, base: str, reading: Reading) -> list[Node]:
    runs = comparison.runs
    measures = ["fp", "fn"] if comparison.evaluations else []
    confusions = [
        el(
            "details",
            el("summary", f"Confusion of {text}"),
            scored.confusion(comparison, names, run.id, _nowhere, f"confusion-{number}"),
            open=number == 1,
        )
        for number, (run, text) in enumerate(zip(runs, names.texts, strict=True), 1)
    ]
    errors = [scored.heat(comparison, names, measure, "worst", _nowhere, f"heat-{measure}") for measure in measures]
    parts = [
        el("div", scored.said(comparison, names), _runs(runs, names)),
        scored.heat(comparison, names, IOU, "worst", _nowhere),
        scored.means(comparison, names, base),
        scored.differences(comparison, names, base, "worst"),
        ways.rungs(runs, names),
        el("div", confusions),
        el("details", el("summary", "FP and FN of each class"), errors) if errors else None,
        *ways.differing(runs, names),
        ways.losses(reading.losses(runs), names, False),
    ]
    return [part for part in parts if part]


def _runs(runs: Sequence[RunRecord], names: Names) -> Node:
    """Which runs these are, so that whoever has the file finds them again."""
    said = ("run", "preset", "dataset", "rng", "supervision", "backbone", "begun", "id", "command")
    rows = [
        el(
            "tr",
            el("th", name, scope="row"),
            [
                el("td", text)
                for text in (
                    run.preset,
                    run.dataset,
                    str(run.rng),
                    ", ".join(sorted(run.supervision)) or "tags",
                    run.tags.get(known.BACKBONE, ""),
                    f"{run.start:%Y-%m-%d %H:%M} UTC",
                    run.id,
                    run.tags.get(known.COMMAND, ""),
                )
            ],
        )
        for run, name in zip(runs, names.short, strict=True)
    ]
    return section("runs", "Runs", table(el("tr", [el("th", text, scope="col") for text in said]), rows, "texts"))


def _pictures(reading: Reading, comparison: Comparison, number: int) -> tuple[Node, dict[str, Any]]:
    """The viewer's place with the list of its images, and what it shows: configuration, and bytes as base64."""
    runs, split, what = comparison.runs, comparison.split, comparison.what
    title = f"Images, the worst of {split} first"
    none = el("p", "No images were asked for.", class_="quiet")
    if not number:
        return section("images", title, none, copied=False), {}
    wanted = Wanted(runs[0].dataset, split, tuple(run.id for run in runs), (what,), "worst")
    found = shown(reading, wanted)
    if found is None or not found.ordered.images:
        sentences = found.notes if found else ()
        body = [el("p", sentence, class_="note") for sentence in sentences or ("No run logged maps.",)]
        return section("images", title, body, copied=False), {}
    chosen = found.ordered.images[:number]
    ids = [image_id for image_id, _ in chosen]
    viewer = found.viewer | {"images": ids}
    for tile in viewer["tiles"]:
        tile["maps"] = {image_id: facts for image_id, facts in tile["maps"].items() if image_id in ids}
    files: dict[str, Any] = _dataset_files(reading, wanted.dataset, ids, viewer["truth"])
    files["map"] = {
        tile["run"]: {
            image_id: _text(reading.maps(tile["run"], tile["what"]).png(image_id)) for image_id in tile["maps"]
        }
        for tile in viewer["tiles"]
    }
    rows = [
        el(
            "tr",
            el("th", el("button", image_id, type="button", data_image=image_id), scope="row"),
            [el("td", text, class_="number") for text in cells],
        )
        for image_id, cells in chosen
    ]
    head = el("tr", [el("th", text, scope="col") for text in ("image", *found.ordered.columns)])
    notes = [el("p", sentence, class_="note") for sentence in found.notes]
    body = [
        *notes,
        el("div", el("div", table(head, rows, "texts"), class_="list"), el("div", id="viewer"), class_="images"),
    ]
    note = (
        f"{len(ids)} of the {len(found.ordered.images)} images whose maps were logged. Keys: n and p go on and back, "
    )
    note += "? lists the others."
    return section("images", title, body, note=note, copied=False), {"viewer": viewer, "files": files}


def _dataset_files(reading: Reading, dataset: str, ids: Sequence[str], truth: bool) -> dict[str, dict[str, str]]:
    """Photographs and masks; none where the dataset is not here, which the notes of `shown` say."""
    try:
        opened = reading.dataset(dataset)
        masks = Masks(opened)
        photographs, of_masks = {}, {}
        for image_id in ids:
            file = io.BytesIO()
            Image.fromarray(opened.image(image_id)).save(file, "JPEG", quality=QUALITY)
            photographs[image_id] = _text(file.getvalue())
            if truth and masks.path(image_id) is not None:
                of_masks[image_id] = _text(grey_png(masks.read(image_id)))
    except UserError:
        return {"image": {}, "mask": {}}
    return {"image": photographs, "mask": of_masks}


def _page(sections: Sequence[Node], data: dict[str, Any]) -> str:
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    # "<" would let a name end the element that it stands in.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    body = el(
        "body",
        el("header", el("span", "wsss", class_="brand"), el("span", f"version {VERSION}", class_="quiet")),
        el("main", el("h1", "Comparison of runs"), sections, class_="drawn"),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Comparison of runs</title>'
        f"<style>{_style()}</style></head>{markup(body).removesuffix('</body>')}"
        f'<script type="application/json" id="data">{text}</script><script>{script}</script></body></html>\n'
    )


@cache
def _script() -> str:
    """The viewer as it is, what copies tables, and what joins them to this file."""
    viewer = sorted((_ASSETS / "viewer").glob("*.js"))
    paths = [*viewer, _ASSETS / "compare.js", Path(__file__).with_name("report.js")]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


@cache
def _style() -> str:
    paths = [_ASSETS / "wsss.css", _ASSETS / "viewer.css", _ASSETS / "compare.css"]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def _nowhere(runs: Sequence[RunRecord], **where: str) -> None:
    """A file leads nowhere."""


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
