"""Records in archives: what is packed first, and archives that are damaged, incomplete or hostile."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from record_examples import brought, die, edit, record
from tracking_examples import INFO

from wsss.errors import UserError
from wsss.tracking import names, packing, query
from wsss.tracking.importing import load_record
from wsss.tracking.packing import bytes_of, pack
from wsss.tracking.record import PROCESS, RUN, RUNS
from wsss.tracking.runs import method_run
from wsss.tracking.unpacking import opened
from wsss.tracking.unsent import DATABASE


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    """A folder with two packs of a record that has large files."""
    with method_run(INFO, offline=tmp_path / "out") as run:
        run.artifacts({f"confusion/val/{n}.npz": os.urandom(30_000) for n in range(3)})
        run.artifacts({f"{names.PANELS}/{n}.png": os.urandom(30_000) for n in range(12)})
    pack(tmp_path / "out", tmp_path / "packs", 220_000, 2)
    return tmp_path / "packs"


def test_what_is_worth_most_is_packed_and_the_rest_is_named(packs: Path, store, tmp_path: Path) -> None:
    assert sorted(path.name for path in packs.iterdir()) == ["wsss-record-1.zip", "wsss-record-2.zip"]
    assert all(path.stat().st_size <= 220_000 for path in packs.iterdir())
    with zipfile.ZipFile(packs / "wsss-record-1.zip") as archive:
        index = json.loads(archive.read("index.json"))
    packed = [Path(file["name"]).name for file in index["files"]]
    assert packed[:3] == [RUN, PROCESS, DATABASE]
    assert {"0.npz", "1.npz", "2.npz", "0.png"} <= set(packed)
    assert index["left_out"] and all("panels" in name for name in index["left_out"])
    assert any(len(file["parts"]) > 1 for file in index["files"])
    assert brought(packs) == ["new"]
    assert brought(tmp_path / "out") == ["new"]
    assert len(query.runs()) == 1


def test_a_run_that_died_is_packed_as_failed_and_one_that_goes_on_is_left_out(store, tmp_path: Path) -> None:
    died, going = record(tmp_path / "out"), record(tmp_path / "out", replace(INFO, fingerprint="0" * 64))
    for folder in (died, going):
        die(folder)
    mark = json.loads((died / PROCESS).read_text())["process"]
    edit(died / PROCESS, process=mark.rpartition("-")[0] + "-1")
    packed = pack(tmp_path / "out", tmp_path / "packs", 1 << 20, 2)
    assert packed.left_out == {f"runs/{going.name}": "its run still goes on"}
    shutil.rmtree(died)
    with pytest.raises(UserError, match="no record in .*out can be packed: its run still goes on"):
        pack(tmp_path / "out", tmp_path / "none", 1 << 20, 2)
    shutil.rmtree(tmp_path / "out")
    with opened([tmp_path / "packs"]) as (out, _):
        edit(out / RUNS / died.name / PROCESS, process="elsewhere-1-2", heartbeat=f"{time.time():.0f}")
        assert load_record(out / RUNS / died.name).ended[0] == "FAILED"


def rewritten(path: Path, change: Callable[[dict], object], entry: bytes | None = None) -> None:
    """An archive with another index, and another content of every entry."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    index = json.loads(contents.pop("index.json", b"{}"))
    change(index)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content if entry is None else entry)
        archive.writestr("index.json", json.dumps(index))


FIRST = "wsss-record-1.zip"
SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "second missing": (lambda p: (p / "wsss-record-2.zip").unlink(), "of 2 archives wsss-record-2.zip are not here"),
    "cut": (lambda p: os.truncate(p / FIRST, 5000), "is no archive that can be read"),
    "newer": (lambda p: rewritten(p / FIRST, lambda i: i.update(format=9)), r"newer version \(format 9"),
    "no index": (lambda p: rewritten(p / FIRST, lambda i: i.pop("files")), "has no index that can be read"),
    "absurd index": (lambda p: rewritten(p / FIRST, lambda i: i.update(archives=10**9)), "not what packing writes"),
    "name that leaves": (
        lambda p: rewritten(p / FIRST, lambda i: i["files"][0].update(name="runs/../../x")), "does not stay inside"
    ),
    "larger than said": (lambda p: rewritten(p / FIRST, lambda i: None, bytes(9_000_000)), "has more than .* bytes"),
    "other content": (lambda p: rewritten(p / FIRST, lambda i: None, b""), "is not what was packed"),
}  # fmt: skip


@pytest.mark.parametrize("damage", SPOILT)
def test_archives_that_can_not_be_trusted_are_refused(packs: Path, store, damage: str) -> None:
    spoil, sentence = SPOILT[damage]
    spoil(packs)
    with pytest.raises(UserError, match=sentence):
        brought(packs)
    assert query.runs(finished=False) == []


def test_a_pack_without_the_first_archive_is_refused(packs: Path) -> None:
    sentence = f"wsss-record-2.zip lacks {FIRST}, which has the index; put it beside"
    with pytest.raises(UserError, match=sentence), opened([packs / "wsss-record-2.zip"]):
        pass


def test_limits_that_can_not_be_kept_are_refused(packs: Path, tmp_path: Path) -> None:
    assert (bytes_of("16MB"), bytes_of("100 kb"), bytes_of("1.5g")) == (16_000_000, 100_000, 1_500_000_000)
    for text in ("16 elephants", "1kB", "-3MB"):
        with pytest.raises(UserError, match="must be a size of at least 64 kB, such as 16MB"):
            bytes_of(text)
    with pytest.raises(UserError, match="exists and is not an empty folder; name another"):
        pack(tmp_path / "out", packs, 1 << 20, 2)
    with method_run(replace(INFO, fingerprint="0" * 64), offline=tmp_path / "out") as run:
        run.tags({f"noise{n}": os.urandom(2000).hex() for n in range(60)})
    with pytest.raises(UserError, match="the records alone do not fit into 1 archives of 65,536 bytes"):
        pack(tmp_path / "out", tmp_path / "small", packing.SMALLEST, 1)
    assert not (tmp_path / "small").exists() and not list(tmp_path.glob(".small*"))
