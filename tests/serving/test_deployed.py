"""The packaged model: at what size it labels, in tiles, together with others, and what it takes."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wsss.classes import Classes
from wsss.data.augmentation import MEAN, STD
from wsss.nets.deeplab import DeepLab
from wsss.serving import deployed
from wsss.serving.deployed import Deployed, best_classes, brought, in_tiles, resize, rows_at_size
from wsss.serving.headers import Picture
from wsss.serving.memory import LabellingMemory, crf_bytes, return_memory
from wsss.serving.pictures import Limits
from wsss.serving.segmenter import Inference, Probabilities, Segmenter, fused
from wsss.stages.inference import multi_scale, node_grid, node_size
from wsss.stages.refine import CrfSettings, crf_labels, probabilities

CLASSES = Classes(("disc", "bar", "ring"))


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = DeepLab(classes=4, backbone="tiny", weights="none", output_stride=8, rates=(1, 2)).eval()
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return net


def segmenter(net, inference=Inference()):  # noqa: B008
    module = Deployed(Probabilities(net), 8, MEAN, STD, inference.sides, inference.scales, inference.flip)
    return Segmenter(module.eval(), CLASSES, "model", inference)


def test_nodes_are_those_of_inference(net):
    sides, scales = (1, 2000), (1.0, 0.75, 1.25, 0.8)
    model = Deployed(net, 8, MEAN, STD, sides, scales)
    for height in range(1, 1000):
        assert model.learned_size((height, 100)) == (height, 100)
        assert model.network_sizes((height, 100)) == [node_size(height, 100, 8, scale) for scale in scales]


@pytest.mark.parametrize("size", [(64, 64), (37, 91), (5, 7)])
def test_probabilities_are_those_of_the_step_that_predicts(net, size):
    scales = (0.75, 1.0, 1.25)
    model = segmenter(net, Inference(scales=scales, flip=True)).module
    expected = multi_scale(
        lambda x: net(x).softmax(1),
        [picture(*size)],
        scales=scales,
        flip=True,
        stride=8,
        grid=node_grid(*size, 8),
        device=torch.device("cpu"),
    )
    with torch.inference_mode():
        found = model.coarse([brought(torch.from_numpy(picture(*size)), size)])
    assert torch.allclose(resize(found, size), resize(expected, size), atol=2e-5)


def test_rows_are_the_same_however_many_are_asked_for():
    maps = torch.rand(1, 5, 9, 13)
    for size in [(70, 101), (1, 1), (9, 13), (2, 300)]:
        whole = rows_at_size(maps, size, 0, size[0])
        assert torch.allclose(whole, resize(maps, size), atol=1e-6)
        parts = [rows_at_size(maps, size, row, row + 1) for row in range(size[0])]
        assert torch.equal(torch.cat(parts, 2), whole)
        assert torch.equal(best_classes(maps, size), whole[0].max(0).indices.to(torch.uint8))


def test_a_picture_of_another_size_is_labelled_at_the_size_of_training(net):
    """The answer to an enlarged photograph is the enlarged answer, where without the sizes it is another."""
    colours = torch.from_numpy(picture(6, 9)).permute(2, 0, 1)[None].float()
    small, large = (
        resize(colours, size)[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
        for size in [(64, 96), (4 * 63 + 1, 4 * 95 + 1)]
    )
    knows, does_not = segmenter(net, Inference(sides=(96, 96))), segmenter(net)
    expected = knows(small)
    assert knows.module.learned_size(large.shape[:2]) == (64, 96)
    # Corner to corner: each 4th pixel of the large one is a pixel of the small one.
    found, other = knows(large)[::4, ::4], does_not(large)[::4, ::4]
    assert (found == expected).mean() > 0.95
    assert (other == expected).mean() < 0.9


def test_a_picture_far_outside_of_training_is_answered_and_said_so(net):
    model = segmenter(net, Inference(sides=(200, 500)))
    for size in [(500, 300), (100, 100), (1000, 2), (2, 101)]:
        assert model.far_from_training(*size) == ""
    assert model.far_from_training(3000, 4000) == "longer side 4000 px, in training 200 to 500 px; labelled at 500 px"
    assert model.far_from_training(50, 99) == "longer side 99 px, in training 200 to 500 px; labelled at 200 px"
    assert segmenter(net).far_from_training(10_000, 10_000) == ""
    assert model(picture(1, 1)).shape == (1, 1)


def test_tiles_show_no_seam():
    """A network that sees no further than the overlap gives the same in tiles, to the last bit of every cell."""
    torch.manual_seed(0)
    local = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=8, padding=1),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1),
    )
    for size in [(1025, 961), (33, 20_001), (777, 769), (1601, 857)]:
        images = torch.rand(1, 3, *size)
        with torch.inference_mode():
            whole, tiled = local(images), in_tiles(local, images, 8)
        assert whole.shape == tiled.shape
        assert torch.allclose(whole, tiled, atol=1e-5)


def test_tiles_are_the_whole_image_for_nearly_all_pixels(net, monkeypatch):
    """A network that sees further differs little: here the overlap is as far as it sees nearly everything."""
    model = segmenter(net)
    image = np.kron(picture(80, 100), np.ones((8, 8, 1), np.uint8))
    whole = model(image)
    monkeypatch.setattr(deployed, "TILE", 384)
    assert (model(image) == whole).mean() > 0.9999


@pytest.mark.parametrize("inference", [Inference(), Inference((40, 120), (0.75, 1.0), True)], ids=str)
def test_a_batch_answers_as_each_alone(net, inference):
    model = segmenter(net, inference)
    images = [picture(90, 101 + n) for n in range(5)]
    assert len({model.network_size(*image.shape[:2]) for image in images}) == 1
    for image, labels in zip(images, model.segment_batch(images), strict=True):
        alone = model(image)
        assert labels.shape == alone.shape and (labels == alone).mean() >= 0.9999
        with torch.inference_mode():
            size = image.shape[:2]
            maps = model.module.coarse([brought(torch.from_numpy(image), model.module.learned_size(size))])
            best = rows_at_size(maps, size, 0, size[0])[0].topk(2, 0).values
        clear = (best[0] - best[1] > 1e-4).numpy()
        assert np.array_equal(labels[clear], alone[clear])
    with pytest.raises(ValueError, match="network_size"):
        model.segment_batch([images[0], picture(300, 20)])


def test_the_crf_of_a_package_is_that_of_the_step(net):
    settings = CrfSettings(bilateral_sxy=20.0)
    image = np.kron(picture(8, 10), np.ones((8, 8, 1), np.uint8))
    model = segmenter(net, Inference(crf=settings))
    with torch.inference_mode():
        maps = model.module.coarse([brought(torch.from_numpy(image), image.shape[:2])])
        full = resize(maps, image.shape[:2])[0].numpy()
    expected = crf_labels(image, probabilities(full), np.arange(4, dtype=np.uint8), settings)
    assert (model(image) == expected).mean() > 0.999
    assert model(np.kron(image, np.ones((2, 2, 1), np.uint8))).shape == (128, 160)


@pytest.mark.parametrize(("size", "sides"), [((8160, 6120), (200, 500)), ((4000, 3000), Inference.sides)])
def test_a_phones_photograph_is_labelled_within_the_servers_memory(size, sides):
    """50 and 12 megapixels, MobileNetV2, 20 classes, three scales and mirrored, in the 576 MiB that one image has."""
    net = DeepLab(classes=21, backbone="mobilenet_v2", weights="none", output_stride=16, rates=(2, 4, 6)).eval()
    model = Deployed(Probabilities(net), 16, MEAN, STD, sides, (0.75, 1.0, 1.25), True).eval()
    assert LabellingMemory(model).bytes(*size) + 3 * size[0] * size[1] < 576 * 2**20


def test_the_memory_of_a_crf_is_counted(net):
    """What labelling takes with one, of a picture without two like pixels, is no more than was said before."""
    inference = Inference((200, 300), crf=CrfSettings())
    model, size = segmenter(net, inference), (225, 300)
    plain, counted = (LabellingMemory(model.module, labels).bytes(*size) for labels in (0, 4))
    assert counted - plain == crf_bytes(225 * 300, 4)
    assert LabellingMemory(model.module, 4).bytes(2250, 3000) - LabellingMemory(model.module).bytes(2250, 3000) == (
        counted - plain
    )
    limits = Limits(model, 2**30)
    assert limits.check(Picture("PNG", 300, 225, 0, b"")) >= counted
    assert limits.check(Picture("PNG", 200, 20, 0, b"")) >= crf_bytes(200 * 20, 4)

    peaks, done = [], threading.Event()
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # noqa: E731

    def watch():
        while not done.wait(0.002):
            peaks.append(resident())

    return_memory()  # what tests before have left free would be taken first, and not be seen
    before, watcher = resident(), threading.Thread(target=watch)
    watcher.start()
    model(picture(*size))
    done.set()
    watcher.join()
    assert 0.1 * counted < max(peaks) - before < counted


def test_the_faster_network_gives_the_same_labels(net):
    model = segmenter(net, Inference((40, 300), (0.75, 1.0), True))
    fast = fused(model)
    for size in [(90, 101), (300, 200), (5, 7), (1, 1)]:
        assert (fast(picture(*size)) == model(picture(*size))).mean() >= 0.9999
    assert LabellingMemory(fast.module).bytes(90, 101) == LabellingMemory(model.module).bytes(90, 101)
    assert fast.version == model.version and fast.network_size(9, 9) == model.network_size(9, 9)
