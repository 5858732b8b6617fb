"""`wsss model export`: kept only where it agrees with the package."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from wsss.data import open_dataset
from wsss.data.augmentation import MEAN, STD
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.nets.deeplab import DeepLab
from wsss.serving import export
from wsss.serving.deployed import Deployed
from wsss.serving.export import Runtime, export_model, with_runtime
from wsss.serving.memory import LabellingMemory
from wsss.serving.segmenter import Inference, Probabilities, Segmenter


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "little"
    make_shapes(root, images=10, val_images=4, size=40, classes=3)
    return open_dataset(root)


@pytest.fixture(scope="module")
def model(dataset):
    torch.manual_seed(0)
    net = DeepLab(classes=4, backbone="tiny", weights="none", output_stride=8, rates=(1, 2)).eval()
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    inference = Inference((30, 60), (0.75, 1.0), True)
    module = Deployed(Probabilities(net), 8, MEAN, STD, *[inference.sides, inference.scales, inference.flip]).eval()
    return Segmenter(module, dataset.classes, "models:/little/1", inference)


IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


class Shifted(nn.Module):
    def __init__(self, net, by):
        super().__init__()
        self.net, self.by = net, by

    def forward(self, images):
        scores = self.net(images).clone()
        scores[:, 1] += self.by
        return scores


def runtime(model, by):
    return Runtime(lambda _, folder: (folder / "model.x").touch(), lambda _, net: Shifted(net, by))


def test_what_agrees_is_kept_and_what_does_not_leaves_nothing(model, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "RUNTIMES", {"same": runtime(model, 0.0), "other": runtime(model, 0.2)})
    agreement = export_model(model, "same", dataset, "val", tmp_path / "same")
    assert agreement.pixels == 1 and agreement.points == 0 and agreement.images == 4
    assert sorted(path.name for path in (tmp_path / "same").iterdir()) == ["about.json", "model.x"]
    assert np.array_equal(with_runtime(model, tmp_path / "same")(IMAGE), model(IMAGE))
    with pytest.raises(UserError, match="was exported of models:/little/1, not of models:/little/2"):
        with_runtime(replace(model, version="models:/little/2", inference=Inference()), tmp_path / "same")
    with pytest.raises(UserError, match="is no exported model"):
        with_runtime(model, tmp_path)
    with pytest.raises(UserError, match=r"does not agree with models:/little/1 on shapes/val: .* so it was not kept"):
        export_model(model, "other", dataset, "val", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


def test_bad_words_are_one_sentence(model, dataset, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="unknown format 'tflite'; choose from"):
        export_model(model, "tflite", dataset, "val", tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        export_model(model, "onnx", dataset, "val", tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="openvino needs openvino, which is not installed; pip install openvino"):
        export_model(model, "openvino", dataset, "val", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_runtimes_agree(model, dataset, tmp_path, kind):
    assert export_model(model, kind, dataset, "val", tmp_path / "out").accepted
    other = with_runtime(model, tmp_path / "out")
    assert (other(IMAGE) == model(IMAGE)).mean() > 0.999
    assert LabellingMemory(other.module).bytes(50, 70) == LabellingMemory(model.module).bytes(50, 70)
    assert sys.modules["openvino_telemetry"] is None
