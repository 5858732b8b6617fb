"""`wsss data check` names images that are in two splits, equal or nearly so."""

import csv

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from typer.testing import CliRunner

from wsss.cli.data import app
from wsss.data.alike import find_alike
from wsss.data.folder import add_folder
from wsss.data.scenes import draw_scene


def scene(number):
    return Image.fromarray(draw_scene(np.random.default_rng(number), 64, 3).image)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Ten scenes to train on, ten of val: one is the same file as another, one its JPEG, one smaller."""
    monkeypatch.chdir(tmp_path)
    for split, numbers in {"train": range(10), "val": range(10, 20)}.items():
        (tmp_path / "photos" / split).mkdir(parents=True)
        for number in numbers:
            scene(number).save(tmp_path / "photos" / split / f"{number:02d}.png")
    val = tmp_path / "photos" / "val"
    (val / "10.png").write_bytes((tmp_path / "photos" / "train" / "00.png").read_bytes())
    (val / "11.png").unlink()
    scene(1).save(val / "11.jpg", quality=60)
    ImageEnhance.Brightness(scene(2).resize((50, 50))).enhance(1.02).save(val / "12.png")
    scene(2).save(tmp_path / "photos" / "train" / "02_again.png")  # equal files of one split count once
    names = sorted(path.name for path in (tmp_path / "photos").rglob("*.*"))
    (tmp_path / "tags.csv").write_text("\n".join(["image,labels", *(f"{name},cat" for name in names)]))
    return add_folder(tmp_path / "photos", "mine", tags="tags.csv")


def test_equal_and_nearly_equal_images_across_splits_are_found(dataset):
    assert dataset.splits["val"] == tuple(str(number) for number in range(10, 20))
    found = {(pair.first, pair.second): pair.equal for pair in find_alike(dataset)}
    assert found == {("00", "10"): True, ("01", "11"): False, ("02_again", "12"): False}


def test_check_warns_with_counts_names_and_a_list(dataset, tmp_path):
    result = CliRunner().invoke(app, ["check", "mine", "--alike", "pairs.csv"], catch_exceptions=False)
    assert result.exit_code == 0
    assert (
        "warning: 3 pairs of images in different splits look the same (1 are equal files; 3 in train and val)"
        in result.output
    )
    assert "00 (train) and 10 (val)" in result.output
    rows = list(csv.reader((tmp_path / "pairs.csv").open()))
    assert rows[0] == ["first", "first_split", "second", "second_split", "what"] and len(rows) == 4
    assert rows[1] == ["00", "train", "10", "val", "equal"]
