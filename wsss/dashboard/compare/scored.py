"""What a comparison says of the scores: classes x runs, means, differences to a base, confusions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wsss.dashboard.compare import charts
from wsss.dashboard.compare.elements import Link, Names, linked, percent, points, section, span, table
from wsss.dashboard.compare.nodes import Child, Node, el
from wsss.scores.metric_names import IOU
from wsss.tables.comparison import MEASURES, Comparison, Difference, references

ORDERS = {"worst": "worst first", "index": "class order"}


def said(comparison: Comparison, names: Names) -> list[Node]:
    """What is not as one would expect: runs that can't be compared, classes, datasets and images that differ."""
    sentences = [
        f"{name}: {comparison.absent[run.id]}"
        for name, run in zip(names.texts, comparison.runs, strict=True)
        if run.id in comparison.absent
    ]
    sentences += [
        f"{name} {'is still going' if run.status == 'RUNNING' else f'ended as {run.status}'}; here is what it has."
        for name, run in zip(names.texts, comparison.runs, strict=True)
        if run.status != "FINISHED"
    ]
    if len(comparison.runs) == 1:
        sentences.append("This is one run; choose more to compare it with.")
    datasets = sorted({run.dataset for run in comparison.runs})
    if len(datasets) > 1:
        sentences.append(f"The runs are on different datasets: {', '.join(datasets)}.")
    if comparison.left_out and comparison.classes:
        left_out = ", ".join(comparison.left_out)
        sentences.append(f"Compared over the {len(comparison.classes)} classes that all have; left out: {left_out}.")
    elif comparison.left_out:
        sentences.append("The runs share no class, so that nothing can be compared class by class.")
    return [el("p", sentence, class_="note") for sentence in sentences]


def classes_in_order(comparison: Comparison, order: str, measure: str) -> list[int]:
    """The indices of the shared classes, the worst mean over the runs first, or in class order."""
    indices = list(range(len(comparison.classes)))
    if order != "worst" or not comparison.evaluations:
        return indices
    figures = np.array([comparison.figures(run_id, measure) for run_id in comparison.evaluations])
    known = np.isfinite(figures)
    means = np.where(known, figures, 0).sum(0) / np.maximum(known.sum(0), 1)
    worst = means if measure == IOU else -means
    return sorted(indices, key=lambda index: (not known[:, index].any(), worst[index]))


def heat(comparison: Comparison, names: Names, measure: str, order: str, link: Link, key: str = "heat") -> Node:
    """Classes x runs, and what others published of the same classes."""
    title = f"{MEASURES[measure].partition(',')[0]} of each class: {comparison.what} on {comparison.split}, %"
    if not comparison.evaluations:
        return section(key, title, el("p", "None of the runs has it.", class_="quiet"), copied=False)
    others = references(comparison) if measure == IOU else []
    figures = [comparison.figures(run.id, measure) for run in comparison.runs]
    where = {"split": comparison.split, "what": comparison.what}
    rows = [
        el(
            "tr",
            el("th", "mean", scope="row"),
            [_heat_cell(comparison.mean(run.id, measure), measure) for run in comparison.runs],
            [_heat_cell(each.miou / 100, measure, reference=True) for each in others],
            class_="mean",
        )
    ]
    for index in classes_in_order(comparison, order, measure):
        name = comparison.classes[index]
        of_class = [column[index] for column in figures]
        known = [value for value in of_class if math.isfinite(value)]
        best = (max(known) if measure == IOU else min(known)) if len(set(known)) > 1 else None
        own = [run for run in comparison.runs if run.id in comparison.evaluations]
        cells = [
            _heat_cell(
                value,
                measure,
                best=value == best,
                href=link([run], sort=name, **where) if run.id in comparison.evaluations else None,
                label=f"images of {names.texts[place]}, worst {name} first",
            )
            for place, (value, run) in enumerate(zip(of_class, comparison.runs, strict=True))
        ]
        published = [
            _heat_cell(each.iou[name] / 100 if name in each.iou else math.nan, measure, reference=True)
            for each in others
        ]
        head = el("th", linked(name, link(own, sort=name, **where), f"images, worst {name} first"), scope="row")
        rows.append(el("tr", head, cells, published))
    heads = [names.head(place) for place in range(len(comparison.runs))]
    heads += [
        el(
            "th",
            each.title,
            el("small", f"by {each.source or each.read_from}"),
            scope="col",
            class_="reference",
        )
        for each in others
    ]
    leads = "A class leads to its images, the worst first, under all runs; a figure to those of its run. "
    note = (leads if link(comparison.runs) else "") + "Bold is the best of a class."
    if others:
        note += f" The published columns are of VOC 2012 {comparison.split}, read from " + (
            "; ".join(sorted({each.read_from for each in others})) + "."
        )
    head = el("tr", el("th", "class", scope="col"), heads)
    return section(key, title, table(head, rows, "heat", grid=True), note=note)


