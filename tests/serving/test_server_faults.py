"""The server as its users run it, under what they send: its memory, its answers meanwhile, and its log."""

import http.client
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from urllib.parse import unquote

import numpy as np
import psutil
import pytest
import torch
import uvicorn
from test_server_headers import BOMBS, FILES, TEXTS, chunk, encoded, png
from test_server_load import Slow

from wsss.classes import Classes
from wsss.nets.deeplab import DeepLab
from wsss.serving import server
from wsss.serving.description import describe
from wsss.serving.formats import describe_step
from wsss.serving.segmenter import Inference
from wsss.stages.outputs import save_model

NAME = "modèle 日本 100% \x7f"
GIGABYTE = 10**9


class Served:
    """A server in a process of its own."""

    def __init__(self, process, port):
        self.process, self.port = process, port

    def ask(self, method, path, body=None, **headers):
        return ask(self.port, method, path, body, **headers)

    def send(self, body):
        return self.ask("POST", "/segment", body, content_type="image/png")


def ask(port, method, path, body=None, **headers):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`wsss serve` on a package whose name latin-1 can't hold; at the end, nothing stands in its log."""
    torch.manual_seed(0)
    architecture = {"classes": 4, "backbone": "tiny", "output_stride": 16, "rates": [6, 12]}
    package = tmp_path_factory.mktemp("packages") / NAME
    package.mkdir()
    save_model(package, DeepLab(weights="none", **architecture).eval(), architecture)
    description = describe(
        describe_step(package / "model.json"), Classes(("disc", "bar", "ring")), Inference((1, 2**15))
    )
    (package / "model.json").write_text(description.as_json())
    log = (package / "log").open("wb+")
    command = [sys.executable, "-m", "wsss.cli", "serve", NAME, "--port", "0"]
    process = subprocess.Popen(command, cwd=package.parent, stdout=subprocess.PIPE, stderr=log)
    try:
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline().decode()).group(1))
        served = Served(process, port)
        assert served.send(FILES["png"])[0] == 200
        yield served
    finally:
        process.terminate()
        process.wait(30)
        log.seek(0)
    assert log.read() == b""


def started(address, path="/segment", length=33_000_000, body=b""):
    """A connection on which a request has begun."""
    client = socket.create_connection(("127.0.0.1", address), 20)
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


def status_of(client):
    return int(client.recv(65_536).split()[1])


def ended(client):
    """Wait for a connection's end."""
    try:
        while client.recv(65_536):
            pass
    except ConnectionResetError:
        pass
    return True


class running:  # noqa: N801
    """A server in this process, whose limits a test may change; gives its port."""

    def __init__(self, segmenter, options=None):
        config = server.make_config(segmenter, options)
        self.service = config.app.app.state.service
        self.server = uvicorn.Server(config)

    def __enter__(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, daemon=True)
        self.thread.start()
        return listener.getsockname()[1]

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(20)


def test_memory_stays_within_a_gigabyte_of_the_idle_server(served):
    """Bombs, then the largest image that is taken while as many bytes wait as may."""
    process = psutil.Process(served.process.pid)
    idle = process.memory_info().rss
    peak, stop = [idle], threading.Event()

    def watch():
        while not stop.wait(0.01):
            peak.append(process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        for body, status, sentence in BOMBS.values():
            answered, _, detail = served.send(body)
            assert answered == status and sentence in json.loads(detail)["detail"]
        held = [started(served.port, body=bytes(30 * 2**20)) for _ in range(5)]
        profile = chunk(b"iCCP", b"x\0\0" + TEXTS[0][20:-4])
        rows = bytes((3 * 2000 + 1) * 2000)
        assert served.send(png(2000, 2000, *TEXTS, profile, pixels=rows))[0] == 200
        for client in held:
            client.close()
    finally:
        stop.set()
        watching.join()
    assert max(peak) - idle < GIGABYTE


def test_health_answers_at_once_under_load(served):
    """200 uploads and 20 that never end; the median, as a busy machine may hold one answer up."""
    image = encoded("PNG", np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8), compress_level=1)
    unending = [started(served.port, length=3_000_000, body=bytes(200_000)) for _ in range(20)]
    answers = []

    def upload():
        answers.append(served.send(image))

    uploading = [threading.Thread(target=upload) for _ in range(200)]
    for thread in uploading:
        thread.start()
    times = {"/health": [], "/classes": [], "/version": []}
    while any(thread.is_alive() for thread in uploading) and len(times["/health"]) < 30:
        for path, seconds in times.items():
            begun = time.perf_counter()
            assert served.ask("GET", path)[0] == 200
            seconds.append(time.perf_counter() - begun)
    for client in unending:
        client.close()
    for thread in uploading:
        thread.join()
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503} and len(statuses) == 200
    assert all(int(headers["retry-after"]) > 0 for status, headers, _ in answers if status == 503)
    assert all(statistics.median(seconds) < 0.05 for seconds in times.values()), times


