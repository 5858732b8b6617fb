"""Any folder of images with a CSV of tags: with masks, or with none at all."""

import numpy as np
import pytest
from PIL import Image

from wsss.data.folder import add_folder
from wsss.data.palette_png import write_palette_png
from wsss.errors import UserError

IDS = [f"p{n:02d}" for n in range(20)]


def photo(path, mode="RGB", size=(10, 6), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, **options)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """20 images of two classes, "traffic light" and "bus", in two folders, of four formats."""
    for n, id in enumerate(IDS):
        suffix = (".jpg", ".png", ".webp", ".BMP")[n % 4]
        photo(tmp_path / "pictures" / ("one", "two")[n % 2] / f"{id}{suffix}")
    rows = [f"{id},{('traffic light', 'bus;traffic light', '')[n % 3]}" for n, id in enumerate(IDS)]
    (tmp_path / "tags.csv").write_text("\n".join(["image,labels", *rows]))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pictures"


def add(pictures, name="mine", **options):
    return add_folder(pictures, name, **{"tags": "tags.csv", **options})


def test_a_folder_without_masks(pictures):
    dataset = add(pictures)
    assert dataset.classes.names == ("bus", "traffic light")
    assert {name: len(ids) for name, ids in dataset.splits.items()} == {"train": 18, "dev": 0, "val": 2}
    assert dataset.tags(IDS[0]).tolist() == [False, True]
    assert dataset.tags(IDS[2]).tolist() == [False, False]
    assert dataset.image(IDS[3]).shape == (6, 10, 3) and dataset.size(IDS[3]) == (6, 10)
    dataset.check(thorough=True)


def test_a_folder_with_masks_and_a_class_list_has_dev(pictures, tmp_path):
    (tmp_path / "classes.txt").write_text("traffic light\nbus\nnever seen\n")
    (tmp_path / "masks").mkdir()
    for id in IDS[:15]:
        write_palette_png(tmp_path / "masks" / f"{id}.png", np.full((6, 10), 2, np.uint8))
    dataset = add(pictures, masks=tmp_path / "masks", class_list=tmp_path / "classes.txt", max_disagreement=1)
    assert {name: len(ids) for name, ids in dataset.splits.items()} == {
        "train": 16, "dev": 1, "val": 3, "train_official": 11,
    }  # fmt: skip
    assert dataset.classes.names == ("traffic light", "bus", "never seen")
    from_masks = add(
        pictures, "masks", tags="masks", masks=tmp_path / "masks", class_list=tmp_path / "classes.txt",
        lists=lists(tmp_path, train=IDS[:10], val=IDS[10:12]),
    )  # fmt: skip
    assert from_masks.tag_names(IDS[0]) == ("bus",)


def lists(folder, **ids):
    for name, content in ids.items():
        (folder / f"{name}.txt").write_text("\n".join(content))
    return folder


def test_own_lists_hold_ids_or_file_names(pictures, tmp_path):
    dataset = add(pictures, lists=lists(tmp_path, train=[f"{IDS[0]}.jpg", IDS[1]], val=[IDS[2]]))
    assert dataset.splits == {"train": (IDS[0], IDS[1]), "dev": (), "val": (IDS[2],)}
    assert sorted(path.stem for path in (dataset.root / "JPEGImages").iterdir()) == IDS[:3]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ({"train": ["p00", "nobody", "noone"]}, "no image file for nobody, noone"),
        ({"train": ["p00", "p01"], "val": ["p01"]}, "p01 are in train.txt and in val.txt"),
        ({"other": ["p01"]}, "there is no list"),
        ({"train": []}, "no train image"),
    ],
)
def test_bad_lists(pictures, tmp_path, ids, words):
    with pytest.raises(UserError, match=words):
        add(pictures, lists=lists(tmp_path, **ids))


def test_all_bad_images_are_named_at_once_and_nothing_is_left(pictures):
    broken = [pictures / "one" / "p08.jpg", pictures / "two" / "p09.png", pictures / "one" / "p04.jpg"]
    broken[0].write_bytes(broken[0].read_bytes()[:300])
    broken[1].write_bytes(b"")
    broken[2].write_text("no picture")
    with pytest.raises(UserError) as error:
        add(pictures)
    for path in broken:
        assert f"{path.name} can't be read" in str(error.value)
    assert not list((pictures.parent / "data").glob("**/*"))


def test_ids_are_paths_where_names_repeat(pictures, tmp_path):
    photo(pictures / "two" / "p00.png")
    with pytest.raises(UserError, match=r"names p00 \(line 2\), which may be more than one image \(one/p00, two/p00\)"):
        add(pictures)
    text = (tmp_path / "tags.csv").read_text().replace("p00,", "one/p00,")
    (tmp_path / "tags.csv").write_text(f"{text}\ntwo/p00.png,bus")
    dataset = add(pictures)
    assert dataset.tag_names("one/p00") == ("traffic light",) and dataset.tag_names("two/p00") == ("bus",)
    assert dataset.tag_names("two/p01") == ("bus", "traffic light")  # its row is p01: the end of one path alone


def test_two_images_of_one_path_are_refused(pictures):
    photo(pictures / "one" / "p00.png")
    with pytest.raises(UserError, match=r"clash, rename one: one/p00\.jpg and one/p00\.png"):
        add(pictures)


def test_names_that_differ_in_capitals_alone_are_refused(pictures, tmp_path):
    photo(pictures / "one" / "P00.jpg")
    with (tmp_path / "tags.csv").open("a") as file:
        file.write("\nP00,bus")
    with pytest.raises(UserError, match="P00 and p00 differ in capitals"):
        add(pictures)


def test_a_missing_tag_row_is_an_error(pictures, tmp_path):
    text = (tmp_path / "tags.csv").read_text().splitlines()
    (tmp_path / "tags.csv").write_text("\n".join(text[:-2]))
    with pytest.raises(UserError, match="p18, p19"):
        add(pictures)


def test_an_unknown_class_is_an_error(pictures, tmp_path):
    (tmp_path / "classes.txt").write_text("traffic light\n")
    with pytest.raises(UserError, match=r"'bus' \(line 3\).*the classes are traffic light"):
        add(pictures, class_list=tmp_path / "classes.txt")


def test_other_mistakes(pictures, tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        add(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        add(tmp_path / "empty")
    with pytest.raises(UserError, match="holds no mask"):
        add(pictures, masks=tmp_path / "empty")
    with pytest.raises(UserError, match="--classes FILE"):
        add(pictures, tags="masks")
    with pytest.raises(UserError, match="can't name a dataset"):
        add(pictures, name="../out")
    with pytest.raises(UserError, match="0 to below 1"):
        add(pictures, val_share=1.5)
