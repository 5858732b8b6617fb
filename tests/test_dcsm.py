"""DCSM, rule by rule (Shimoda and Yanai, ECCV 2016): guided gradients, class subtraction, aggregation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from wsss.data import Dataset
from wsss.data.augmentation import normalise
from wsss.data.label_maps import LabelMaps
from wsss.data.score_maps import ScoreMaps
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.dcsm import METHOD, DirectSettings, network, predict_dcsm, saliency, score_map
from wsss.methods.dcsm.network import DcsmNet, DcsmSettings, FullyConnected
from wsss.methods.dcsm.saliency import (
    SaliencySettings,
    class_difference,
    compared_classes,
    cropped,
    normalised,
    padded,
    saliency_maps,
)
from wsss.nets.backbones import BACKBONES
from wsss.ops.guided import Guided, class_gradients
from wsss.plan import make_plan
from wsss.progress import ConsoleReporter
from wsss.stages.inference import node_size, resize
from wsss.stages.outputs import save_model
from wsss.steps import StepRunner
from wsss.stream import ordered_map

CPU = torch.device("cpu")
REPORT = ConsoleReporter("test")
CLASSES = 5


def tiny_net(classes: int = CLASSES, output_stride: int = 16) -> DcsmNet:
    """A network from scratch whose batch norm has seen something, so that no part of it is the identity."""
    torch.manual_seed(0)
    model = DcsmNet(classes, "tiny", "none", output_stride, 0.0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = torch.randn(layer.num_features) * 0.1
            layer.running_var = torch.rand(layer.num_features) + 0.5
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias, std=0.2)
    nn.init.normal_(model.head.weight, std=0.3)
    return model.eval().requires_grad_(False)


def noise(count: int, height: int, width: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


class TestGuidedBackPropagation:
    @pytest.mark.parametrize(
        ("rectify", "top"),
        [
            (nn.ReLU(), math.inf),
            (nn.ReLU(inplace=True), math.inf),
            (F.relu, math.inf),
            (torch.relu, math.inf),
            (torch.relu_, math.inf),
            (Tensor.relu, math.inf),
            (Tensor.relu_, math.inf),
            (nn.ReLU6(), 6),
            (nn.ReLU6(inplace=True), 6),
            (F.relu6, 6),
            (nn.Hardtanh(0, 2), 2),
        ],
    )
    def test_a_gradient_passes_where_the_unit_does_and_the_gradient_is_positive(self, rectify, top: float) -> None:
        forward = [-2.0, -0.0, 0.5, 1.5, 2.0, 4.0, 6.0, 7.0]
        above = [-3.0, 0.0, 2.0]
        x = torch.tensor([[f] * len(above) for f in forward], requires_grad=True)
        with Guided():
            out = rectify(x * 1)
        assert out.tolist() == [[min(max(f, 0), top)] * len(above) for f in forward]
        (found,) = torch.autograd.grad(out, x, torch.tensor([above] * len(forward)), retain_graph=True)
        assert found.tolist() == [[g if 0 < f < top and g > 0 else 0 for g in above] for f in forward]

    def test_outside_the_context_rectifiers_are_what_they_were(self) -> None:
        x = torch.tensor([1.0], requires_grad=True)
        with Guided():
            pass
        assert torch.autograd.grad(nn.ReLU()(x), x, torch.tensor([-1.0]))[0].item() == -1

    def test_what_is_no_rectifier_keeps_its_gradient(self) -> None:
        x = torch.tensor([0.5, -0.5], requires_grad=True)
        with Guided():
            out = nn.Hardtanh()(x) + F.leaky_relu(x, 0.1)
        assert torch.autograd.grad(out, x, -torch.ones(2))[0].tolist() == pytest.approx([-2, -1.1])

    def test_through_a_chain_with_a_linear_bottleneck_unit_by_unit(self) -> None:
        """Conv, in-place ReLU, linear conv, conv, in-place ReLU6, classes: written as loops over units."""
        torch.manual_seed(0)
        convs = [nn.Conv2d(a, b, 1).double() for a, b in ((3, 6), (6, 2), (2, 6), (6, 4))]
        first, project, expand, head = convs
        for conv in convs:
            nn.init.normal_(conv.weight, std=2)
            conv.requires_grad_(False)
        maps = torch.randn(1, 3, 2, 3, dtype=torch.float64).requires_grad_()
        with Guided():
            bottleneck = project(nn.ReLU(inplace=True)(first(maps)))
            scores = head(nn.ReLU6(inplace=True)(expand(bottleneck)))
        wanted = torch.tensor([[2, 0, 3]])
        at_input, at_bottleneck = class_gradients(scores, [maps, bottleneck], wanted)

        def apply(conv: nn.Conv2d, x: list[float]) -> list[float]:
            weight, bias = conv.weight[:, :, 0, 0].tolist(), conv.bias.tolist()
            return [b + sum(w * v for w, v in zip(row, x, strict=True)) for row, b in zip(weight, bias, strict=True)]

        def back(conv: nn.Conv2d, gradient: list[float]) -> list[float]:
            weight = conv.weight[:, :, 0, 0].tolist()
            return [sum(g * weight[o][i] for o, g in enumerate(gradient)) for i in range(conv.in_channels)]

        dropped = 0
        for y in range(2):
            for x in range(3):
                one = apply(first, maps[0, :, y, x].tolist())
                two = apply(expand, apply(project, [max(v, 0) for v in one]))
                for k, c in enumerate(wanted[0].tolist()):
                    above = back(head, [float(i == c) for i in range(4)])
                    gated = [g if 0 < v < 6 and g > 0 else 0.0 for v, g in zip(two, above, strict=True)]
                    linear = back(project, at := back(expand, gated))
                    assert at_bottleneck[k, 0, :, y, x].tolist() == pytest.approx(at)
                    below = back(first, [g if v > 0 and g > 0 else 0.0 for v, g in zip(one, linear, strict=True)])
                    assert at_input[k, 0, :, y, x].tolist() == pytest.approx(below)
                    dropped += sum(v >= 6 for v in two) + sum(v > 0 and g < 0 for v, g in zip(one, linear, strict=True))
        assert dropped > 10  # the case has what plain back-propagation would let through

    @pytest.mark.parametrize("backbone", ["tiny", "resnet18", "mobilenet_v2"])
    def test_the_forward_is_unchanged_and_one_batched_backward_is_many_single_ones(self, backbone: str) -> None:
        torch.manual_seed(0)
        model = DcsmNet(CLASSES, backbone, "none", 16, 0.0).train()
        with torch.no_grad():
            model(torch.randn(4, 3, 49, 49))  # gives batch norm its statistics
        model.eval().requires_grad_(False)
        images, classes = torch.randn(2, 3, 49, 33), torch.tensor([[0, 3, 1], [4, 2, 4]])
        with Guided():
            scores, inputs = model.scores_and_inputs(images)
        assert torch.allclose(scores, model.scores(images), atol=1e-5 * float(scores.detach().abs().max()))
        single = [
            [
                torch.autograd.grad(scores[b, classes[b, k]].sum(), inputs, retain_graph=True)
                for k in range(classes.shape[1])
            ]
            for b in range(2)
        ]
        for at, gradient in enumerate(class_gradients(scores, inputs, classes)):
            for b in range(2):
                for k in range(3):
                    expected = single[b][k][at][b]
                    assert expected.abs().max() > 0
                    assert torch.allclose(gradient[k, b], expected, atol=1e-5 * float(expected.abs().max()))


class TestLayers:
    def test_on_vgg16_the_layers_are_the_papers_nine(self) -> None:
        with torch.device("meta"):
            model = DcsmNet(20, "vgg16", "none", 16, 0.5)
        convolutions = [m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)]
        assert model.blocks() == convolutions[4:]  # conv1 has two, conv2 has two
        _, inputs = model.scores_and_inputs(torch.zeros(1, 3, 65, 65, device="meta"))
        sides = [65 // s + 1 for s in (4, 4, 4, 8, 8, 8, 16, 16, 16)]
        widths = [128, 256, 256, 256, 512, 512, 512, 512, 512]
        assert [i.shape for i in inputs] == [(1, c, s, s) for c, s in zip(widths, sides, strict=True)]

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_on_every_network_the_layers_are_inputs_of_blocks_of_the_last_three_levels(self, backbone: str) -> None:
        with torch.device("meta"):
            model = DcsmNet(20, backbone, "none", 16, 0.5).eval()
        levels = model.backbone.levels[-3:]
        assert all(any(block in set(level.children()) for level in levels) for block in model.blocks())
        images = torch.zeros(1, 3, 65, 65, device="meta")
        _, inputs = model.scores_and_inputs(images)
        outputs = model.backbone(images)
        assert 6 <= len(inputs) == len(model.blocks()) <= 9
        assert len({i.shape[2] for i in inputs} & {o.shape[2] for o in outputs}) == len({o.shape[2] for o in outputs})

    def test_on_mobilenet_the_layers_are_its_linear_bottlenecks(self) -> None:
        model = DcsmNet(20, "mobilenet_v2", "none", 16, 0.5).eval()
        _, inputs = model.scores_and_inputs(torch.randn(1, 3, 65, 65))
        assert [i.shape[1] for i in inputs] == [24, 32, 32, 64, 96, 96, 160, 160, 320]
        assert all((i < 0).any() for i in inputs)

    def test_fc6_and_fc7_are_vggs_own_as_convolutions(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(FullyConnected, "channels", 8)
        torch.manual_seed(0)
        fc6, fc7 = nn.Linear(512 * 7 * 7, 8), nn.Linear(8, 8)
        state = {f"classifier.0.{k}": v for k, v in fc6.state_dict().items()}
        state |= {f"classifier.3.{k}": v for k, v in fc7.state_dict().items()}
        save_file(state, tmp_path / "vgg.safetensors")
        top = FullyConnected(str(tmp_path / "vgg.safetensors"), 0.5).eval()
        features = torch.rand(2, 512, 13, 13)
        pooled = F.max_pool2d(features, 3, 2, 1)
        with torch.inference_mode():
            found = top(features)
            expected = fc7(fc6(pooled.flatten(1)).relu()).relu()
            assert torch.allclose(found[:, :, 0, 0], expected, atol=1e-5) and found.shape == (2, 8, 1, 1)
            assert top(torch.rand(1, 512, 15, 17)).shape == (1, 8, 2, 3)
            assert top(torch.rand(1, 512, 3, 14)).shape == (1, 8, 1, 1)  # too small an image is padded
        save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "bare.safetensors")
        with pytest.raises(UserError, match=r"no fully connected layers.*give torchvision's whole file"):
            FullyConnected(str(tmp_path / "bare.safetensors"), 0.5)

    def test_the_bias_begins_at_the_log_odds_of_the_tags(self) -> None:
        tags = np.array([[1, 0], [1, 0], [0, 0], [1, 0]], bool)
        found = network.tag_log_odds(tags).tolist()
        assert found == pytest.approx([math.log(3.5 / 1.5), math.log(0.5 / 4.5)])  # finite without an image, too

    def test_a_class_scores_what_its_highest_cell_scores(self) -> None:
        model, images = tiny_net(), torch.randn(2, 3, 33, 49)
        cells, scores = model.scores(images), model(images)
        for b in range(2):
            for c in range(CLASSES):
                assert scores[b, c] == max(cells[b, c].flatten().tolist())


def sigmoids(rows: list[list[float]]) -> Tensor:
    """Scores whose sigmoids these are."""
    return torch.tensor(rows, dtype=torch.float64).logit()


class TestCandidates:
    def test_at_test_time_they_are_what_any_scale_sees_and_four_are_compared(self) -> None:
        found = compared_classes(sigmoids([[0.1, 0.6, 0.4, 0.2, 0.3, 0.49], [0.3, 0.4, 0.8, 0.3, 0.0, 0.05]]), None)
        assert found.candidates == [1, 2]
        assert found.classes == [1, 2, 5, 3]  # sums 0.54 and 0.5; then 0.4 and 0.3
        assert found.counts.tolist() == [[1, 0], [0, 1]]  # each counts at the scale where it is above 0.5

    def test_more_than_four_are_all_compared_and_nobody_else(self) -> None:
        found = compared_classes(sigmoids([[0.9, 0.6, 0.1, 0.7, 0.8, 0.51]]), None)
        assert found.classes == found.candidates == [0, 1, 3, 4, 5]

    def test_when_making_labels_they_are_the_tags_at_every_scale(self) -> None:
        scores = sigmoids([[0.9, 0.1, 0.2, 0.3, 0.6], [0.8, 0.1, 0.2, 0.3, 0.4]])
        found = compared_classes(scores, np.array([False, True, False, False, False]))
        assert found.candidates == [1] and found.classes == [1, 0, 4, 3]
        assert found.counts.tolist() == [[1], [1]]

    @pytest.mark.parametrize("tags", [None, np.zeros(3, bool)])
    def test_without_candidates_nothing_is_compared(self, tags: np.ndarray | None) -> None:
        found = compared_classes(sigmoids([[0.5, 0.4, 0.1]]), tags)  # 0.5 is not above 0.5
        assert found.classes == [] and found.counts.shape == (1, 0)


def subtracted_slowly(maps: np.ndarray) -> np.ndarray:
    """The authors' loop over the other classes, pixel by pixel."""
    classes, height, width = maps.shape
    total = np.zeros_like(maps)
    for c in range(classes):
        for other in range(classes):
            if other == c:
                continue
            difference = maps[c] - maps[other]
            peak = difference.max()
            for y in range(height):
                for x in range(width):
                    if difference[y, x] > 0:
                        total[c, y, x] += math.tanh(3 * difference[y, x] / peak)
    return total


