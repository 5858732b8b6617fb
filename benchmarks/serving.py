"""What the server adds to the network: latency and throughput beside the bare pipeline, MLflow's server and a shadow.

The network is the MobileNetV2 of preset `small` with random weights, which take as long as trained ones; photographs
are JPEGs of 500 x 375 px, without a CRF; the clients run on the same cores.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import Row, photographs
from wsss.classes import VOC, Classes
from wsss.data.palette_png import encode_palette_png
from wsss.nets.deeplab import DeepLab
from wsss.process import own_cores
from wsss.serving.batching import MOST
from wsss.serving.package import load_package, save_package
from wsss.serving.segmenter import Segmenter
from wsss.stages.outputs import save_model
from wsss.stream import use_own_cores

ROUNDS = 5
EACH = 24
"""Requests of a round, of all clients together; for MLflow's server"""
EACH_MLFLOW = 2
THINKING_S = 0.05
"""What a client of the shadow's row waits between two requests, so that there is time in which nobody asks."""
NETWORK = {"classes": 21, "backbone": "mobilenet_v2", "output_stride": 16, "rates": [2, 4, 6]}
_START_S = 120


def rows() -> Iterator[Row]:
    """Latency of one client, throughput of 1, 4 and 16, a shadow, and MLflow's server."""
    use_own_cores()
    # As the server's network, the bare pipeline has a thread of its own: the main one's helpers spin longer here.
    thread = ThreadPoolExecutor(1, "bare", torch.set_num_threads, (own_cores(),))
    files = [_jpeg(image) for image in photographs(MOST)]
    with tempfile.TemporaryDirectory() as scratch:
        package = packaged(Path(scratch))
        segmenter = load_package(str(package))
        with serving(package) as port, serving(package, "--shadow", f"{package}:0.1") as shadowed:
            yield latency(thread, segmenter, files, port)
            for clients in (1, 4, 16):
                yield throughput(thread, segmenter, files, port, clients)
            yield shadow(files, port, shadowed)
            with mlflow_serving(package) as peer:
                yield beside_mlflow(files, port, peer)


def packaged(folder: Path) -> Path:
    """A package of the network, its weights random."""
    torch.manual_seed(0)
    step = folder / "step"
    step.mkdir()
    save_model(step, DeepLab(weights="none", **NETWORK).eval(), NETWORK)  # type: ignore[arg-type]
    save_package(step, folder / "package", Classes(VOC), "# random weights\n")
    return folder / "package"


def alone(segmenter: Segmenter, file: bytes) -> bytes:
    """The bare pipeline of one image: decode, resize, forward, argmax, encode."""
    return encode_palette_png(segmenter(_pixels(file)))


def batched(segmenter: Segmenter, files: list[bytes]) -> list[bytes]:
    """The bare pipeline of a batch."""
    return [encode_palette_png(labels) for labels in segmenter.segment_batch([_pixels(file) for file in files])]


def latency(thread: ThreadPoolExecutor, segmenter: Segmenter, files: list[bytes], port: int) -> Row:
    """The bare pipeline's time over the median of one client."""
    own, bare = [], []
    for _ in range(ROUNDS + 1):
        turns = [partial(alone, segmenter, files[i % MOST]) for i in range(EACH)]
        bare.append(statistics.median(thread.map(_seconds, turns)))
        own.append(statistics.median(asked(port, files, 1, EACH)[0]))
    what = "one client: p50; decode + resize + forward + argmax + encode in one process"
    return _row("latency-1", what, 0.93, "ms", [1e3 * s for s in own[1:]], [1e3 * s for s in bare[1:]], lower=True)


def throughput(thread: ThreadPoolExecutor, segmenter: Segmenter, files: list[bytes], port: int, clients: int) -> Row:
    """Requests a second over the images a second of the bare batched pipeline."""
    own, bare, waits = [], [], []
    for _ in range(ROUNDS + 1):
        bare.append(MOST / thread.submit(_seconds, lambda: batched(segmenter, files)).result())
        seconds, whole = asked(port, files, clients, max(EACH, 2 * clients))
        own.append(len(seconds) / whole)
        waits.extend(seconds)
    p50, p95, p99 = (1e3 * np.quantile(waits, q) for q in (0.5, 0.95, 0.99))
    took = f"p50 {p50:.0f} p95 {p95:.0f} p99 {p99:.0f} ms"
    what = f"{clients} client{'s' * (clients > 1)}, {took}: requests/s; images/s in batches of {MOST}"
    return _row(f"throughput-{clients}", what, 0.9 if clients == 16 else None, "1/s", own[1:], bare[1:])


