"""Masks with other values than the project's indices, and with colours: mapped on the way in, recorded, or refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss.data.folder import add_folder
from wsss.data.palette_png import read_palette_png
from wsss.data.voc import add_voc
from wsss.errors import UserError

DOCS = Path(__file__).parents[2] / "docs"
CLASSES = ("tumour", "stroma", "necrosis")


@pytest.fixture
def tissue(tmp_path, monkeypatch):
    """Patches with tags, and masks as LUAD-HistoSeg has them: 0 to 2 are tissue, 4 is white and not scored."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for folder in ("img", "mask"):
        (tmp_path / folder).mkdir()
    rows = ["image,labels"]
    for number in range(12):
        present = [number % 3, (number + 1) % 3]
        mask = np.full((24, 32), present[0], np.uint8)
        mask[12:], mask[:4, :6] = present[1], 4
        Image.fromarray(draw.integers(0, 255, (24, 32, 3), np.uint8)).save(tmp_path / "img" / f"p{number:02d}.png")
        Image.fromarray(mask).save(tmp_path / "mask" / f"p{number:02d}.png")
        rows.append(f"p{number:02d},{';'.join(CLASSES[c] for c in sorted(present))}")
    (tmp_path / "tags.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def add(root, **options):
    said = {"mask_values": "0=tumour,1=stroma,2=necrosis", "ignore_values": "4,255", "background": False}
    said = {"tags": str(root / "tags.csv"), "masks": root / "mask", **said, **options}
    return add_folder(root / "img", "tissue", **said)


@pytest.mark.parametrize("tags", ["tags.csv", "masks"])
def test_values_become_indices_and_the_manifest_says_which_and_how_many(tissue, tags):
    dataset = add(tissue, tags=tags)
    assert dataset.classes.names == CLASSES and not dataset.has_background
    for number in range(12):
        before = np.array(Image.open(tissue / "mask" / f"p{number:02d}.png"))
        after = read_palette_png(dataset.root / "SegmentationClass" / f"p{number:02d}.png")
        assert (after == np.where(before == 4, 255, before + 1)).all()
        assert set(dataset.tag_names(f"p{number:02d}")) == {CLASSES[c] for c in set(np.unique(before)) - {4}}
    facts = json.loads((dataset.root / "manifest.json").read_text(encoding="utf-8"))["facts"]
    assert facts["background"] is False
    assert facts["masks"]["4"] == {"index": 255, "name": "ignored", "pixels": 12 * 24}
    assert facts["masks"]["0"]["index"] == 1 and sum(v["pixels"] for v in facts["masks"].values()) == 12 * 24 * 32


def test_values_that_are_not_named_are_all_listed_with_their_counts(tissue):
    with pytest.raises(UserError) as error:
        add(tissue, mask_values="0=tumour,1=stroma", ignore_values=None)
    message = str(error.value)
    assert "hold values that are not named" in message and "2 (2,976 px in 8 masks)" in message
    assert "4 (288 px in 12 masks)" in message and "0 (" in message and ", tumour)" in message
    assert "--mask-values" in message and "--ignore-values" in message
    assert not (tissue / "data").exists()


def test_no_background_alone_lists_the_values_that_are_no_class(tissue):
    with pytest.raises(UserError, match=r"not named: they hold 0 \(.* px in 8 masks\), 4 "):
        add(tissue, mask_values=None, ignore_values=None)


def test_colour_masks_show_their_palette_and_ask_for_names(tissue):
    colours = {0: (255, 0, 0), 1: (0, 255, 0), 2: (0, 0, 255), 4: (255, 255, 255)}
    for path in (tissue / "mask").iterdir():
        values = np.array(Image.open(path))
        picture = np.zeros((*values.shape, 3), np.uint8)
        for value, colour in colours.items():
            picture[values == value] = colour
        Image.fromarray(picture).save(path)
    for said in ({"mask_values": None, "ignore_values": None, "background": True}, {}):
        with pytest.raises(UserError) as error:
            add(tissue, **said)
        message = str(error.value)
        assert "are in colours" in message and "#ff0000 (" in message and "#ffffff (288 px in 12 masks)" in message
        assert '--mask-values "#' in message
    with pytest.raises(UserError, match=r"colours that are not named: they hold #ffffff \(288 px"):
        add(tissue, mask_values="#ff0000=tumour,#00ff00=stroma,#0000ff=necrosis", ignore_values=None)
    dataset = add(tissue, mask_values="#FF0000=tumour,#00ff00=stroma,#0000ff=necrosis", ignore_values="#ffffff")
    after = read_palette_png(dataset.root / "SegmentationClass" / "p01.png")
    assert sorted(np.unique(after)) == [2, 3, 255]


def test_a_background_among_named_values(tissue):
    said = {"mask_values": "0=background,1=stroma,2=necrosis", "background": True, "tags": "masks"}
    dataset = add(tissue, **said)
    assert dataset.has_background and dataset.classes.names == ("stroma", "necrosis")
    assert sorted(np.unique(read_palette_png(dataset.root / "SegmentationClass" / "p00.png"))) == [0, 1, 255]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"mask_values": "0:tumour"}, "has '0:tumour'; it is VALUE=NAME"),
        ({"mask_values": "red=tumour"}, "'red' is no value of a mask"),
        ({"mask_values": "0=tumour,0=stroma"}, "0 stand twice"),
        ({"mask_values": "0=tumour,4=stroma"}, "4 stand twice"),
        ({"mask_values": "0=tumour,#ff0000=stroma"}, "are numbers and colours"),
        ({"mask_values": "0=background,1=stroma"}, "--no-background says there is none"),
        ({"mask_values": "0=tumour,1=stroma,2=lymph"}, "unknown class in --mask-values"),
        ({"masks": None}, "give their folder with --masks"),
        ({"value_255": "void"}, "--value-255"),
    ],
)
def test_what_cant_be_meant_is_refused_in_one_sentence(tissue, said, sentence):
    if "lymph" in said.get("mask_values", ""):
        (tissue / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
        said = {**said, "class_list": tissue / "classes.txt"}
    with pytest.raises(UserError, match=sentence):
        add(tissue, **said)
    assert not (tissue / "data").exists()


def test_without_a_background_every_image_has_a_tag(tissue):
    text = (tissue / "tags.csv").read_text(encoding="utf-8")
    (tissue / "tags.csv").write_text(text.replace("p03,stroma;tumour", "p03,").replace("p03,tumour;stroma", "p03,"))
    with pytest.raises(UserError, match="p03 have no tag; without a background every pixel"):
        add(tissue)


def examples() -> dict[str, str]:
    """The examples of the page on data, of masks and of pictures, by title."""
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("data*.md")))
    found = dict(re.findall(r'```sh title="(.*?)"\n(.*?)```', pages, re.S))
    titles = ("tissue without a background", "masks in colours", "tiles of 4 bands of 16 bits")
    return {title: found[title] for title in titles}


