"""Inference on the node grid: mirrored images give mirrored maps, batches give what single images give."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn

from wsss.data import Dataset
from wsss.nets.backbones import BACKBONES, build_backbone
from wsss.nets.folding import folded
from wsss.stages.cam import tagged_score_map
from wsss.stages.inference import (
    PIXELS,
    id_batches,
    multi_scale,
    node_grid,
    node_size,
    resize,
    stream_images,
)
from wsss.stages.localize import Classifier

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    model = Classifier(3, "tiny", "none", 8, 0.5)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
    return model.eval()


def maps(model: Classifier, images: list[np.ndarray], scales: tuple[float, ...] = (0.5, 1.0, 1.5)) -> np.ndarray:
    grid = node_grid(*images[0].shape[:2], 8)
    return multi_scale(model.maps, images, scales=scales, flip=True, stride=8, grid=grid, device=CPU).numpy()


@pytest.mark.parametrize("side", [16, 33, 50, 57])
@pytest.mark.parametrize("stride", [8, 16])
def test_the_node_grid_covers_the_image_from_border_to_border(side: int, stride: int) -> None:
    rows, columns = node_grid(side, 2 * side, stride)
    assert rows == round(side / stride) + 1
    assert columns == round(2 * side / stride) + 1
    height, width = node_size(side, 2 * side, stride)
    assert (height - 1) % stride == (width - 1) % stride == 0
    assert abs(height - side) <= stride


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_every_backbone_has_its_cells_on_nodes(name: str, output_stride: int) -> None:
    backbone = build_backbone(name, "none", output_stride).eval()
    size = node_size(40, 70, output_stride)
    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, *size))
    assert [f.shape[1] for f in features] == list(backbone.channels)
    assert tuple(features[-1].shape[2:]) == node_grid(40, 70, output_stride)


def test_a_mirrored_image_gives_mirrored_maps(classifier: Classifier) -> None:
    image = np.random.default_rng(0).integers(0, 256, (49, 66, 3), dtype=np.uint8)
    plain, mirrored = maps(classifier, [image])[0], maps(classifier, [image[:, ::-1]])[0]
    assert np.allclose(plain, mirrored[:, :, ::-1], atol=1e-4)


def test_a_batch_gives_what_single_images_give(classifier: Classifier) -> None:
    draw = np.random.default_rng(1)
    images = [draw.integers(0, 256, (40, 56, 3), dtype=np.uint8) for _ in range(3)]
    together = maps(classifier, images)
    assert np.allclose(together, np.concatenate([maps(classifier, [image]) for image in images]), atol=1e-4)


def test_several_scales_are_the_mean_of_each(classifier: Classifier) -> None:
    image = np.random.default_rng(2).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    each = [maps(classifier, [image], (scale,)) for scale in (0.5, 1.0, 1.5)]
    assert np.allclose(maps(classifier, [image]), np.mean(each, axis=0), atol=1e-5)


def test_a_score_map_keeps_the_tagged_classes_and_divides_by_their_maximum() -> None:
    raw = torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]], [[0.0, 0.0]]])
    found = tagged_score_map(raw, np.array([True, False, True]), (8, 16))
    assert found.classes.tolist() == [1, 3]
    assert np.allclose(found.scores[0], [[0.5, 1.0]], atol=1e-3)
    assert (found.scores[1] == 0).all()


def test_a_class_tagged_nowhere_leaves_the_other_maps_alone() -> None:
    raw = torch.rand(3, 4, 5)
    alone = tagged_score_map(raw, np.array([True, False, False]), (32, 40))
    both = tagged_score_map(raw, np.array([True, True, False]), (32, 40))
    assert (alone.scores[0] == both.scores[0]).all()


def test_a_background_image_has_no_maps() -> None:
    assert tagged_score_map(torch.rand(2, 3, 3), np.zeros(2, bool), (20, 20)).scores.shape == (0, 3, 3)


def test_batches_hold_images_of_one_size(tiny_shapes: Dataset) -> None:
    ids = [i for split in ("train", "dev", "val") for i in tiny_shapes.splits[split]]
    seen = []
    for chunk in id_batches(tiny_shapes, ids, CPU):
        assert len(chunk) <= PIXELS["cpu"] // 64**2
        assert len({tiny_shapes.size(image_id) for image_id in chunk}) == 1
        seen += chunk
    assert sorted(seen) == sorted(ids)


def stream(dataset: Dataset, ids: list[str], **options: object) -> list[tuple[str, float]]:
    """A stream whose network takes the mean of each image, and what it gives."""

    def infer(images: Sequence[np.ndarray]) -> list[float]:
        return [float(image.mean()) for image in images]

    def finish(image_id: str, image: np.ndarray, mean: float) -> float:
        assert dataset.image(image_id).mean() == mean == image.mean()
        return mean

    return list(stream_images(dataset, ids, CPU, infer, finish, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_a_stream_gives_each_image_once_in_the_order_of_the_batches(tiny_shapes: Dataset, one_at_a_time: bool) -> None:
    ids = [i for split in ("train", "dev", "val") for i in tiny_shapes.splits[split]]
    found = stream(tiny_shapes, ids, one_at_a_time=one_at_a_time)
    assert [image_id for image_id, _ in found] == list(chain.from_iterable(id_batches(tiny_shapes, ids, CPU)))
    assert all(mean == tiny_shapes.image(image_id).mean() for image_id, mean in found)


def test_a_stream_leaves_out_what_is_there_and_keeps_its_batches(tiny_shapes: Dataset) -> None:
    ids = list(tiny_shapes.splits["train"])
    first, second, *_ = id_batches(tiny_shapes, ids, CPU)
    skip, batches = frozenset([*first, second[0]]), []

    def infer(images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        batches.append(len(images))
        return images

    found = stream_images(tiny_shapes, ids, CPU, infer, lambda *made: None, skip=skip)
    assert {image_id for image_id, _ in found} == set(ids) - skip
    assert sum(batches) == len(ids) - len(first)


def test_a_network_that_is_run_one_at_a_time_stays_in_its_thread(tiny_shapes: Dataset) -> None:
    threads: dict[str, set[int]] = {"infer": set(), "finish": set()}

    def infer(images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        threads["infer"].add(threading.get_ident())
        return images

    def finish(*_: object) -> None:
        threads["finish"].add(threading.get_ident())

    list(stream_images(tiny_shapes, tiny_shapes.splits["train"], CPU, infer, finish, one_at_a_time=True))
    assert threads["infer"] == {threading.get_ident()}
    assert threading.get_ident() not in threads["finish"]


def test_the_number_of_cores_leaves_score_maps_alone(
    classifier: Classifier, tiny_shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = folded(classifier)

    def infer(images: Sequence[np.ndarray]) -> Sequence[torch.Tensor]:
        grid = node_grid(*images[0].shape[:2], 8)
        return multi_scale(network.maps, images, scales=(1.0, 1.5), flip=True, stride=8, grid=grid, device=CPU).unbind()

    found = []
    for cores in (1, 3):
        monkeypatch.setattr("wsss.stream.own_cores", lambda cores=cores: cores)
        made = stream_images(tiny_shapes, tiny_shapes.splits["dev"], CPU, infer, lambda *made: made[2].numpy())
        found.append(list(made))
    for (one, maps_one), (three, maps_three) in zip(*found, strict=True):
        assert one == three and np.array_equal(maps_one, maps_three)


def test_resizing_keeps_the_corners() -> None:
    raw = torch.rand(1, 1, 3, 4)
    large = resize(raw, (17, 25))
    assert torch.allclose(large[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]], raw[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]])


def test_a_batch_that_memory_is_too_little_for_is_split_once_for_all(
    tiny_shapes: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tiny_shapes.splits["train"]
    sizes: list[int] = []

    def infer(images: Sequence[np.ndarray]) -> list[float]:
        sizes.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return [float(image.mean()) for image in images]

    stream = stream_images(tiny_shapes, ids, CPU, infer, lambda i, image, mean: mean, one_at_a_time=True)
    assert dict(stream) == {i: float(tiny_shapes.image(i).mean()) for i in ids}
    batch = len(id_batches(tiny_shapes, ids, CPU)[0])
    assert batch > 4 and sum(size > 4 for size in sizes) <= 3
    assert capsys.readouterr().err.count(f"too little for {batch} images at once") == 1