def means(comparison: Comparison, names: Names, base: str) -> Node:
    """The mean IoU of each run with its interval, and how much better it is than the base."""
    title = f"Mean IoU: {comparison.what} on {comparison.split}, %"
    runs = [(place, run) for place, run in enumerate(comparison.runs) if run.id in comparison.evaluations]
    if not runs or not comparison.classes:
        return section("means", title, el("p", "None of the runs has it.", class_="quiet"), copied=False)
    intervals = {run.id: comparison.interval(run.id) for _, run in runs}
    values = {run.id: comparison.mean(run.id, IOU) for _, run in runs}
    differences = {run.id: comparison.difference(run.id, base) for _, run in runs if run.id != base}
    ends = _ends([*intervals.values(), *((value, value) for value in values.values())])
    moved = [each for each in differences.values() if each]
    moved_ends = _ends([(each.low, each.high) for each in moved] + [(0.0, 0.0)])
    rows = []
    for place, run in runs:
        low, high = intervals[run.id]
        value = values[run.id]
        cells: list[Node] = [
            el("td", percent(value), data_value=f"{value:.6f}", class_="number"),
            el("td", span(low, high), class_="number"),
            el("td", charts.interval(value, low, high, ends)),
        ]
        cells += _difference_cells(differences.get(run.id), run.id == base, moved_ends)
        rows.append(el("tr", el("th", names.short[place], el("small", names.more[place]), scope="row"), cells))
    head = el(
        "tr",
        [el("th", text, scope="col", colspan=span) for text, span in (("run", None), ("mean IoU", None))],
        el("th", "95 % interval", scope="col", colspan=2),
        el("th", "less base", scope="col"),
        el("th", "95 % interval", scope="col", colspan=2),
        el("th", "images", scope="col"),
        el("th", "so it is", scope="col"),
    )
    note = "Intervals are percentile bootstraps over images; those of differences are paired: drawn together from the "
    note += "images that both were scored on with the same masks, which is why they are narrower."
    return section("means", title, table(head, rows, "means"), note=note)


def differences(comparison: Comparison, names: Names, base: str, order: str) -> Node | None:
    """Of each class how much better each run is than the base; None without another run that shares images."""
    found = [
        (place, each)
        for place, run in enumerate(comparison.runs)
        if run.id != base and (each := comparison.difference(run.id, base))
    ]
    if not found:
        return None
    base_name = next(text for text, run in zip(names.texts, comparison.runs, strict=True) if run.id == base)
    most = max((abs(v) for _, each in found for v in each.of_classes if math.isfinite(v)), default=0) or 1
    rows = [
        el(
            "tr",
            el("th", comparison.classes[index], scope="row"),
            [_moved(each, index, most) for _, each in found],
        )
        for index in classes_in_order(comparison, order, IOU)
    ]
    head = el("tr", el("th", "class", scope="col"), [names.head(place) for place, _ in found])
    note = "Points of IoU with their 95 % paired bootstrap intervals; what is bold has an interval without 0. "
    note += "With many classes one in twenty is bold by chance."
    return section("differences", f"Each class less {base_name}, IoU", table(head, rows, "heat"), note=note)


