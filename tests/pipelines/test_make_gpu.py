"""`make gpu`: every part ends in its share of the time, what it made stays, and without a GPU nothing runs unasked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipelines import gpu
from pipelines.gpu import Session
from pipelines.gpu_request import Request
from wsss.data import Dataset
from wsss.errors import UserError

PROJECT = Path(__file__).parents[2]
QUICK = "segment.train.epochs=1 segment.train.crop=33"


def make(**variables: object) -> subprocess.CompletedProcess[str]:
    """`PYTHON=... make gpu`, with nothing else of this process's Python."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("WSSS_", "PYTHON", "VIRTUAL_ENV"))}
    environment = own | {"PYTHON": sys.executable} | {f"WSSS_GPU_{k}": str(v) for k, v in variables.items()}
    return subprocess.run(["make", "gpu"], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


def test_on_a_processor_all_parts_end_in_time_and_leave_a_record(tiny_shapes: Dataset, tmp_path: Path) -> None:
    started = time.monotonic()
    done = make(DEVICE="cpu", MINUTES=2, DATA=tiny_shapes.root, PRESET="demo", RUN="bound", SET=QUICK, OUT=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - started < 125
    parts = {part["name"]: part["state"] for part in json.loads((tmp_path / "summary.json").read_text())["parts"]}
    assert parts == {"tests": "done", "bench": "done", "data": "left out", "results": "done", "pack": "done"}
    assert {row["ours"] for row in json.loads((tmp_path / "cuda.json").read_text())["rows"]} == {None}
    statuses = [json.loads(path.read_text())["status"] for path in tmp_path.glob("record/runs/*/run.json")]
    assert statuses == ["FINISHED"] * 3
    assert list((tmp_path / "packed").iterdir())
    assert "bound, rng 2" in (tmp_path / "results.log").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path: Path) -> None:
    done = make(OUT=tmp_path / "out")
    assert done.returncode != 0 and "torch finds no GPU here, so nothing is run" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"WSSS_GPU_MINUTES": "soon"}, "WSSS_GPU_MINUTES is 'soon'"),
        ({"WSSS_GPU_MINUTES": "0"}, "1 or more"),
        ({"WSSS_GPU_DEVICE": "tpu"}, "must be cuda or cpu"),
        ({"WSSS_GPU_DATA": "/nowhere"}, "neither is a dataset"),
    ],
)
def test_variables_that_make_no_sense(variables: dict[str, str], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Request.of(variables)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def session(out: Path) -> Session:
    out.mkdir(exist_ok=True)
    return Session(Request.of({"WSSS_GPU_OUT": str(out), "WSSS_GPU_DEVICE": "cpu"}), time.monotonic())


def test_a_part_that_does_not_end_is_killed_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "INTERRUPT_S", 0.5)
    program = (
        "import os, signal, subprocess, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    )
    started = time.monotonic()
    ending = session(tmp_path)._call("part", [sys.executable, "-c", program], tmp_path, started + 2)
    assert ending.state == "stopped" and time.monotonic() - started < 4
    child = int((tmp_path / "part.log").read_text())
    while is_alive(child):
        assert time.monotonic() - started < 10
        time.sleep(0.05)


def test_a_part_that_fails_is_said_and_the_next_one_runs(tmp_path: Path) -> None:
    ending = session(tmp_path)._call(
        "part", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path, time.monotonic() + 60
    )
    assert ending.state == "failed" and "status 3; part.log says why" in ending.why


def test_tags_come_from_boxes_else_a_file_beside_them_else_the_masks(tmp_path: Path) -> None:
    (tmp_path / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    assert gpu._tags(tmp_path) == "masks"
    (tmp_path / "labels.npz").touch()
    assert gpu._tags(tmp_path) == str(tmp_path / "labels.npz")
    (tmp_path / "VOCdevkit" / "VOC2012" / "Annotations").mkdir()
    assert gpu._tags(tmp_path) == "xml"
