"""A folder and a bucket behave alike; nothing half-written is ever seen."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wsss import storage
from wsss.errors import UserError


def folder_with(path: Path, **files: str) -> Path:
    for name, text in files.items():
        target = path / name.replace("__", "/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return path


def test_written_bytes_are_read_back(place: str) -> None:
    url = storage.join(place, "a", "b.json")
    assert not storage.exists(url)
    assert storage.write_bytes(url, b"one")
    assert storage.write_bytes(url, b"two")
    assert storage.read_bytes(url) == b"two"
    assert storage.exists(url) and storage.exists(storage.join(place, "a"))


def test_exists_does_not_take_a_prefix_for_a_folder(place: str) -> None:
    storage.write_bytes(storage.join(place, "run-10", "x"), b"")
    storage.write_bytes(storage.join(place, "walk.json"), b"")
    storage.write_bytes(storage.join(place, "walk", "x"), b"")
    assert not storage.exists(storage.join(place, "run-1"))
    assert storage.exists(storage.join(place, "walk"))


def test_a_missing_file_is_file_not_found(place: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(place, "nothing"))
    with pytest.raises(FileNotFoundError):
        storage.download_folder(storage.join(place, "nothing"), tmp_path / "got")
    assert not (tmp_path / "got").exists()
    assert storage.list_dirs(storage.join(place, "nothing")) == []


def test_of_many_writers_if_absent_exactly_one_wins(place: str) -> None:
    url = storage.join(place, "manifest.json")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.write_bytes(url, str(i).encode(), if_absent=True), range(16)))
    assert sum(won) == 1
    assert storage.read_bytes(url) == str(won.index(True)).encode()


def test_a_folder_survives_the_way_there_and_back(place: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "out", a="1", deep__er__b="2", **{"manifest.json": "{}"})
    url = storage.join(place, "step", "fingerprint")
    assert storage.upload_folder(folder, url)
    assert storage.list_dirs(place) == ["step"]
    assert storage.list_dirs(storage.join(place, "step")) == ["fingerprint"]
    storage.download_folder(url, tmp_path / "got")
    got = {p.relative_to(tmp_path / "got").as_posix(): p.read_text() for p in (tmp_path / "got").rglob("*.*")}
    assert got == {"manifest.json": "{}"}
    assert (tmp_path / "got/deep/er/b").read_text() == "2"
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_on_a_disk_is_not_replaced(tmp_path: Path) -> None:
    assert storage.upload_folder(folder_with(tmp_path / "first", x="1"), tmp_path / "step")
    assert not storage.upload_folder(folder_with(tmp_path / "second", x="2"), tmp_path / "step")
    assert storage.read_bytes(tmp_path / "step" / "x") == b"1"


def test_what_is_removed_is_gone_and_nothing_beside_it(place: str) -> None:
    for name in ("a/x", "a/deep/y", "ab", "b"):
        storage.write_bytes(storage.join(place, name), b"1")
    for name in ("a", "b", "never there"):
        storage.remove(storage.join(place, name))
    assert storage.list_files(place) == ["ab"]
    assert storage.list_dirs(place) == []


def test_two_downloads_into_one_folder_leave_it_whole(place: str, tmp_path: Path) -> None:
    url = storage.join(place, "step")
    storage.upload_folder(folder_with(tmp_path / "out", a="1", b="2"), url)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: storage.download_folder(url, tmp_path / "got"), range(4)))
    assert sorted(p.name for p in (tmp_path / "got").iterdir()) == ["a", "b"]


def test_a_scheme_we_do_not_speak_and_a_missing_bucket_are_named(s3: str) -> None:
    with pytest.raises(UserError, match=r"a path or an s3://bucket/key address, not gs://"):
        storage.exists("gs://bucket/x")
    with pytest.raises(UserError, match="no such bucket"):
        storage.read_bytes("s3://nowhere/x")
    with pytest.raises(UserError, match="names no bucket"):
        storage.read_bytes("s3:///x")


def test_an_unreachable_store_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(UserError, match=r"s3://bucket/x: the store can't be used.*check AWS_ENDPOINT_URL"):
        storage.exists("s3://bucket/x")


def test_mlflows_endpoint_variable_is_enough(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(f"{s3}/endpoint", b"here")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", os.environ["AWS_ENDPOINT_URL"])
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert storage.read_bytes(f"{s3}/endpoint") == b"here"


def test_a_full_disk_is_a_sentence_and_other_errors_are_not() -> None:
    with pytest.raises(UserError, match="is full"), storage.disk_errors("/dev/full"), open("/dev/full", "wb") as full:
        full.write(b"x")
        full.flush()
    for said in (OSError(errno.EDQUOT, "quota"), RuntimeError("I/O error: No space left on device (os error 28)")):
        with pytest.raises(UserError, match="finished steps are kept"), storage.disk_errors("."):
            raise said
    with pytest.raises(RuntimeError, match="failed writing"), storage.disk_errors("."):
        raise RuntimeError("failed writing file")


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert storage.free_bytes(tmp_path / "not" / "yet") > 0


def test_a_temporary_folder_goes_and_takes_those_of_the_dead_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = "import os; from wsss.storage import temporary_folder as t; held = t(); held.__enter__(); os._exit(9)"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 9
    (left,) = tmp_path.iterdir()
    with storage.temporary_folder() as folder:
        assert [*tmp_path.iterdir()] == [folder]
        assert folder != left
    assert not list(tmp_path.iterdir())
