"""MCIS, formula by formula (Sun et al., ECCV 2020), and the three settings of data it learns from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wsss.classes import Classes
from wsss.data import Dataset, layout
from wsss.data.label_maps import LabelMaps
from wsss.data.score_maps import ScoreMaps
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.mcis import METHOD, extra, network, refine, train
from wsss.methods.mcis.infer import McisInferSettings, fuse, infer_maps, raw_maps
from wsss.methods.mcis.network import CoAttentionNet, co_attention
from wsss.methods.mcis.pairs import Pool, difference, intersection
from wsss.methods.mcis.train import McisTrainSettings, contrastive_loss, mcis_losses
from wsss.plan import make_plan
from wsss.progress import ConsoleReporter
from wsss.stages.outputs import save_model
from wsss.steps import StepRunner

CPU = torch.device("cpu")
REPORT = ConsoleReporter("test")
TINY = McisTrainSettings(
    backbone="tiny",
    weights="none",
    freeze_bn=False,
    width=8,
    side=33,
    views=("pair", "flip"),
    optimizer="adamw",
    epochs=1,
    batch_size=8,
    filter_epochs=1,
)


def make_dataset(
    root: Path, names: Sequence[str], tags: Mapping[str, Sequence[str]], val: Sequence[str] = ()
) -> Dataset:
    """A dataset of noise images (the same for the same id), all of them train but those of `val`."""
    (root / layout.IMAGES).mkdir(parents=True)
    for image_id in tags:
        pixels = np.random.default_rng(list(image_id.encode())).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / layout.IMAGES / f"{image_id}.png")
    lists = {"train": [i for i in tags if i not in val], "dev": [], "val": val}
    description = layout.Description(root.name, "folder", Classes(tuple(names)), "csv")
    layout.describe(root, description, {i: tuple(row) for i, row in tags.items()}, lists)
    return Dataset.open(root)


PETS = {"a": ["cat"], "b": ["cat", "dog"], "c": ["dog"], "d": ["cow"], "e": [], "f": ["cat", "cow"], "v": ["cat"]}


@pytest.fixture
def pets(tmp_path: Path) -> Dataset:
    return make_dataset(tmp_path / "pets", ("cat", "cow", "dog", "owl"), PETS, val=["v"])


def context(settings: object, dataset: Dataset, out: Path, inputs: Mapping[str, Path] | None = None) -> StepContext:
    out.mkdir(exist_ok=True, parents=True)
    return StepContext(settings, dataset, 5, CPU, out, inputs or {}, REPORT)


def cross_entropy(scores: Sequence[Sequence[float]], tags: Sequence[Sequence[float]]) -> float:
    """The mean sigmoid cross-entropy, entry by entry."""
    terms = [
        -(t * math.log(1 / (1 + math.exp(-s))) + (1 - t) * math.log(1 - 1 / (1 + math.exp(-s))))
        for row, wanted in zip(scores, tags, strict=True)
        for s, t in zip(row, wanted, strict=True)
    ]
    return sum(terms) / len(terms)


class TestCoAttention:
    def test_it_equals_loops_over_cells(self) -> None:
        draw = np.random.default_rng(0)
        m, n, w = draw.random((2, 3, 2, 3)), draw.random((2, 3, 2, 2)), draw.normal(size=(3, 3))
        seen_by_m, seen_by_n = co_attention(*(torch.from_numpy(x) for x in (m, n, w)))
        assert seen_by_m.shape == m.shape and seen_by_n.shape == n.shape
        for b in range(2):
            cells_m = [m[b, :, i // 3, i % 3] for i in range(6)]
            cells_n = [n[b, :, j // 2, j % 2] for j in range(4)]
            affinity = [[float(p @ w @ q) for q in cells_n] for p in cells_m]
            for j in range(4):  # each cell of n looks at all cells of m
                weights = np.exp([affinity[i][j] for i in range(6)])
                expected = sum(weight * cell for weight, cell in zip(weights / weights.sum(), cells_m, strict=True))
                assert np.allclose(seen_by_n[b, :, j // 2, j % 2], expected)
            for i in range(6):  # each cell of m looks at all cells of n
                weights = np.exp(affinity[i])
                expected = sum(weight * cell for weight, cell in zip(weights / weights.sum(), cells_n, strict=True))
                assert np.allclose(seen_by_m[b, :, i // 3, i % 3], expected)

    def test_without_any_affinity_each_image_sees_the_others_mean(self) -> None:
        m, n = torch.rand(1, 4, 2, 2), torch.rand(1, 4, 3, 3)
        seen_by_m, seen_by_n = co_attention(m, n, torch.zeros(4, 4))
        assert torch.allclose(seen_by_m, n.mean((2, 3), keepdim=True).expand_as(m), atol=1e-6)
        assert torch.allclose(seen_by_n, m.mean((2, 3), keepdim=True).expand_as(n), atol=1e-6)

    def test_a_cell_sees_the_cell_it_is_akin_to(self) -> None:
        """One-hot features: cell i of m is akin to the cell of n with the same feature, wherever that lies."""
        order = torch.tensor([2, 0, 3, 1])
        m, n = torch.eye(4).reshape(1, 4, 2, 2), torch.eye(4)[:, order].reshape(1, 4, 2, 2)
        seen_by_m, seen_by_n = co_attention(m, n, 100 * torch.eye(4))
        assert torch.allclose(seen_by_m, m, atol=1e-6) and torch.allclose(seen_by_n, n, atol=1e-6)

    def test_what_is_left_is_what_the_gate_lets_through(self) -> None:
        net = CoAttentionNet(2, "tiny", "none", 8, 2)
        net.gate.weight.data = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
        features, attended = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1), torch.tensor([0.5, 1.0]).view(1, 2, 1, 1)
        open_share = 1 - 1 / (1 + math.exp(-(0.5 - 2.0)))
        assert net.left(features, attended).flatten().tolist() == pytest.approx([3 * open_share, 5 * open_share])

    def test_the_networks_parts(self) -> None:
        net = CoAttentionNet(5, "vgg16", "none", 8, 16)
        sizes = {name: tuple(p.shape) for name, p in net.named_parameters() if not name.startswith("backbone")}
        assert sizes == {
            "extra.0.weight": (16, 512, 3, 3), "extra.0.bias": (16,),
            "extra.2.weight": (16, 16, 3, 3), "extra.2.bias": (16,),
            "extra.4.weight": (16, 16, 3, 3), "extra.4.bias": (16,),
            "basic.weight": (5, 16, 1, 1), "basic.bias": (5,),
            "affinity.weight": (16, 16), "shared.weight": (5, 16, 1, 1), "gate.weight": (1, 16, 1, 1),
        }  # fmt: skip
        features = net.eval().features(torch.rand(2, 3, 33, 33))
        assert features.shape == (2, 16, 5, 5) and features.min() >= 0
        assert torch.allclose(
            net(torch.zeros(1, 3, 33, 33)), net.basic(net.features(torch.zeros(1, 3, 33, 33))).mean((2, 3))
        )

    def test_the_added_convolutions_have_batch_norm_where_the_backbone_has(self) -> None:
        net = CoAttentionNet(5, "tiny", "none", 8, 16)
        kinds = [type(layer).__name__ for layer in net.extra]
        assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 3
        assert net.affinity.weight.equal(torch.eye(16) / 4), "at first, dot products over the root of d"


class TestLosses:
    """On features of one cell, where every image sees all of the other: A_m = F_n and A_n = F_m."""

    @pytest.fixture
    def net(self) -> CoAttentionNet:
        """Both heads read features 0 and 1 as the scores of classes 0 and 1; the gate reads feature 0."""
        net = CoAttentionNet(2, "tiny", "none", 8, 2)
        for layer, rows in ((net.basic, [[1.0, 0.0], [0.0, 1.0]]), (net.shared, [[2.0, 0.0], [0.0, 2.0]])):
            layer.weight.data = torch.tensor(rows).view(2, 2, 1, 1)
        assert net.basic.bias is not None
        net.basic.bias.data.zero_()
        net.gate.weight.data = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
        return net

    FEATURES: Mapping[str, Tensor] = {
        "image": torch.tensor([[0.3, 1.0], [2.0, 0.5]]).view(2, 2, 1, 1),
        "pair": torch.tensor([[1.5, 0.2], [0.1, 0.7]]).view(2, 2, 1, 1),
        "flip": torch.tensor([[0.4, 0.9], [1.8, 0.6]]).view(2, 2, 1, 1),
        "0.75": torch.tensor([[0.2, 1.1], [2.1, 0.4]]).view(2, 2, 1, 1),
        "2": torch.tensor([[0.5, 1.2], [1.7, 0.3]]).view(2, 2, 1, 1),
    }
    TAGS = (torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))

    def test_the_eight_terms_by_hand(self, net: CoAttentionNet) -> None:
        terms = mcis_losses(net, self.FEATURES, self.TAGS, contrastive=False)
        views = ("pair", "flip", "0.75", "2")
        assert list(terms) == [f"{head}/{view}" for view in views for head in ("basic", "co")]
        own = self.FEATURES["image"].flatten(1).tolist()
        t_m, t_n = (t.tolist() for t in self.TAGS)
        common = [[1.0, 0.0], [1.0, 0.0]]
        for view in views:
            other = self.FEATURES[view].flatten(1).tolist()
            twice_other, twice_own = ([[2 * x for x in row] for row in rows] for rows in (other, own))
            tags = t_m + t_n if view == "pair" else t_m + t_m
            shared = common + common if view == "pair" else t_m + t_m
            assert terms[f"basic/{view}"].item() == pytest.approx(cross_entropy(own + other, tags))
            assert terms[f"co/{view}"].item() == pytest.approx(cross_entropy(twice_other + twice_own, shared))

    def test_the_contrastive_terms_by_hand(self, net: CoAttentionNet) -> None:
        """m has class 1 which n has not in the first pair; the second pair differs in nothing: all negative there."""
        terms = mcis_losses(net, self.FEATURES, self.TAGS, contrastive=True)
        own, other = (self.FEATURES[name].flatten(1).tolist() for name in ("image", "pair"))
        left = [[2 * f * (1 - 1 / (1 + math.exp(-seen[0]))) for f in row] for row, seen in zip(own, other, strict=True)]
        assert terms["contrast/first"].item() == pytest.approx(cross_entropy(left, [[0, 1], [0, 0]]))
        assert terms["contrast/second"].item() == 0, "no n has a class that its m has not"

    def test_a_difference_anywhere_in_the_batch_counts_for_all_of_it(self) -> None:
        scores = torch.tensor([[0.5, -1.0], [2.0, 0.3]], requires_grad=True)
        nothing = contrastive_loss(scores, torch.zeros(2, 2))
        nothing.backward()
        assert nothing == 0 and scores.grad is not None and not scores.grad.any()
        some = contrastive_loss(scores, torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        assert some.item() == pytest.approx(cross_entropy([[0.5, -1.0], [2.0, 0.3]], [[0, 0], [1, 0]]))

    def test_common_and_different_tags(self) -> None:
        m, n = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
        assert intersection(m, n).tolist() == [[1, 0, 0, 0]]
        assert difference(m, n).tolist() == [[0, 1, 0, 0]]
        assert difference(n, m).tolist() == [[0, 0, 1, 0]]

    def test_contrast_begins_with_its_epoch(
        self, pets: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[bool] = []

        def spy(
            net: CoAttentionNet, features: Mapping[str, Tensor], tags: tuple, contrastive: bool
        ) -> dict[str, Tensor]:
            seen.append(contrastive)
            return mcis_losses(net, features, tags, contrastive)

        monkeypatch.setattr(train, "mcis_losses", spy)
        train.train_co_attention(context(replace(TINY, epochs=4, contrast_from=2), pets, tmp_path / "out"))
        assert seen == [False, False, True, True], "one batch an epoch, epochs counted from 0"


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


class TestMaps:
    def test_fusion_by_hand(self) -> None:
        """Of three maps of one class the own, first one counts whatever its score; the third is left out."""
        own = torch.tensor([[-9.0, -9.0], [-9.0, 2.0]])  # sigmoid(-6.25) = 0.002
        other = torch.tensor([[4.0, 1.0], [-2.0, 0.0]])
        poor = torch.tensor([[-3.0, -3.0], [-3.0, 0.1]])  # sigmoid(-2.225) = 0.0975
        fused, skipped = fuse(torch.stack([own, other, poor])[:, None])
        assert skipped.flatten().tolist() == [False, False, True]
        assert fused[0].flatten().tolist() == pytest.approx([1 / 3, 0.25 / 3, 0, 1 / 3])
        fair = torch.tensor([[-3.0, -3.0], [-3.0, 0.3]])  # sigmoid(-2.175) = 0.102
        fused, skipped = fuse(torch.stack([own, other, fair])[:, None])
        assert not skipped.any() and fused[0].flatten().tolist() == pytest.approx([1 / 3, 0.25 / 3, 0, 2 / 3])

    def test_a_map_that_is_nowhere_above_zero_adds_nothing(self) -> None:
        fused, _ = fuse(torch.full((2, 1, 2, 2), -1.0))
        assert not fused.any()

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


def inferred(dataset: Dataset, folder: Path, settings: McisInferSettings) -> tuple[ScoreMaps, dict[str, float]]:
    """Infer with a random network whose maps are above 0 and whose co-attention compares."""
    torch.manual_seed(3)
    architecture = {"classes": len(dataset.classes), "backbone": "tiny", "output_stride": 8, "width": 8}
    net = CoAttentionNet(weights="none", **architecture)  # type: ignore[arg-type]
    net.shared.weight.data.abs_()
    net.affinity.weight.data = torch.eye(8)
    net.extra[6].weight.data *= 1e4  # a network that has seen nothing hardly answers
    (folder / "train").mkdir(parents=True)
    save_model(folder / "train", net, architecture)  # type: ignore[arg-type]
    infer_maps(context(settings, dataset, folder / "infer", {"train": folder / "train"}))
    return ScoreMaps(folder / "infer" / "cam"), json.loads((folder / "infer" / "metrics.json").read_text())


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

    def test_a_mirrored_image_gives_mirrored_maps_without_references(self, tmp_path: Path) -> None:
        dataset = make_dataset(tmp_path / "x", ("cat", "dog"), {"a": ["cat"], "b": ["cat", "dog"]})
        with Image.open(dataset.image_path("a")) as image:
            mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.save(dataset.image_path("b"))
        maps, _ = inferred(dataset, tmp_path / "y", McisInferSettings(side=33, views=("flip",), stride=8))
        assert maps.read("a").scores.std() > 0.02
        assert maps.read("b").scores[0] == pytest.approx(maps.read("a").scores[0, :, ::-1], abs=2e-3)


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
        (tmp_path / "out" / "filter").mkdir(parents=True)
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
        assert not (tmp_path / "whole" / "filter").exists()

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
        assert not refine.saliency_labels(
            np.zeros((0, 2, 2)), np.zeros(0, np.uint8), np.full((2, 2), 255, np.uint8), 0.3
        ).any()

    def test_maps_are_checked_when_they_are_read(self, tmp_path: Path) -> None:
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
        assert refine.read_saliency(tmp_path, "a", (4, 5)).shape == (4, 5)
        with pytest.raises(UserError, match=r"a.png has 4 x 5 px, its image 4 x 4"):
            refine.read_saliency(tmp_path, "a", (4, 4))
        with pytest.raises(UserError, match=r"has no map .*b.png"):
            refine.read_saliency(tmp_path, "b", (4, 5))


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
        train.check_train(replace(TINY, **wrong))  # type: ignore[arg-type]


def test_a_saliency_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="saliency = nowhere is no folder"):
        refine.check_background(refine.McisBackgroundSettings(saliency="nowhere"))


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
                planned.step.check(planned.settings)
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