def shadow(files: list[bytes], port: int, shadowed: int) -> Row:
    """The median without a shadow over that with one of a tenth."""
    own, without = [], []
    for _ in range(ROUNDS + 1):
        without.append(statistics.median(asked(port, files, 1, EACH, THINKING_S)[0]))
        own.append(statistics.median(asked(shadowed, files, 1, EACH, THINKING_S)[0]))
        _settle(shadowed)
    images = _get(shadowed, "/shadow")["images"]
    what = f"one client that waits 50 ms: p50 with a shadow of 0.1, which labelled {images} images; without"
    return _row("shadow", what, 0.9, "ms", [1e3 * s for s in own[1:]], [1e3 * s for s in without[1:]], lower=True)


def beside_mlflow(files: list[bytes], port: int, peer: int) -> Row:
    """Requests a second of one client beside `mlflow models serve` with the same network."""
    body = json.dumps({"inputs": _pixels(files[0])[None].tolist()}).encode()
    own, other = [], []
    for number in range(ROUNDS):
        seconds, whole = asked(port, files, 1, EACH)
        begun = time.perf_counter()
        for _ in range(EACH_MLFLOW):
            _send(peer, "/invocations", body, "application/json")
        if number:
            own.append(len(seconds) / whole)
            other.append(EACH_MLFLOW / (time.perf_counter() - begun))
    return _row(
        "vs-mlflow", "one client: requests/s; `mlflow models serve` of the same package", 3.0, "1/s", own, other
    )


def asked(port: int, files: list[bytes], clients: int, count: int, thinking: float = 0.0) -> tuple[list[float], float]:
    """The seconds of each of `count` requests by so many clients, and of all."""
    seconds: list[float] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for index in range(number, count, clients):
            time.sleep(thinking)
            begun = time.perf_counter()
            connection.request("POST", "/segment", files[index % len(files)], {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            seconds.append(time.perf_counter() - begun)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, time.perf_counter() - begun


@contextmanager
def serving(package: Path, *more: str) -> Iterator[int]:
    """`wsss serve` of a package; its port."""
    command = [sys.executable, "-m", "wsss.cli", "serve", str(package), "--port", "0", "--device", "cpu", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            yield int(re.findall(r":(\d+)$", line.strip())[0])
        finally:
            process.terminate()


@contextmanager
def mlflow_serving(package: Path) -> Iterator[int]:
    """`mlflow models serve` of a package; its port."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(package)]
    with subprocess.Popen(
        [*command, "--env-manager", "local", "--port", str(port)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            end = time.monotonic() + _START_S
            while time.monotonic() < end and process.poll() is None:
                with contextlib.suppress(OSError):
                    _send(port, "/ping", None, "")
                    break
                time.sleep(0.5)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def _send(port: int, path: str, body: bytes | None, kind: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST" if body else "GET", path, body, {"Content-Type": kind} if body else {})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} answers {answer.status}: {content[:300]!r}")
        return content
    finally:
        connection.close()


def _get(port: int, path: str) -> dict[str, int]:
    return dict(json.loads(_send(port, path, None, "")))


def _settle(port: int) -> None:
    """Wait until a shadow has nothing left to do, which would take time from what is measured next."""
    before, after = -1, 0
    while before != after:
        before = after
        time.sleep(0.5)
        after = _get(port, "/shadow")["images"]


def _row(
    key: str, what: str, aim: float | None, unit: str, own: list[float], peer: list[float], lower: bool = False
) -> Row:
    """The row of values measured in turns; the ratio is better when it is higher."""
    ratios = [theirs / ours if lower else ours / theirs for ours, theirs in zip(own, peer, strict=True)]
    low, high = np.quantile(ratios, [0.25, 0.75])
    ratio = statistics.median(ratios)
    return Row(key, what, statistics.median(own), statistics.median(peer), unit, ratio, (float(low), float(high)), aim)


def _seconds(program: Callable[[], object]) -> float:
    begun = time.perf_counter()
    program()
    return time.perf_counter() - begun


def _pixels(file: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(file)))


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
