"""What a server that runs says of its challenger, asked and shown."""

from __future__ import annotations

import json
import urllib.request
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from dash import html
from dash.development.base_component import Component

from wsss.commands import command
from wsss.dashboard.page import problem
from wsss.dashboard.plain import table
from wsss.errors import UserError, masked, one_line

_ANSWER_S = 3.0
_MOST_BYTES = 1 << 20


class _Stay(urllib.request.HTTPRedirectHandler):
    """Goes nowhere but where it was told."""

    def redirect_request(self, *_: Any) -> None:
        return None


_ASK = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


def shadow_of(server: str) -> dict[str, Any]:
    """What `/shadow` of a server of models answers; see `wsss.serving.shadow.Shadow.report`.

    Args:
        server: its address, http or https, as the operator gave it.

    Raises:
        UserError: it does not answer in three seconds, has no challenger, or asks for a key; or is something else.
    """
    if urlsplit(server).scheme not in ("http", "https"):
        raise UserError(f"{masked(server)} is no address of a server; give one such as http://127.0.0.1:8000")
    url = f"{server.rstrip('/')}/shadow"
    try:
        with _ASK.open(url, timeout=_ANSWER_S) as answer:
            content = answer.read(_MOST_BYTES)
        report = json.loads(content)
        return _checked(report)
    except HTTPError as error:
        raise UserError(_refused(masked(server), error)) from None
    except OSError as error:
        raise UserError(f"{masked(server)} does not answer: {one_line(getattr(error, 'reason', error))}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{masked(server)} answers, but not as a server of models does; is it one?") from None


def shadow(server: str) -> Component:
    """How far the challenger of a server disagrees with its champion; why that can't be told, where it can't."""
    if not server:
        serve = command("wsss", "serve", "models:/NAME@champion", "--shadow", "challenger:0.1")
        here = command("wsss", "dashboard", "--server", "http://127.0.0.1:8000")
        runs, shows = html.Code(serve), html.Code(here)
        return html.P(
            ["Which server to ask is not known. ", runs, " has a challenger answer too; ", shows, " shows it."]
        )
    try:
        report = shadow_of(server)
    except UserError as error:
        return problem(f"{error}.")
    if not report["images"]:
        return html.P(f"The server {server} has compared no image yet.")
    said = (
        f"{report['champion']} and {report['challenger']} disagree in {report['disagreement']:.2%} of "
        f"{report['pixels']:,} pixels of {report['images']:,} images."
    )
    rows = [
        (
            each["name"],
            f"{each['champion_pixels']:,}",
            f"{each['challenger_pixels']:,}",
            f"{each['both_pixels']:,}",
            f"{1 - each['both_pixels'] / each['champion_pixels']:.1%}" if each["champion_pixels"] else "–",
        )
        for each in report["classes"]
        if each["champion_pixels"] or each["challenger_pixels"]
    ]
    columns = ("class", "champion's pixels", "challenger's", "both", "the challenger says otherwise")
    return html.Div([html.P(said), table(columns, rows, "Disagreement by class", numbers=(1, 2, 3, 4))])


def _checked(report: dict[str, Any]) -> dict[str, Any]:
    """The report, as far as the page reads it."""
    counts = ("champion_pixels", "challenger_pixels", "both_pixels")
    return {
        **{key: str(report[key]) for key in ("champion", "challenger")},
        **{key: int(report[key]) for key in ("images", "pixels")},
        "disagreement": None if report["disagreement"] is None else float(report["disagreement"]),
        "classes": [
            {"name": str(each["name"]), **{key: int(each[key]) for key in counts}} for each in report["classes"]
        ],
    }


def _refused(server: str, error: HTTPError) -> str:
    if error.code == 404:
        return f"no challenger answers at {server}; start that server with --shadow challenger:0.1"
    if error.code == 401:
        return f"{server} asks for a key, and the dashboard has none for it; read {server}/shadow with one"
    return f"{server} answers with status {error.code}"
