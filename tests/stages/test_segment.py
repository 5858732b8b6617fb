"""The segmentation network's losses and its reading of labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss.nets.deeplab import DeepLab
from wsss.run.plan import make_plan
from wsss.stages.predict import PredictSettings, with_rare_together
from wsss.stages.refine import crf_labels, dense_crf, probabilities
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


def scene(labels: int, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """A smooth image with some noise, and smooth probabilities; those of all labels but five are low."""
    torch.manual_seed(0)
    colours, beliefs = torch.rand(1, 3, 4, 6) * 255, torch.randn(1, labels, 5, 7) * peak
    beliefs[:, 5:] -= 3 * peak
    smooth, unary = (F.interpolate(maps, (96, 128), mode="bicubic")[0] for maps in (colours, beliefs))
    image = (smooth + 4 * torch.randn(smooth.shape)).clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return image, probabilities(unary.softmax(0).numpy())


@pytest.mark.parametrize("peak", [1.5, 3.0, 6.0])
def test_labels_do_not_change_when_rare_ones_share_channels(peak: float) -> None:
    settings = PredictSettings()
    image, unary = scene(21, peak)
    maps, classes = with_rare_together(unary, settings.gaussian_weight + settings.bilateral_weight)
    assert len(classes) < 18
    expected = crf_labels(image, unary, np.arange(21, dtype=np.uint8), settings)
    assert len(np.unique(expected)) > 3 and (crf_labels(image, maps, classes, settings) == expected).all()


def test_channels_hold_all_probability_and_none_that_is_shared_exceeds_the_bound() -> None:
    unary = scene(21, 2.0)[1]
    bound = math.exp(-7 / 21) / 21
    unary[3:] = 0.3 * bound
    unary[1:3] *= 0.5
    unary[0] = 1 - unary[1:].sum(0)
    maps, classes = with_rare_together(unary, 7.0)
    assert np.allclose(maps.sum(0), 1, atol=1e-6) and (np.diff(classes.astype(int)) > 0).all()
    frequent = np.flatnonzero(unary.max((1, 2)) > bound)
    assert set(frequent) < set(classes) and len(classes) - len(frequent) == 6
    for channel, label in zip(maps, classes, strict=True):
        assert (channel == unary[label]).all() if label in frequent else channel.max() <= bound


def test_a_label_below_the_bound_does_not_come_out_on_top() -> None:
    settings = PredictSettings()
    image = np.full((40, 40, 3), 90, np.uint8)
    rare = math.exp(-7 / 3) / 3
    unary = np.broadcast_to(np.array([0.5, 0.5 - rare, rare], np.float32)[:, None, None], (3, 40, 40))
    assert dense_crf(image, settings)(unary, iterations=settings.iterations)[2].max() < 1 / 3


def test_every_label_is_kept_where_none_is_rare() -> None:
    unary = np.full((4, 5, 6), 0.25, np.float32)
    maps, classes = with_rare_together(unary, 7.0)
    assert (maps == unary).all() and classes.tolist() == [0, 1, 2, 3]
