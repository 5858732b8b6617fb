"""The server under more than it can do: what it still answers, what it turns away, and how little it holds."""

import asyncio
import io
import threading
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from wsss.classes import Classes
from wsss.serving import deployed, pictures, server, service, uploads
from wsss.serving.deployed import best_classes, resize, rows_at_size
from wsss.serving.segmenter import Inference


class Slow:
    """A model whose labels come only when they are let, in what the server asks of one."""

    def __init__(self, version="slow"):
        self.version, self.classes = version, Classes(("a", "b"))
        self.go = threading.Event()
        stride = SimpleNamespace(output_stride=2)
        self.module = SimpleNamespace(net=SimpleNamespace(backbone=stride))
        self.inference = Inference()

    def network_size(self, height, width):
        return height, width

    def far_from_training(self, height, width):
        return ""

    def __call__(self, image):
        self.go.wait(30)
        return np.zeros(image.shape[:2], np.uint8)


@pytest.fixture
def slow():
    module = Slow()
    yield module
    module.go.set()


def png(height=8, width=8):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def session(module, talk):
    """Run a conversation with a server; the conversation gets a client."""

    async def run():
        app = server.make_app(module)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            return await asyncio.wait_for(talk(client), 30)

    return asyncio.run(run())


IMAGE = {"content-type": "image/png"}


def send(client, content=None, **headers):
    return asyncio.create_task(client.post("/segment", content=content or png(), headers=IMAGE | headers))


def test_health_answers_at_once_behind_45_requests(slow):
    async def talk(client):
        waiting = [send(client) for _ in range(45)]
        await asyncio.sleep(0.2)
        for path in ("/health", "/classes"):
            answer = await asyncio.wait_for(client.get(path), 2)
            assert answer.status_code == 200
        assert not any(request.done() for request in waiting)
        slow.go.set()
        return [answer.status_code for answer in await asyncio.gather(*waiting)]

    assert session(slow, talk) == [200] * 45


