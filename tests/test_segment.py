"""The segmentation network's losses and its reading of labels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from wsss.nets.deeplab import DeepLab
from wsss.plan import make_plan
from wsss.stages.segment import balanced_cross_entropy, plain_cross_entropy


def random_case() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, 5, 6), torch.tensor([0, 1, 2, 3, 255])[torch.randint(0, 5, (2, 5, 6))]


def test_balanced_cross_entropy_is_half_of_each_sides_mean() -> None:
    scores, labels = random_case()
    sides: dict[bool, list[float]] = {True: [], False: []}
    for b in range(2):
        for y in range(5):
            for x in range(6):
                label = int(labels[b, y, x])
                if label != 255:
                    sides[label == 0].append(-math.log(float(scores[b, :, y, x].softmax(0)[label])))
    expected = sum(sum(side) / len(side) for side in sides.values()) / 2
    assert math.isclose(float(balanced_cross_entropy(scores, labels)), expected, rel_tol=1e-5)


def test_plain_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    scores, labels = random_case()
    assert torch.allclose(plain_cross_entropy(scores, labels), F.cross_entropy(scores, labels, ignore_index=255))


def test_a_crop_without_foreground_or_without_labels_is_no_nan() -> None:
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    for value in (0, 255):
        for loss in (balanced_cross_entropy, plain_cross_entropy):
            result = loss(scores, torch.full((1, 4, 4), value))
            result.backward()
            assert torch.isfinite(result)
            assert torch.isfinite(scores.grad).all()  # type: ignore[arg-type]


def test_the_pyramid_adds_its_branches_up() -> None:
    net = DeepLab(3, "tiny", "none", 8, (1, 2)).eval()
    images = torch.rand(1, 3, 33, 33)
    with torch.inference_mode():
        features = net.backbone(images)[-1]
        assert torch.allclose(net(images), net.head[0](features) + net.head[1](features), atol=1e-5)


def test_preset_paper_is_the_recipe_of_deeplab_pytorch() -> None:
    settings = make_plan("bound", "paper").settings
    recipe = {
        "backbone": "resnet101", "rates": [6, 12, 18, 24], "output_stride": 8, "crop": 321, "scale_low": 0.5,
        "scale_high": 1.5, "lr": 2.5e-4, "head_lr": 10.0, "momentum": 0.9, "weight_decay": 5e-4, "freeze_bn": True,
    }  # fmt: skip
    assert {key: settings[f"segment.train.{key}"] for key in recipe} == recipe
    images = settings["segment.train.batch_size"] * settings["segment.train.accumulate"]
    assert images == 10
    assert abs(settings["segment.train.epochs"] * 10_582 / images - 20_000) < 200
    crf = {"iterations": 10, "gaussian_sxy": 1, "gaussian_weight": 3, "bilateral_sxy": 67, "bilateral_srgb": 3}
    assert {key: settings[f"segment.predict.{key}"] for key in crf} == crf
