"""Datasets: what is in them, which classes occur together, examples, and what a check finds."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from dash import Dash, Input, Output, State, ctx, dcc, html
from dash.development.base_component import Component

from wsss.commands import command
from wsss.dashboard.data import examples
from wsss.dashboard.data.examples import CLASS, NAME, PAGE_NUMBER, SPLIT
from wsss.dashboard.data.figures import MOST, class_figures, shown, sizes_figure
from wsss.dashboard.jobs import Job, Jobs
from wsss.dashboard.page import Context, Page, address, aria, empty, keep_address, problem, threaded
from wsss.dashboard.page import State as Address
from wsss.dashboard.plain import choice, named, table
from wsss.data import layout as files
from wsss.data import open_dataset
from wsss.data.dataset import Dataset
from wsss.data.summary import Sizes, Summary, sizes, summary
from wsss.data.workspace import DEFAULT, dataset_names
from wsss.errors import UserError, unknown
from wsss.versions import version_of

PATH = "/data"
CLASSES, FIGURES, SIZES, VERSION = "data-classes", "data-figures", "data-sizes", "data-version"
CHECK, CHECKED, CHECK_POLL = "data-check", "data-checked", "data-poll"


def layout(context: Context, state: Address) -> Component:
    """The datasets of the workspace, and what is in the chosen one."""
    names = dataset_names()
    if not names:
        add = command("wsss", "data", "add", "folder", "PHOTOS", "--tags", "TAGS.csv")
        return html.Div(
            [
                empty("No dataset yet. This draws one:", "wsss", "data", "make", "shapes"),
                html.P(["Your own: ", html.Code(add)]),
            ]
        )
    name = state.get("dataset") or (DEFAULT if DEFAULT in names else names[0])
    if name not in names:
        raise unknown("dataset", name, names)
    links = choice("Datasets", {each: address(PATH, dataset=each) for each in names}, name)
    try:
        dataset = opened(name)
        counted = _summary(dataset)
    except UserError as error:
        return html.Div([links, problem(f"{error}.")])
    return html.Div([links, *_parts(dataset, counted, state)], className="data")


def callbacks(app: Dash, context: Context) -> None:
    """What the page does."""
    jobs = Jobs()

    def figures(chosen: list[int] | None, name: str) -> list[Component]:
        counted = _summary(opened(name))
        return class_figures(counted, shown(counted, chosen))

    def read_sizes(name: str) -> Component:
        return sizes_figure(_sizes(opened(name)))

    def read_version(name: str) -> Component:
        version = version_of(opened(name).root)
        if version is None:
            track = command("wsss", "data", "track", name)
            return html.Span(["not under DVC; ", html.Code(track), " puts it there"])
        link = dcc.Link(version.md5, href=address("/lineage", data=version.md5))
        return html.Span([link, f" · {version.nfiles:,} files, {version.size / 1e6:,.0f} MB"])

    def check(clicks: int | None, polls: int | None, name: str) -> tuple[Any, ...]:
        dataset = opened(name)
        key = f"{name} {dataset.digest}"
        if ctx.triggered_id == CHECK and clicks:
            jobs.begin(key, f"{name} is checked", lambda: dataset.check(thorough=True))
        return _checked(jobs.of(key), name)

    app.callback(Output(FIGURES, "children"), Input(CLASSES, "value"), State(NAME, "data"))(threaded(figures))
    app.callback(Output(SIZES, "children"), Input(NAME, "data"))(threaded(read_sizes))
    app.callback(Output(VERSION, "children"), Input(NAME, "data"))(threaded(read_version))
    app.callback(
        Output(CHECKED, "children"),
        Output(CHECK_POLL, "disabled"),
        Output(CHECK, "disabled"),
        Input(CHECK, "n_clicks"),
        Input(CHECK_POLL, "n_intervals"),
        State(NAME, "data"),
    )(threaded(check))
    examples.callbacks(app, opened)
    keep_address(
        app,
        PATH,
        classes=Input(CLASSES, "value"),
        split=Input(SPLIT, "value"),
        only=Input(CLASS, "value"),
        page=Input(PAGE_NUMBER, "value"),
    )


def opened(name: str) -> Dataset:
    """A dataset of the workspace; opened again when what it is read from has changed.

    Raises:
        UserError: there is none of that name, or it does not open.
    """
    if name not in (known := dataset_names()):
        raise unknown("dataset", name, known)
    root = files.home(name)
    read = (files.DESCRIPTION, files.TAGS, "manifest.json", *(f"{files.LISTS}/{split}.txt" for split in files.SPLITS))
    return _open(name, str(root.absolute()), tuple(_touched(root / part) for part in read))


@lru_cache(maxsize=4)
def _open(name: str, root: str, touched: tuple[int, ...]) -> Dataset:
    return open_dataset(name)


def _touched(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


# A dataset is its own key: the same object as long as its files are the same.
@lru_cache(maxsize=4)
def _summary(dataset: Dataset) -> Summary:
    return summary(dataset)


@lru_cache(maxsize=4)
def _sizes(dataset: Dataset) -> Sizes:
    return sizes(dataset)


def _parts(dataset: Dataset, counted: Summary, state: Address) -> list[Component]:
    chosen = [int(part) for part in state.get("classes", "").split(",") if part.isdecimal()]
    options = [
        {"label": f"{each} ({count:,})", "value": number, "search": each}
        for number, (each, count) in enumerate(zip(counted.classes, counted.tagged.sum(0).tolist(), strict=True), 1)
    ]
    facts: list[tuple[str, Any]] = [
        ("kind", dataset.kind),
        ("classes", f"{len(counted.classes)}"),
        ("tags from", dataset.tags_source),
        ("digest", dataset.digest[:12]),
        ("data version", html.Span("…", id=VERSION)),
        *(("note", note) for note in dataset.settings.get("notes", ())),
    ]
    return [
        dcc.Store(id=NAME, data=dataset.name if dataset.name == dataset.root.name else dataset.root.name),
        html.Dl([part for word, text in facts for part in (html.Dt(word), html.Dd(text))]),
        html.Section(
            [
                html.Button("Check the files", id=CHECK, type="button"),
                html.Div(id=CHECKED, **aria(live="polite")),
                dcc.Interval(id=CHECK_POLL, interval=1000, disabled=True),
            ],
            className="form",
        ),
        html.H2("Images"),
        table(
            ("", *counted.splits, "all"),
            [
                _counted("images", counted.images),
                _counted("with a mask", counted.masked),
                _counted("without any class", counted.untagged),
            ],
            "Images by split",
            numbers=range(1, 6),
        ),
        html.H2("Classes"),
        html.Div(
            named(
                f"shown (of {len(counted.classes)}; none chosen: the {MOST} most frequent)"
                if len(counted.classes) > MOST
                else "shown (none chosen: all)",
                dcc.Dropdown(
                    options,
                    [number for number in chosen if 1 <= number <= len(counted.classes)],
                    id=CLASSES,
                    multi=True,
                    placeholder="choose classes",
                ),
                CLASSES,
            ),
            className="form",
        ),
        html.Div(id=FIGURES),
        html.H2("Sizes"),
        html.Div(html.P("Reading the headers of the images …"), id=SIZES),
        html.H2("Examples"),
        *examples.parts(dataset, state),
    ]


def _counted(name: str, counts: tuple[int, ...]) -> list[str]:
    return [name, *(f"{count:,}" for count in counts), f"{sum(counts):,}"]


def _checked(job: Job | None, name: str) -> tuple[Any, ...]:
    """What a check found, and whether the page asks again and may ask for another."""
    if job is None:
        same = html.Code(command("wsss", "data", "check", name))
        said: Component = html.P(["Not checked since this dashboard started; ", same, " does the same."])
    elif job.working:
        said = html.P(
            f"Comparing every file with what was added, since {job.began:%H:%M:%S} UTC …", className="working"
        )
    elif job.problem:
        said = problem(f"Checked at {job.ended:%H:%M:%S} UTC: {job.problem}.")
    else:
        note = f" {job.result}." if job.result else ""
        said = html.P(f"Checked at {job.ended:%H:%M:%S} UTC: images, tags and masks are sound.{note}")
    busy = bool(job and job.working)
    return said, not busy, busy


PAGE = Page(PATH, "Data", layout, callbacks)
