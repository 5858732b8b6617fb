"""The formulas of MCIS, DCSM and WILDCAT against arrays of `python tests/methods/localizer_references.py`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from localizer_references import FILE, SIDES, VIEWS, WILDCAT, references
from torch import Tensor, nn

from wsss.methods.dcsm.saliency import class_difference, normalised
from wsss.methods.mcis.infer import fuse
from wsss.methods.mcis.network import CoAttentionNet
from wsss.methods.mcis.refine import saliency_labels
from wsss.methods.mcis.train import mcis_losses
from wsss.ops.guided import Guided, class_gradients
from wsss.ops.pooling import class_wise_pool, spatial_pool

Arrays = Mapping[str, np.ndarray]
LEARNED = ("basic.weight", "basic.bias", "shared.weight", "gate.weight", "affinity.weight")


@pytest.fixture(scope="module")
def stored() -> Arrays:
    with np.load(FILE) as file:
        return dict(file)


def test_the_stored_arrays_are_those_that_the_command_makes(stored: Arrays) -> None:
    again = references()
    assert list(stored) == list(again)
    for name, array in again.items():
        assert array.dtype == stored[name].dtype and np.allclose(array, stored[name], rtol=1e-12, atol=1e-12), name


def as_tensor(array: np.ndarray, *shape: int) -> Tensor:
    return torch.from_numpy(array.copy()).reshape(*shape) if shape else torch.from_numpy(array.copy())


class TestMcis:
    def test_ten_losses_and_the_gradients_of_six_parameters(self, stored: Arrays) -> None:
        own = {name.removeprefix("mcis/"): array for name, array in stored.items() if name.startswith("mcis/")}
        classes, depth = own["basic.weight"].shape
        network = CoAttentionNet(classes, "tiny", "none", 8, depth).double()
        parameters = dict(network.named_parameters())
        for name in LEARNED:
            parameters[name].data = as_tensor(own[name]).view_as(parameters[name])
        features = {view: as_tensor(own[view], 2, depth, side, side) for view, side in SIDES.items()}
        features["image"] = as_tensor(own["image"], 2, depth, 4, 4).requires_grad_()
        terms = mcis_losses(network, features, (as_tensor(own["tags"]), as_tensor(own["pair_tags"])), contrastive=True)
        assert len(terms) == 2 * len(VIEWS) + 2
        for name, value in terms.items():
            assert value.item() == pytest.approx(own[f"loss.{name}"].item(), rel=1e-12), name
        torch.stack(list(terms.values())).sum().backward()
        for name, tensor in {"image": features["image"], **{n: parameters[n] for n in LEARNED}}.items():
            assert tensor.grad is not None
            found = tensor.grad.reshape(own[f"gradient.{name}"].shape).numpy()
            assert np.abs(found - own[f"gradient.{name}"]).max() < 1e-12, name

    def test_fusion_and_the_published_label_rule(self, stored: Arrays) -> None:
        fused = fuse(as_tensor(stored["mcis/maps"])).numpy()
        assert np.abs(fused - stored["mcis/fused"]).max() < 1e-12
        attention, saliency = stored["mcis/attention"], stored["mcis/saliency"]
        found = saliency_labels(attention, np.array([1, 2], np.uint8), saliency, 0.3)
        assert np.array_equal(found, stored["mcis/labels"]) and {0, 1, 2, 255} == set(found.flatten().tolist())


class TestDcsm:
    def test_guided_gradients_of_a_layers_input(self, stored: Arrays) -> None:
        convolution, head = nn.Conv2d(3, 4, 3, bias=False).double(), nn.Conv2d(4, 2, 1, bias=False).double()
        convolution.weight.data = as_tensor(stored["dcsm/first"])
        head.weight.data = as_tensor(stored["dcsm/head"], 2, 4, 1, 1)
        x = as_tensor(stored["dcsm/x"])[None].requires_grad_()
        with Guided():
            scores = head(torch.relu(convolution(x)))
        (found,) = class_gradients(scores, [x], torch.tensor([[0, 1]]))
        assert np.abs(found[:, 0].numpy() - stored["dcsm/guided"]).max() < 1e-12

    def test_subtraction_and_aggregation(self, stored: Arrays) -> None:
        """The last class is nowhere above another: its pairs give nothing."""
        total = torch.stack([class_difference(layer) for layer in as_tensor(stored["dcsm/saliency"])]).sum(0)
        assert np.abs(total.numpy() - stored["dcsm/total"]).max() < 1e-12
        assert np.abs(normalised(total).numpy() - stored["dcsm/maps"]).max() < 1e-12
        assert not stored["dcsm/maps"][3].any() and stored["dcsm/maps"][:3].any((1, 2)).all()


@pytest.mark.parametrize("quirk", WILDCAT)
def test_wildcats_poolings_forward_and_backward(stored: Arrays, quirk: str) -> None:
    half, scaled = WILDCAT[quirk]
    maps = as_tensor(stored["wildcat/maps"]).requires_grad_()
    scores = spatial_pool(class_wise_pool(maps, 3, scaled), 0.2, 0.2, 0.7, half)
    assert np.abs(scores.detach().numpy() - stored[f"wildcat/{quirk}.scores"]).max() < 1e-12
    (scores * as_tensor(stored["wildcat/weights"])).sum().backward()
    assert maps.grad is not None
    assert np.abs(maps.grad.numpy() - stored[f"wildcat/{quirk}.gradient"]).max() < 1e-12
