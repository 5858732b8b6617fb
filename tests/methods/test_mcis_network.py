"""The network of MCIS, formula by formula (Sun et al., ECCV 2020): co-attention and the losses of a pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss.methods.mcis.network import CoAttentionNet, co_attention
from wsss.methods.mcis.pairs import difference, intersection
from wsss.methods.mcis.train import contrastive_loss, mcis_losses


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

    def test_a_local_start_keeps_places_apart(self) -> None:
        """A cell of the backbone reaches that cell of the features alone, and W is the identity over d."""
        torch.manual_seed(0)
        reached = {}
        for start in ("random", "local"):
            net = CoAttentionNet(3, "tiny", "none", 8, 16, start).eval()
            before = torch.rand(1, net.backbone.channels[-1], 5, 5)
            after = before.clone()
            after[:, :, 2, 2] += 1
            changed = (net.extra(after) - net.extra(before)).abs().sum((0, 1)) > 0
            reached[start] = [divmod(int(cell), 5) for cell in changed.flatten().nonzero()]
        assert len(reached["random"]) == 25 and reached["local"] == [(2, 2)]
        assert torch.equal(net.affinity.weight, torch.eye(16) / 16)

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
