"""PASCAL VOC 2012 in the VOCdevkit layout, SBD in the benchmark_RELEASE layout, SegmentationClassAug."""

import json
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from wsss.classes import VOC
from wsss.data import open_dataset
from wsss.data.palette_png import read_palette_png, write_palette_png
from wsss.data.sbd import add_sbd
from wsss.data.voc import add_voc
from wsss.errors import UserError

CAT, DOG, COW = (VOC.index(name) + 1 for name in ("cat", "dog", "cow"))
TRAIN = [f"2007_{n:06d}" for n in range(20)]
VAL = [f"2008_{n:06d}" for n in range(4)]
SBD_TRAIN = [*TRAIN[:2], VAL[0], "2009_000000", "2009_000001"]
SBD_VAL = ["2010_000000", VAL[1]]
SBD_ONLY = ["2009_000000", "2009_000001", "2010_000000"]


def write_lists(folder, **lists):
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{id}\n" for id in ids))


def image(path, number=0, size=(12, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number, 50, 90)).save(path)


@pytest.fixture
def devkit(tmp_path, monkeypatch):
    """A VOCdevkit of 20 train and 4 val images, boxes that show a cow beside the mask's cat; images of SBD too."""
    root = tmp_path / "source" / "VOCdevkit" / "VOC2012"
    write_lists(root / "ImageSets/Segmentation", train=TRAIN, val=VAL, trainval=sorted(TRAIN + VAL))
    (root / "Annotations").mkdir()
    (root / "SegmentationClass").mkdir()
    for number, id in enumerate(TRAIN + VAL + SBD_ONLY):
        image(root / "JPEGImages" / f"{id}.jpg", number)
        boxes = "".join(f"<object><name>{name}</name></object>" for name in ("cow", "cat"))
        (root / "Annotations" / f"{id}.xml").write_text(f"<annotation>{boxes}</annotation>")
    for id in TRAIN + VAL:
        write_palette_png(root / "SegmentationClass" / f"{id}.png", np.full((8, 12), CAT, np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "source"


@pytest.fixture
def benchmark(tmp_path):
    """An SBD whose masks say dog everywhere."""
    root = tmp_path / "source" / "benchmark_RELEASE" / "dataset"
    write_lists(root, train=SBD_TRAIN, val=SBD_VAL)
    (root / "cls").mkdir()
    for number, id in enumerate(SBD_TRAIN + SBD_VAL):
        image(root / "img" / f"{id}.jpg", number)
        fields = [("Boundaries", object), ("Segmentation", object), ("CategoriesPresent", object)]
        cell = np.zeros((1, 1), dtype=fields)
        cell[0, 0]["Segmentation"] = np.full((8, 12), DOG, np.uint8)
        scipy.io.savemat(root / "cls" / f"{id}.mat", {"GTcls": cell})
    return tmp_path / "source" / "benchmark_RELEASE"


@pytest.mark.parametrize("inside", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_from_any_of_its_folders(devkit, inside):
    dataset = add_voc(devkit / inside)
    train, dev = dataset.splits["train"], dataset.splits["dev"]
    assert len(dev) == 2 and len(train) == 18
    assert sorted(train + dev) == TRAIN and list(dataset.splits["val"]) == VAL
    assert dataset.splits["train_official"] == train
    assert dataset.classes.names == VOC
    assert (dataset.root / "JPEGImages" / f"{TRAIN[0]}.jpg").samefile(
        devkit / "VOCdevkit/VOC2012/JPEGImages" / f"{TRAIN[0]}.jpg"
    )
    assert open_dataset("voc").digest == dataset.digest


def test_tags_come_from_the_boxes_by_default_or_from_masks_and_the_choice_is_recorded(devkit):
    boxes, masks = add_voc(devkit), add_voc(devkit, "voc-masks", tags="masks")
    assert boxes.tag_names(TRAIN[0]) == ("cat", "cow") and boxes.tags_source == "xml"
    assert masks.tag_names(TRAIN[0]) == ("cat",) and masks.tags_source == "masks"
    recorded = json.loads((masks.root / "dataset.json").read_text())
    assert recorded["tags_source"] == "masks"
    assert boxes.digest != masks.digest


def test_train_aug_is_sbd_and_voc_train_without_voc_val(devkit, benchmark):
    dataset = add_voc(devkit, sbd_path=benchmark, max_disagreement=1)
    assert sorted(dataset.splits["train"] + dataset.splits["dev"]) == sorted(TRAIN + SBD_ONLY)
    assert set(dataset.splits["train_official"]) == set(dataset.splits["train"]) & set(TRAIN)
    assert set(dataset.splits["dev"]) < set(TRAIN)
    assert (dataset.root / "ImageSets/Segmentation/train_aug.txt").read_text().split() == sorted(TRAIN + SBD_ONLY)


def test_voc_masks_win_over_sbd_masks(devkit, benchmark):
    dataset = add_voc(devkit, sbd_path=benchmark, max_disagreement=1)
    official, extra = dataset.root / "SegmentationClass", dataset.root / "SegmentationClassAug"
    assert sorted(path.stem for path in extra.iterdir()) == SBD_ONLY
    assert sorted(path.stem for path in official.iterdir()) == sorted(TRAIN + VAL)
    assert (read_palette_png(official / f"{TRAIN[0]}.png") == CAT).all()
    assert (read_palette_png(extra / f"{SBD_ONLY[0]}.png") == DOG).all()


def test_segmentation_class_aug_and_a_given_train_aug_list_are_used(devkit):
    root = devkit / "VOCdevkit/VOC2012"
    write_lists(root / "ImageSets/Segmentation", train_aug=[*TRAIN, *SBD_ONLY, VAL[0]])
    (root / "SegmentationClassAug").mkdir()
    for id in (TRAIN[0], SBD_ONLY[0]):
        write_palette_png(root / "SegmentationClassAug" / f"{id}.png", np.full((8, 12), COW, np.uint8))
    dataset = add_voc(devkit)
    assert sorted(dataset.splits["train"] + dataset.splits["dev"]) == sorted(TRAIN + SBD_ONLY)
    assert [path.stem for path in (dataset.root / "SegmentationClassAug").iterdir()] == [SBD_ONLY[0]]
    small = add_voc(devkit, "voc-train", train_list="train")
    assert sorted(small.splits["train"] + small.splits["dev"]) == TRAIN


def test_without_any_mask_dev_is_empty_and_the_rest_works(devkit):
    shutil.rmtree(devkit / "VOCdevkit/VOC2012/SegmentationClass")
    dataset = add_voc(devkit)
    assert dataset.splits == {"train": tuple(TRAIN), "dev": (), "val": tuple(VAL)}


def test_a_dataset_in_this_layout_may_have_its_own_classes(devkit, tmp_path):
    (tmp_path / "classes.txt").write_text("horse\ncow\ncat\n")
    shutil.rmtree(devkit / "VOCdevkit/VOC2012/SegmentationClass")
    dataset = add_voc(devkit, class_list=tmp_path / "classes.txt")
    assert dataset.tags(TRAIN[0]).tolist() == [False, True, True]


def test_ids_without_a_file_are_all_named_and_nothing_is_left(devkit):
    for id in TRAIN[:2]:
        (devkit / "VOCdevkit/VOC2012/JPEGImages" / f"{id}.jpg").unlink()
    with pytest.raises(UserError, match=f"no image file for {TRAIN[0]}, {TRAIN[1]};"):
        add_voc(devkit)
    assert not list((devkit.parent / "data").glob("**/*"))


def test_a_mask_of_another_size_a_strange_index_and_a_truncated_image_are_named_at_once(devkit):
    root = devkit / "VOCdevkit/VOC2012"
    write_palette_png(root / "SegmentationClass" / f"{TRAIN[0]}.png", np.zeros((8, 11), np.uint8))
    write_palette_png(root / "SegmentationClass" / f"{TRAIN[1]}.png", np.full((8, 12), 21, np.uint8))
    broken = root / "JPEGImages" / f"{TRAIN[2]}.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(UserError) as error:
        add_voc(devkit)
    message = str(error.value)
    assert f"{TRAIN[0]}.png is 11 x 8, its image 12 x 8" in message
    assert f"{TRAIN[1]}.png holds index 21" in message
    assert f"{TRAIN[2]}.jpg can't be read" in message
    assert not list((devkit.parent / "data").glob("**/*"))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["2007_000003", "2007_000005"], None),
        (["2008_000001"], "2008_000001 are not train ids"),
        (["nobody"], "nobody are not train ids"),
        (["2007_000003", "2007_000003"], "more than once"),
        (TRAIN, "leave some to train on"),
    ],
)
def test_a_users_own_dev_list_overrides(devkit, tmp_path, lines, words):
    (tmp_path / "dev.txt").write_text("\n".join(lines))
    if words:
        with pytest.raises(UserError, match=words):
            add_voc(devkit, dev_list=tmp_path / "dev.txt")
    else:
        assert list(add_voc(devkit, dev_list=tmp_path / "dev.txt").splits["dev"]) == lines


