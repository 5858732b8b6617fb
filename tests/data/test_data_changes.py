"""What changed in a dataset after it was added is seen, by its content, and taken in or brought back by a command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from wsss.cli import app
from wsss.data import Dataset, changes, open_dataset
from wsss.data.assemble import write_dev
from wsss.data.folder import add_folder
from wsss.data.palette_png import read_palette_png, write_palette_png
from wsss.errors import UserError
from wsss.run.fingerprints import fingerprints
from wsss.run.plan import make_plan
from wsss.serving.evaluate import evaluate

IDS = [f"p{n:02d}" for n in range(12)]
MASK = "SegmentationClass/p00.png"


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """12 images, all but one with a mask of its class."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    for n, id in enumerate(IDS):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "pictures" / f"{id}.png")
        if n < 11:
            write_palette_png(tmp_path / "masks" / f"{id}.png", np.full((8, 8), 1 + n % 2, np.uint8))
    rows = [f"{id},{('cat', 'dog')[n % 2]}" for n, id in enumerate(IDS)]
    (tmp_path / "tags.csv").write_text("\n".join(["image,labels", *rows]))
    dataset = add_folder(tmp_path / "pictures", "pets", tags="tags.csv", masks=tmp_path / "masks")
    dataset.check()
    return dataset


def recolour(root: Path) -> None:
    """Another mask of as many bytes, with the same times."""
    path = root / MASK
    times = path.stat()
    mask = read_palette_png(path)
    mask[0, 0] = 0
    before = path.read_bytes()
    write_palette_png(path, mask)
    content = path.read_bytes()
    path.write_bytes(content + bytes(max(0, len(before) - len(content))))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def add_mask(root: Path) -> None:
    write_palette_png(root / f"SegmentationClass/{IDS[11]}.png", np.full((8, 8), 2, np.uint8))


def swap_folders(root: Path) -> None:
    """Masks that were written long ago, in a folder that takes the place of the other."""
    old = root.parent.parent / "corrected"
    shutil.copytree(root / "SegmentationClass", old)
    write_palette_png(old / "p00.png", np.zeros((8, 8), np.uint8))
    (root / "SegmentationClass").rename(root.parent.parent / "gone")
    old.rename(root / "SegmentationClass")


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / name
        text = path.read_text()
        assert old in text
        path.unlink()
        path.write_text(text.replace(old, new))

    return change