def test_requests_that_follow_each_other_wait_for_no_acknowledgement(served):
    """An answer is two packets; 40 ms is what a client waits before it acknowledges the first."""
    connection, seconds = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60), []
    for _ in range(15):
        begun = time.perf_counter()
        connection.request("GET", "/classes")
        connection.getresponse().read()
        seconds.append(time.perf_counter() - begun)
    connection.close()
    assert statistics.median(seconds) < 0.03, seconds


def test_uploads_that_are_too_many_are_told_so(served):
    """The whole way, as `wsss serve` runs it: each of 20 clients that send 20 MB and close gets an answer."""
    statuses, body = [], bytes(20_000_000)

    def upload():
        headers = {"content_type": "image/png", "connection": "close"}
        statuses.append(served.ask("POST", "/segment", body, **headers)[0])

    uploading = [threading.Thread(target=upload) for _ in range(20)]
    for thread in uploading:
        thread.start()
    for thread in uploading:
        thread.join()
    assert len(statuses) == 20 and set(statuses) == {422, 503}


def test_any_version_survives_its_header(served):
    _, headers, _ = served.send(FILES["png"])
    assert headers["x-model-version"].isascii() and unquote(headers["x-model-version"]) == NAME
    assert json.loads(served.ask("GET", "/health")[2])["model"] == NAME


@pytest.mark.parametrize(
    "name", ["models:/wsss-pets/1", "é", "łódź", "日本", "a\r\nB: c", " a ", "100%41", "\udcff", "☃" * 500]
)
def test_versions_of_every_kind(name):  # fmt: skip
    slow = Slow(name)
    slow.go.set()
    with running(slow) as port:
        status, headers, _ = ask(port, "POST", "/segment", png(2, 2, pixels=bytes(14)), content_type="image/png")
        said = json.loads(ask(port, "GET", "/health")[2])["model"]
    assert status == 200 and unquote(headers["x-model-version"]) == said
    assert said == name or name == "\udcff"
    assert headers["x-model-version"] == name or not name.startswith("models:")


@pytest.mark.parametrize(
    "kind", ["Image/JPEG", "IMAGE/jpeg", "image/jpeg; charset=binary", " image/jpeg ;q=1", "image/*"]
)
def test_content_types_in_any_case_with_parameters(served, kind):
    assert served.ask("POST", "/segment", FILES["jpeg"], content_type=kind)[0] == 200


@pytest.mark.parametrize("kind", ["application/octet-stream", "imagery/jpeg", "text/plain; a=image/jpeg", ""])
def test_other_content_types_are_refused(served, kind):
    status, _, body = served.ask("POST", "/segment", FILES["jpeg"], content_type=kind)
    assert status == 415 and "image/jpeg" in json.loads(body)["detail"]


@pytest.mark.parametrize("path", ["/health", "/classes", "/version"])
def test_head_is_get_without_a_body(served, path):
    status, headers, body = served.ask("HEAD", path)
    assert (status, body) == (200, b"") and headers["content-length"] == served.ask("GET", path)[1]["content-length"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/segment", "POST"),
        ("PUT", "/segment", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/classes", "GET, HEAD"),
    ],
)
def test_a_wrong_method_names_the_right_ones(served, method, path, allowed):
    status, headers, body = served.ask(method, path)
    assert (status, headers["allow"]) == (405, allowed) and allowed in json.loads(body)["detail"]


def test_an_unknown_path_names_the_known_ones(served):
    status, _, body = served.ask("GET", "/healthz")
    assert status == 404 and all(path in json.loads(body)["detail"] for path in ("/healthz", "/segment", "/version"))


def test_clients_that_hang_up_leave_nothing(served):
    """In the head, in the body, while the image waits, while it is labelled, and before the answer is read."""
    image = encoded("PNG", np.zeros((900, 900, 3), np.uint8))
    generator = random.Random(0)
    for number in range(24):
        client = socket.create_connection(("127.0.0.1", served.port), 20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([number % 2, 0, 0, 0, 0, 0, 0, 0]))
        head = f"POST /segment HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
        whole = head.encode() + image
        client.sendall(whole[: generator.choice([7, len(head) + 5, len(whole)])])
        time.sleep(generator.choice([0, 0.01]))
        client.close()
    assert served.ask("GET", "/health")[0] == 200
    assert served.send(FILES["png"])[0] == 200
