"""What the page Masks shows, from what its address asks for: runs, things drawn, images in order, and what to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsss.commands import command
from wsss.dashboard.masks import image_order
from wsss.dashboard.masks.image_order import DISAGREE, SORTS, WORST, Ordered
from wsss.dashboard.page import State, listed
from wsss.dashboard.reading import Reading
from wsss.data.workspace import dataset_names
from wsss.errors import UserError
from wsss.scores import Masks
from wsss.scores.evaluation import Evaluation
from wsss.tracking.maps import LABELS, Maps
from wsss.tracking.query import RunRecord

SPLITS = ("val", "dev", "train")
FIGURE = ("cam", "background", "affinity", "labels_crf")
"""Figure 5 of the slides, beside the image and the truth."""
MOST_RUNS = 8
_BY_DEFAULT = 4


@dataclass(frozen=True)
class Wanted:
    """What an address, or the choosers, ask for; what is empty is chosen for them."""

    dataset: str = ""
    split: str = ""
    runs: tuple[str, ...] = ()
    what: tuple[str, ...] = ()
    sort: str = ""
    confused: str = ""

    @classmethod
    def of(cls, state: State) -> Wanted:
        """What an address asks for."""
        one = {key: state.get(key, "") for key in ("dataset", "split", "sort", "confused")}
        return cls(**one, runs=tuple(listed(state, "runs")), what=tuple(listed(state, "what")))


@dataclass(frozen=True)
class Shown:
    """What is shown.

    Attributes:
        wanted: with everything chosen.
        runs: that are shown, by the letter that stands for each.
        datasets, splits, whats, sorts, confusions: what there is to choose from, value to text.
        others: the runs that could be shown.
        notes: sentences about what is not as it was asked for.
        ordered: the images.
        viewer: what the browser is handed, JSON-ready.
    """

    wanted: Wanted
    runs: Mapping[str, RunRecord]
    datasets: Sequence[str]
    splits: Mapping[str, str]
    whats: Sequence[str]
    sorts: Mapping[str, str]
    confusions: Mapping[str, str]
    others: Sequence[RunRecord]
    notes: Sequence[str]
    ordered: Ordered
    viewer: dict[str, Any]


def shown(reading: Reading, wanted: Wanted) -> Shown | None:
    """What is shown; None where there is no run yet.

    Raises:
        UserError: the tracking store can't be used.
    """
    every, notes = reading.runs(), list[str]()
    named = _named(reading, every, wanted.runs, notes)
    if not every and not named:
        return None
    dataset = wanted.dataset or (named or every)[0].dataset
    for run in named:
        if run.dataset != dataset:
            notes.append(f"Run {run.id} is of dataset {run.dataset}, not of {dataset}: left out.")
    runs = [run for run in named if run.dataset == dataset]
    if not wanted.runs or not (runs or notes):
        runs = _by_default(reading, every, dataset)
    if len(runs) > MOST_RUNS:
        notes.append(f"The first {MOST_RUNS} of {len(runs)} runs are shown.")
    maps = {run.id: _maps(reading, run, notes) for run in runs[:MOST_RUNS]}
    letters = {chr(ord("A") + place): run for place, run in enumerate(runs[:MOST_RUNS])}
    splits = _splits(maps)
    split = wanted.split or next(iter(splits), SPLITS[0])
    there = sorted({(read.place, what) for of in maps.values() for what, read in of.items() if read.ids(split)})
    whats = list(dict.fromkeys(what for _, what in there))
    lacking = [what for what in wanted.what if what not in whats]
    if lacking and wanted.what != FIGURE:
        notes.append(f"No maps of {', '.join(lacking)} on {split}; there are {', '.join(whats) or 'none'}.")
    what = tuple(w for w in wanted.what if w in whats) or tuple(whats[-1:])
    tiles = [
        (letter, run, name, maps[run.id][name])
        for letter, run in letters.items()
        for name in what
        if name in maps[run.id] and maps[run.id][name].ids(split)
    ]
    ids = list(dict.fromkeys(image_id for *_, read in tiles for image_id in read.ids(split)))
    evaluations = _evaluations(reading, letters, split, what, notes)
    names = tiles[0][3].names if tiles else ()
    if any(read.names != names for *_, read in tiles):
        notes.append("The classes of these runs differ: each picture says its own names, the switches the first run's.")
    sort = wanted.sort if wanted.sort in (*SORTS, *names) else WORST
    ordered, confused = _ordered(ids, evaluations, tiles, sort, wanted.confused, notes)
    unmasked = _unmasked(reading, dataset, ids, notes)
    chosen = Wanted(dataset, split, tuple(run.id for run in letters.values()), what, sort, confused)
    return Shown(
        wanted=chosen,
        runs=letters,
        datasets=sorted({run.dataset for run in every} | set(dataset_names()) | {dataset}),
        splits=splits or {split: split},
        whats=whats,
        sorts={**SORTS, **{name: f"IoU of {name}" for name in names}},
        confusions=_confusions(ids, list(evaluations.values()), confused),
        others=[run for run in every if run.dataset == dataset and run.status == "FINISHED"],
        notes=notes,
        ordered=ordered,
        viewer=_viewer(chosen, tiles, names, ordered, unmasked),
    )


def _named(reading: Reading, every: Sequence[RunRecord], ids: Sequence[str], notes: list[str]) -> list[RunRecord]:
    """The runs of an address; those that are none are said."""
    by_id, found = {run.id: run for run in every}, []
    for run_id in dict.fromkeys(ids):
        try:
            found.append(by_id.get(run_id) or reading.run(run_id))
        except UserError as error:
            notes.append(f"{error}.")
    return found


def _by_default(reading: Reading, every: Sequence[RunRecord], dataset: str) -> list[RunRecord]:
    """The newest run of each method that shows maps; without any the newest."""
    of_method: dict[str, RunRecord] = {}
    finished = [run for run in every if run.dataset == dataset and run.status == "FINISHED"]
    for run in finished[:50]:
        if len(of_method) < _BY_DEFAULT and run.method not in of_method and _shows(reading, run):
            of_method[run.method] = run
    return list(of_method.values()) or finished[:1]


def _shows(reading: Reading, run: RunRecord) -> bool:
    try:
        return bool(reading.drawn(run))
    except UserError:
        return False


def _maps(reading: Reading, run: RunRecord, notes: list[str]) -> dict[str, Maps]:
    """What a run shows; why not is said."""
    try:
        found = {what: reading.maps(run.id, what) for what in reading.drawn(run)}
    except UserError as error:
        notes.append(f"{error}.")
        return {}
    if not found and run.status == "RUNNING":
        notes.append(f"Run {run.id} ({run.method}) is still going: its maps come when it ends.")
    elif not found:
        again = command("wsss", "run", "--method", run.method, "--preset", run.preset, "--data", run.dataset)
        notes.append(f"Run {run.id} ({run.method}) logged no maps; run it again with this version: {again}")
    return found


def _splits(maps: Mapping[str, Mapping[str, Maps]]) -> dict[str, str]:
    """The splits of which there are maps, with how many images of how many."""
    found = {}
    for split in SPLITS:
        counts = [
            (len(ids), read.of.get(split, 0))
            for of in maps.values()
            for read in of.values()
            if (ids := read.ids(split))
        ]
        if counts:
            logged, total = max(counts)
            found[split] = f"{split} ({logged:,} of {total:,})"
    return found


def _evaluations(
    reading: Reading, letters: Mapping[str, RunRecord], split: str, what: Sequence[str], notes: list[str]
) -> dict[str, Evaluation]:
    """The evaluations of the last thing shown that is scored, by the runs' letters."""
    for name in reversed(what):
        found = {}
        for letter, run in letters.items():
            try:
                evaluation = reading.evaluation(run, split, name)
            except UserError as error:
                notes.append(f"{error}.")
                continue
            if evaluation is not None:
                found[letter if len(letters) > 1 else "mIoU"] = evaluation
        if found:
            return found
    return {}


