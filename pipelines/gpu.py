"""What a GPU is worth a few minutes for: `make gpu`, or `python -m pipelines.gpu`.

Tests, speed, runs, and the record of it all in a few archives, one after the other. Each part ends in its share of the
time, whatever happens, and what it made so far stays:

    <WSSS_GPU_OUT>/tests.log      the tests marked `gpu`
    <WSSS_GPU_OUT>/cuda.json      `wsss bench cuda`
    <WSSS_GPU_OUT>/record/        `wsss results --offline`, steps' outputs included; the next call goes on with them
    <WSSS_GPU_OUT>/packed/        `wsss pack`
    <WSSS_GPU_OUT>/summary.json   how each part ended

It needs no more installed than torch and what images need, and leaves out the tests where there is no pytest.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from pipelines.gpu_request import Request, is_dataset
from wsss.errors import UserError

PROJECT = Path(__file__).parents[1]
INTERRUPT_S = 6.0
"""So long before a part's end it is interrupted; at the end it is killed."""
START_S = 12.0
"""So long a command may take to begin and to end its work, its imports among it."""
NEEDED = "torch torchvision skimage scipy safetensors numpy PIL typer rich tqdm filelock"
NOTHING_COLLECTED = 5
"""pytest's status where no test was left to run."""


@dataclass(frozen=True)
class Ending:
    """How a part ended: "done", "failed", "stopped" (its time was over) or "left out", its seconds, and why."""

    name: str
    state: str
    seconds: float
    why: str = ""


