"""The gradients of DCSM (Shimoda and Yanai, ECCV 2016): guided back-propagation, and the layers they are taken at."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.methods.dcsm import network
from wsss.methods.dcsm.network import DcsmNet, FullyConnected
from wsss.nets.backbones import BACKBONES
from wsss.ops.guided import Guided, class_gradients

CLASSES = 5


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