@pytest.mark.parametrize("title", examples())
def test_the_examples_of_the_page_work_as_they_stand(title, tmp_path):
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euc", examples()[title]],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = {"tissue": "4 classes and no background", "masks": "#e0e0c0 ignored", "tiles": "bands 4, 3, 2; stretched"}
    assert said[title.split()[0]] in done.stdout


def test_voc_in_colours_as_annotation_tools_export_it(tissue):
    root = tissue / "VOC2012"
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tissue / "img").rename(root / "JPEGImages")
    (root / "SegmentationClass").mkdir()
    ids = sorted(path.stem for path in (root / "JPEGImages").iterdir())
    colours = np.array([[250, 50, 83], [0, 255, 0], [0, 0, 255], [9, 9, 9], [0, 0, 0]], np.uint8)
    for id in ids:
        values = np.array(Image.open(tissue / "mask" / f"{id}.png"))
        Image.fromarray(colours[values]).save(root / "SegmentationClass" / f"{id}.png")
    for name, some in {"train": ids[:8], "val": ids[8:]}.items():
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(some), encoding="utf-8")
    with pytest.raises(UserError, match=r"SegmentationClass are in colours: they hold #.*#000000 \(288 px in 12"):
        add_voc(root, "cvat", tags="masks")
    values = "#fa3253=tumour,#00ff00=stroma,#0000ff=necrosis,#000000=background"
    dataset = add_voc(root, "cvat", tags="masks", mask_values=values)
    assert dataset.classes.names == CLASSES and dataset.has_background
    assert sorted(np.unique(read_palette_png(dataset.root / "SegmentationClass" / "p00.png"))) == [0, 1, 2]
    with pytest.raises(UserError, match="leave them out with --sbd"):
        add_voc(root, "other", mask_values=values, sbd_path=root)
