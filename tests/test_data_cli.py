"""`wsss data ...`."""

import subprocess

import pytest
from PIL import Image
from typer.testing import CliRunner

from wsss.cli.data import app
from wsss.errors import UserError


def call(*words):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace with six tagged pictures beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "pictures").mkdir()
    for n in range(6):
        Image.new("RGB", (8, 8), (n, n, n)).save(tmp_path / "pictures" / f"{n}.png")
    rows = [f"{n}.png,{'cat;dog' if n % 2 else 'cat'}" for n in range(6)]
    (tmp_path / "tags.csv").write_text("\n".join(["image,labels", *rows]))
    return tmp_path


def test_add_list_show_and_check(workspace):
    added = call("add", "folder", "pictures", "--tags", "tags.csv", "--no-dvc")
    assert "pictures: folder, 2 classes, tags from csv, in data/pictures" in added
    assert "pictures" in call("list")
    assert call("show", "pictures") == added
    assert "6 images, their tags" in call("check", "pictures")


def test_added_data_is_under_dvc_and_nothing_is_copied_into_git(workspace):
    subprocess.run(["git", "init", "-q"], check=True)
    assert "under DVC as" in call("add", "folder", "pictures", "--tags", "tags.csv", "--name", "mine")
    assert (workspace / "data" / "mine.dvc").is_file()
    subprocess.run(["git", "add", "-A"], check=True)
    staged = subprocess.run(["git", "diff", "--cached", "--name-only"], check=True, capture_output=True, text=True)
    assert [path for path in staged.stdout.split() if "data/" in path] == ["data/.gitignore", "data/mine.dvc"]


def test_nothing_added_yet(workspace):
    assert "no dataset yet" in call("list")


def test_dev_is_written_from_a_list(workspace):
    call("add", "folder", "pictures", "--tags", "tags.csv", "--no-dvc")
    (workspace / "dev.txt").write_text("0\n")
    with pytest.raises(UserError, match="0 have no mask"):
        call("write-dev", "pictures", "--dev-list", "dev.txt", "--no-dvc")


def test_shapes_are_made(workspace):
    made = call("make", "shapes", "--name", "tiny", "--images", 6, "--size", 32, "--classes", 2, "--rng", 1)
    assert "tiny: shapes, 2 classes" in made
    assert "sound" in call("check", "tiny")


def test_an_unknown_download_names_the_known_ones(workspace):
    with pytest.raises(UserError, match="sbd, voc"):
        call("download", "coco", "here")
