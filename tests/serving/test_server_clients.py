"""Clients that stop, hang up or say nothing, before a model that answers when it is let."""

import json
import socket
import time

import pytest
from test_server_faults import ask, ended, running, started, status_of
from test_server_headers import png
from test_server_load import Slow

from wsss.serving import connections, uploads


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.go.set()


def test_a_refused_upload_is_told_why(slow, monkeypatch):
    """Most clients listen only when they have sent all of it: a reset would be all they see."""
    monkeypatch.setattr(uploads, "MAX_HELD", uploads.MAX_BYTES - 1)
    with running(slow) as port:
        for kind in ("image/png", "text/plain"):
            status, headers, _ = ask(
                port, "POST", "/segment", bytes(uploads.MAX_BYTES), content_type=kind, connection="close"
            )
            assert status == (503 if kind == "image/png" else 415)
            assert ("retry-after" in headers) == (status == 503)
        assert ask(port, "POST", "/segment", bytes(uploads.MAX_BYTES + 1), content_type="image/png")[0] == 413
        assert ask(port, "POST", "/nowhere", bytes(uploads.MAX_BYTES), connection="close")[0] == 404


def test_uploads_that_stop_are_let_go(slow, monkeypatch):
    monkeypatch.setattr(uploads, "STALL_S", 0.2)
    with running(slow) as port:
        clients = [started(port, body=bytes(100_000)) for _ in range(5)]
        assert [status_of(client) for client in clients] == [408] * 5
        assert all(ended(client) for client in clients)


def test_an_image_whose_client_has_gone_is_not_labelled(slow, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_REQUESTS", 2)
    image = png(2, 2, pixels=bytes(14))
    with running(slow) as port:
        first = started(port, length=len(image), body=image)
        time.sleep(0.2)
        gone = started(port, length=len(image), body=image)
        time.sleep(0.2)
        gone.close()
        time.sleep(0.2)
        last = started(port, length=len(image), body=image)
        time.sleep(0.2)
        slow.go.set()
        assert [status_of(client) for client in (first, last)] == [200, 200]


def test_connections_that_say_nothing_make_room_and_end(slow, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(connections, "CHECK_S", 0.2)
    with running(slow) as port:
        silent = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(60)]
        assert ask(port, "GET", "/health")[0] == 200
        assert all(ended(client) for client in silent)


def test_too_many_uploads_at_once_are_503(slow, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 10)
    with running(slow) as port:
        busy = [started(port, length=100, body=bytes(10)) for _ in range(10)]
        time.sleep(0.2)
        status, headers, body = ask(port, "GET", "/health")
        assert status == 503 and headers["retry-after"] and "10 connections" in json.loads(body)["detail"]
        for client in busy:
            client.close()
        time.sleep(0.2)
        assert ask(port, "GET", "/health")[0] == 200
