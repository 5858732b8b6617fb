"""What the benchmarks share: interleaved timing, the rows they print, and the machine they ran on."""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Column, Table

from wsss.commands import command
from wsss.console import show
from wsss.errors import UserError, unknown
from wsss.git import state_of
from wsss.process import own_cores
from wsss.storage import write_bytes

_SHARED = ("__init__", "common", "dashboard_maps", "dashboard_store", "stack_logging", "stack_restore")
_LIBRARIES = ("torch", "numpy", "pydensecrf2")


@dataclass(frozen=True)
class Row:
    """One claim: medians of ours and of the peer, the median of their ratios with its spread (quartiles), the aim.

    The ratio is better when it is higher. `peer` and what follows from it are None where the peer is not installed,
    `ours` too where the machine lacks what the claim is about; `aim` is None where there is none.
    `points` are (size, milliseconds) behind a row about growth.
    """

    key: str
    what: str
    ours: float | None
    peer: float | None
    unit: str
    ratio: float | None
    spread: tuple[float, float] | None
    aim: float | None
    points: tuple[tuple[float, float], ...] = ()


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _SHARED)


def run_benchmark(name: str, as_json: bool, to: Path | None = None) -> int:
    """Run one benchmark and print its rows, as a table or as one JSON object; the exit status.

    Every benchmark is a module here with a function `rows` that yields `Row`s. The JSON also goes to the file `to`,
    written anew after each row, so that what is measured stays if the rest is not.

    Raises:
        UserError: there is no benchmark of that name, or it needs a clone of the project, and this is none.
    """
    if not name:
        print("\n".join(names()))
        return 0
    if name not in names():
        raise unknown("benchmark", name, names())
    state = state_of(Path(__file__).parent)
    about = {"name": name, "machine": machine(), "commit": state.commit, "dirty": state.dirty}
    rows: list[Row] = []
    for row in _module(name).rows():
        rows.append(row)
        report = json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=2)
        if to is not None:
            write_bytes(to, report.encode())
    if as_json:
        print(report)
        return 0
    table = Table(Column("key", no_wrap=True), "what", "ours", "peer", "unit", "ratio", "quartiles", "aim", box=None)
    for row in rows:
        quartiles = f"{row.spread[0]:.2f} – {row.spread[1]:.2f}" if row.spread else ""
        table.add_row(
            row.key,
            row.what,
            _short(row.ours),
            _short(row.peer),
            row.unit,
            _short(row.ratio),
            quartiles,
            _short(row.aim),
        )
    show(table, soft_wrap=True)
    return 0


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "infra":
            raise
        again = command("wsss", "bench", name)
        raise UserError(
            f"benchmark {name} needs infra, which is no part of an installed wsss; run it in a clone of the project: "
            f"{again}"
        ) from None


def machine() -> dict[str, Any]:
    """The processor, its cores, the GPU if there is one, and the versions of what computes."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": own_cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: _version(name) for name in _LIBRARIES},
    }


def compare(
    key: str,
    what: str,
    aim: float | None,
    ours: Callable[[], object],
    peer: Callable[[], object] | None,
    *,
    rounds: int = 5,
    clock: Callable[[], float] = time.process_time,
    peer_times: float = 1.0,
) -> Row:
    """The row of two programs that run in turns, each once beforehand; a single round is for a peer that takes long.

    Args:
        key: of the row.
        what: of the row.
        aim: of the row.
        ours: our program.
        peer: what it is compared with.
        rounds: how often both are timed.
        clock: processor time for single-threaded programs, `time.perf_counter` for others.
        peer_times: by how much the peer's time is multiplied, where only a part of its work is run.
    """
    ours()
    if peer and rounds > 1:
        peer()
    own, other = [], []
    for _ in range(rounds):
        own.append(timed(ours, clock))
        if peer:
            other.append(timed(peer, clock) * peer_times)
    return row_of(key, what, aim, own, other)


def row_of(key: str, what: str, aim: float | None, ours: list[float], peer: list[float]) -> Row:
    """The row of two lists of seconds, measured in turns; `peer` may be empty."""
    if not peer:
        return Row(key, what, 1e3 * statistics.median(ours), None, "ms", None, None, aim)
    ratios = [theirs / own for own, theirs in zip(ours, peer, strict=True)]
    low, high = float(np.quantile(ratios, 0.25)), float(np.quantile(ratios, 0.75))
    ratio = statistics.median(ratios)
    return Row(key, what, 1e3 * statistics.median(ours), 1e3 * statistics.median(peer), "ms", ratio, (low, high), aim)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def photographs(count: int) -> list[np.ndarray]:
    """Photographs of 500 x 375 px (uint8 H x W x 3): of the folder that WSSS_REAL_DATA names, or scikit-image's.

    Raises:
        UserError: neither is there.
    """
    folder = os.environ.get("WSSS_REAL_DATA")
    if folder:
        files = sorted((Path(folder) / "full_size" / "JPEGImages").iterdir())
        pictures = [np.array(Image.open(file).convert("RGB")) for file in files]
    else:
        try:
            from skimage import data
        except ImportError:
            raise UserError("there are no photographs: set WSSS_REAL_DATA, or install scikit-image") from None
        pictures = [data.astronaut(), data.coffee(), data.chelsea()]
    if folder:
        pictures = [picture for picture in pictures if picture.shape[:2] == (375, 500)]
    else:
        pictures = [
            np.array(Image.fromarray(picture).resize((500, 375), Image.Resampling.BICUBIC)) for picture in pictures
        ]
    return [pictures[i % len(pictures)] for i in range(count)]


def beliefs(image: np.ndarray, labels: int, rng: int = 0) -> np.ndarray:
    """Probabilities as a network might give them, smooth and leaning on the colours: float32 K x H x W."""
    generator = torch.Generator().manual_seed(rng)
    coarse = torch.randn(1, labels, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, image.shape[:2], mode="bicubic")[0]
    colours = torch.from_numpy(image) / 255 - 0.5
    leaning = torch.einsum("kc,hwc->khw", torch.randn(labels, 3, generator=generator), colours)
    return (1.5 * (smooth + leaning)).softmax(0).clamp(min=1e-5).numpy()


def timed(program: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds that a program takes."""
    started = clock()
    program()
    return clock() - started


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
