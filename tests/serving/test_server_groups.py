"""Images of equal network size that wait together go together."""

import threading
import time

import numpy as np
import pytest
import torch
from test_server_answers import model, picture  # noqa: F401

from wsss.serving import batching
from wsss.serving.segmenter import Segmenter


def test_images_of_equal_network_size_go_together(model):  # noqa: F811
    images = [picture(*size) for size in ((64, 64), (65, 63), (66, 66))]
    assert len({model.network_size(*image.shape[:2]) for image in images}) == 1
    for labels, image in zip(model.segment_batch(images), images, strict=True):
        assert labels.shape == image.shape[:2] and (labels == model(image)).mean() >= 0.9999
    assert np.array_equal(model.segment_batch(images[:1])[0], model(images[0]))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_waits_together_goes_together(model, device):  # noqa: F811
    """A device that is no processor gets one batch, a processor's cores an image each; the answers are the same."""
    held, groups = threading.Event(), []

    class Held(Segmenter):
        def __call__(self, image):
            held.wait(10)
            return super().__call__(image)

        def segment_batch(self, images):
            held.wait(10)
            return Segmenter.segment_batch(model, images)

    held_model = Held(model.module, model.classes, "held")
    batcher = batching.Batcher(torch.device(device), groups.append)
    images = [picture(*size, rng) for rng, size in enumerate([(9, 9)] + [(64, 64), (40, 64)] * 3 + [(65, 63)])]
    first = batcher.submit(held_model, images[0])
    while not groups:
        time.sleep(0.01)
    others = [batcher.submit(held_model, image) for image in images[1:]]
    others[1].cancel()
    held.set()
    for image, labels in zip(images, [first, *others], strict=True):
        if not labels.cancelled():
            assert (labels.result(20) == model(image)).mean() >= 0.9999
    assert groups == [1, 4, 2] and batcher.alive
    batcher.close()
