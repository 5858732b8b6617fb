"""Data as people bring it: each layout, from its tiny copy to a dataset with the right splits and tags."""

import shutil

import layouts
import numpy as np
import pytest
from layouts import TISSUES, scene, shown
from PIL import Image

from wsss.data import Dataset
from wsss.data.folder import add_folder
from wsss.errors import UserError

DIGITS = r"name:.*\[(?P<classes>[01 ]+)\]\.png"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of data, in a workspace of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data_of_theirs"


def names(drawn, classes=TISSUES):
    return tuple(name for name, there in zip(classes, shown(drawn, len(classes)), strict=True) if there)


def tags_of(number):
    return names(scene(number, main=number % 3))


def counts(dataset):
    return {split: len(ids) for split, ids in dataset.splits.items()}


def test_luad_histoseg_tags_in_names_masks_of_val_and_test(data, capsys):
    layouts.luad_histoseg(data, train=9, other=3)
    groups = r"name:(?P<group>\d+)-.*"
    dataset = add_folder(
        data, "luad", tags=DIGITS, class_list=data.parent / "tissues.txt", groups=groups, max_disagreement=1
    )
    assert counts(dataset) == {"train": 9, "dev": 0, "val": 3, "test": 3}
    assert dataset.classes.names == TISSUES
    for id in dataset.splits["train"]:
        assert dataset.tag_names(id) == tags_of(int(id.split("-")[1]))
    assert dataset.groups[dataset.splits["train"][0]] in ("1000", "1001")
    assert {(dataset.root / "SegmentationClass" / f"{id}.png").is_file() for id in dataset.splits["val"]} == {True}
    assert "recognised in" in (told := capsys.readouterr().err)
    assert "15 images; tags (name): tumour epithelium" in told and "6 masks in test/mask, val/mask" in told
    assert "splits (folders): train 9, val 3, test 3" in told and "4 groups of 3 to 5 images" in told


def test_bcss_names_are_recognised_and_the_class_names_asked_for(data):
    layouts.bcss(data)
    with pytest.raises(
        UserError, match="the names hold 3 digits, one for each class: give the 3 names .*--classes FILE"
    ):
        add_folder(data, "bcss")
    (data.parent / "t.txt").write_text("\n".join(TISSUES))
    dataset = add_folder(data, "bcss", class_list=data.parent / "t.txt", groups=r"name:(?P<group>TCGA-[^-]+)-.*")
    assert sum(counts(dataset).values()) == 6 and len(set(dataset.groups.values())) == 3


def test_named_classes_in_names(data):
    for number in range(4):
        layouts.save(data / f"f{number}_cat{number % 2}_dog{number // 2}.png", scene(number))
    dataset = add_folder(data, "named", tags=r"name:.*_cat(?P<cat>\d)_dog(?P<dog>\d)\.png")
    assert dataset.classes.names == ("cat", "dog") and dataset.tag_names("f3_cat1_dog1") == ("cat", "dog")
    dataset = add_folder(data, "one", tags=r"name:f\d_(?P<class>[a-z]+).*")
    assert dataset.tag_names("f0_cat0_dog0") == ("cat",)
    layouts.save(data / "f9_cat2_dog0.png", scene(9))
    with pytest.raises(UserError, match=r"finds other values than 0 and 1 in 1 names: f9_cat2_dog0.png \('2', '0'\)"):
        add_folder(data, "more", tags=r"name:.*_cat(?P<cat>\d)_dog(?P<dog>\d)\.png")


def test_mvtec_class_folders_equal_names_and_masks_of_0_and_255(data):
    layouts.mvtec(data, good=6, defect=4)
    with pytest.raises(UserError, match=r"folder good of .* may be a class.*--negative good if they show none"):
        add_folder(data, "bottle", tags="folders")
    options = {"tags": "folders:defect", "negative": ["good"], "value_255": "object"}
    with pytest.raises(UserError, match="no image of train shows a class .*--splits none"):
        add_folder(data, "bottle", **options)
    assert not (data.parent / "data").exists()
    dataset = add_folder(data, "bottle", splits="none", **options)
    assert dataset.classes.names == ("defect",)
    assert dataset.tag_names("test/broken_large/000") == ("defect",) and dataset.tag_names("train/good/000") == ()
    mask = np.array(Image.open(dataset.root / "SegmentationClass" / "test" / "contamination" / "001.png"))
    assert (mask == 1).any() and set(np.unique(mask)) <= {0, 1}
    kinds = add_folder(data, "kinds", tags="folders", negative=["good"], splits="none", value_255="void")
    assert kinds.classes.names == ("broken_large", "contamination")


def test_kolektor_masks_beside_their_images_say_the_tags(data):
    layouts.kolektor(data, number=6)
    with pytest.raises(
        UserError, match=r"does not show where its tags are.*if the files \*_GT are masks, say --masks suffix:_GT"
    ):
        add_folder(data, "k")
    (data.parent / "classes.txt").write_text("defect\n")
    dataset = add_folder(
        data, "k", tags="masks", masks="suffix:_GT", class_list=data.parent / "classes.txt", value_255="object"
    )
    found = counts(dataset)
    assert found["test"] == 6 and found["train"] + found["dev"] + found["val"] == 6
    assert dataset.tag_names("10000") == () and dataset.tag_names("10001") == ("defect",)