class TestSubtraction:
    def test_a_pair_by_hand(self) -> None:
        maps = torch.tensor([[[4.0, 1.0, 2.0]], [[0.0, 3.0, 2.0]]])
        found = class_difference(maps)  # differences 4, -2, 0 and -4, 2, 0
        assert found.tolist() == [[[pytest.approx(math.tanh(3)), 0, 0]], [[0, pytest.approx(math.tanh(3)), 0]]]

    def test_several_classes_as_the_loop_has_it(self) -> None:
        maps = np.random.default_rng(0).random((4, 5, 6))
        assert class_difference(torch.from_numpy(maps)).numpy() == pytest.approx(subtracted_slowly(maps), abs=1e-12)

    def test_a_class_is_zero_where_the_other_is_more_salient(self) -> None:
        maps = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
        found = class_difference(maps)
        assert ((found[0] > 0) == (maps[0] > maps[1])).all() and ((found[1] > 0) == (maps[1] > maps[0])).all()

    def test_the_size_of_the_gradients_does_not_count(self) -> None:
        maps = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(class_difference(maps * 1e-9), class_difference(maps), atol=1e-5)

    def test_a_single_class_is_what_it_is(self) -> None:
        maps = torch.tensor([[[0.0, 1.0], [0.5, 2.0]]])
        assert torch.allclose(class_difference(maps), torch.tanh(3 * maps / 2))

    def test_a_class_that_is_nowhere_above_another_gets_nothing_and_no_nan(self) -> None:
        found = class_difference(torch.stack([torch.ones(2, 2), torch.ones(2, 2), torch.zeros(2, 2)]))
        assert found[2].eq(0).all() and found[:2].sub(math.tanh(3)).abs().max() < 1e-6
        assert normalised(found)[2].eq(0).all() and class_difference(torch.zeros(1, 2, 2)).eq(0).all()

    def test_the_sum_is_scaled_and_squashed_once_more(self) -> None:
        found = normalised(torch.tensor([[[8.0, 4.0, 0.0]]]))
        assert found.flatten().tolist() == pytest.approx([math.tanh(3), math.tanh(1.5), 0])


