"""The built-in shapes: the same from the same rng, in the layout of VOC, and as hard as docs/shapes.md says."""

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from wsss.classes import IGNORE
from wsss.data import Dataset
from wsss.data.creatures import MAX_CLASSES, SILHOUETTES, head_of
from wsss.data.drawing import cover
from wsss.data.palette_png import read_palette_png
from wsss.data.scenes import Scene, draw_scene
from wsss.data.shapes import class_names, make_shapes
from wsss.data.tags import tags_from_masks, tags_from_xml
from wsss.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    make_shapes(root, images=40, val_images=10, size=48, classes=4, rng=3)
    return root


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("single")
    make_shapes(root, images=30, val_images=10, size=48, classes=4, rng=3, single=True)
    return Dataset.open(root)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng(i), 64, 6) for i in range(150)]


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


class TestDataset:
    def test_it_opens_and_passes_its_checks(self, folder: Path) -> None:
        dataset = Dataset.open(folder)
        dataset.check(thorough=True)
        assert dataset.kind == "shapes" and dataset.tags_source == "program" and len(dataset.classes) == 4
        assert {split: len(ids) for split, ids in dataset.splits.items() if split != "train_official"} == {
            "train": 36,
            "dev": 4,
            "val": 10,
        }
        assert dataset.image(dataset.splits["val"][0]).shape == (48, 48, 3)

    def test_boxes_and_masks_give_the_same_tags(self, folder: Path) -> None:
        dataset = Dataset.open(folder)
        ids = [id for split in ("train", "dev", "val") for id in dataset.splits[split]]
        masks = {id: folder / "SegmentationClass" / f"{id}.png" for id in ids}
        written = {id: tuple(np.array(dataset.classes.names)[dataset.tags(id)]) for id in ids}
        images = {id: dataset.image_path(id) for id in ids}
        assert tags_from_xml(folder / "Annotations", ids, dataset.classes, images) == written
        assert tags_from_masks(masks, ids, dataset.classes) == written

    def test_boxes_count_from_one_and_lie_around_their_class(self, folder: Path) -> None:
        names = class_names(4)
        for path in sorted((folder / "Annotations").glob("*.xml"))[:20]:
            labels = read_palette_png(folder / "SegmentationClass" / f"{path.stem}.png")
            covered = np.zeros(labels.shape, bool)
            for creature in ElementTree.parse(path).getroot().findall("object"):
                left, top, right, bottom = (
                    int(creature.findtext(f"bndbox/{side}") or 0) for side in ("xmin", "ymin", "xmax", "ymax")
                )
                assert 1 <= left <= right <= 48 and 1 <= top <= bottom <= 48
                inside = labels[top - 1 : bottom, left - 1 : right]
                assert names.index(creature.findtext("name") or "") + 1 in inside
                covered[top - 1 : bottom, left - 1 : right] = True
            assert not np.isin(labels[~covered], range(1, 5)).any()

    def test_the_same_rng_gives_the_same_bytes(self, folder: Path, tmp_path: Path) -> None:
        make_shapes(tmp_path / "same", images=40, val_images=10, size=48, classes=4, rng=3)
        assert files(tmp_path / "same") == files(folder)

    def test_another_rng_gives_another_dataset(self, folder: Path, tmp_path: Path) -> None:
        make_shapes(tmp_path / "other", images=40, val_images=10, size=48, classes=4, rng=4)
        assert Dataset.open(tmp_path / "other").digest != Dataset.open(folder).digest

    def test_a_larger_dataset_begins_with_the_smaller_one(self, folder: Path, tmp_path: Path) -> None:
        make_shapes(tmp_path / "small", images=6, val_images=2, size=48, classes=4, rng=3)
        small, large = files(tmp_path / "small"), files(folder)
        drawn = [name for name in small if name.startswith(("JPEGImages", "SegmentationClass", "Annotations"))]
        assert len(drawn) == 24 and all(small[name] == large[name] for name in drawn)

    def test_the_default_scenes_are_those_that_were_always_drawn(self, tmp_path: Path) -> None:
        """What they show; later options must not move the random numbers."""
        make_shapes(tmp_path / "x", images=12, val_images=4, size=48, classes=4, rng=3)
        dataset = Dataset.open(tmp_path / "x")
        found = [np.flatnonzero(dataset.tags(f"train_{number:06d}")).tolist() for number in range(12)]
        assert found == [[0], [1], [0, 2], [3], [2], [0, 1], [0, 2], [2, 3], [], [0, 1], [1, 3], [1, 3]]
        assert dataset.settings == {"images": 12, "val_images": 4, "size": 48, "classes": 4, "rng": 3}

    def test_its_name_is_written(self, tmp_path: Path) -> None:
        make_shapes(tmp_path / "x", images=2, val_images=0, size=32, classes=1, name="mine")
        assert Dataset.open(tmp_path / "x").name == "mine"

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (dict(tag_noise=1.5), "tag_noise = 1.5; allowed: 0 to 1"),
            (dict(tag_noise=0.3, classes=1), "a wrong tag needs a second class"),
            (dict(images=1), "images = 1; allowed: 2 to"),
            (dict(val_images=-1), "val_images = -1"),
            (dict(size=31), "size = 31; allowed: 32 to"),
            (dict(classes=0), "classes = 0; allowed: 1 to 64"),
            (dict(classes=65), "classes = 65"),
            (dict(rng=-1), "rng = -1"),
        ],
    )
    def test_numbers_out_of_range_are_refused_before_anything_is_written(
        self, tmp_path: Path, wrong: dict[str, int], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            make_shapes(tmp_path / "x", **wrong)  # type: ignore[arg-type]
        assert not (tmp_path / "x").exists()


class TestSingle:
    def test_every_scene_has_exactly_one_creature(self, single: Dataset) -> None:
        for split in ("train", "dev", "val"):
            for id in single.splits[split]:
                boxes = ElementTree.parse(single.root / "Annotations" / f"{id}.xml").getroot().findall("object")
                labels = set(np.unique(read_palette_png(single.root / "SegmentationClass" / f"{id}.png"))) - {0, IGNORE}
                assert len(boxes) == 1 and single.tag_names(id) == (boxes[0].findtext("name"),)
                assert labels == {int(np.flatnonzero(single.tags(id))[0]) + 1}

    def test_every_class_occurs_and_the_settings_say_so(self, single: Dataset) -> None:
        found = {single.tag_names(id) for split in ("train", "dev") for id in single.splits[split]}
        assert found == {(name,) for name in class_names(4)}
        assert single.settings["single"] is True and "tag_noise" not in single.settings


class TestTagNoise:
    @pytest.mark.parametrize("single", [False, True])
    def test_so_many_rows_have_another_class_instead(self, tmp_path: Path, single: bool) -> None:
        options = dict(images=40, val_images=10, size=32, classes=4, rng=3, single=single)
        make_shapes(tmp_path / "exact", **options)  # type: ignore[arg-type]
        make_shapes(tmp_path / "noisy", **options, tag_noise=0.3)  # type: ignore[arg-type]
        exact, noisy = Dataset.open(tmp_path / "exact"), Dataset.open(tmp_path / "noisy")
        assert noisy.settings["tag_noise"] == 0.3 and "tag_noise" not in exact.settings
        for ids, wrong in (((*exact.splits["train"], *exact.splits["dev"]), 12), (exact.splits["val"], 3)):
            changed = [id for id in ids if (exact.tags(id) != noisy.tags(id)).any()]
            assert len(changed) == wrong
            for id in changed:
                assert (exact.tags(id) & ~noisy.tags(id)).sum() == (noisy.tags(id) & ~exact.tags(id)).sum() == 1
        before, after = files(tmp_path / "exact"), files(tmp_path / "noisy")
        drawn = [name for name in before if name.startswith(("JPEGImages", "SegmentationClass", "Annotations"))]
        assert all(before[name] == after[name] for name in drawn)

    def test_the_same_rng_makes_the_same_errors(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            make_shapes(tmp_path / name, images=20, val_images=4, size=32, classes=3, rng=5, tag_noise=0.5)
        assert files(tmp_path / "a") == files(tmp_path / "b")


class TestScene:
    @pytest.mark.parametrize(("size", "classes"), [(32, 1), (33, 6), (160, MAX_CLASSES)])
    def test_any_size_and_number_of_classes(self, size: int, classes: int) -> None:
        for main in range(0, classes, 7):
            scene = draw_scene(np.random.default_rng(main), size, classes, main)
            assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
            assert scene.labels.shape == scene.instances.shape == (size, size)
            assert main in scene.classes and main + 1 in scene.labels

    def test_labels_are_the_classes_of_the_instances_but_for_the_void(self, scenes: list[Scene]) -> None:
        for scene in scenes:
            classes = np.array([0, *(cls + 1 for cls in scene.classes)])[scene.instances]
            kept = scene.labels != IGNORE
            np.testing.assert_array_equal(scene.labels[kept], classes[kept])

    def test_void_lies_between_each_creature_and_what_is_behind_it(self, scenes: list[Scene]) -> None:
        for scene in scenes[:20]:
            for first, second, labels in (
                (scene.instances[:, :-1], scene.instances[:, 1:], (scene.labels[:, :-1], scene.labels[:, 1:])),
                (scene.instances[:-1], scene.instances[1:], (scene.labels[:-1], scene.labels[1:])),
            ):
                behind = np.where(first < second, labels[0], labels[1])
                assert (behind[first != second] == IGNORE).all()

    def test_class_counts_have_a_long_tail(self, scenes: list[Scene]) -> None:
        counts = Counter(cls for scene in scenes for cls in scene.classes)
        assert set(counts) == set(range(6)) and counts[0] > 1.8 * counts[5]

    def test_creatures_are_several_and_hide_each_other_and_some_scenes_are_empty(self, scenes: list[Scene]) -> None:
        assert {len(scene.classes) for scene in scenes} == {0, 1, 2, 3}
        several = [scene for scene in scenes if len(scene.classes) > 1]

        def touches(scene: Scene) -> bool:
            left, right = scene.instances[:, :-1], scene.instances[:, 1:]
            return bool(((left != right) & (left > 0) & (right > 0)).any())

        assert sum(map(touches, several)) > len(several) / 4

    def test_no_creature_is_gone(self, scenes: list[Scene]) -> None:
        for scene in scenes:
            assert all((scene.instances == number + 1).sum() > 100 for number in range(len(scene.classes)))

    def test_objects_cover_about_a_third(self, scenes: list[Scene]) -> None:
        share = np.mean([(scene.instances > 0).mean() for scene in scenes])
        assert 0.2 < share < 0.4


class TestHeads:
    def test_every_class_has_its_own(self) -> None:
        heads = [head_of(cls) for cls in range(MAX_CLASSES)]
        assert len(set(heads)) == MAX_CLASSES == len(set(class_names(MAX_CLASSES)))

    def test_the_first_eight_share_neither_silhouette_nor_mark(self) -> None:
        silhouettes, marks = zip(*map(head_of, range(8)), strict=True)
        assert len(set(silhouettes)) == len(set(marks)) == 8

    @pytest.mark.parametrize("name", SILHOUETTES)
    def test_a_mirrored_silhouette_is_the_same(self, name: str) -> None:
        drawn = cover(64, [SILHOUETTES[name] * 20 + 32])
        assert np.abs(drawn - drawn[:, ::-1]).mean() < 0.02


class TestCover:
    def test_a_rectangle_covers_its_area(self) -> None:
        rectangle = np.array([(4.0, 8.0), (12.0, 8.0), (12.0, 24.0), (4.0, 24.0)])
        assert cover(32, [rectangle]).sum() == pytest.approx(8 * 16, rel=0.05)

    def test_an_outline_widens_it_and_nothing_covers_nothing(self) -> None:
        square = np.array([(10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0)])
        assert cover(32, [square], outline=2).sum() == pytest.approx(14 * 14, rel=0.08)
        assert cover(32).max() == 0
