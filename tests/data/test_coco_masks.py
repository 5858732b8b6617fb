"""Masks drawn of COCO's polygons and run lengths."""

import json

import numpy as np
import pytest
from PIL import Image

from wsss.data.coco_masks import drawing
from wsss.data.folder import add_folder
from wsss.data.manifest import MASKS_FACT, open_manifest
from wsss.data.palette_png import read_palette_png
from wsss.errors import UserError

SQUARE = [1, 1, 9, 1, 9, 9, 1, 9]


def runs_of(mask):
    """COCO's uncompressed run lengths: down the columns, outside first."""
    flat = mask.T.ravel().astype(int)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    return [int(length) for length in np.diff(np.concatenate([[0], ends]))]


def letters_of(runs):
    """The same as COCO writes it in letters."""
    text = ""
    for at, run in enumerate(runs):
        value, more = run - (runs[at - 2] if at > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 if more else bits))
    return text


def test_a_polygon_covers_the_pixels_whose_middle_is_in_it():
    found = drawing([SQUARE], (12, 14))
    assert np.argwhere(found).min(0).tolist() == [1, 1] and np.argwhere(found).max(0).tolist() == [8, 8]
    assert found.sum() == 64
    assert drawing([SQUARE, [10, 0, 14, 0, 14, 2, 10, 2]], (12, 14)).sum() == 64 + 8, "an object in two parts"


def test_run_lengths_as_list_and_as_letters_give_the_mask_back():
    draw = np.random.default_rng(0)
    for size in ((5, 7), (300, 41)):
        mask = np.repeat(draw.random((size[0], size[1])) < 0.3, 1, 0)
        runs = runs_of(mask)
        for counts in (runs, letters_of(runs)):
            assert (drawing({"size": [*size], "counts": counts}, size) == mask).all()
    corner = np.zeros((10, 10), bool)
    corner[:4, :4] = True
    assert (drawing({"size": [10, 10], "counts": "04600000l1"}, (10, 10)) == corner).all(), "as pycocotools writes it"


def dataset(root, annotations, size=(20, 24), **options):
    (root / "pictures").mkdir(exist_ok=True)
    images = []
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(root / "pictures" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "own.json").write_text(json.dumps(content))
    return add_folder(root / "pictures", "drawn", tags=str(root / "own.json"), masks="coco", **options)


def annotation(image, category, segmentation, **more):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, **more}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def of_all(crowd):
    """A cat with a smaller dog on it in each image; a crowd below both in the last."""
    whole = np.ones((20, 24), bool)
    small = [4, 4, 7, 4, 7, 7, 4, 7]
    both = [each for n in range(6) for each in (annotation(n, 9, [small]), annotation(n, 7, [SQUARE]))]
    return [*both, *([annotation(5, 7, {"size": [20, 24], "counts": runs_of(whole)}, iscrowd=1)] if crowd else [])]


def test_smaller_objects_lie_on_top_and_crowds_are_ignored(tmp_path):
    made = dataset(tmp_path, of_all(crowd=True), max_disagreement=1.0)
    masks = {i: read_palette_png(made.root / "SegmentationClass" / f"{i}.png") for i in "05"}
    assert (masks["0"] == 1).sum() == 64 - 9 and (masks["0"] == 2).sum() == 9 and (masks["0"] == 0).sum() == 480 - 64
    assert (masks["5"] == 255).sum() == 480 - 64 and (masks["5"] == 2).sum() == 9
    held = open_manifest(made.root).facts[MASKS_FACT]
    assert held["cat"]["index"] == 1 and held["dog"]["pixels"] == 6 * 9 and held["ignored"]["pixels"] == 416


def test_without_a_background_what_is_in_no_object_is_ignored(tmp_path):
    made = dataset(tmp_path, of_all(crowd=False), background=False)
    assert set(np.unique(read_palette_png(made.root / "SegmentationClass" / "0.png"))) == {1, 2, 255}


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        ([], "have boxes alone"),
        ([[1, 2, 3]], "no mask can be drawn of 0.png"),
        ({"size": [20, 24], "counts": [3, 4]}, "its runs are not those of 20 x 24 px"),
        ({"size": [20, 24], "counts": "é"}, "no letter of run lengths"),
        ({"counts": [480]}, "no mask can be drawn of 0.png"),
        ("outline", "no mask can be drawn of 0.png"),
    ],
)
def test_damaged_outlines_are_refused_and_nothing_is_written(tmp_path, segmentation, told):
    with pytest.raises(UserError, match=told):
        dataset(tmp_path, [annotation(number, 7, segmentation) for number in range(6)])
    assert not (tmp_path / "data" / "drawn").exists()


def test_masks_of_coco_need_its_annotations(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "tags.csv").write_text("image,labels\na,cat\n")
    with pytest.raises(UserError, match="--masks coco needs COCO's JSON of annotations"):
        add_folder(tmp_path, "none", tags=str(tmp_path / "tags.csv"), masks="coco")