def repaint(root: Path) -> None:
    path = root / "JPEGImages/p00.png"
    path.unlink()
    Image.new("RGB", (8, 8)).save(path)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "mask": (recolour, f"mask {MASK} is not the file that was added"),
    "new mask": (add_mask, "mask SegmentationClass/p11.png came after the dataset was added"),
    "lost mask": (lambda root: (root / MASK).unlink(), f"mask {MASK} was added, and is missing"),
    "folder of masks": (swap_folders, f"mask {MASK} is not the file that was added"),
    "image": (repaint, "image JPEGImages/p00.png is not the file that was added"),
    "tags": (edit("tags.csv", "p00,cat", "p00,dog"), "tags.csv is not the file that was added"),
    "list": (edit("ImageSets/Segmentation/train.txt", "\n", "\n\n"), "train.txt is not the file that was added"),
    "description": (edit("dataset.json", '"pets"', '"cats"'), "dataset.json is not the file that was added"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_seen_by_runs_checks_and_evaluations(dataset: Dataset, kind: str) -> None:
    change, words = CHANGES[kind]
    change(dataset.root)
    changed = open_dataset("pets")
    for look in (changed.check, lambda: changed.check(thorough=True), lambda: evaluate("masks", changed, "val")):
        with pytest.raises(UserError) as refusal:
            look()
        assert words in str(refusal.value) and "data accept pets` takes the changes in" in str(refusal.value)


@pytest.mark.parametrize("kind", CHANGES)
def test_accept_takes_a_change_in(dataset: Dataset, kind: str) -> None:
    CHANGES[kind][0](dataset.root)
    done = CliRunner().invoke(app, ["data", "accept", "pets"])
    assert done.exit_code == 0 and "1 file that differed from what was added is taken in" in done.output, done.output
    open_dataset("pets").check(thorough=True)
    assert not Path(".dvc").exists()


def test_figures_and_the_bound_rest_on_the_masks_and_nothing_else_does(dataset: Dataset) -> None:
    def of(method: str) -> dict[str, str]:
        plan = make_plan(method, "demo", {})
        return fingerprints(plan, open_dataset("pets"), 0, torch.device("cpu"))

    before = {method: of(method) for method in ("cam", "bound")}
    recolour(dataset.root)
    CliRunner().invoke(app, ["data", "accept", "pets"])
    for method, old in before.items():
        new = of(method)
        masked = {key for key in old if key.startswith("evaluate.") or method == "bound"}
        assert {key for key in old if old[key] != new[key]} == masked


def test_masks_that_are_bad_are_not_accepted(dataset: Dataset) -> None:
    write_palette_png(dataset.root / MASK, np.full((8, 8), 9, np.uint8))
    manifest = (dataset.root / "manifest.json").read_bytes()
    done = CliRunner().invoke(app, ["data", "accept", "pets"])
    assert f"mask {MASK} holds index 9" in str(done.exception)
    assert (dataset.root / "manifest.json").read_bytes() == manifest


def test_a_dataset_whose_masks_are_all_gone_is_one_without_masks(dataset: Dataset) -> None:
    shutil.rmtree(dataset.root / "SegmentationClass")
    assert open_dataset("pets").check(thorough=True) == ""


def test_files_that_nobody_touched_are_not_read_again(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_COARSEST_NS", -(10**9))
    read: list[Path] = []
    hashing = changes.file_entry
    monkeypatch.setattr(changes, "file_entry", lambda path: (read.append(path), hashing(path))[1])
    dataset.check()
    read.clear()
    dataset.check()
    assert read == []
    os.utime(dataset.root / MASK, (1, 1))
    dataset.check()
    assert read == [dataset.root / MASK]


def test_neither_a_copy_nor_a_new_manifest_hides_a_change(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_COARSEST_NS", -(10**9))
    dataset.check()
    recolour(dataset.root)
    shutil.copytree(dataset.root, "copy", copy_function=shutil.copyfile)
    write_dev(dataset, share=0.3)
    for name in ("copy", "pets"):
        with pytest.raises(UserError, match=f"mask {MASK} is not the file that was added"):
            open_dataset(name).check()


@pytest.mark.parametrize("damage", ["no json", "a file in its place"])
def test_without_what_was_kept_everything_is_read_again(dataset: Dataset, damage: str) -> None:
    shutil.rmtree("data/.checked", ignore_errors=True)
    if damage == "no json":
        Path("data/.checked").mkdir()
        Path("data/.checked/pets.npz").write_text("{")
    else:
        Path("data/.checked").write_text("")
    dataset.check()
    recolour(dataset.root)
    with pytest.raises(UserError, match=MASK):
        dataset.check()


def test_what_is_kept_is_no_change_to_git(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "_COARSEST_NS", -(10**9))
    dataset.check()
    subprocess.run(["git", "init", "-q"], check=True)
    status = subprocess.run(["git", "status", "--porcelain", "-uall"], check=True, capture_output=True, text=True)
    assert Path("data/.checked/pets.npz").is_file() and ".checked" not in status.stdout


def test_under_dvc_the_printed_command_brings_back_what_was_added(dataset: Dataset) -> None:
    from wsss import versions

    subprocess.run(["git", "init", "-q"], check=True)
    version = versions.add(dataset.root)
    assert open_dataset("pets").check() == ""
    recolour(dataset.root)
    with pytest.raises(UserError) as refusal:
        dataset.check()
    back = re.search(r"`(\S*dvc checkout --force data/pets.dvc)` brings back what was added", str(refusal.value))
    assert back is not None
    subprocess.run(back[1].split(), check=True, capture_output=True)
    assert dataset.check(thorough=True) == "" and versions.version_of(dataset.root) == version
    recolour(dataset.root)
    done = CliRunner().invoke(app, ["data", "accept", "pets"])
    assert done.exit_code == 0 and "under DVC as" in done.output
    assert dataset.check() == "" and versions.version_of(dataset.root) != version
