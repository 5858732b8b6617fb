"""`wsss data add`, killed: nothing half-written is a dataset, the next attempt goes on, and changes are noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.adding import write_images
from wsss.data import examined, open_dataset
from wsss.data.folder import add_folder
from wsss.data.manifest import open_manifest
from wsss.data.palette_png import write_palette_png
from wsss.data.workspace import dataset_names
from wsss.errors import UserError

COUNT = 40
HELD = """
import sys, time
from pathlib import Path
from unittest.mock import patch
from wsss.data import assemble, attempts, examined, folder, linking

def hold(*_, **__):
    Path("held").touch()
    time.sleep(60)

def until_25(look):
    def half_then_hold(path):
        if "25." not in path:
            return look(path)
        while not Path("written").exists():
            time.sleep(0.01)
        hold()
    return half_then_hold

def insert(attempt, rows, insert=attempts.Attempt._insert):
    insert(attempt, rows)
    if sys.argv[1] != "masks" or attempt.what == "masks":
        Path("written").touch()

at = {"reading": (examined, "_look", until_25(examined._look)), "linking": (linking, "_link", hold),
      "masks": (examined, "_look_at_mask", until_25(examined._look_at_mask)),
      "publishing": (assemble, "check_added", hold)}
attempts._EVERY_S = 0
with patch.object(*at[sys.argv[1]]), patch.object(attempts.Attempt, "_insert", insert):
    masks = Path("masks") if Path("masks").exists() else None
    folder.add_folder(Path("photos"), "photos", tags="photos.csv", masks=masks)
"""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path / "photos", COUNT)
    for path in (tmp_path / "photos").rglob("*.jpg"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos" / "000"


@pytest.fixture
def masks(photos: Path) -> Path:
    for path in photos.glob("*.jpg"):
        mask = Path("masks") / f"{path.stem}.png"
        write_palette_png(mask, np.full((64, 64), 1 if int(path.stem) % 3 else 2, np.uint8))
        os.utime(mask, (1e9, 1e9))
    return Path("masks")


def kill_at(moment: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", HELD, moment], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not Path("held").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    Path("held").unlink()


def read_again(monkeypatch: pytest.MonkeyPatch, name: str = "_look") -> list[str]:
    read: list[str] = []
    look = getattr(examined, name)
    monkeypatch.setattr(examined, name, lambda path: read.append(Path(path).name) or look(path))
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


@pytest.mark.parametrize(("moment", "left"), [("masks", range(1, COUNT)), ("publishing", [0])])
def test_nor_are_masks_that_it_read(moment, left, photos, masks, monkeypatch, capsys):
    whole = add_folder(Path("photos"), "photos", tags="photos.csv", masks=masks)
    (Path("data") / "photos").rename("before")
    kill_at(moment)
    read, masks_read = read_again(monkeypatch), read_again(monkeypatch, "_look_at_mask")
    again = add_folder(Path("photos"), "photos", tags="photos.csv", masks=masks)
    assert read == [] and len(masks_read) in left
    assert (
        f"an attempt that broke off had read {COUNT - len(masks_read)} of the {COUNT} masks" in capsys.readouterr().err
    )
    assert open_manifest(again.root) == open_manifest(Path("before").absolute())
    assert again.digest == whole.digest and open_dataset("photos").check(thorough=True) == ""


def test_a_mask_that_changed_between_two_attempts_is_read_again(photos, masks, monkeypatch):
    monkeypatch.setattr("wsss.data.masks.read_palette_png", lambda *_: pytest.fail("a mask was read twice"))
    kill_at("publishing")
    wrong = masks / "000003.png"
    write_palette_png(wrong, np.full((64, 60), 1, np.uint8))
    os.utime(wrong, (2e9, 2e9))
    with pytest.raises(UserError, match=r"000003\.png is 60 x 64, its image 64 x 64"):
        add_folder(Path("photos"), "photos", tags="photos.csv", masks=masks)


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
