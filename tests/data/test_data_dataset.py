"""Dataset and open_dataset: images and tags, never masks."""

import functools
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from wsss.data import Dataset, open_dataset, shapes
from wsss.data.assemble import write_dev
from wsss.data.folder import add_folder
from wsss.data.layout import building
from wsss.data.palette_png import write_palette_png
from wsss.errors import UserError
from wsss.process import machine

IDS = [f"p{n:02d}" for n in range(20)]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """20 random images with a mask each, in the workspace `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    for id in IDS:
        Image.fromarray(rng.integers(0, 255, (6, 10, 3), np.uint8)).save(tmp_path / "pictures" / f"{id}.png")
        write_palette_png(tmp_path / "masks" / f"{id}.png", rng.integers(0, 3, (6, 10)).astype(np.uint8))
    rows = [f"{id},{('cat', 'dog', 'cat;dog', '')[n % 4]}" for n, id in enumerate(IDS)]
    (tmp_path / "tags.csv").write_text("\n".join(["image,labels", *rows]))
    return add_folder(tmp_path / "pictures", "pets", tags="tags.csv", masks=tmp_path / "masks", max_disagreement=1)


def test_images_and_tags(dataset, tmp_path):
    image = dataset.image(IDS[0])
    assert image.dtype == np.uint8 and image.shape == (6, 10, 3) and dataset.size(IDS[0]) == (6, 10)
    assert (image == np.asarray(Image.open(tmp_path / "pictures" / f"{IDS[0]}.png"))).all()
    assert [dataset.tags(id).tolist() for id in IDS[:4]] == [[True, False], [False, True], [True, True], [False, False]]
    assert dataset.tags(IDS[0]).dtype == bool
    with pytest.raises(ValueError, match="read-only"):
        dataset.tags(IDS[0])[1] = True


def test_splits_are_disjoint_and_complete(dataset):
    splits = [dataset.splits[name] for name in ("train", "dev", "val")]
    assert sorted(sum(splits, ())) == IDS
    assert list(map(len, splits)) == [14, 2, 4]
    assert dataset.splits["train_official"] == dataset.splits["train"]


def test_the_digest_does_not_know_masks(dataset):
    shutil.rmtree(dataset.root / "SegmentationClass")
    without = open_dataset("pets")
    assert without.digest == dataset.digest
    assert without.splits["train"] == dataset.splits["train"]
    without.check(thorough=True)


def test_the_digest_knows_tags_lists_and_images(dataset, tmp_path):
    digests = {dataset.digest}
    tags = dataset.root / "tags.csv"
    tags.write_text(tags.read_text().replace("p00,cat", "p00,dog"))
    digests.add(open_dataset("pets").digest)
    write_dev(open_dataset("pets"), share=0.3)
    digests.add(open_dataset("pets").digest)
    Image.new("RGB", (10, 6)).save(tmp_path / "pictures" / f"{IDS[0]}.png")
    digests.add(
        add_folder(
            tmp_path / "pictures", "others", tags="tags.csv", masks=tmp_path / "masks", max_disagreement=1
        ).digest
    )
    assert len(digests) == 4


def test_the_same_content_has_the_same_digest_anywhere(dataset, tmp_path):
    shutil.copytree(dataset.root, tmp_path / "elsewhere")
    assert open_dataset(tmp_path / "elsewhere").digest == dataset.digest


def test_it_opens_from_another_folder_and_in_another_process(dataset, tmp_path, monkeypatch):
    opened = open_dataset("data/pets")
    monkeypatch.chdir(tmp_path / "pictures")
    copy = pickle.loads(pickle.dumps(opened))
    assert (copy.image(IDS[0]) == dataset.image(IDS[0])).all()


def test_an_unknown_name_names_the_known_ones(dataset):
    with pytest.raises(UserError, match="unknown dataset 'voc'; choose from pets, shapes"):
        open_dataset("voc")
    with pytest.raises(UserError, match="pictures is not a dataset folder"):
        open_dataset("pictures")


def test_shapes_are_made_on_first_use(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shapes, "make_shapes", functools.partial(shapes.make_shapes, images=6, size=32))
    made = open_dataset("shapes")
    assert made.kind == "shapes" and made.root == tmp_path / "data" / "shapes"
    assert open_dataset("shapes").digest == made.digest
    made.check()


def test_a_tracked_dataset_that_is_not_here_says_how_to_get_it(dataset, tmp_path):
    (tmp_path / "data" / "voc.dvc").write_text("outs: []")
    with pytest.raises(UserError, match=r"dvc pull data/voc\.dvc"):
        open_dataset("voc")


def test_unknown_ids(dataset):
    with pytest.raises(UserError, match="no image 'nobody'"):
        dataset.image("nobody")
    with pytest.raises(UserError, match="no tag row for 'nobody'"):
        dataset.tags("nobody")


def _replace(path, content):
    path.unlink()
    path.write_bytes(content)


def test_check_names_all_offenders_at_once(dataset):
    root = dataset.root
    (root / "JPEGImages" / "p00.png").unlink()
    _replace(root / "JPEGImages" / "p01.png", (root / "JPEGImages" / "p01.png").read_bytes()[:-40])
    (root / "JPEGImages" / "p02.png").unlink()
    Image.new("L", (10, 6)).save(root / "JPEGImages" / "p02.png")
    (root / "SegmentationClass" / "p03.png").unlink()
    write_palette_png(root / "SegmentationClass" / "p03.png", np.zeros((5, 10), np.uint8))
    tags = root / "tags.csv"
    tags.write_text(tags.read_text().replace("p04,cat\n", ""))
    with pytest.raises(UserError) as error:
        open_dataset("pets").check()
    message = str(error.value)
    assert "JPEGImages/p00.png is missing" in message
    assert "JPEGImages/p01.png can't be read" in message or "JPEGImages/p01.png has" in message
    assert "JPEGImages/p02.png is of mode L, not RGB" in message
    assert "SegmentationClass/p03.png is 10 x 5, its image 10 x 6" in message
    assert "p04 has no row in tags.csv" in message


def test_a_list_with_an_id_that_has_no_image(dataset):
    with (dataset.root / "ImageSets/Segmentation/train.txt").open("a") as file:
        file.write("nobody\n")
    with pytest.raises(UserError, match="nobody is in a list but has no image"):
        open_dataset("pets").check()


def test_a_truncated_image_is_named_when_it_is_read(dataset):
    path = dataset.image_path(IDS[0])
    _replace(path, path.read_bytes()[:-40])
    with pytest.raises(UserError, match="p00.png can't be read"):
        dataset.image(IDS[0])


def test_a_check_finds_a_changed_image_of_the_same_size(dataset):
    path = dataset.image_path(IDS[0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    _replace(path, content)
    for thorough in (False, True):
        with pytest.raises(UserError, match=r"p00\.png is not the file that was added"):
            dataset.check(thorough=thorough)


def test_an_unknown_class_in_the_tags_is_an_error(dataset):
    tags = dataset.root / "tags.csv"
    tags.write_text(tags.read_text().replace("p00,cat", "p00,cow"))
    with pytest.raises(UserError, match=r"'cow' \(line 2\); the classes are cat, dog"):
        open_dataset("pets")


@pytest.mark.parametrize("split", ["train", "dev"])
def test_an_id_of_val_can_not_be_learnt_or_tuned_on(dataset, split):
    path = dataset.root / "ImageSets/Segmentation" / f"{split}.txt"
    path.write_text(path.read_text() + dataset.splits["val"][0] + "\n")
    with pytest.raises(UserError, match=f"{dataset.splits['val'][0]} of {split} are in val too"):
        open_dataset("pets")


@pytest.mark.parametrize("name", ["dataset.json", "manifest.json"])
def test_a_damaged_part_says_so(dataset, name):
    (dataset.root / name).write_text("{")
    with pytest.raises(UserError, match=f"{name} is damaged"):
        Dataset.open(dataset.root)


def test_the_manifest_holds_every_file(dataset):
    files = json.loads((dataset.root / "manifest.json").read_text())["files"]
    there = {path.relative_to(dataset.root).as_posix() for path in dataset.root.rglob("*") if path.is_file()}
    assert set(files) == there - {"manifest.json"}


def test_dev_is_chosen_anew_and_back(dataset, tmp_path):
    more = write_dev(dataset, share=0.25)
    assert len(more.splits["dev"]) == 4 and not set(more.splits["dev"]) & set(more.splits["train"])
    (tmp_path / "dev.txt").write_text("\n".join(dataset.splits["dev"]))
    back = write_dev(more, tmp_path / "dev.txt")
    assert back.digest == dataset.digest
    assert back.settings["dev"] == "dev.txt"


def test_a_build_that_fails_leaves_nothing_and_one_that_was_killed_is_cleaned_up(tmp_path):
    target = tmp_path / "data" / "new"
    killed = tmp_path / "data" / f".new.0.{machine()}-{_dead_pid()}-1.part"
    killed.mkdir(parents=True)
    with pytest.raises(RuntimeError), building(target) as root:
        assert not killed.exists()
        (root / "file").write_text("half")
        raise RuntimeError
    assert list((tmp_path / "data").iterdir()) == []
    with building(target) as root:
        (root / "file").write_text("whole")
    assert (target / "file").read_text() == "whole"


def _dead_pid():
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    return pid