def test_wrong_choices_name_the_right_ones(devkit):
    with pytest.raises(UserError, match="train, train_aug"):
        add_voc(devkit, train_list="trainaug")
    with pytest.raises(UserError, match="--sbd PATH"):
        add_voc(devkit, train_list="train_aug")
    with pytest.raises(UserError, match="is not VOC"):
        add_voc(devkit / "nothing")
    with pytest.raises(UserError, match="is not SBD"):
        add_sbd(devkit)
    add_voc(devkit)
    with pytest.raises(UserError, match="data/voc exists"):
        add_voc(devkit)


@pytest.mark.parametrize("inside", [".", "dataset"])
def test_sbd_alone_has_its_own_lists_and_masks(devkit, benchmark, inside):
    dataset = add_sbd(benchmark / inside)
    assert sorted(dataset.splits["train"] + dataset.splits["dev"]) == sorted(SBD_TRAIN)
    assert sorted(dataset.splits["val"]) == sorted(SBD_VAL)
    assert len(dataset.splits["dev"]) == 1
    assert dataset.tag_names(SBD_TRAIN[0]) == ("dog",)
    assert (read_palette_png(dataset.root / "SegmentationClass" / f"{SBD_VAL[0]}.png") == DOG).all()


def test_sbd_takes_groups_and_refuses_lists_that_divide_one(benchmark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = [*SBD_TRAIN, *SBD_VAL]
    rows = "".join(f"{id},{'a' if id in SBD_TRAIN else 'b'}\n" for id in ids)
    (tmp_path / "groups.csv").write_text("image,group\n" + rows, encoding="utf-8")
    dataset = add_sbd(benchmark, groups=str(tmp_path / "groups.csv"))
    assert dataset.grouped and set(dataset.groups_of(dataset.splits["val"])) == {"b"}
    (tmp_path / "one.csv").write_text("image,group\n" + "".join(f"{id},x\n" for id in ids), encoding="utf-8")
    with pytest.raises(UserError, match="1 of 1 groups are in more than one split"):
        add_sbd(benchmark, "again", groups=str(tmp_path / "one.csv"))


def test_damaged_sbd_masks_are_named_at_once(devkit, benchmark):
    for id in SBD_ONLY[:2]:
        (benchmark / "dataset/cls" / f"{id}.mat").write_bytes(b"not a matrix")
    with pytest.raises(UserError, match=f"{SBD_ONLY[0]}.mat is not an SBD mask.*{SBD_ONLY[1]}.mat is not"):
        add_sbd(benchmark)
    with pytest.raises(UserError, match=f"{SBD_ONLY[0]}.mat is not an SBD mask.*{SBD_ONLY[1]}.mat is not"):
        add_voc(devkit, sbd_path=benchmark)


def test_real_photographs(real_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = add_voc(real_data, tags=str(real_data / "cls_labels.npz"))
    lists = dataset.root / "ImageSets/Segmentation"
    counts = {name: len((lists / f"{name}.txt").read_text().split()) for name in ("train_official", "val", "train_aug")}
    assert counts == {"train_official": 493, "val": 245, "train_aug": 1966}
    assert {name: len(ids) for name, ids in dataset.splits.items()} == {
        "train": 1966 - 49, "dev": 49, "val": 245, "train_official": 493 - 49,
    }  # fmt: skip
    assert len(list((dataset.root / "SegmentationClassAug").iterdir())) == 1473
    sbd = add_sbd(real_data / "benchmark_RELEASE")
    assert sum(map(len, (sbd.splits["train"], sbd.splits["dev"], sbd.splits["val"]))) == 24
