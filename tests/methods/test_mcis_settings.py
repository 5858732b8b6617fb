"""The settings of MCIS beside the published ones: attention, added convolutions, placement, scales and stretch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mcis_examples import PETS, TINY, context, inferred, make_dataset

from tune.objective import Objective
from tune.space import search_space
from wsss.data import Dataset
from wsss.data.augmentation import Augmentation
from wsss.errors import UserError
from wsss.methods import load
from wsss.methods.mcis import network, train
from wsss.methods.mcis.infer import McisInferSettings, fuse, raw_maps
from wsss.methods.mcis.network import CoAttentionNet, co_attention, square
from wsss.methods.mcis.pairs import Pool
from wsss.methods.mcis.settings import McisTrainSettings
from wsss.run.plan import make_plan
from wsss.settings import settings_of
from wsss.stages.outputs import load_model
from wsss.stages.refine import BackgroundSettings


@pytest.fixture
def pets(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "pets", ("cat", "cow", "dog", "owl"), PETS, val=["v"])


class TestCosine:
    def test_it_equals_loops_over_cells(self) -> None:
        draw = np.random.default_rng(0)
        m, n, w = draw.normal(size=(1, 3, 2, 2)), draw.normal(size=(1, 3, 1, 3)), draw.normal(size=(3, 3))
        seen_by_m, seen_by_n = co_attention(*(torch.from_numpy(x) for x in (m, n, w)), "cosine", 7.0)
        cells_m, cells_n = m.reshape(3, 4).T, n.reshape(3, 3).T

        def likeness(p: np.ndarray, q: np.ndarray) -> float:
            turned = w @ q
            return float(7 * p @ turned / np.linalg.norm(p) / np.linalg.norm(turned))

        for i, p in enumerate(cells_m):
            weights = np.exp([likeness(p, q) for q in cells_n])
            assert np.allclose(seen_by_m[0, :, i // 2, i % 2], weights / weights.sum() @ cells_n)
        for j, q in enumerate(cells_n):
            weights = np.exp([likeness(p, q) for p in cells_m])
            assert np.allclose(seen_by_n[0, :, 0, j], weights / weights.sum() @ cells_m)

    def test_a_cell_of_large_features_attracts_others_by_dot_products_alone(self) -> None:
        """Four directions; one cell of n is twenty times as large as the others and not quite at a right angle."""
        m, n = torch.eye(4).reshape(1, 4, 2, 2), torch.eye(4) + 0.1
        n[:, 0] *= 20
        n = n.reshape(1, 4, 2, 2)
        by = {a: co_attention(m, n, torch.eye(4), a, 10.0)[0].flatten(2)[0] for a in network.ATTENTIONS}
        assert (by["dot"].argmax(0) == 0).all()
        assert by["cosine"][:, 1:].argmax(0).tolist() == [1, 2, 3]

    def test_a_cell_without_features_sees_the_mean_and_no_nan(self) -> None:
        m, n = torch.zeros(1, 4, 2, 2), torch.rand(1, 4, 2, 2)
        seen_by_m, seen_by_n = co_attention(m, n, torch.eye(4), "cosine", 10.0)
        assert torch.allclose(seen_by_m, n.mean((2, 3), keepdim=True).expand_as(m)) and not seen_by_n.any()

    def test_temperature_multiplies_dot_products_too(self) -> None:
        m, n, w = torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2), torch.rand(3, 3)
        for warm, plain in zip(co_attention(m, n, w, "dot", 2.5), co_attention(m, n, 2.5 * w), strict=True):
            assert torch.allclose(warm, plain)


def test_without_added_convolutions_the_features_are_the_backbones(pets: Dataset, tmp_path: Path) -> None:
    settings = replace(TINY, added=0, attention="cosine", temperature=10.0)
    train.train_co_attention(context(settings, pets, tmp_path / "out"))
    net = load_model(tmp_path / "out", CoAttentionNet)
    images = torch.rand(1, 3, 33, 33)
    depth = net.backbone.channels[-1]
    assert net.features(images).equal(net.backbone(images)[-1]) and net.affinity.weight.shape == (depth, depth)
    assert (net.attention, net.temperature) == ("cosine", 10.0)


def test_what_was_trained_before_these_settings_is_still_read() -> None:
    net = CoAttentionNet(2, "tiny", "none", 8, 16)
    assert len(net.extra) == 9 and (net.attention, net.temperature) == ("dot", 1.0)


class TestPlacement:
    def test_a_random_one_is_the_classifiers(self, pets: Dataset) -> None:
        image = pets.image("a")
        found = square(image, 33, 0.2, 5, (0.5, 1.0))
        assert found.equal(Augmentation(33, (0.5, 1.0), 0.2)(image, None, np.random.default_rng(5))[0])

    def test_the_views_are_of_the_square_that_was_cut(self, pets: Dataset) -> None:
        settings = replace(TINY, views=network.VIEWS, jitter=0.0, placement="random", scale_low=0.5, scale_high=2.0)
        squares = set()
        for seed in range(4):
            sample = train.training_sample(Pool.of(pets), "a", settings, np.random.default_rng(seed))
            assert sample["flip"].equal(sample["image"].flip(2)) and sample["pair"].shape == (3, 33, 33)
            assert sample["0.75"].shape == (3, 25, 25) and torch.allclose(sample["2"][:, ::2, ::2], sample["image"])
            squares.add(float(sample["image"].sum()))
        assert len(squares) == 4

    def test_a_warped_one_is_what_it_was(self, pets: Dataset) -> None:
        image = pets.image("a")
        found = square(image, 33, 0.0, 1)
        assert found.equal(square(network.warp(image, 33), 33, 0.0, 1, (1.0, 1.0)))


class TestStretch:
    def test_from_the_minimum_by_hand(self) -> None:
        """A low map adds as much as a high one; one that is the same everywhere adds nothing, and is no NaN."""
        low, high = torch.tensor([[-9.0, -8.0], [-7.0, -5.0]]), torch.tensor([[3.0, 1.0], [2.0, 5.0]])
        fused = fuse(torch.stack([low, high, torch.full((2, 2), -4.0)])[:, None], "minimum")
        expected = (torch.tensor([0, 0.25, 0.5, 1]) + torch.tensor([0.5, 0, 0.25, 1])) / 3
        assert torch.allclose(fused[0].flatten(), expected)
        assert not fuse(torch.zeros(3, 1, 2, 2), "minimum").any()

    @pytest.mark.parametrize("stretch", ["zero", "minimum"])
    def test_a_class_whose_maps_are_empty_is_counted(self, pets: Dataset, tmp_path: Path, stretch: str) -> None:
        settings = McisInferSettings(side=33, views=("pair", "flip"), stride=4, stretch=stretch)
        maps, metrics = inferred(pets, tmp_path, settings, silent=True)
        assert metrics["cam/empty_maps"] == sum(len(maps.read(i).classes) for i in maps.ids) > 0
        assert all(not maps.read(i).scores.any() for i in maps.ids)

    def test_maps_of_several_sizes_are_averaged(self, pets: Dataset, tmp_path: Path) -> None:
        """Without references nothing is drawn, so that each size can be made alone; both reach 1 once stretched."""
        settings = McisInferSettings(side=33, views=("flip",), stride=4)
        one, two, both = (
            inferred(pets, tmp_path / str(scales), replace(settings, scales=scales))[0]
            for scales in ((1.0,), (2.0,), (1.0, 2.0))
        )
        apart = [np.abs(one.read(i).scores - two.read(i).scores).max() for i in both.ids if len(both.read(i).classes)]
        assert max(apart) > 0.02
        for image_id in both.ids:
            assert both.read(image_id).scores.shape == one.read(image_id).scores.shape
            if len(both.read(image_id).classes):
                assert both.read(image_id).scores.min() == 0 and both.read(image_id).scores.max() > 0.99


def test_the_basic_heads_map_alone_or_among_the_others(pets: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = CoAttentionNet(3, "tiny", "none", 8, 8).eval()
    own, flip = torch.rand(1, 8, 5, 5), torch.rand(1, 8, 5, 5)
    with torch.inference_mode():
        alone = raw_maps(net, own, [], {}, [0, 2], basic=True)
        among = raw_maps(net, own, [], {"flip": flip}, [0, 2], basic=True)
        assert alone.shape[0] == 1 and alone[0].equal(net.basic(own)[0, [0, 2]]) and among[2].equal(alone[0])
        assert among[:2].equal(raw_maps(net, own, [], {"flip": flip}, [0, 2]))
    settings = McisInferSettings(side=33, views=("basic",), stride=4)
    maps, metrics = inferred(pets, tmp_path, settings)
    assert metrics["infer/own_references"] == 0 and len(maps.ids) == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"localize.train.attention": "cosine"},
            "cosine needs a temperature.*set localize.train.temperature, such as 10",
        ),
        ({"localize.train.attention": "angle"}, "allowed: one of dot, cosine"),
        ({"localize.train.temperature": 0}, "0.01 to 1000"),
        ({"localize.train.added": -1}, "0 to 8"),
        ({"localize.train.scale_low": 3}, "scale_low = 3.0 is above scale_high"),
        ({"localize.infer.views": "pair,basic,basic"}, "names a view twice"),
        ({"localize.infer.views": "left"}, "one of pair, flip, 0.75, 2, basic"),
        ({"localize.infer.stretch": "wide"}, "one of zero, minimum"),
    ],
)
def test_bad_settings_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        for planned in make_plan("mcis", "paper", wrong).steps:
            planned.check()


def test_what_is_worth_searching_is_searched() -> None:
    train_settings = {s.key: s for s in settings_of(McisTrainSettings)}
    assert train_settings["temperature"].space(None) is None, "around no temperature there is nothing to search"
    around = train_settings["temperature"].space(10.0)
    assert around is not None and (around.low, around.high) == (3, 30)
    objective = Objective("dev/labels_crf/miou", "evaluate.labels_crf", "refine")
    found = search_space(make_plan("mcis", "demo"), objective, ["localize", "refine.background"])
    assert {"localize.train.added", "localize.infer.stretch", "refine.background.alpha"} <= set(found)


def test_the_paper_preset_stays_as_published_and_its_strict_background_fits_its_maps() -> None:
    chosen = make_plan("mcis", "paper").settings
    expected = {
        "localize.train.attention": "dot", "localize.train.temperature": None, "localize.train.added": 3,
        "localize.train.placement": "warp", "localize.infer.stretch": "zero", "localize.infer.scales": [1.0],
        "refine.background.alpha": 1.0,
    }  # fmt: skip
    assert {key: chosen[key] for key in expected} == expected
    assert BackgroundSettings().alpha == 16 and load("mcis").stages["refine"].presets["paper"] == {}
