"""Data as people bring it that is not clear or not sound: a sentence for each, and nothing is written."""

import json
import shutil
import struct
import zlib

import layouts
import numpy as np
import pytest
from layouts import scene

from wsss.data import folder as folder_module
from wsss.data.folder import add_folder
from wsss.errors import UserError


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of data, in a workspace of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data_of_theirs"


def test_damaged_coco_is_refused_with_what_is_lost(data):
    layouts.coco(data, train=3, val=0)
    path = data / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 77
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"1 annotations are of an image or category that it does not list: entries 0"):
        add_folder(data, "coco", tags=str(path))
    path.write_text("[]")
    with pytest.raises(UserError, match="no JSON of COCO's form: it needs the lists images, annotations, categories"):
        add_folder(data, "coco", tags=str(path))


def test_rows_that_disagree_are_shown_both(data):
    for number in range(3):
        layouts.save(data / f"p{number}.png", scene(number))
    (data.parent / "t.csv").write_text("image,cat,dog\np0,1,0\np1,0,1\np2,1,1\np0.png,0,1\np1,0,1\n")
    with pytest.raises(
        UserError, match=r"names p0 \(line 2 says 1, 0 and line 5 says 0, 1\), p1 \(line 3 and line 6\) more"
    ):
        add_folder(data, "t", tags="t.csv")


def test_what_is_not_clear_is_asked(data):
    layouts.imagefolder(data)
    shutil.copy(__file__, data / "notes.py")
    (data / "tags.csv").write_text("image,labels\n")
    with pytest.raises(UserError, match=r"meant in more than one way; say which: --tags folders or .*tags.csv"):
        add_folder(data, "pets")
    for path in (data / "train").rglob("*.jpg"):
        path.unlink()
    shutil.rmtree(data / "val" / "dog")
    (data / "tags.csv").unlink()
    with pytest.raises(UserError, match=r"does not show where its tags are; say so: --tags FILE.csv"):
        add_folder(data, "pets")
    with pytest.raises(UserError, match="tags can't be read from foldrs; allowed: --tags FILE.csv"):
        add_folder(data, "pets", tags="foldrs")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"name:nothing", r"matches 0 of 4 names, not f0_a.png, f1_a.png"),
        (r"name:f[01]_(?P<class>.)\.png", r"matches 2 of 4 names, not f2_a.png, f3_a.png; it has to match each whole"),
        (r"name:f\d_(.)\.png", r"names no class; name a group after each class"),
    ],
)
def test_a_pattern_that_matches_nothing_or_some(data, pattern, words):
    for number in range(4):
        layouts.save(data / f"f{number}_a.png", scene(number))
    with pytest.raises(UserError, match=words):
        add_folder(data, "p", tags=pattern)
    assert not (data.parent / "data").exists()


def test_a_folder_that_changes_while_it_is_read_is_refused(data, monkeypatch):
    layouts.imagefolder(data)
    assemble = folder_module.assemble

    def slow(description, parts, dev_list):
        (data / "train" / "cat" / "0.jpg").write_bytes((data / "train" / "cat" / "1.jpg").read_bytes())
        (data / "val" / "dog" / "0.jpg").unlink()
        layouts.save(data / "val" / "dog" / "late.jpg", scene(1))
        return assemble(description, parts, dev_list)

    monkeypatch.setattr(folder_module, "assemble", slow)
    with pytest.raises(UserError, match="changed, went or came while they were read|can't be read"):
        add_folder(data, "pets")
    layouts.save(data / "val" / "dog" / "0.jpg", scene(2))
    monkeypatch.setattr(
        folder_module,
        "assemble",
        lambda *given: (layouts.save(data / "val" / "dog" / "9.jpg", scene(3)), assemble(*given))[1],
    )
    with pytest.raises(
        UserError, match=r"1 files in .* changed, went or came while they were read: val/dog/9.jpg; wait"
    ):
        add_folder(data, "pets")
    assert not list((data.parent / "data").iterdir())


def test_splits_that_share_images_are_refused(data):
    layouts.imagefolder(data)
    (data.parent / "train.txt").write_text("train/cat/0\nval/cat/1\n")
    (data.parent / "test.txt").write_text("val/cat/1\nval/cat/2\n")
    with pytest.raises(UserError, match=r"val/cat/1 are in train.txt and in test.txt; splits must be disjoint"):
        add_folder(data, "pets", tags="folders", lists=data.parent)


def test_pictures_and_masks_that_cannot_be_taken_are_told_in_a_sentence_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        layouts.save(tmp_path / "few" / f"{number}.png", layouts.scene(number))
        layouts.save_mask(tmp_path / "masks" / f"{number}.png", np.where(np.eye(64), 4 + number % 2, 1))
    (tmp_path / "tags.csv").write_text("image,labels\n" + "".join(f"{n}.png,cat\n" for n in range(8)))
    how = {"tags": str(tmp_path / "tags.csv")}
    told = r"masks hold values that are no class: they hold 4 \(256 px in 4 masks\), 5 \(256 px .*, 1 \(.*-values 4="
    with pytest.raises(UserError, match=told):
        add_folder(tmp_path / "few", "few", masks=tmp_path / "masks", **how)
    shutil.copytree(tmp_path / "few", tmp_path / "both")
    for path in (tmp_path / "masks").iterdir():
        shutil.copy(path, tmp_path / "both" / f"{path.stem}_m.png")
    with pytest.raises(UserError, match="the masks in .*both hold values that are no class"):
        add_folder(tmp_path / "both", "few", masks="suffix:_m", **how)
    (tmp_path / "few" / "3.png").write_bytes(b"")
    header = struct.pack(">IIBBBBB", 65_500, 65_500, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"0")), (b"IEND", b"")]
    png = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    (tmp_path / "few" / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    with pytest.raises(UserError) as refused:
        add_folder(tmp_path / "few", "few", **how)
    assert "3.png can't be read (it is empty, 0 bytes" in str(refused.value)
    assert "4.png can't be read (it has more than 178,956,970 pixels" in str(refused.value)
    assert not [*(tmp_path / "data").glob("few*")]
