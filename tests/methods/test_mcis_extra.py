"""What MCIS learns from beside the tags (Sun et al., ECCV 2020): extra images and saliency maps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mcis_examples import PETS, TINY, context, make_dataset
from PIL import Image

from wsss.data import Dataset
from wsss.data.score_maps import ScoreMap
from wsss.errors import UserError
from wsss.methods.mcis import extra, refine, train
from wsss.methods.mcis.pairs import Pool
from wsss.run.plan import make_plan


@pytest.fixture
def pets(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "pets", ("cat", "cow", "dog", "owl"), PETS, val=["v"])


class TestExtraImages:
    @pytest.fixture
    def web(self, tmp_path: Path) -> Dataset:
        """The classes in another order, and one image under an id of the main dataset."""
        return make_dataset(
            tmp_path / "web", ("dog", "cat"), {"a1": ["dog"], "w": ["cat", "dog"], "x": ["cat"], "y": []}
        )

    def test_classes_are_mapped_by_name(self, pets: Dataset, web: Dataset) -> None:
        found = {key: [n for n, has in zip(pets.classes.names, row, strict=True) if has] for key, row in
                 extra.mapped_tags(pets, web).items()}  # fmt: skip
        assert found == {"extra/a1": ["dog"], "extra/w": ["cat", "dog"], "extra/x": ["cat"], "extra/y": []}

    def test_they_come_into_the_same_pairs(self, pets: Dataset, web: Dataset, tmp_path: Path) -> None:
        settings = replace(TINY, extra=str(web.root))
        pool, counts = extra.add_extra(context(settings, pets, tmp_path / "out"), Pool.of(pets))
        assert counts == {"extra/images": 4, "extra/images_dropped": 0, "extra/tags_dropped": 0}
        draw = np.random.default_rng(0)
        assert {pool.partner("c", draw) for _ in range(60)} == {"b", "extra/a1", "extra/w"}
        assert {pool.partner("extra/a1", draw) for _ in range(60)} == {"b", "c", "extra/w"}
        assert np.array_equal(pool.image("extra/a1"), web.image("a1"))

    def test_strange_classes_are_refused(self, pets: Dataset, tmp_path: Path) -> None:
        strange = make_dataset(tmp_path / "zoo", ("cat", "emu"), {"z": ["emu"]})
        with pytest.raises(
            UserError, match=r"extra = zoo has the classes emu, which dataset pets does not have.*cat, cow"
        ):
            extra.mapped_tags(pets, strange)

    def test_held_out_images_are_refused(self, pets: Dataset, tmp_path: Path) -> None:
        copy = make_dataset(tmp_path / "copy", ("cat",), {"v": ["cat"], "n": ["cat"]})
        with pytest.raises(UserError, match="holds images of dev or val of dataset pets.*: v; take them out"):
            extra.refuse_held_out(pets, copy)

    def test_a_noisy_tag_stays_where_the_classifier_believes_it(self) -> None:
        tags, p = np.array([True, True, False, True]), np.array([0.1, 0.0999, 0.9, 0.7])
        assert extra.believed_tags(tags, p, 0.1).tolist() == [True, False, False, True]

    def test_what_is_dropped_is_counted_and_recorded(
        self, pets: Dataset, web: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(extra, "_round_zero", lambda *_: lambda x: torch.tensor([[-9.0, 9.0, 9.0, 9.0]] * len(x)))
        settings = replace(TINY, extra=str(web.root), extra_tags="noisy")
        pool, counts = extra.add_extra(context(settings, pets, tmp_path / "out"), Pool.of(pets))
        assert counts == {"extra/images": 3, "extra/images_dropped": 1, "extra/tags_dropped": 2}, "no cat is believed"
        assert "extra/x" not in pool.keys, "without its only tag, nobody knows what is in it"
        assert "extra/y" in pool.keys, "a background image stays one"
        record = json.loads((tmp_path / "out" / "extra_tags.json").read_text())
        assert record == {"a1": ["dog"], "w": ["dog"], "x": [], "y": []}

    def test_training_goes_on_after_the_filter_to_the_same_weights(
        self, pets: Dataset, web: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = replace(TINY, extra=str(web.root), extra_tags="noisy")
        train.train_co_attention(context(settings, pets, tmp_path / "whole"))

        def killed(*_: object, **__: object) -> dict[str, float]:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(train, "fit", killed)
            with pytest.raises(KeyboardInterrupt):
                train.train_co_attention(context(settings, pets, tmp_path / "cut"))
        monkeypatch.setattr(extra, "_round_zero", killed)
        train.train_co_attention(context(settings, pets, tmp_path / "cut"))
        whole, cut = (tmp_path / name / "model.safetensors" for name in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes()
        assert not (tmp_path / "whole" / "parts").exists()

    def test_what_was_seen_is_declared(self) -> None:
        declared = {
            (): set(),
            ("localize.train.extra=x",): {"extra single-label images"},
            ("localize.train.extra=x", "localize.train.extra_tags=noisy"): {"extra web images"},
            ("refine.background.saliency=x",): {"saliency"},
        }
        for chosen, supervision in declared.items():
            plan = make_plan("mcis", "demo", dict(pair.split("=") for pair in chosen))
            assert plan.supervision == supervision


class TestSaliency:
    def test_the_published_rule_pixel_by_pixel(self) -> None:
        attention = np.array(
            [  #  sure  weak  salient  two sure  hot   split  rest
                [[0.90, 0.20, 0.10, 1.00, 0.96, 0.40, 0.00]],
                [[0.10, 0.10, 0.00, 1.00, 0.00, 0.35, 0.00]],
            ]
        )
        saliency = np.array([[255, 31, 32, 255, 0, 200, 0]], np.uint8)
        #  0.96 against a background of 1: background that is attended, so open
        expected = [[4, 0, 255, 255, 255, 4, 0]]
        classes = np.array([4, 9], np.uint8)
        assert refine.saliency_labels(attention, classes, saliency, 0.3).tolist() == expected
        lower = refine.saliency_labels(attention, classes, np.full_like(saliency, 240), 0.1)
        assert lower[0, 1] == 4, "attention of 0.2 counts when the threshold is 0.1"

    def test_each_map_is_stretched_to_0_to_1(self) -> None:
        attention = np.array([[[0.2, 0.4, 0.6, 0.2]]])
        labels = refine.saliency_labels(
            attention, np.array([3], np.uint8), np.array([[255, 150, 255, 0]], np.uint8), 0.3
        )
        assert labels.tolist() == [[255, 3, 3, 0]], "0.4 becomes 0.5, more than 1 - 150 / 255"

    def test_an_image_with_hardly_any_object_is_left_open(self) -> None:
        attention = np.zeros((1, 10, 20))
        attention[0, 0, 0] = 1
        saliency = np.where(attention[0] > 0, 255, 0).astype(np.uint8)
        assert (refine.saliency_labels(attention, np.array([1], np.uint8), saliency, 0.3) == 255).all()
        attention[0, 0, 1], saliency[0, 1] = 1, 255
        labels = refine.saliency_labels(attention, np.array([1], np.uint8), saliency, 0.3)
        assert labels[0, :3].tolist() == [1, 1, 0], "two of 200 pixels are 1 %"

    def test_an_image_without_tags_is_background(self) -> None:
        untagged = ScoreMap(np.zeros((0, 2, 2), np.float16), np.zeros(0, np.uint8), (4, 4))
        assert not refine.salient_labels(untagged, np.full((4, 4), 255, np.uint8), 0.3).any()

    def test_maps_are_checked_when_they_are_read(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
        assert refine.read_saliency(tmp_path, "a", (4, 5)).shape == (4, 5)
        with pytest.raises(UserError, match=r"a.png has 4 x 5 px, its image 4 x 4"):
            refine.read_saliency(tmp_path, "a", (4, 4))
        with pytest.raises(UserError, match=r"has no map .*b.png"):
            refine.read_saliency(tmp_path, "b", (4, 5))


def test_a_saliency_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="saliency = nowhere is no folder"):
        refine.check_background(refine.McisBackgroundSettings(saliency="nowhere"))
