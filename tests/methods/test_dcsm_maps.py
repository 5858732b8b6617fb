"""The maps of DCSM, rule by rule (Shimoda and Yanai, ECCV 2016): candidates, subtraction, padding, aggregation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsss.data import Dataset
from wsss.data.augmentation import normalise
from wsss.data.label_maps import LabelMaps
from wsss.interface import StepContext
from wsss.methods.dcsm import DirectSettings, predict_dcsm, saliency, score_map
from wsss.methods.dcsm.network import DcsmNet
from wsss.methods.dcsm.saliency import (
    SaliencySettings,
    class_difference,
    compared_classes,
    cropped,
    normalised,
    padded,
    saliency_maps,
)
from wsss.ops.guided import Guided
from wsss.progress import ConsoleReporter
from wsss.stages.inference import node_size, resize
from wsss.stages.outputs import save_model
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


def sigmoids(rows: list[list[float]]) -> Tensor:
    """Scores whose sigmoids these are."""
    return torch.tensor(rows, dtype=torch.float64).logit()


class TestCandidates:
    def test_a_class_scores_what_its_highest_cell_scores(self) -> None:
        model, images = tiny_net(), torch.randn(2, 3, 33, 49)
        cells, scores = model.scores(images), model(images)
        for b in range(2):
            for c in range(CLASSES):
                assert scores[b, c] == max(cells[b, c].flatten().tolist())

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