def test_beyond_the_bounds_503_comes_before_the_body_is_read(slow, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_REQUESTS", 3)

    async def untouched():
        raise AssertionError("the body was read")
        yield b""

    async def talk(client):
        held = [send(client) for _ in range(3)]
        await asyncio.sleep(0.1)
        refused = await send(client, untouched())
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert "3 images wait already" in refused.json()["detail"]
        slow.go.set()
        assert [answer.status_code for answer in await asyncio.gather(*held)] == [200] * 3
        return (await send(client)).status_code

    assert session(slow, talk) == 200


def test_an_image_that_takes_too_long_is_503_and_the_next_is_answered(slow, monkeypatch):
    monkeypatch.setattr(service, "ANSWER_S", 0.3)

    async def talk(client):
        first, second = send(client), send(client)
        answers = [await first, await second]
        slow.go.set()
        monkeypatch.setattr(service, "ANSWER_S", 20)
        return [*answers, await send(client)]

    *late, last = session(slow, talk)
    assert all(answer.status_code == 503 and answer.headers["retry-after"] for answer in late)
    assert "not labelled within 0.3 s" in late[0].json()["detail"] and last.status_code == 200


def test_images_at_work_share_the_memory_in_their_order():
    """The second waits for the first, the third, which would fit, for the second; one that gives up holds nothing."""
    memory, order = pictures.WorkingMemory(pictures.MEMORY), []
    half = (pictures.MEMORY - pictures._RESERVED) // 2

    async def work(name, needed, go):
        async with memory.hold(needed):
            order.append(name)
            await go.wait()

    async def run():
        go = asyncio.Event()
        first = asyncio.create_task(work("first", half + 1, go))
        second = asyncio.create_task(work("second", 2 * half, go))
        third = asyncio.create_task(work("third", 1, go))
        await asyncio.sleep(0.01)
        assert order == ["first"]
        second.cancel()
        await asyncio.sleep(0.01)
        assert order == ["first", "third"]
        go.set()
        await asyncio.gather(first, third)
        async with memory.hold(2 * half):
            order.append("last")

    asyncio.run(asyncio.wait_for(run(), 5))
    assert order[-1] == "last"


def test_bytes_in_flight_are_bounded_whether_announced_or_not(slow, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_HELD", uploads.MAX_BYTES + 10)

    async def chunks():
        yield png()

    async def talk(client):
        silent = send(client, chunks())
        await asyncio.sleep(0.1)
        assert (await send(client)).status_code == 503
        slow.go.set()
        return (await silent).status_code

    assert session(slow, talk) == 200


def test_an_announced_size_is_refused_before_a_byte_is_read(slow):
    async def talk(client):
        return await send(client, b"x", **{"content-length": str(uploads.MAX_BYTES + 1)})

    answer = session(slow, talk)
    assert answer.status_code == 413 and "larger than 32 MiB" in answer.json()["detail"]


def test_a_round_of_the_event_loop_takes_one_piece_of_all_bodies():
    """However many bodies have arrived, what else there is waits for one piece at most."""
    turns, taken, rounds = uploads.Turns(), 0, []

    async def receive():
        return {"type": "http.request", "body": b"piece", "more_body": True}

    async def upload():
        nonlocal taken
        async for _ in turns.pieces(receive):
            taken += 1

    async def run():
        nonlocal taken
        uploading = [asyncio.create_task(upload()) for _ in range(200)]
        for _ in range(500):
            await asyncio.sleep(0)
            rounds.append(taken)
            taken = 0
        for task in uploading:
            task.cancel()
        await asyncio.gather(*uploading, return_exceptions=True)

    asyncio.run(run())
    assert max(rounds) == 1 and sum(rounds) > 100


def test_a_slow_upload_ends_and_leaves_its_place(slow, monkeypatch):
    """A client that never finishes its body; over a real connection, as a transport in memory has no slow clients."""
    import socket
    import time

    import uvicorn

    monkeypatch.setattr(uploads, "UPLOAD_S", 0.3)
    monkeypatch.setattr(uploads, "MAX_REQUESTS", 1)
    slow.go.set()
    unfinished = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nab"
    listener = socket.create_server(("127.0.0.1", 0))
    app = server.make_app(slow)
    running = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        with socket.create_connection(listener.getsockname(), 20) as client:
            client.sendall(unfinished)
            assert b" 408 " in client.recv(4096).splitlines()[0]
        address = "http://{}:{}".format(*listener.getsockname())
        with socket.create_connection(listener.getsockname(), 20) as client:
            client.sendall(unfinished)
        time.sleep(0.1)
        assert httpx.post(f"{address}/segment", content=png(), headers=IMAGE, timeout=20).status_code == 200
    finally:
        running.should_exit = True
        thread.join(20)


def test_pixels_times_classes_are_bounded(slow, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_SCORES", 8 * 8 * 3)
    slow.go.set()

    async def talk(client):
        return [await send(client, png(8, side)) for side in (8, 9)]

    fits, large = session(slow, talk)
    assert fits.status_code == 200
    assert large.status_code == 413 and "at most 64 pixels" in large.json()["detail"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("classes", "coarse", "size"), [(21, (48, 63), (375, 500)), (255, (5, 6), (33, 41))])
def test_classes_a_few_rows_at_a_time_equal_all_at_once(monkeypatch, threads, layout, classes, coarse, size):
    scores = torch.randn(1, classes, *coarse, generator=torch.manual_seed(0)).softmax(1)
    scores[:, 7] = scores[:, 3]
    scores = scores.contiguous(memory_format=layout)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = rows_at_size(scores.contiguous(), size, 0, size[0]).max(1).indices[0].to(torch.uint8)
        for values in (1, 4 * classes * size[1], 1 << 24):
            monkeypatch.setattr(deployed, "_VALUES", values)
            assert torch.equal(best_classes(scores, size), whole)
    finally:
        torch.set_num_threads(before)


def test_memory_does_not_grow_with_pixels_times_classes(monkeypatch):
    """At any moment there is room for the scores of a few rows only."""
    sizes = []

    def watched(scores, size):
        sizes.append(scores.shape[1] * size[0] * size[1])
        return resize(scores, size)

    monkeypatch.setattr(deployed, "resize", watched)
    monkeypatch.setattr(deployed, "_VALUES", 100_000)
    best_classes(torch.rand(1, 255, 4, 4), (200, 200))
    assert max(sizes) <= 100_000 and sum(sizes) == 255 * 200 * 200
