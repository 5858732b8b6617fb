"""`wsss data ...`."""

import os
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
    assert added.startswith("wsss: recognised in pictures: 6 images; tags (csv): cat 6, dog 3, no class 0\n")
    assert call("show", "pictures") == added.partition("\n")[2]
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


def test_photographs_that_lie_where_the_dataset_would_go_are_left_alone(workspace):
    (workspace / "data").mkdir()
    (workspace / "pictures").rename(workspace / "data" / "pictures")
    with pytest.raises(UserError, match="data/pictures exists and is no dataset; leave it, and .* --name"):
        call("add", "folder", "data/pictures", "--tags", "tags.csv")
    call("add", "folder", "data/pictures", "--tags", "tags.csv", "--name", "mine", "--no-dvc")
    with pytest.raises(UserError, match="data/mine exists and is a dataset; .* --name, or remove it if"):
        call("add", "folder", "data/pictures", "--tags", "tags.csv", "--name", "mine")
    (workspace / "data" / "mine" / "holiday.jpg").touch()
    with pytest.raises(UserError, match="data/mine exists, a dataset with other files beside it; leave it"):
        call("add", "folder", "data/pictures", "--tags", "tags.csv", "--name", "mine")


@pytest.mark.parametrize(
    ("name", "fitting"),
    [("My Photos", "my-photos"), ("Stra\N{LATIN SMALL LETTER SHARP S}e", "strasse"), ("\u732b", "photos")],
)
def test_a_folder_whose_name_can_not_name_a_dataset(workspace, name, fitting):
    (workspace / "pictures").rename(workspace / name)
    with pytest.raises(UserError, match=f"can't name a dataset; .* such as --name {fitting}$"):
        call("add", "folder", name, "--tags", "tags.csv", "--no-dvc")
    call("add", "folder", name, "--tags", "tags.csv", "--no-dvc", "--name", fitting)


def test_a_dataset_that_dvc_refused_is_there_and_can_be_tracked_later(workspace):
    subprocess.run(["dvc", "init", "-q", "--no-scm"], check=True)
    (workspace / ".dvc" / "cache").write_text("in the way")
    with pytest.raises(UserError, match="the dataset itself is whole in data/mine and can be used; mend") as error:
        call("add", "folder", "pictures", "--tags", "tags.csv", "--name", "mine")
    assert "mine" in call("list")
    (workspace / ".dvc" / "cache").unlink()
    words = str(error.value).partition("`")[2].partition("`")[0].split()
    assert words[:2] == ["wsss", "data"] and "under DVC as" in call(*words[2:])
    assert (workspace / "data" / "mine.dvc").is_file()


def test_a_dataset_behind_a_link_is_there_without_a_version(workspace):
    (workspace / "disk").mkdir()
    (workspace / "data").symlink_to(workspace / "disk")
    with pytest.raises(UserError, match="whole in data/mine .* no versions behind a link such as data: go on without"):
        call("add", "folder", "pictures", "--tags", "tags.csv", "--name", "mine")
    assert "6 images" in call("check", "mine")


def test_git_that_is_not_understood_is_said_and_the_way_out_works(workspace, monkeypatch):
    subprocess.run(["git", "init", "-q"], check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    added = call("add", "folder", "pictures", "--tags", "tags.csv", "--name", "mine")
    assert "but git was not understood (fatal: detected dubious ownership in repository" in added
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    _, config, _, track, _ = added.rpartition("): mend")[2].split("`")
    subprocess.run(config, shell=True, check=True)
    assert "commit data/mine.dvc and data/.gitignore to git" in call(*track.split()[2:])
    subprocess.run(["git", "check-ignore", "-q", "data/mine/tags.csv"], check=True)


def test_what_was_left_out_is_said(workspace):
    with (workspace / "tags.csv").open("a") as file:
        file.write("\ngone.png,zebra\n")
    added = call("add", "folder", "pictures", "--tags", "tags.csv", "--no-dvc")
    assert "note: 1 row of tags.csv left out, as there is no such image: gone.png" in added and "zebra" not in added


def test_a_workspace_that_can_not_be_written_is_said(workspace, monkeypatch):
    def refuse(path, mode=0o777):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(UserError, match=r"data can't be used \(permission denied\); change its permissions"):
        call("add", "folder", "pictures", "--tags", "tags.csv", "--name", "mine")
