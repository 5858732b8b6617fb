"""Names, folders, lists and tag files as other people's tools leave them: right, or refused by name."""

import csv
import os
import tarfile
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from wsss.classes import VOC, Classes
from wsss.data import Dataset
from wsss.data.augmentation import MEAN, STD
from wsss.data.folder import add_folder
from wsss.data.label_folder import LabelFolder
from wsss.data.palette_png import write_palette_png
from wsss.data.sbd import Benchmark
from wsss.data.voc import add_voc
from wsss.errors import UserError
from wsss.serving.deployed import Deployed
from wsss.serving.segmenter import Segmenter
from wsss.serving.voc_test import write_voc_test
from wsss.storage.disk import unfinished

TAGS = {f"p{n}": ("cat", "dog", "")[n % 3] for n in range(6)}


def photo(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(path)


def write_tags(rows):
    with open("tags.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "labels"), *rows])


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Six photographs, and tags for all."""
    monkeypatch.chdir(tmp_path)
    for n, id in enumerate(TAGS):
        photo(tmp_path / "photos" / f"{id}.png", n)
    write_tags(TAGS.items())
    return tmp_path / "photos"


@pytest.fixture
def devkit(tmp_path, monkeypatch):
    """A VOC folder: p0 to p3 to train on, p4 and p5 held out, a cat or a dog in the boxes of each."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for n, id in enumerate(TAGS):
        photo(root / "JPEGImages" / f"{id}.jpg", n)
    (root / "Annotations").mkdir()
    for n, id in enumerate(TAGS):
        box = f"<object><name>{('cat', 'dog')[n % 2]}</name></object>"
        (root / "Annotations" / f"{id}.xml").write_text(f"<annotation>{box}</annotation>")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("p0\np1\np2\np3\n")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("p4\np5\n")
    return root


def add(photos, name="mine", tags="tags.csv", **options):
    return add_folder(photos, name, tags=tags, **options)


def ids(dataset):
    return sorted(id for split in ("train", "dev", "val") for id in dataset.splits[split])


def test_links_to_folders_are_followed_and_circles_end(photos, tmp_path):
    (tmp_path / "disk").mkdir()
    for id in ("p3", "p4", "p5"):
        (photos / f"{id}.png").rename(tmp_path / "disk" / f"{id}.png")
    (photos / "more").symlink_to(tmp_path / "disk")
    (photos / "again").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "up").symlink_to(photos)
    with pytest.raises(UserError, match=r"3 images in .*photos lie behind links that lead out of it: .*--follow-links"):
        add(photos)
    assert not (tmp_path / "data").exists()
    assert ids(add(photos, follow_links=True)) == sorted(TAGS)


def test_a_folder_that_can_not_be_listed_is_named(photos, monkeypatch):
    photo(photos / "closed" / "x.png")
    scandir = os.scandir

    def refuse(path="."):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"can't be listed: .*closed \(permission denied\)"):
        add(photos)


def test_photographs_that_can_not_be_read_are_named_by_their_own_path(photos, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: os.path.basename(path) != "p3.png")
    with pytest.raises(UserError, match=r"photos/p3\.png can't be read"):
        add(photos)


def test_tag_rows_without_an_image_are_said_and_make_no_class(photos):
    write_tags([*TAGS.items(), *((f"gone{n}.jpg", "zebra") for n in range(7))])
    dataset = add(photos)
    assert dataset.classes.names == ("cat", "dog")
    (note,) = dataset.settings["notes"]
    assert note.startswith("7 rows of tags.csv left out") and "gone0.jpg, gone1.jpg" in note and "and 2 more" in note


@pytest.mark.parametrize("given", [True, False])
def test_classes_that_look_like_a_slip_are_said(photos, tmp_path, given):
    write_tags((id, "Cat" if id == "p0" else label) for id, label in TAGS.items())
    (tmp_path / "classes.txt").write_text("cat\nCat\ndog\n")
    (note,) = add(photos, class_list=tmp_path / "classes.txt" if given else None).settings["notes"]
    assert "differ in writing alone" in note and "'cat'" in note and "'Cat'" in note


