"""Versions of folders: DVC's own hashes, kept, moved and laid out again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wsss import versions
from wsss.errors import UserError
from wsss.git import state, state_of

PROJECT = Path(versions.__file__).parents[2]

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, DVC state and git identity of the test's own; the current folder is an empty workspace."""
    for name in ("HOME", "DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "workspace").mkdir()
    monkeypatch.chdir(tmp_path / "workspace")
    return tmp_path / "home"


@pytest.fixture
def repository(home: Path) -> Path:
    """The current folder as a git repository that is set up as this project is."""
    for name in (".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, name)
    git("init", "-q", "-b", "main")
    git("add", "-A")
    return Path.cwd()


def git(*command: str) -> str:
    return subprocess.run(["git", *command], check=True, capture_output=True, text=True).stdout


def dvc(*command: str) -> None:
    from dvc.cli import main

    assert main([*command, "--quiet"]) == 0


def dataset(folder: str, **more: str) -> Path:
    root = Path(folder)
    for name, text in {"tags.csv": "image,labels\na,cat\n", "JPEGImages/a.jpg": "picture", **more}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def contents(folder: str | Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_a_fresh_clone_pulls_the_same_hashes(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = versions.add(dataset("data/pets"))
    assert (version.nfiles, version.size) == (2, 26)
    assert version.md5 in Path("data/pets.dvc").read_text()
    versions.push(version.md5)
    git("add", "-A")
    git("commit", "-qm", "data")
    assert "data/pets/tags.csv" not in git("ls-files") and "data/pets.dvc" in git("ls-files")

    git("clone", "-q", str(repository), str(tmp_path / "clone"))
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(UserError, match="dvc pull data/pets"):
        versions.version_of("data/pets")
    dvc("pull")
    assert versions.version_of("data/pets") == version
    assert contents("data/pets") == contents(repository / "data/pets")


def test_store_gives_the_version_of_a_stage_out_of_the_same_content(repository: Path) -> None:
    kept = versions.store(dataset("work/store/crf/abc"))
    command = "python -c \"import shutil; shutil.copytree('work/store/crf/abc', 'labels/pets/a-b-0')\""
    Path("dvc.yaml").write_text(json.dumps({"stages": {"refine": {"cmd": command, "outs": ["labels/pets/a-b-0"]}}}))
    assert versions.version_of("labels/pets/a-b-0") is None
    dvc("repro")
    assert versions.version_of("labels/pets/a-b-0") == kept
    assert versions.add(dataset("data/pets")) == kept


def test_a_version_changes_with_content_names_and_nothing_else() -> None:
    one = versions.store(dataset("one"))
    os.utime(dataset("two") / "tags.csv", (1, 1))
    assert versions.store("two") == one
    assert versions.store(dataset("three", more="x")).md5 != one.md5
    (Path("two") / "tags.csv").rename("two/Tags.csv")
    assert versions.store("two").md5 != one.md5


def test_a_file_changed_after_add_changes_the_version() -> None:
    version = versions.add(dataset("data/pets"))
    assert versions.version_of("data/pets") == version
    Path("data/pets/tags.csv").unlink()
    Path("data/pets/tags.csv").write_text("image,labels\na,dog\n")
    changed = versions.version_of("data/pets")
    assert changed is not None and changed.md5 != version.md5
    assert versions.add("data/pets") == changed


def test_what_dvc_does_not_track_has_no_version(repository: Path) -> None:
    assert versions.version_of(dataset("data/pets")) is None
    versions.store("data/pets")
    assert versions.version_of("data/pets") is None
    assert git("status", "--porcelain", "data/pets.dvc") == ""


def test_labels_of_an_uncommitted_run_come_back_from_its_manifest(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = versions.store(dataset("work/labels"))
    listed = json.loads(json.dumps(versions.manifest(kept.md5)))
    assert [entry["relpath"] for entry in listed] == ["JPEGImages/a.jpg", "tags.csv"]
    versions.push(kept.md5)
    for path in (home / ".cache/wsss/dvc").rglob("*.dir"):
        path.unlink()

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"not in DVC's cache"):
        versions.fetch(kept.md5)
    assert versions.fetch(kept.md5, listed) == kept
    versions.checkout(kept.md5, "labels")
    assert contents("labels") == contents(tmp_path / "workspace/work/labels")


def test_another_versions_manifest_is_refused() -> None:
    one, two = versions.store(dataset("one")), versions.store(dataset("two", more="x"))
    with pytest.raises(UserError, match=f"that of version {two.md5}, not of {one.md5}"):
        versions.fetch(one.md5, versions.manifest(two.md5))


def test_files_that_are_nowhere_are_counted(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = versions.store(dataset("one"))
    listed = versions.manifest(kept.md5)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"2 of 2 files .* neither here nor in the remote"):
        versions.fetch(kept.md5, listed)


def test_checkout_is_whole_and_never_overwrites(tmp_path: Path) -> None:
    kept = versions.store(dataset("one"))
    versions.checkout(kept.md5, "out/labels")
    versions.checkout(kept.md5, "out/labels")
    assert contents("out/labels") == contents("one")
    dataset("other", more="x")
    with pytest.raises(UserError, match="holds something else"):
        versions.checkout(kept.md5, "other")
    assert not list(tmp_path.rglob("*.part"))


def test_labels_laid_out_again_can_be_changed_without_harm_to_the_cache() -> None:
    kept = versions.store(dataset("one"))
    versions.checkout(kept.md5, "out")
    replacement = Path("out/new")
    replacement.write_text("changed")
    os.replace(replacement, "out/tags.csv")
    versions.checkout(kept.md5, "again")
    assert contents("again") == contents("one")


def test_the_users_own_files_are_neither_moved_nor_made_read_only(tmp_path: Path) -> None:
    source = dataset(str(tmp_path / "photos"))
    folder = Path("data/pets/JPEGImages")
    folder.mkdir(parents=True)
    (folder / "a.jpg").symlink_to(source / "JPEGImages/a.jpg")
    (folder / "b.jpg").hardlink_to(source / "tags.csv")
    mode = (source / "tags.csv").stat().st_mode
    versions.add("data/pets")
    assert contents(source) == {"JPEGImages/a.jpg": "picture", "tags.csv": "image,labels\na,cat\n"}
    assert (source / "JPEGImages/a.jpg").stat().st_mode == (source / "tags.csv").stat().st_mode == mode
    assert contents("data/pets")["JPEGImages/a.jpg"] == "picture"


def test_a_long_dvc_command_is_waited_for() -> None:
    dataset("data/pets")
    versions.store("data/pets")
    hold = "import time; from dvc.repo import Repo; r = Repo(); r.lock.lock(); print(flush=True); time.sleep(4)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        assert versions.add("data/pets") == versions.store("data/pets")


def test_a_remote_of_the_users_own_wins(home: Path, tmp_path: Path) -> None:
    assert versions.default_remote() is None
    kept = versions.store(dataset("one"))
    assert versions.default_remote() == str(home / ".cache/wsss/dvc")
    dvc("remote", "modify", "--local", "local", "url", str(tmp_path / "team"))
    assert versions.default_remote() == str(tmp_path / "team")
    versions.push(kept.md5)
    assert list((tmp_path / "team").rglob("*.dir")) and not (home / ".cache/wsss").exists()


def test_an_s3_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in {
            "ACCESS_KEY_ID": "test",
            "SECRET_ACCESS_KEY": "test",
            "DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="bucket")
        kept = versions.store(dataset("one"))
        dvc("remote", "add", "-d", "team", "s3://bucket/dvc")
        dvc("remote", "modify", "team", "endpointurl", endpoint)
        versions.push(kept.md5)
        listed = versions.manifest(kept.md5)
        for path in Path(".dvc/cache").rglob("*"):
            if path.is_file():
                path.unlink()
        assert versions.fetch(kept.md5) == kept
        assert versions.manifest(kept.md5) == listed
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: versions.store("nothing"), "nothing holds no file"),
        (lambda: versions.add("nothing"), "nothing"),
        (lambda: versions.manifest("0" * 32 + ".dir"), "not in DVC's cache; fetch it first"),
        (lambda: (versions.store(dataset("x")), versions.push(versions.store("x").md5, "team")), "team"),
    ],
    ids=["store", "add", "manifest", "push"],
)
def test_what_is_missing_is_named(call: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)


def test_git_state(repository: Path) -> None:
    Path("code.py").write_text("1")
    assert state() == (None, True)
    git("add", "-A")
    git("commit", "-qm", "code")
    commit = git("rev-parse", "HEAD").strip()
    assert state() == (commit, False)
    Path("code.py").write_text("2")
    assert state() == (commit, True)


def test_outside_git_it_is_the_state_of_the_program_s_own_repository() -> None:
    assert state_of(".") == (None, False)
    assert state() == state_of(PROJECT)


def test_an_environment_that_lies_in_a_repository_is_no_part_of_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("commit", "-qm", "somebody's project")
    installed = repository / ".venv" / "wsss"
    installed.mkdir(parents=True)
    (installed / "git.py").touch()
    monkeypatch.setattr("wsss.git.__file__", str(installed / "git.py"))
    monkeypatch.chdir(tmp_path)
    assert state() == (None, False)