def confusion(comparison: Comparison, names: Names, run_id: str, link: Link, key: str = "confusion") -> Node:
    """What a run takes each class for: rows the truth, each a whole."""
    title = f"Confusion: {comparison.what} on {comparison.split}, % of each true class"
    if run_id not in comparison.evaluations:
        why = comparison.absent.get(run_id, "Choose a run.")
        return section(key, title, el("p", why, class_="quiet"), copied=False)
    place, run = next((place, run) for place, run in enumerate(comparison.runs) if run.id == run_id)
    evaluation = comparison.evaluations[run_id]
    total = evaluation.matrices.sum(0, dtype=np.int64)
    images = (evaluation.matrices > 0).sum(0)
    truth = total.sum(1)
    rows = []
    for i, name in enumerate(evaluation.classes):
        cells = []
        for j, other in enumerate(evaluation.classes):
            pixels = int(total[i, j])
            if not pixels:
                cells.append(el("td", data_value="0"))
                continue
            share = 100 * pixels / truth[i]
            text = f"{share:.0f}" if share >= 0.5 else "·"
            tip = f"{name} taken for {other}: {pixels:,} px, {share:.2f} %, in {images[i, j]} images"
            where = {"split": comparison.split, "what": comparison.what, "confused": f"{name}:{other}"}
            body: Child = text
            if i != j:
                body = linked(text, link([run], **where), tip)
            kind = "right" if i == j else "wrong"
            cells.append(
                el("td", body, class_=f"shade {kind}", style=f"--share: {share:.1f}%", title=tip, data_value=pixels)
            )
        rows.append(el("tr", el("th", name, scope="row"), cells, el("td", f"{truth[i]:,}", class_="number quiet")))
    heads = [el("th", el("span", name), scope="col", class_="upright") for name in evaluation.classes]
    corner = el("th", "truth, taken for", scope="col")
    head = el("tr", corner, heads, el("th", "px", scope="col"))
    leads = " A cell leads to the images where it happens." if link([run]) else ""
    note = f"{names.texts[place]}. A dot is less than half a percent; copied are pixels.{leads}"
    return section(key, title, table(head, rows, "heat confusion", grid=True), note=note)


def _difference_cells(found: Difference | None, is_base: bool, ends: tuple[float, float]) -> list[Node]:
    if is_base:
        return [el("td", "base", colspan=5, class_="quiet")]
    if found is None:
        return [el("td", "no image was scored in both runs with the same mask", colspan=5, class_="quiet")]
    verdict = "better" if found.low > 0 else "worse" if found.high < 0 else "not clearly different"
    return [
        el("td", points(found.value), class_="number", data_value=f"{found.value:.6f}"),
        el("td", f"{points(found.low)} to {points(found.high)}", class_="number"),
        el("td", charts.interval(found.value, found.low, found.high, ends, zero=True)),
        el("td", str(found.images), class_="number"),
        el("td", verdict),
    ]


def _moved(found: Difference, index: int, most: float) -> Node:
    value, low, high = found.of_classes[index], found.lows[index], found.highs[index]
    if not math.isfinite(value):
        return el("td", "–", class_="none", data_value="")
    clear = low > 0 or high < 0
    return el(
        "td",
        el("strong" if clear else "span", points(value)),
        el("small", f"{points(low)} to {points(high)}") if math.isfinite(low) else None,
        class_="shade gain" if value > 0 else "shade loss",
        style=f"--share: {100 * abs(value) / most:.0f}%",
        data_value=f"{value:.6f}",
    )


def _heat_cell(
    value: float, measure: str, *, best: bool = False, href: str | None = None, label: str = "", reference: bool = False
) -> Node:
    if not math.isfinite(value):
        return el("td", "–", class_="none", data_value="")
    kind = "right" if measure == IOU else "wrong"
    inner = linked(percent(value), href, f"{percent(value)}: {label}")
    return el(
        "td",
        el("strong", inner) if best else inner,
        class_=f"shade {kind}{' reference' if reference else ''}",
        style=f"--share: {100 * min(value, 1):.1f}%",
        data_value=f"{value:.6f}",
    )


def _ends(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    known = [end for span in spans for end in span if math.isfinite(end)]
    return (min(known), max(known)) if known else (0.0, 1.0)