def test_what_is_no_file_is_refused(photos):
    os.mkfifo(photos / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png have the names of images and are no files"):
        add(photos)


def test_two_files_of_one_id_are_refused_in_a_voc_folder(devkit):
    photo(devkit / "JPEGImages" / "p0.png")
    with pytest.raises(UserError, match=r"clash, rename one: p0\.jpg and p0\.png"):
        add_voc(devkit)


def test_two_masks_of_one_image_are_refused(photos, tmp_path):
    for name in ("p0.png", "p0.PNG"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / "masks" / name, "PNG")
    with pytest.raises(UserError, match=r"p0\.PNG and p0\.png"):
        add(photos, masks=tmp_path / "masks")


def test_two_npz_rows_of_one_image_are_refused(photos):
    rows = ["p0", "p0.png", *list(TAGS)[1:]]
    np.savez("tags.npz", ids=rows, labels=np.ones((len(rows), 1), np.uint8), classes=["cat"])
    with pytest.raises(UserError, match=r"p0 \(row 1 and row 2\) more than once"):
        add(photos, tags="tags.npz")


@pytest.mark.parametrize("name", ["ca\ud800", "c\nt", "a;b", "\x1b[31m"])
def test_npz_classes_that_could_not_be_written_are_refused(photos, name):
    np.savez("tags.npz", ids=list(TAGS), labels=np.ones((6, 1), np.uint8), classes=[name])
    with pytest.raises(UserError, match="class names can't hold") as error:
        add(photos, tags="tags.npz")
    assert str(error.value).isprintable()


def test_two_lines_of_a_list_for_one_image_are_refused(photos, tmp_path):
    (tmp_path / "train.txt").write_text("p0\np0.png\n")
    with pytest.raises(UserError, match=r"p0 \(line 1 and line 2\) more than once"):
        add(photos, lists=tmp_path)


def test_two_test_images_of_one_id_are_refused(devkit):
    photo(devkit / "JPEGImages" / "p0.png")
    with pytest.raises(UserError, match=r"p0\.jpg and p0\.png"):
        write_voc_test(black(), devkit / "JPEGImages", "comp6", devkit / "out.tar.gz")


def test_two_sbd_images_of_one_id_are_refused(tmp_path):
    for name in ("img/a.jpg", "img/a.png"):
        photo(tmp_path / name)
    (tmp_path / "cls").mkdir()
    with pytest.raises(UserError, match=r"a\.jpg and a\.png"):
        Benchmark.find(tmp_path)


def test_a_csv_without_separators_is_not_split_at_spaces(photos):
    write_tags((id, {"cat": "potted plant", "dog": "traffic light"}.get(label, label)) for id, label in TAGS.items())
    assert add(photos).classes.names == ("potted plant", "traffic light")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        (unicodedata.normalize("NFD", "Cáfe"), "Cáfe.png"),
        ("Cáfe", unicodedata.normalize("NFD", "Cáfe.png")),
        ("IMG_1 ", "IMG_1 .png"),
        (" IMG_1", " IMG_1.png"),
        ("IMG_1.png", "IMG_1.png"),
        ("IMG_1.png", "IMG_1.png.png"),
        ("IMG_1", "images\\IMG_1.png"),
        ("IMG_1", "C:\\my photos\\IMG_1.PNG"),
        ("IMG_1", "/home/me/IMG_1.jpg"),
        ("IMG\u20281", "IMG\u20281.png"),
        ("a\x85b\x0bc\x1ed", "a\x85b\x0bc\x1ed.png"),
        ('"x", ', '"x", .png'),
        ("#1;2|3", "#1;2|3"),
        ("p0 1", "p0 1"),
    ],
)
def test_a_name_survives_its_own_files(photos, tmp_path, name, written):
    (photos / "p1.png").rename(photos / f"{name}.png")
    write_tags([*((id, label) for id, label in TAGS.items() if id != "p1"), (written, "dog")])
    (tmp_path / "train.txt").write_bytes(f"p0\r\n{written}\r\np2\r\n".encode())
    dataset = add(photos, lists=tmp_path)
    assert ids(dataset) == sorted(("p0", name, "p2"))
    assert dataset.tag_names(name) == ("dog",)
    again = Dataset.open(dataset.root)
    again.check(thorough=True)
    assert again.image(name).shape == (4, 4, 3)


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "__metadata__", os.fsdecode(b"a\xff"), " \u2028"])
def test_a_name_that_would_not_survive_is_refused(photos, name):
    photo(photos / f"{name}.png")
    with pytest.raises(UserError) as error:
        add(photos)
    assert ascii(f"{name}.png").strip("'") in str(error.value) and "rename the file" in str(error.value)
    assert str(error.value).isprintable()


def test_a_row_of_another_case_is_shown_beside_the_image_without_a_row(photos):
    write_tags((id.upper() if id == "p2" else id, label) for id, label in TAGS.items())
    with pytest.raises(UserError, match=r"no row for p2; .* no such image: P2"):
        add(photos)


def test_resource_forks_of_a_mac_are_no_images_masks_lists_or_boxes(devkit, photos, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for id in TAGS:
        write_palette_png(masks / f"{id}.png", np.zeros((4, 4), np.uint8))
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        file.with_name("._" + file.name).write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00\xb0\x8c\xff")
    added = add(photos, masks=masks, max_disagreement=1)  # the masks are of nothing
    assert ids(add_voc(devkit)) == ids(added) == sorted(TAGS)
    assert LabelFolder(masks).ids == TAGS.keys()


def test_label_maps_called_png_in_capitals_are_read(tmp_path):
    write_palette_png(tmp_path / "a.PNG", np.ones((2, 3), np.uint8))
    assert LabelFolder(tmp_path).read("a").tolist() == [[1, 1, 1], [1, 1, 1]]


def black():
    class Black(Deployed):
        def coarse(self, images):
            return torch.zeros(1, 21, *images[0].shape[2:])

    return Segmenter(Black(torch.nn.Identity(), 8, MEAN, STD), Classes(VOC), "models:/wsss-voc/1")


@pytest.mark.parametrize("name", ["x" * 60, "x" * 240, "\N{CAT FACE}" * 60])
def test_long_names_in_an_archive_for_vocs_server(tmp_path, name):
    photo(tmp_path / "test" / f"{name}.png")
    assert write_voc_test(black(), tmp_path / "test", "comp6", tmp_path / "out.tar.gz") == 1
    with tarfile.open(tmp_path / "out.tar.gz") as archive:
        assert archive.getnames() == [f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png"]
    assert len(os.fsencode(unfinished(tmp_path / f"{name}.png").name)) <= 255
