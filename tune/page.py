"""Pages that stand alone: HTML with tables and vector figures inside, nothing fetched from elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0 } .wide { overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: left; vertical-align: top }
td { font-variant-numeric: tabular-nums } svg { max-width: 100%; height: auto } .note { color: #666 }
"""


def page(title: str, *parts: str) -> str:
    """An HTML page.

    Args:
        title: plain text.
        parts: HTML, such as `paragraph`, `table` and `picture` give.
    """
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """A heading of plain text."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str, *, note: bool = False) -> str:
    """A paragraph of plain text."""
    kind = ' class="note"' if note else ""
    return f"<p{kind}>{escape(text)}</p>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def picture(svg: str) -> str:
    """A figure of `as_svg` as a part of a page."""
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"


@contextmanager
def drawing() -> Iterator[None]:
    """Within it figures are made and written the same each time, their texts as texts and never as formulas."""
    import matplotlib

    matplotlib.use("Agg")
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "wsss", "text.parse_math": False, "font.size": 9}
    with matplotlib.rc_context(style):
        yield


def as_svg(figure: Figure) -> str:
    """A figure as SVG text; to be called within `drawing`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return file.getvalue()
