"""What the page of registered models says of the challenger: the figures of a server that answers with both."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from plotly.utils import PlotlyJSONEncoder

from wsss.dashboard.registry import page as registry
from wsss.dashboard.registry.shadow import shadow_of
from wsss.errors import UserError


def said(component) -> str:
    return json.dumps(component, cls=PlotlyJSONEncoder, ensure_ascii=False)


@contextmanager
def answering(status: int, content: bytes, headers: dict[str, str] | None = None) -> Iterator[str]:
    """A server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_disagreement_is_that_of_the_server_and_no_answer_is_a_sentence() -> None:
    classes = [{"name": "<b>cat", "champion_pixels": 200, "challenger_pixels": 90, "both_pixels": 50}]
    report = {
        "champion": "a",
        "challenger": "b",
        "images": 3,
        "pixels": 1000,
        "disagreement": 0.125,
        "classes": classes,
    }
    with answering(200, json.dumps({**report, "share": 0.1}).encode()) as server:
        page = said(registry.shadow(server))
        assert shadow_of(server) == report
        assert "a and b disagree in 12.50% of 1,000 pixels of 3 images" in page and "75.0%" in page and "<b>cat" in page
    refusals = [
        (404, b"", {}, "start that server with --shadow challenger:0.1"),
        (401, b"", {}, "asks for a key"),
        (302, b"", {"Location": "http://127.0.0.1:1/"}, "answers with status 302"),
        (200, b"<html>", {}, "not as a server of models does"),
        (200, b"[1]", {}, "not as a server of models does"),
    ]
    for status, content, headers, sentence in refusals:
        with answering(status, content, headers) as server, pytest.raises(UserError, match=sentence):
            shadow_of(server)
    with pytest.raises(UserError, match="does not answer"):
        shadow_of("http://127.0.0.1:1")
    with pytest.raises(UserError, match="is no address of a server"):
        shadow_of("file:///etc/passwd")
    assert "--shadow challenger:0.1" in said(registry.shadow(""))
