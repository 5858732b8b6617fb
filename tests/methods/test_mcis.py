"""MCIS from tags to labels (Sun et al., ECCV 2020): pairs of images, the fused maps, its steps together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mcis_examples import CPU, PETS, REPORT, TINY, context, inferred, make_dataset
from PIL import Image
from torch import Tensor
from torch.nn import BatchNorm2d

from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps
from wsss.data.score_maps import ScoreMaps
from wsss.errors import UserError
from wsss.methods.mcis import METHOD, infer, network, train
from wsss.methods.mcis.infer import McisInferSettings, fuse, infer_maps, raw_maps
from wsss.methods.mcis.network import CoAttentionNet
from wsss.methods.mcis.pairs import Pool
from wsss.methods.mcis.settings import check_train
from wsss.methods.mcis.train import mcis_losses
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.stages.outputs import load_model


@pytest.fixture
def pets(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "pets", ("cat", "cow", "dog", "owl"), PETS, val=["v"])


class TestPairs:
    def test_a_partner_shares_a_tag_and_is_another_image(self, pets: Dataset) -> None:
        pool, draw = Pool.of(pets), np.random.default_rng(0)
        found = {key: {pool.partner(key, draw) for _ in range(60)} for key in pool.keys}
        assert found == {
            "a": {"b", "f"},
            "b": {"a", "c", "f"},
            "c": {"b"},
            "d": {"f"},
            "e": {"e"},
            "f": {"a", "b", "d"},
        }

    def test_the_tag_is_drawn_first(self, pets: Dataset) -> None:
        """b is paired with c, the only other dog, as often as with a or f, the two other cats, together."""
        pool, draw = Pool.of(pets), np.random.default_rng(0)
        dogs = sum(pool.partner("b", draw) == "c" for _ in range(2000))
        assert 900 < dogs < 1100

    def test_an_image_that_shares_nothing_is_its_own_partner_and_counted(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path / "x", ("cat", "dog"), {"a": ["cat"], "b": ["dog"], "c": []})
        assert Pool.of(dataset).lonely == ["a", "b", "c"]
        train.train_co_attention(context(TINY, dataset, tmp_path / "out"))
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert metrics["pairs/with_itself"] == 3 and math.isfinite(metrics["train/loss"])

    def test_references_share_the_class_are_never_the_image_and_are_seeded(self, pets: Dataset) -> None:
        pool = Pool.of(pets)
        draws = [pool.references("a", 0, 3, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4)]
        assert all(set(found) == {"b", "f"} for found in draws), "cats, and not a itself; two are all there are"
        assert draws[0] == draws[1] and len({tuple(found) for found in draws}) == 2
        assert pool.references("d", 1, 3, np.random.default_rng(0)) == ["f"]
        assert pool.references("a", 2, 1, np.random.default_rng(0))[0] in ("b", "c")
        assert pool.references("a", 3, 3, np.random.default_rng(0)) == []

    def test_views_of_one_image_are_mirrored_together(self, pets: Dataset) -> None:
        settings = replace(TINY, views=network.VIEWS, jitter=0.0)
        for seed in range(4):
            sample = train.training_sample(Pool.of(pets), "a", settings, np.random.default_rng(seed))
            assert sample["flip"].equal(sample["image"].flip(2))
            assert sample["0.75"].shape == (3, 25, 25) and sample["2"].shape == (3, 65, 65)
            at_side = torch.nn.functional.interpolate(sample["2"][None], size=(33, 33), mode="area")[0]
            assert (at_side - sample["image"]).abs().mean() < (at_side - sample["image"].flip(2)).abs().mean() / 2


def test_contrast_begins_with_its_epoch(pets: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def spy(net: CoAttentionNet, features: Mapping[str, Tensor], tags: tuple, contrastive: bool) -> dict[str, Tensor]:
        seen.append(contrastive)
        return mcis_losses(net, features, tags, contrastive)

    monkeypatch.setattr(train, "mcis_losses", spy)
    train.train_co_attention(context(replace(TINY, epochs=4, contrast_from=2), pets, tmp_path / "out"))
    assert seen == [False, False, True, True], "one batch an epoch, epochs counted from 0"


class TestMaps:
    def test_fusion_by_hand(self) -> None:
        """Of three maps of one class the own, first one counts whatever its score; the third is left out."""
        own = torch.tensor([[-9.0, -9.0], [-9.0, 2.0]])  # sigmoid(-6.25) = 0.002
        other = torch.tensor([[4.0, 1.0], [-2.0, 0.0]])
        poor = torch.tensor([[-3.0, -3.0], [-3.0, 0.1]])  # sigmoid(-2.225) = 0.0975
        fused = fuse(torch.stack([own, other, poor])[:, None])
        assert fused[0].flatten().tolist() == pytest.approx([1 / 3, 0.25 / 3, 0, 1 / 3])
        fair = torch.tensor([[-3.0, -3.0], [-3.0, 0.3]])  # sigmoid(-2.175) = 0.102
        fused = fuse(torch.stack([own, other, fair])[:, None])
        assert fused[0].flatten().tolist() == pytest.approx([1 / 3, 0.25 / 3, 0, 2 / 3])

    def test_a_map_that_is_nowhere_above_zero_adds_nothing(self) -> None:
        assert not fuse(torch.full((2, 1, 2, 2), -1.0)).any()

    def test_the_maps_are_own_views_brought_back_and_the_mean_over_the_references(self) -> None:
        torch.manual_seed(0)
        net = CoAttentionNet(3, "tiny", "none", 8, 8).eval()
        own, flip, large, others = (torch.rand(n, 8, s, s) for n, s in ((1, 5), (1, 5), (1, 9), (3, 5)))
        with torch.inference_mode():
            maps = raw_maps(net, own, [others, others[:1]], {"flip": flip, "2": large}, [0, 2])
            assert maps.shape == (4, 2, 5, 5)
            seen_by_own, seen_by_flip = net.attend(own, flip)
            assert torch.allclose(maps[0], net.maps(seen_by_own)[0, [0, 2]], atol=1e-6)
            assert torch.allclose(maps[1], net.maps(seen_by_flip)[0, [0, 2]].flip(2), atol=1e-6)
            assert torch.allclose(maps[2], net.maps(net.attend(own, large)[1])[0, [0, 2], ::2, ::2], atol=1e-6)
            one_by_one = [net.maps(net.attend(own, o[None])[0])[0, 0] for o in others]
            assert torch.allclose(maps[3, 0], sum(one_by_one, torch.zeros(5, 5)) / 3, atol=1e-6)
            assert torch.allclose(maps[3, 1], net.maps(net.attend(own, others[:1])[0])[0, 2], atol=1e-6)

    def test_a_class_that_is_not_tagged_leaves_the_other_maps_as_they_are(self) -> None:
        net = CoAttentionNet(3, "tiny", "none", 8, 8).eval()
        own, flip, others = torch.rand(1, 8, 5, 5), torch.rand(1, 8, 5, 5), torch.rand(3, 8, 5, 5)
        with torch.inference_mode():
            both = raw_maps(net, own, [others, others], {"flip": flip}, [0, 2])
            alone = raw_maps(net, own, [others], {"flip": flip}, [0])
        assert torch.allclose(both[:, :1], alone, atol=1e-6)


def test_a_frozen_batch_norm_is_the_backbones(pets: Dataset, tmp_path: Path) -> None:
    train.train_co_attention(context(replace(TINY, freeze_bn=True), pets, tmp_path))
    net = load_model(tmp_path, CoAttentionNet)
    norms = {
        part: [m for m in getattr(net, part).modules() if isinstance(m, BatchNorm2d)] for part in ("backbone", "extra")
    }
    assert all((norm.running_mean == 0).all() for norm in norms["backbone"])
    assert len(norms["extra"]) == 3 and not any((norm.running_mean == 0).all() for norm in norms["extra"])


class TestInference:
    SETTINGS = McisInferSettings(side=33, views=("pair", "flip"), stride=4)

    def test_score_maps_of_the_tagged_classes(self, pets: Dataset, tmp_path: Path) -> None:
        maps, metrics = inferred(pets, tmp_path, self.SETTINGS)
        assert maps.ids == ("a", "b", "c", "d", "e", "f")
        for image_id in maps.ids:
            found = maps.read(image_id)
            assert found.classes.tolist() == (np.flatnonzero(pets.tags(image_id)) + 1).tolist()
            assert found.size == (24, 32) and found.scores.shape[1:] == (7, 9)
        assert metrics["infer/own_references"] == 0 and 0 <= metrics["val/tags/map"] <= 1

    def test_a_class_with_a_single_image_has_only_itself(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path / "x", ("cat", "dog"), {"a": ["cat", "dog"], "b": ["cat"], "c": []})
        maps, metrics = inferred(dataset, tmp_path / "y", self.SETTINGS)
        assert metrics["infer/own_references"] == 1 and len(maps.read("c").classes) == 0
        assert np.isfinite(maps.read("a").scores).all()

    def test_no_tag_at_all(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path / "x", ("cat", "dog"), {"a": [], "b": []})
        maps, _ = inferred(dataset, tmp_path / "y", self.SETTINGS)
        assert [len(maps.read(i).classes) for i in maps.ids] == [0, 0]

    def test_one_rng_one_result(self, pets: Dataset, tmp_path: Path) -> None:
        settings = replace(self.SETTINGS, references=1)
        first, second = (inferred(pets, tmp_path / name, settings)[0] for name in ("1", "2"))
        assert all(np.array_equal(first.read(i).scores, second.read(i).scores) for i in first.ids)

    def test_interrupted_inference_goes_on_to_the_same_maps(self, pets: Dataset, tmp_path: Path) -> None:
        whole, metrics = inferred(pets, tmp_path / "whole", self.SETTINGS)
        with patch.object(REPORT, "progress", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            inferred(pets, tmp_path / "broken", self.SETTINGS)
        again = context(self.SETTINGS, pets, tmp_path / "broken" / "infer", {"train": tmp_path / "broken" / "train"})
        with patch.object(infer, "raw_maps", wraps=raw_maps) as made:
            infer_maps(again)
        assert made.call_count == 1  # of e and f, the second batch, f alone has tags
        found = ScoreMaps(tmp_path / "broken" / "infer" / "cam")
        assert all(found.read(i).scores == pytest.approx(whole.read(i).scores, abs=2e-3) for i in whole.ids)
        assert json.loads((tmp_path / "broken" / "infer" / "metrics.json").read_text()) == metrics

    def test_a_mirrored_image_gives_mirrored_maps_without_references(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path / "x", ("cat", "dog"), {"a": ["cat"], "b": ["cat", "dog"]})
        with Image.open(dataset.image_path("a")) as image:
            mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.save(dataset.image_path("b"))
        maps, _ = inferred(dataset, tmp_path / "y", McisInferSettings(side=33, views=("flip",), stride=8))
        assert maps.read("a").scores.std() > 0.02
        assert maps.read("b").scores[0] == pytest.approx(maps.read("a").scores[0, :, ::-1], abs=2e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(views=("flip",)), "views must hold pair"),
        (dict(views=("pair", "flip", "flip")), "names a view twice"),
        (dict(side=96), "side = 96 must be a multiple of 8 plus 1, such as 97"),
        (dict(extra_tags="noisy"), "set localize.train.extra"),
        (dict(freeze_bn=True), "freeze_bn=true"),
        (dict(weights="imagenet"), "no pretrained weights"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_train(replace(TINY, **wrong))  # type: ignore[arg-type]


def test_the_paper_preset_is_the_released_codes() -> None:
    chosen = make_plan("mcis", "paper").settings
    expected = {
        "train.backbone": "vgg16", "train.output_stride": 8, "train.width": 512, "train.side": 257,
        "train.views": ["pair", "flip", "0.75", "2"], "train.contrast_from": 2, "train.batch_size": 5,
        "train.lr": 1e-3, "train.head_lr": 10, "train.epochs": 11, "infer.references": 3,
        "infer.views": ["pair", "flip", "0.75", "2"], "infer.side": 257, "train.extra": None,
    }  # fmt: skip
    assert {key: chosen[f"localize.{key}"] for key in expected} == expected
    assert METHOD.supervision == frozenset() and make_plan("mcis", "paper").supervision == frozenset()


def test_its_own_steps_from_tags_to_labels(tiny_shapes: Dataset, tmp_path: Path) -> None:
    """One epoch on the tiny shapes; then again with saliency maps, of which localize knows nothing."""
    small = {f"localize.train.{key}": value for key, value in (("epochs", 1), ("side", 33), ("width", 8))}
    runner = StepRunner(tiny_shapes, 0, CPU, tmp_path / "work")

    def run(more: dict[str, object]) -> dict[str, Path]:
        for planned in make_plan("mcis", "demo", {**small, "localize.infer.side": 33, **more}).steps:
            if planned.stage in ("localize", "refine"):
                planned.check()
                runner.run(planned, REPORT)
        return {key: result.folder for key, result in runner.results.items()}

    folders = run({})
    strict = LabelMaps(folders["refine.crf"] / "labels_crf")
    ids = sorted([*tiny_shapes.splits["train"], *tiny_shapes.splits["dev"]])
    assert list(strict.ids) == ids
    for image_id in ids:
        allowed = {0, *(np.flatnonzero(tiny_shapes.tags(image_id)) + 1)}
        assert strict.read(image_id).shape == (64, 64) and set(np.unique(strict.read(image_id))) <= allowed
    metrics = json.loads((folders["localize.infer"] / "metrics.json").read_text())
    assert 0 <= metrics["dev/tags/map"] <= 1 and metrics["infer/own_references"] == 0

    saliency = tmp_path / "saliency"
    saliency.mkdir()
    for image_id in ids:
        centre = np.zeros((64, 64), np.uint8)
        centre[16:48, 16:48] = 255
        Image.fromarray(centre).save(saliency / f"{image_id}.png")
    again = run({"refine.background.saliency": str(saliency)})
    assert again["localize.infer"] == folders["localize.infer"]
    labels = LabelMaps(again["refine.crf"] / "labels_crf")
    assert labels.digest == LabelMaps(again["refine.background"] / "labels").digest != strict.digest
    (saliency / f"{ids[0]}.png").unlink()
    with pytest.raises(UserError, match="refine.background.saliency has no map"):
        run({"refine.background.saliency": str(saliency)})