class TestPadding:
    def test_the_image_lies_in_the_middle_of_the_canvas(self) -> None:
        images = torch.rand(2, 3, 5, 8)
        found, corner = padded(images, 10)
        assert found.shape == (2, 3, 10, 10) and corner == (2, 1)
        assert found[:, :, 2:7, 1:9].equal(images) and found.sum() == pytest.approx(float(images.sum()))
        for side in (None, 4):
            found, corner = padded(images, side)
            assert found.equal(images) and corner == (0, 0)

    def test_cropping_takes_each_cell_from_the_pixel_it_lies_on(self) -> None:
        y, x = torch.meshgrid(torch.arange(0.0, 41, 10), torch.arange(0.0, 61, 10), indexing="ij")
        maps = torch.stack([y, x])[:, None]  # 5 x 7 cells over 41 x 61 px, linear
        found = cropped(maps, (41, 61), (8, 11), (25, 33), (7, 9))
        rows, columns = 8 + torch.arange(7) * 4.0, 11 + torch.arange(9) * 4.0
        assert torch.allclose(found[0, 0], rows[:, None].expand(7, 9), atol=1e-4)
        assert torch.allclose(found[1, 0], columns.expand(7, 9), atol=1e-4)
        whole = cropped(maps, (41, 61), (0, 0), (41, 61), (9, 9))
        assert torch.allclose(whole, resize(maps, (9, 9)), atol=1e-4)

    def test_what_lies_in_the_border_does_not_change_a_map(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The canvas is 65 px, the image 33 px from pixel 16 on: cells 4 to 12 of 17 at stride 4."""
        drawn = torch.rand(4, 1, 1, 17, 17, generator=torch.Generator().manual_seed(0))
        images, tags = noise(1, 33, 33), [np.array([True, True, False, False, False])]
        settings = SaliencySettings(scales=(1.0,), side=65)

        def maps(border: float) -> Tensor:
            gradient = torch.full_like(drawn, border)
            gradient[..., 4:13, 4:13] = drawn[..., 4:13, 4:13]
            monkeypatch.setattr(saliency, "class_gradients", lambda *_: [gradient])
            return saliency_maps(tiny_net(), images, tags, settings, CPU)[0][0]

        assert maps(1e6).equal(maps(0)) and maps(0).amax((1, 2)).tolist() == pytest.approx([math.tanh(3)] * 2)


def maps_slowly(
    model: DcsmNet, image: np.ndarray, tags: np.ndarray | None, scales: tuple[float, ...]
) -> dict[int, np.ndarray]:
    """The whole recipe for one image, class by class and layer by layer, without padding; at stride 4."""
    size, grid = image.shape[:2], (image.shape[0] // 4 + 1, image.shape[1] // 4 + 1)
    gradients: list[dict[int, list[np.ndarray]]] = []
    highest = []
    for scale in scales:
        scaled = resize(normalise(image)[None], node_size(*size, model.backbone.output_stride, scale))
        with Guided():
            scores, inputs = model.scores_and_inputs(scaled)
        highest.append(scores.amax((2, 3))[0].sigmoid().tolist())
        gradients.append({})
        for c in range(CLASSES):
            layers = torch.autograd.grad(scores[0, c].sum(), inputs, retain_graph=True)
            gradients[-1][c] = [
                resize(g.abs().max(1, keepdim=True).values, grid)[0, 0].double().numpy() for g in layers
            ]
    seen = [{c for c in range(CLASSES) if (row[c] > 0.5 if tags is None else tags[c])} for row in highest]
    candidates = sorted(set.union(*seen))
    others = sorted(set(range(CLASSES)) - set(candidates), key=lambda c: -sum(row[c] for row in highest))
    classes = candidates + others[: max(0, 4 - len(candidates))]
    found = {}
    for c in candidates:
        total = np.zeros(grid)
        for scale, here in enumerate(seen):
            if c in here:
                for layer in range(len(gradients[0][0])):
                    total += subtracted_slowly(np.stack([gradients[scale][k][layer] for k in classes]))[
                        classes.index(c)
                    ]
        found[c] = np.tanh(3 * total / total.max())
    return found


class TestSaliencyMaps:
    @pytest.mark.parametrize("tagged", [True, False])
    def test_they_are_what_the_recipe_gives_one_at_a_time(self, tagged: bool) -> None:
        model, images, scales = tiny_net(), noise(3, 32, 48), (1.0, 1.5)
        if not tagged:  # so that images differ in what is seen, and scales as well
            sizes = [node_size(32, 48, 16, scale) for scale in scales]
            scores = [model(resize(normalise(image)[None], size)) for image in images for size in sizes]
            model.head.bias.sub_(torch.cat(scores).quantile(0.7, dim=0))
        rows = [np.array(r, bool) for r in ([1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0])] if tagged else None
        settings = SaliencySettings(scales=scales, side=None)
        found = saliency_maps(model, images, rows, settings, CPU)
        counts = [len(classes) for _, classes in found]
        assert counts == ([1, 2, 0] if tagged else [4, 3, 3])
        for i, (maps, classes) in enumerate(found):
            if not classes:
                assert maps.shape == (0, 9, 13)
                continue
            expected = maps_slowly(model, images[i], rows[i] if rows else None, scales)
            assert classes == list(expected)
            for one, c in zip(maps, classes, strict=True):
                assert np.abs(one.numpy() - expected[c]).max() < 2e-3
                assert one.min() >= 0 and one.max() <= 1

    def test_images_together_are_images_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, images = tiny_net(), noise(3, 33, 33)
        tags = [np.array(r, bool) for r in ([1, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0])]
        settings = SaliencySettings(scales=(1.0,), side=40)
        together = saliency_maps(model, images, tags, settings, CPU)
        monkeypatch.setattr(saliency, "PIXELS", 33 * 33)
        for (a, classes), (b, same) in zip(together, saliency_maps(model, images, tags, settings, CPU), strict=True):
            assert classes == same and torch.allclose(a, b, atol=1e-3)

    def test_threads_may_share_a_network(self) -> None:
        model, images, tags = tiny_net(), noise(8, 33, 33), [np.array([True, False, True, False, False])]
        settings = SaliencySettings(scales=(1.0, 1.5), side=None)

        def maps(image: np.ndarray) -> Tensor:
            return saliency_maps(model, [image], tags, settings, CPU)[0][0]

        alone = ordered_map(maps, images, workers=1)
        assert all(a.equal(b) for a, b in zip(alone, ordered_map(maps, images, workers=4), strict=True))

    def test_with_a_single_class_the_map_is_its_own_saliency(self) -> None:
        model, image = tiny_net(classes=1), noise(1, 32, 32)
        ((maps, classes),) = saliency_maps(model, image, [np.array([True])], SaliencySettings(side=None), CPU)
        assert classes == [0] and maps.max() == pytest.approx(math.tanh(3)) and (maps > 0).float().mean() > 0.9

    def test_they_are_kept_under_the_label_of_their_class(self) -> None:
        stored = score_map(torch.full((2, 3, 4), 0.5), [0, 4], (9, 13))
        assert stored.classes.tolist() == [1, 5] and stored.size == (9, 13) and (stored.scores == 0.5).all()
        assert score_map(torch.zeros(0, 3, 4), [], (9, 13)).scores.shape == (0, 3, 4)


def test_an_image_in_which_nothing_is_seen_is_background(tiny_shapes: Dataset, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "out").mkdir()
    model = tiny_net(len(tiny_shapes.classes))
    model.head.bias.fill_(-1e4)
    architecture = {"classes": 3, "backbone": "tiny", "output_stride": 16, "dropout": 0.0}
    save_model(tmp_path / "train", model, architecture)
    settings = DirectSettings(scales=(1.0,), side=None)
    inputs = {"train": tmp_path / "train"}
    predict_dcsm(StepContext(settings, tiny_shapes, 0, CPU, tmp_path / "out", inputs, REPORT))
    for name in ("direct", "direct_crf"):
        maps = LabelMaps(tmp_path / "out" / name)
        assert len(maps) and all((maps.read(i) == 0).all() for i in maps.ids)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"direct/images_without_candidate": len(maps)}


def test_settings_that_contradict_each_other() -> None:
    good = DcsmSettings(weights="none", freeze_bn=False)
    network.check_dcsm(good)
    with pytest.raises(UserError, match=r"output_stride = 8 does not fit backbone = vgg16.*set it to 16"):
        network.check_dcsm(replace(good, output_stride=8))
    network.check_dcsm(replace(good, output_stride=8, backbone="resnet18"))
    with pytest.raises(UserError, match="freeze_bn"):
        network.check_dcsm(replace(good, freeze_bn=True))
    with pytest.raises(UserError, match="scale_low = 2"):
        network.check_dcsm(replace(good, scale_low=2))
    with pytest.raises(UserError, match=r"scales.*at least|0.1 to 8"):
        make_plan("dcsm", "demo", {"localize.infer.scales": "0"})


def test_any_refiner_can_follow() -> None:
    plan = make_plan("dcsm", "demo", {"refine.name": "affinity"})
    walk = next(p for p in plan.steps if p.key == "refine.walk")
    assert walk.needs["localize"] == "localize.infer" and METHOD.stages["localize"].steps[-1].name == "infer"


def test_its_own_steps_from_images_to_labels(tiny_shapes: Dataset, tmp_path: Path) -> None:
    values = {
        "localize.train.epochs": 1,
        "localize.train.crop": 49,
        "localize.infer.scales": "1.0,1.25",
        "localize.predict.scales": "1.0",
    }
    plan = make_plan("dcsm", "demo", values)

    def folders(work: str, keys: tuple[str, ...]) -> dict[str, Path]:
        runner = StepRunner(tiny_shapes, 0, CPU, tmp_path / work)
        return {p.key: runner.run(p, REPORT).folder for p in plan.steps if p.key.startswith(keys)}

    first, second = folders("a", ("localize", "refine")), folders("b", ("localize.train", "localize.infer"))
    cam = ScoreMaps(first["localize.infer"] / "cam")
    assert set(cam.ids) == {*tiny_shapes.splits["train"], *tiny_shapes.splits["dev"]}
    again = ScoreMaps(second["localize.infer"] / "cam")
    for i in cam.ids:
        maps = cam.read(i)
        assert maps.classes.tolist() == (np.flatnonzero(tiny_shapes.tags(i)) + 1).tolist()
        assert np.array_equal(maps.scores, again.read(i).scores)
    metrics = json.loads((first["localize.infer"] / "metrics.json").read_text())
    assert set(metrics) == {"cam/empty_maps", "dev/tags/map", "val/tags/map"}
    direct = LabelMaps(first["localize.predict"] / "direct")
    assert set(direct.ids) == {*tiny_shapes.splits["dev"], *tiny_shapes.splits["val"]}
    labels = LabelMaps(first["refine.crf"] / "labels_crf")
    assert set(labels.ids) == set(cam.ids)
    for i in labels.ids:
        assert set(np.unique(labels.read(i))) <= {0, *cam.read(i).classes.tolist()}
