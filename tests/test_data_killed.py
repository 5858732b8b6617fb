"""`wsss data add`, killed: nothing half-written is a dataset, the next attempt goes on, and changes are noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.data import write_images
from wsss.data import examined, open_dataset
from wsss.data.folder import add_folder
from wsss.data.workspace import dataset_names

COUNT = 40
HELD = """
import sys, time
from pathlib import Path
from unittest.mock import patch
from wsss.data import assemble, attempts, examined, folder, layout

def hold(*_, **__):
    Path("held").touch()
    time.sleep(60)

def half_then_hold(path, look=examined._look):
    if not path.endswith("25.jpg"):
        return look(path)
    while not Path("written").exists():
        time.sleep(0.01)
    hold()

def insert(attempt, rows, insert=attempts.Attempt._insert):
    insert(attempt, rows)
    Path("written").touch()

at = {"reading": (examined, "_look", half_then_hold), "linking": (layout, "_link", hold),
      "publishing": (assemble, "check_added", hold)}
attempts._EVERY_S = 0
with patch.object(*at[sys.argv[1]]), patch.object(attempts.Attempt, "_insert", insert):
    folder.add_folder(Path("photos"), "photos", tags="photos.csv")
"""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path / "photos", COUNT)
    for path in (tmp_path / "photos").rglob("*.jpg"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos" / "000"


def kill_at(moment: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", HELD, moment], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not Path("held").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    Path("held").unlink()


def read_again(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    look = examined._look
    monkeypatch.setattr(examined, "_look", lambda path: read.append(Path(path).name) or look(path))
    return read


@pytest.mark.parametrize(("moment", "left"), [("reading", range(1, COUNT)), ("linking", [0]), ("publishing", [0])])
def test_what_a_killed_attempt_read_is_not_read_again(moment, left, photos, monkeypatch, capsys):
    whole = add_folder(Path("photos"), "photos", tags="photos.csv", val_share=0.2)
    (Path("data") / "photos").rename("before")
    kill_at(moment)
    assert dataset_names() == []
    read = read_again(monkeypatch)
    again = add_folder(Path("photos"), "photos", tags="photos.csv", val_share=0.2)
    assert len(read) in left
    assert f"an attempt that broke off had read {COUNT - len(read)} of the {COUNT} images" in capsys.readouterr().err
    assert again.digest == whole.digest and open_dataset("photos").check() == ""
    assert not [path for path in Path("data").iterdir() if path.name.endswith(".part")]
    assert not list(Path("data/.adding").glob("*.sqlite"))


def test_what_changed_between_two_attempts_is_read_again_and_said(photos, monkeypatch, capsys):
    kill_at("publishing")
    (photos / "000001.jpg").unlink()
    other = (photos / "000003.jpg").read_bytes()
    (photos / "000002.jpg").write_bytes(other)
    os.utime(photos / "000002.jpg", (2e9, 2e9))
    Path("photos.csv").write_text(
        "".join(line for line in Path("photos.csv").read_text().splitlines(True) if "000001" not in line)
    )
    read = read_again(monkeypatch)
    dataset = add_folder(Path("photos"), "photos", tags="photos.csv")
    assert read == ["000002.jpg"]
    said = capsys.readouterr().err
    assert f"had read {COUNT - 2} of the {COUNT - 1} images" in said and "1 changed since and are read again" in said
    assert "000002.jpg" in said and "1 that it had read are no longer there" in said
    assert dataset.check(thorough=True) == "" and dataset.image("000002").tolist() == dataset.image("000003").tolist()


def test_a_damaged_record_of_an_attempt_is_no_obstacle(photos):
    kill_at("publishing")
    (record,) = Path("data/.adding").glob("*.sqlite")
    record.write_bytes(b"no table" * 1000)
    assert len(add_folder(Path("photos"), "photos", tags="photos.csv").splits["train"]) > 0
    assert not record.exists()


def test_the_processes_that_read_end_with_the_one_that_began_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = (
        "import os, time; from pathlib import Path; from wsss.data import parallel\n"
        "def work(items):\n    Path(f'at-{os.getpid()}').touch(); time.sleep(30)\n"
        "parallel.own_cores = lambda: 2\n"
        "list(parallel.in_batches(work, range(1000), 'x'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("at-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    children = [int(path.name[3:]) for path in tmp_path.glob("at-*")]
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) == 2 and not any(Path(f"/proc/{child}").exists() for child in children)
