"""Examples of a dataset: small pictures of its images with their tags and masks, by split and class."""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from dash import Dash, Input, Output, State, dcc, html
from dash.development.base_component import Component

from wsss.dashboard.page import State as Address
from wsss.dashboard.page import address, aria, threaded
from wsss.dashboard.plain import named
from wsss.data.dataset import Dataset
from wsss.data.layout import SPLITS
from wsss.data.summary import with_class
from wsss.data.thumbnails import image_thumbnail, mask_thumbnail
from wsss.errors import UserError, unknown
from wsss.process import own_cores
from wsss.scores import Masks

NAME, SPLIT, CLASS, PAGE_NUMBER = "data-name", "data-split", "data-class", "data-page"
EXAMPLES, COUNT = "data-examples", "data-count"
BACKGROUND = 0
_PER_PAGE = 24


def parts(dataset: Dataset, state: Address) -> list[Component]:
    """What chooses the examples, and where they stand."""
    splits = [split for split in SPLITS if dataset.splits[split]]
    split = state.get("split", "")
    classes = [
        {"label": "without any class", "value": BACKGROUND},
        *({"label": name, "value": number} for number, name in enumerate(dataset.classes.names, 1)),
    ]
    only = state.get("only", "")
    page = state.get("page", "")
    return [
        html.Div(
            [
                named(
                    "split",
                    dcc.RadioItems(splits, split if split in splits else splits[0], id=SPLIT, inline=True),
                    SPLIT,
                ),
                named(
                    "class",
                    dcc.Dropdown(
                        classes,
                        int(only) if only.isdecimal() and int(only) <= len(dataset.classes) else None,
                        id=CLASS,
                        placeholder="all",
                    ),
                    CLASS,
                ),
                named(
                    "page",
                    dcc.Input(id=PAGE_NUMBER, type="number", min=1, step=1, value=int(page) if page.isdecimal() else 1),
                    PAGE_NUMBER,
                ),
                html.Span(id=COUNT, **aria(live="polite")),
            ],
            className="form",
        ),
        html.Ul(id=EXAMPLES, className="examples"),
    ]


def callbacks(app: Dash, opened: Callable[[str], Dataset]) -> None:
    """What choosing does.

    Args:
        app: the application.
        opened: the dataset of a name.
    """

    def show(split: str, number: int | None, page: int | None, name: str) -> tuple[list[Component], str]:
        dataset = opened(name)
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if number is not None and not 0 <= number <= len(dataset.classes):
            raise UserError(f"dataset {name} has no class {number}; allowed: 0 to {len(dataset.classes)}")
        ids = with_class(dataset, split, number)
        pages = max(1, -(-len(ids) // _PER_PAGE))
        here = min(max(page or 1, 1), pages)
        shown = ids[(here - 1) * _PER_PAGE : here * _PER_PAGE]
        with ThreadPoolExecutor(own_cores()) as pool:
            examples = list(pool.map(lambda id: _example(dataset, name, split, id), shown))
        return examples, f"of {pages:,}, {len(ids):,} images" if here == (page or 1) else f"shown: {here} of {pages:,}"

    app.callback(
        Output(EXAMPLES, "children"),
        Output(COUNT, "children"),
        Input(SPLIT, "value"),
        Input(CLASS, "value"),
        Input(PAGE_NUMBER, "value"),
        State(NAME, "data"),
    )(threaded(show))


def _example(dataset: Dataset, name: str, split: str, id: str) -> Component:
    tags = ", ".join(dataset.tag_names(id)) or "no class"
    try:
        image, mask = _pictures(dataset, id)
        pictures: list[Component] = [html.Img(src=image, alt=f"{id}: {tags}")]
        if mask:
            pictures.append(html.Img(src=mask, alt=f"mask of {id}"))
    except UserError as error:
        pictures = [html.P(str(error), className="problem")]
    href = address("/masks", dataset=name, split=split, image=id)
    link = dcc.Link([html.Span(pictures, className="pictures"), html.Span(id, className="id")], href=href)
    return html.Li([link, html.Span(tags, className="tags")])


@lru_cache(maxsize=512)
def _pictures(dataset: Dataset, id: str) -> tuple[str, str]:
    """Addresses that hold the small pictures of an image and of its mask; the latter empty without one."""
    masks = Masks(dataset)
    mask = _held("image/png", mask_thumbnail(masks.read(id))) if masks.path(id) else ""
    return _held("image/jpeg", image_thumbnail(dataset, id)), mask


def _held(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