def _ordered(
    ids: Sequence[str],
    evaluations: Mapping[str, Evaluation],
    tiles: Sequence[tuple[str, RunRecord, str, Maps]],
    sort: str,
    confused: str,
    notes: list[str],
) -> tuple[Ordered, str]:
    """The images in order, and the confusion by which they are; empty for none."""
    if confused:
        classes = [name for evaluation in evaluations.values() for name in evaluation.classes]
        if pair := image_order.pair_of(confused, classes):
            return image_order.by_confusion(ids, evaluations, *pair), confused
        notes.append(f"No classes are scored here of which {confused} could be the confusion.")
    if sort == DISAGREE:
        labels = tuple((run.id, what) for _, run, what, read in tiles if read.kind == LABELS)
        if len(labels) > 1:
            return image_order.by_disagreement(ids, labels), ""
        notes.append("One map alone can't disagree: choose another run, or another thing to show.")
    if evaluations:
        return image_order.by_score(ids, evaluations, WORST if sort == DISAGREE else sort), ""
    if ids:
        notes.append("Nothing here is scored against masks: images are listed by name.")
    return image_order.by_name(ids), ""


def _confusions(ids: Sequence[str], evaluations: Sequence[Evaluation], chosen: str) -> dict[str, str]:
    found = {
        f"{truth}:{taken}": f"{truth} taken for {taken} ({count:,} px)"
        for truth, taken, count in image_order.confusions(ids, evaluations)
    }
    return found | ({chosen: chosen} if chosen and chosen not in found else {})


def _unmasked(reading: Reading, name: str, ids: Sequence[str], notes: list[str]) -> list[str] | None:
    """The images that have no mask; None where the photographs are not here, which is said."""
    try:
        masks = Masks(reading.dataset(name))
        return [image_id for image_id in ids if masks.path(image_id) is None]
    except UserError as error:
        add = command("wsss", "data", "add")
        notes.append(f"The maps stand on grey: {error}. Bring the photographs of {name} here with {add}")
        return None


def _viewer(
    wanted: Wanted,
    tiles: Sequence[tuple[str, RunRecord, str, Maps]],
    names: Sequence[str],
    ordered: Ordered,
    unmasked: list[str] | None,
) -> dict[str, Any]:
    several = len(wanted.runs) > 1
    return {
        "dataset": wanted.dataset,
        "names": list(names),
        "photo": unmasked is not None,
        "truth": unmasked is not None and len(unmasked) < len(ordered.images),
        "unmasked": unmasked or [],
        "columns": list(ordered.columns),
        "images": [{"id": image_id, "cells": list(cells)} for image_id, cells in ordered.images],
        "tiles": [
            {
                "title": f"{letter} {run.method}: {what}" if several else what,
                "kind": read.kind,
                "run": run.id,
                "what": what,
                "names": list(read.names) if list(read.names) != list(names) else None,
                "maps": {
                    image_id: {"size": read.images[image_id].size, "classes": read.images[image_id].classes}
                    for image_id in read.ids(wanted.split)
                },
            }
            for letter, run, what, read in tiles
        ],
    }
