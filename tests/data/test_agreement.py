"""Masks that contradict the tags of their images: told with the pairs, and refused where they are many."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from wsss.classes import palette
from wsss.cli import app
from wsss.data import Dataset, open_dataset
from wsss.data.agreement import compare
from wsss.data.folder import add_folder
from wsss.data.palette_png import read_palette_png, write_palette_png
from wsss.data.shapes import make_shapes
from wsss.data.voc import add_voc
from wsss.errors import UserError
from wsss.serving.evaluate import evaluate

IDS = [f"p{n:02d}" for n in range(20)]
NAMES = ("cat", "dog", "horse")
Add = Callable[..., Dataset]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Add 20 images of one class each (cat, dog, horse in turn), whose masks hold the values given for each class."""
    monkeypatch.chdir(tmp_path)
    for folder in ("pictures", "masks"):
        (tmp_path / folder).mkdir()
    for n, id in enumerate(IDS):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / "pictures" / f"{id}.png")

    def make(*values: int, order: tuple[str, ...] = NAMES, void: int = 0, wrong: int = 0, **options: object) -> Dataset:
        """`values`: those of the first, second, third class; `order`: of the class list; `wrong`: masks of another."""
        tags, name = options.pop("tags", "tags.csv"), options.pop("name", "pets")
        for n, id in enumerate(IDS):
            mask = np.zeros((8, 8), np.uint8)
            mask[2:4] = values[(n + (n < wrong)) % len(values)]
            mask[5] = void
            write_palette_png(Path("masks", f"{id}.png"), mask)
        names = [NAMES[n % len(values)] for n in range(len(IDS))]
        rows = [f"{id},{name}" for id, name in zip(IDS, names, strict=True)]
        Path("tags.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
        Path("classes.txt").write_text("\n".join(order[: len(values)]) + "\n")
        return add_folder(
            Path("pictures"), str(name), tags=str(tags), masks=Path("masks"), class_list=Path("classes.txt"), **options
        )

    return make


def wsss(*words: str) -> tuple[int, str]:
    """Exit status and all that a command says; a refusal as its sentence."""
    done = CliRunner().invoke(app, [*words])
    if isinstance(done.exception, UserError):
        return 2, str(done.exception)
    return done.exit_code, done.output


def test_masks_that_count_in_another_order_are_refused_with_the_pairs(add: Add) -> None:
    with pytest.raises(UserError) as refusal:
        add(1, 2, 3, order=("horse", "cat", "dog"))
    sentence = str(refusal.value)
    assert "20 of 20 masks disagree with their image's tags" in sentence
    for pair in ("tag cat, mask shows horse: 7", "tag dog, mask shows cat: 7", "tag horse, mask shows dog: 6"):
        assert pair in sentence
    assert "1 horse, 2 cat, 3 dog" in sentence and "--classes" in sentence and "--max-disagreement 1" in sentence
    assert not list(Path("data").iterdir())


def test_a_few_that_disagree_are_told_and_more_are_refused(add: Add, capsys: pytest.CaptureFixture[str]) -> None:
    add(1, 2, 3, wrong=2)
    told = "2 of 20 masks disagree with their image's tags (tag cat, mask shows dog: 1, tag dog, mask shows horse: 1"
    assert told in capsys.readouterr().err
    status, said = wsss("data", "check", "pets")
    assert status == 0 and "are sound" in said and told in said
    with pytest.raises(UserError, match="3 of 20"):
        add(1, 2, 3, wrong=3, name="others")


def test_tags_that_are_wrong_on_purpose_need_one_option(add: Add) -> None:
    add(1, 2, 3, wrong=10, max_disagreement=1)
    assert wsss("data", "check", "pets")[0] == 0
    with pytest.raises(UserError, match="--max-disagreement 1.5 is no share"):
        add(1, 2, 3, max_disagreement=1.5)


def test_shapes_agree_and_noisy_ones_are_wrong_on_purpose(tmp_path: Path) -> None:
    for noise, sentence in ((0.0, ""), (0.4, "disagree")):
        root = tmp_path / f"shapes-{noise}"
        root.mkdir()
        make_shapes(root, images=10, val_images=2, size=32, classes=3, tag_noise=noise)
        assert sentence in Dataset.open(root).check(thorough=True)
        assert bool(sentence) == bool(Dataset.open(root).check(thorough=True))


def test_an_object_of_255_is_a_question(add: Add) -> None:
    for tags in ("tags.csv", "masks"):
        with pytest.raises(UserError, match=r"hold 0 and 255 alone.*--value-255 object.*--value-255 void"):
            add(255, tags=tags)
    dataset = add(255, tags="masks", value_255="object")
    masks = [read_palette_png(path) for path in (dataset.root / "SegmentationClass").iterdir()]
    assert all(set(np.unique(mask)) == {0, 1} for mask in masks)
    assert all(dataset.tag_names(id) == ("cat",) for id in IDS)
    assert set(np.unique(read_palette_png(Path("masks/p00.png")))) == {0, 255}


def test_255_can_not_be_the_object_of_many_classes(add: Add) -> None:
    with pytest.raises(UserError, match="one class"):
        add(255, 255, 255, value_255="object")
    with pytest.raises(UserError, match="write each object as its class index"):
        add(255, 255, 255)
    with pytest.raises(UserError, match="unknown meaning of 255 'thing'; choose from object, void"):
        add(255, value_255="thing")


def test_masks_of_void_alone_never_score_without_a_word(add: Add, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = add(255, value_255="void")
    Path("empty").mkdir()
    for id in IDS:
        write_palette_png(Path("empty", f"{id}.png"), np.zeros((8, 8), np.uint8))
    capsys.readouterr()
    assert evaluate("empty", dataset, "val").scores.miou == 1
    assert "no mask shows a class here" in capsys.readouterr().err


def test_void_beside_objects_is_no_question(add: Add) -> None:
    assert add(1, 2, 3, void=255).check(thorough=True) == ""


def test_an_old_dataset_is_answered_with_accept(add: Add) -> None:
    dataset = add(255, value_255="void")
    description = dataset.root / "dataset.json"
    content = json.loads(description.read_text())
    del content["settings"]["value_255"]
    description.write_text(json.dumps(content))
    status, sentence = wsss("data", "accept", "pets")
    assert status == 2 and "data accept pets` --value-255 object" not in sentence
    accept = re.search(r"`(\S*wsss) (data accept pets --value-255 object)`", sentence)
    assert accept is not None
    status, said = wsss(*accept[2].split())
    assert status == 0, said
    assert (read_palette_png(dataset.root / "SegmentationClass" / "p00.png") == 1).any()
    assert wsss("data", "check", "pets")[0] == 0


def optimised(path: Path, mask: np.ndarray) -> None:
    """A mask as an optimiser writes it: the colours that occur, under the first indices."""
    used = np.unique(mask)
    image = Image.fromarray(np.searchsorted(used, mask).astype(np.uint8))
    image.putpalette(palette()[used].tobytes())
    image.save(path)


def voc_masks(root: Path) -> Path:
    """A VOC folder whose masks went through an optimiser."""
    from wsss.classes import VOC

    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for n, id in enumerate(IDS):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(root / "JPEGImages" / f"{id}.jpg")
        mask = np.zeros((8, 8), np.uint8)
        mask[2:4], mask[5] = n + 1, 255
        optimised(root / "SegmentationClass" / f"{id}.png", mask)
        (root / f"Annotations/{id}.xml").write_text(f"<a><object><name>{VOC[n]}</name></object></a>")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(IDS[:15]))
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(IDS[15:]))
    return root