def test_imagefolder_is_recognised_and_its_splits_are_kept(data, capsys):
    layouts.imagefolder(data)
    dataset = add_folder(data, "pets")
    assert counts(dataset) == {"train": 8, "dev": 0, "val": 8}
    assert dataset.tag_names("train/cat/0") == ("cat",) and dataset.tag_names("val/dog/3") == ("dog",)
    assert (
        "tags (folders): cat 8, dog 8, no class 0; splits (folders): train 8, val 8; ids are paths"
        in capsys.readouterr().err
    )


def test_coco_boxes_masks_and_crowds_of_two_files(data, capsys):
    layouts.coco(data, train=9, val=3)
    dataset = add_folder(data, "coco", tags="coco")
    assert counts(dataset) == {"train": 9, "dev": 0, "val": 3}
    assert dataset.classes.names == TISSUES
    for split in ("train", "val"):
        for id in dataset.splits[split]:
            assert dataset.tag_names(id) == tags_of(int(id))
    assert any("toothbrush" in note for note in dataset.settings["notes"])
    with pytest.raises(UserError, match="the coco tags has no row for 000000000500"):
        add_folder(data, "one", tags=str(data / "annotations" / "instances_train2017.json"))


def test_roboflow_multi_class_csv_in_each_split(data, capsys):
    layouts.roboflow(data)
    dataset = add_folder(data, "robo")
    assert counts(dataset) == {"train": 6, "dev": 0, "val": 3, "test": 3}
    assert dataset.tag_names("valid/img_1_jpg.rf.0a1") == names(scene(51, main=1))
    assert "tags (roboflow)" in capsys.readouterr().err


def test_cvats_voc_export_with_its_lists(data):
    layouts.cvat(data)
    dataset = add_folder(data, "cvat", tags="xml", lists=data / "ImageSets" / "Main")
    assert counts(dataset) == {"train": 4, "dev": 0, "val": 2}
    for id in (*dataset.splits["train"], *dataset.splits["val"]):
        number = int(id.removeprefix("frame_"))
        assert dataset.tag_names(id) == tuple(sorted(names(scene(number, main=number % 3))))


def test_label_studios_voc_export_of_polygons(data):
    layouts.label_studio(data)
    dataset = add_folder(data, "ls")
    assert dataset.tags_source == "xml"
    assert dataset.tag_names("00000002-photo_2") == tuple(sorted(names(scene(2, main=2))))


TABLE = "filename;cat;traffic light;age\r\n{};1;0;\r\n{};0;1;\r\n{};0;0;\r\n{};1;1;\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_one_column_per_class_as_spreadsheets_write_it(data, encoding, suffix):
    ids = [f"p{number}" for number in range(4)]
    for number, id in enumerate(ids):
        layouts.save(data / f"{id}.png", scene(number))
    text = TABLE.replace(";age", "").replace(";\r", "\r").format(*(f"{id}.png" for id in ids))
    path = data.parent / f"tags{suffix}"
    path.write_bytes((text if suffix == ".csv" else text.replace(";", "\t")).encode(encoding))
    dataset = add_folder(data, "wide", tags=str(path))
    assert dataset.classes.names == ("cat", "traffic light")
    assert [dataset.tag_names(id) for id in ids] == [("cat",), ("traffic light",), (), ("cat", "traffic light")]


def test_columns_of_tags_groups_and_splits_in_one_table(data):
    rows = ["image,split,patient,cat,dog,age"]
    for number in range(8):
        layouts.save(data / f"p{number}.png", scene(number))
        split = ("train", "train", "Validation", "test")[number // 2]
        rows.append(f"p{number}.png,{split},q{number // 2},{number % 2},{1 - number % 2},{30 + number}")
    (data.parent / "t.csv").write_text("\n".join(rows))
    options = {"tags": "t.csv", "groups": "column:patient", "splits": "column:split"}
    with pytest.raises(
        UserError, match=r"other values than 0 and 1: age \('30', '31', .* and 3 more\); .*--classes FILE"
    ):
        add_folder(data, "t", **options)
    (data.parent / "c.txt").write_text("cat\ndog\n")
    dataset = add_folder(data, "t", class_list=data.parent / "c.txt", **options)
    assert counts(dataset) == {"train": 4, "dev": 0, "val": 2, "test": 2} and dataset.groups["p7"] == "q3"
    assert dataset.tag_names("p3") == ("cat",)
    (data.parent / "t.csv").write_text("\n".join(rows).replace("Validation", "holdout"))
    with pytest.raises(UserError, match=r"column split holds 'holdout' \(2 images\); allowed: train, dev, val, test"):
        add_folder(data, "again", class_list=data.parent / "c.txt", **options)


def test_a_test_split_needs_neither_masks_nor_tags_and_a_dataset_may_be_for_evaluation_alone(data):
    layouts.luad_histoseg(data, train=6, other=3)
    shutil.rmtree(data / "test" / "mask")
    dataset = add_folder(data, "luad", tags=DIGITS, class_list=data.parent / "tissues.txt", max_disagreement=1)
    assert len(dataset.splits["test"]) == 3 and not any(dataset.has_tags(id) for id in dataset.splits["test"])
    assert Dataset.open(dataset.root).check(thorough=True) is not None
    options = {"tags": "masks", "class_list": data.parent / "tissues.txt", "splits": "val"}
    alone = add_folder(data / "val", "alone", **options)
    assert counts(alone) == {"train": 0, "dev": 0, "val": 3}