class Session:
    """The parts, one after the other, each until its share of the time is over."""

    def __init__(self, request: Request, started: float) -> None:
        self._request, self._started = request, started
        self._python = [sys.executable, "-m"]
        self._variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *_paths()])}
        if request.cpu:
            self._variables["CUDA_VISIBLE_DEVICES"] = ""
        self.endings: list[Ending] = []

    def run(self) -> bool:
        """Run all parts; whether none failed."""
        out = self._request.out
        out.mkdir(parents=True, exist_ok=True)
        parts: list[tuple[str, float, Callable[[float], tuple[list[str], Path]]]] = [
            ("tests", 0.2, self._tests),
            ("bench", 0.4, self._bench),
            ("data", 0.45, self._data),
            ("results", 0.9, self._results),
            ("pack", 1.0, self._pack),
        ]
        for name, share, make in parts:
            end = self._started + share * 60 * self._request.minutes
            try:
                command, folder = make(end)
            except _LeftOutError as reason:
                self._ended(Ending(name, "left out", 0.0, str(reason)))
                continue
            self._ended(self._call(name, command, folder, end))
        return all(ending.state != "failed" for ending in self.endings)

    def _tests(self, end: float) -> tuple[list[str], Path]:
        if not importlib.util.find_spec("pytest"):
            raise _LeftOutError("pytest is not installed")
        files = [
            str(path)
            for path in sorted(PROJECT.glob("tests/**/test_*.py"))
            if "mark.gpu" in path.read_text(encoding="utf-8")
        ]
        if not files:
            raise _LeftOutError("there are no tests here")
        # The settings of the project's own environment ask for plugins that may not be here.
        own = ["-o", "addopts=", "-o", f"cache_dir={self._request.out / 'pytest'}"]
        return [*self._python, "pytest", "-v", "-m", "gpu", *own, *files], PROJECT

    def _bench(self, end: float) -> tuple[list[str], Path]:
        to = self._request.out / "cuda.json"
        return [*self._python, "wsss.cli", "bench", "cuda", "--to", str(to)], PROJECT

    def _data(self, end: float) -> tuple[list[str], Path]:
        data, out = self._request.data, self._request.out
        if data is None or is_dataset(data) or is_dataset(out / "data" / "voc"):
            raise _LeftOutError("it is a dataset already")
        return [
            *self._python,
            "wsss.cli",
            "data",
            "add",
            "voc",
            str(data / "VOCdevkit"),
            "--tags",
            _tags(data),
            "--no-dvc",
        ], out

    def _results(self, end: float) -> tuple[list[str], Path]:
        request = self._request
        data = "shapes"
        if request.data is not None:
            data = str(request.data) if is_dataset(request.data) else "voc"
        hours = max(1.0, end - time.monotonic() - INTERRUPT_S - START_S) / 3600
        words = ["--data", data, "--preset", request.preset, "--run", request.methods, "--offline", "record"]
        sets = [word for setting in request.settings for word in ("--set", setting)]
        return [*self._python, "wsss.cli", "results", *words, "--hours", f"{hours:.4f}", *sets], request.out

    def _pack(self, end: float) -> tuple[list[str], Path]:
        if not list((self._request.out / "record").glob("runs/*")):
            raise _LeftOutError("no run was begun")
        shutil.rmtree(self._request.out / "packed", ignore_errors=True)
        return [*self._python, "wsss.cli", "pack", "record", "--to", "packed"], self._request.out

    def _call(self, name: str, command: list[str], folder: Path, end: float) -> Ending:
        """Run a command until its time is over, what it prints shown and kept."""
        print(f"\n{name}: {shlex.join(command)}", flush=True)
        started = time.monotonic()
        with (self._request.out / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            assert child.stdout is not None
            copying = threading.Thread(target=_copy, args=(child.stdout, log), daemon=True)
            copying.start()
            try:
                stopped = _end(child, end)
            finally:
                _signal(child, signal.SIGKILL)
                child.wait()
                copying.join(1.0)
        seconds = time.monotonic() - started
        if stopped:
            return Ending(name, "stopped", seconds, "its time was over")
        if child.returncode == 0 or (name == "tests" and child.returncode == NOTHING_COLLECTED):
            return Ending(name, "done", seconds, "" if child.returncode == 0 else "no test is for this machine")
        return Ending(name, "failed", seconds, f"status {child.returncode}; {name}.log says why")

    def _ended(self, ending: Ending) -> None:
        self.endings.append(ending)
        parts = [asdict(each) for each in self.endings]
        (self._request.out / "summary.json").write_text(json.dumps({"parts": parts}, indent=1) + "\n", encoding="utf-8")


class _LeftOutError(Exception):
    """A part has nothing to do here; says why."""


def _tags(folder: Path) -> str:
    """Where the tags come from in a folder that holds VOCdevkit: its boxes, else a file beside it, else its masks."""
    if (folder / "VOCdevkit" / "VOC2012" / "Annotations").is_dir():
        return "xml"
    files = [*sorted(folder.glob("*.npz")), *sorted(folder.glob("*.csv"))]
    return str(files[0]) if files else "masks"


def _end(child: subprocess.Popen[bytes], end: float) -> bool:
    """Wait for a process, interrupt it shortly before its end; whether it had to be."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(max(0.1, end - INTERRUPT_S - time.monotonic()))
        return False
    _signal(child, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        child.wait(max(0.1, end - time.monotonic()))
    return True


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a process and to those that it started; all are in one group."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _copy(source: IO[bytes], log: IO[bytes]) -> None:
    for line in iter(source.readline, b""):
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
        with suppress(ValueError):  # the part is over
            log.write(line)
            log.flush()


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def main() -> int:
    """Run all parts; 0 where none failed, 1 where one did or there is no GPU, 2 where a variable makes no sense."""
    started = time.monotonic()
    try:
        if missing := [name for name in NEEDED.split() if not importlib.util.find_spec(name)]:
            raise UserError(
                f"{sys.executable} has no {', '.join(missing)}; say which Python has: PYTHON=/path/to/python3 make gpu"
            )
        request = Request.of(os.environ)
    except UserError as error:
        print(f"wsss: {error}", file=sys.stderr)
        return 2
    if not request.cpu:
        import torch

        if not torch.cuda.is_available():
            print(
                "wsss: torch finds no GPU here, so nothing is run; WSSS_GPU_DEVICE=cpu runs it all on the processor",
                file=sys.stderr,
            )
            return 1
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {request.minutes:g} minutes, {request.out}")
    session = Session(request, started)
    sound = session.run()
    print(f"\nafter {time.monotonic() - started:.0f} s, in {request.out}:")
    for ending in session.endings:
        print(f"  {ending.name:8} {ending.state:9} {ending.seconds:5.0f} s  {ending.why}".rstrip())
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