@pytest.mark.parametrize("tags", ["xml", "masks"])
def test_a_palette_with_vocs_colours_under_other_indices_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"palettes have VOC's colours under other indices.*in p0\d\.png index \d has"):
        add_voc(voc_masks(tmp_path / "VOC2012"), tags=tags)


def test_own_colours_and_an_own_order_that_agree_with_the_tags_are_taken(add: Add) -> None:
    dataset = add(1, 2, 3)
    for path in Path("masks").iterdir():
        mask = read_palette_png(path)
        image = Image.fromarray(mask)
        image.putpalette(palette()[[0, 8, 12, 13]].tobytes())
        image.save(path)
    for tags in ("tags.csv", "masks"):
        again = add_folder(
            Path("pictures"), f"own-{tags[:4]}", tags=tags, masks=Path("masks"), class_list=Path("classes.txt")
        )
        assert again.digest == dataset.digest


def test_label_maps_from_elsewhere_are_compared_too(add: Add) -> None:
    add(1, 2, 3)
    Path("theirs").mkdir()
    for path in Path("masks").iterdir():
        mask = read_palette_png(path)
        write_palette_png(Path("theirs", path.name), np.where(mask > 0, mask % 3 + 1, 0).astype(np.uint8))
    status, sentence = wsss("labels", "import", "theirs", "--data", "pets")
    assert status == 2 and "tag cat, mask shows dog" in sentence and "--max-disagreement 1" in sentence
    for path in Path("theirs").iterdir():
        write_palette_png(path, np.where(read_palette_png(path) > 0, 255, 0).astype(np.uint8))
    status, sentence = wsss("labels", "import", "theirs", "--data", "pets")
    assert status == 2 and "255 alone, which is void" in sentence
    assert not Path("mlflow.db").exists() and not Path("work").exists()


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(st.tuples(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from([0, 1, 2, 3, 255]))), max_size=8))
def test_a_map_disagrees_if_it_shows_what_the_tags_exclude_or_none_of_them(
    pairs: list[tuple[set[str], set[int]]],
) -> None:
    class Tagged:
        """All that is asked of a dataset."""

        classes = type("Classes", (), {"names": NAMES, "__len__": lambda self: len(NAMES)})()

        def tag_names(self, id: str) -> tuple[str, ...]:
            return tuple(pairs[int(id)][0])

    values = {str(n): frozenset(found) for n, (_, found) in enumerate(pairs)}
    agreement = compare(values, Tagged())  # type: ignore[arg-type]
    shown = [{NAMES[v - 1] for v in found if 0 < v < 255} for _, found in pairs]
    expected = {str(n) for n, (tags, _) in enumerate(pairs) if shown[n] - tags or (tags and not shown[n])}
    assert set(agreement.differing) == expected
    assert set(agreement.partial) == {
        str(n) for n, (tags, _) in enumerate(pairs) if str(n) not in expected and tags - shown[n]
    }


def test_real_masks_and_tags_are_sound(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    add_voc(real_data, tags=str(real_data / "cls_labels.npz"))
    assert open_dataset("voc").check() == ""
