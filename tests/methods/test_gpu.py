"""What is computed on a GPU is what is computed on the processor, up to rounding. Deselected where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from gpu_examples import CPU, GPU, error, exact, pictures, sensible
from torch import Tensor, nn

from wsss.errors import UserError
from wsss.methods.affinity.walk import WalkSettings, walk_score_map
from wsss.methods.dcsm.network import DcsmNet
from wsss.methods.dcsm.saliency import SaliencySettings, saliency_maps
from wsss.methods.deep_clustering.network import center_loss, region_cross_entropy, update_centers
from wsss.methods.fcn_mil.network import FcnMil, mil_loss
from wsss.methods.ial.refinement import energy
from wsss.methods.mcis.network import CoAttentionNet
from wsss.methods.mcis.train import mcis_losses
from wsss.nets.backbones import BACKBONES, build_backbone
from wsss.nets.folding import folded
from wsss.nets.kernels import own_depthwise
from wsss.ops.crf import DenseCrf
from wsss.ops.lattice import build_lattice
from wsss.ops.pairs import affinity_loss, pair_affinity, pair_labels, path_affinity
from wsss.ops.pooling import spatial_pool
from wsss.ops.walk import random_walk
from wsss.stages.cam import CamSettings, class_scores, image_maps, tagged_score_map
from wsss.stages.localize import Classifier
from wsss.stages.segment import balanced_cross_entropy, plain_cross_entropy
from wsss.training import to_device

_FIXTURES = (exact,)
pytestmark = pytest.mark.gpu


class TestCrf:
    @pytest.mark.parametrize("labels", [1, 3, 21])
    def test_marginals_and_labels_of_several_images(self, labels: int) -> None:
        images = pictures(3, 45, 61)
        logits = torch.randn(3, labels, 45, 61, generator=torch.Generator().manual_seed(0))
        given = logits.softmax(1).numpy()
        given[:, 2:3] = 0
        kernels = {"bilateral_sxy": 20.0, "bilateral_srgb": 8.0, "backend": "torch"}
        here, there = (DenseCrf(images, device=d, **kernels)(given) for d in ("cpu", "cuda"))  # type: ignore[arg-type]
        assert there.shape == given.shape and np.abs(here - there).max() < 2e-3
        assert (here.argmax(1) == there.argmax(1)).mean() > 0.999
        alone = DenseCrf(images[1], device="cuda", **kernels)(given[1])  # type: ignore[arg-type]
        assert np.abs(alone - there[1]).max() < 2e-3

    def test_the_lattice_is_the_same(self) -> None:
        features = torch.rand(5, 5000, generator=torch.Generator().manual_seed(0)) * 20
        here, there = (build_lattice(features.to(d)) for d in (CPU, GPU))
        for name in ("vertices", "points", "starts", "neighbours"):
            assert torch.equal(getattr(here, name), getattr(there, name).cpu())
        assert error(there.splat, here.splat) < 1e-6
        for labels in (3, 21):
            values = torch.rand(5000, labels, generator=torch.Generator().manual_seed(1))
            assert error(there.filtered(values.to(GPU)), here.filtered(values)) < 1e-5
            assert torch.equal(there.filtered(values.to(GPU)), there.filtered(values.to(GPU)))

    def test_vertices_with_many_points(self) -> None:
        features = torch.rand(2, 5000, generator=torch.Generator().manual_seed(0)) * 2
        values = torch.rand(5000, 3, generator=torch.Generator().manual_seed(1))
        here, there = (build_lattice(features.to(d)).filtered(values.to(d)) for d in (CPU, GPU))
        assert error(there, here) < 1e-5

    def test_an_image_for_which_there_is_too_little_memory_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WSSS_CRF_MEMORY", "1")
        with pytest.raises(UserError, match="WSSS_CRF_MEMORY allows 1 MB"):
            DenseCrf(pictures(1, 200, 200)[0], device="cuda")


class TestPairs:
    @pytest.mark.parametrize("every_source", [False, True])
    def test_affinities_their_loss_and_its_gradient(self, every_source: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(2, 12, 17, 19, generator=generator)
        labels = torch.tensor([0, 1, 2, 255])[torch.randint(4, (2, 17, 19), generator=generator)]
        found = []
        for device in (CPU, GPU):
            own = features.detach().to(device, copy=True).requires_grad_()
            affinity = pair_affinity(own, 5, "mean", every_source)
            loss = affinity_loss(affinity, pair_labels(labels.to(device), 5, every_source))
            loss.backward()
            found.append((affinity, loss[None], own.grad))
        for here, there in zip(*found, strict=True):
            assert error(there, here) < 1e-5

    @pytest.mark.parametrize("every_source", [False, True])
    def test_paths_and_the_walk_over_them(self, every_source: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        boundaries, scores = torch.rand(1, 21, 27, generator=generator), torch.rand(3, 21, 27, generator=generator)
        found = []
        for device in (CPU, GPU):
            affinity = path_affinity(boundaries.to(device), 5, every_source)[0]
            walked = random_walk(affinity, (21, 27), 5, scores.to(device), beta=4.0, steps=64)
            found.append((affinity, walked))
        for here, there in zip(*found, strict=True):
            assert there.device.type == "cuda" and error(there, here) < 1e-5

    def test_the_energy_of_a_labelling(self) -> None:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, 8, 15, 17, generator=generator)
        p = torch.rand(3, 15, 17, generator=generator).softmax(0)
        found = []
        for device in (CPU, GPU):
            affinity = pair_affinity(features.to(device), 5, every_source=True)[0]
            own = p.to(device)
            found.append(energy(random_walk(affinity, (15, 17), 5, own, beta=2, steps=8), own, affinity, 5, 2, 8))
        assert found[1] == pytest.approx(found[0], rel=1e-4)

    def test_score_maps_that_walk(self) -> None:
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, 8, 15, 17, generator=generator)
        maps = tagged_score_map(torch.rand(3, 15, 17, generator=generator), np.array([1, 0, 1], bool), (113, 129))
        settings = WalkSettings(steps=16)
        here, there = (
            walk_score_map(maps, pair_affinity(features.to(d), 5)[0], (15, 17), settings).scores for d in (CPU, GPU)
        )
        assert np.abs(here.astype(np.float32) - there.astype(np.float32)).max() < 2e-3


class TestLosses:
    def both(self, program: Callable[[torch.device], Sequence[Tensor]], bound: float = 1e-4) -> None:
        for here, there in zip(program(CPU), program(GPU), strict=True):
            assert error(there, here) < bound

    def test_co_attention(self) -> None:
        torch.manual_seed(0)
        network = sensible(CoAttentionNet(4, "tiny", "none", 8, 16))
        shapes = {"image": 9, "pair": 9, "flip": 9, "0.75": 7, "2": 17}
        features = {name: torch.rand(2, 16, side, side) for name, side in shapes.items()}
        tags = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]]), torch.tensor([[1.0, 0, 0, 0], [0, 1, 1, 0]])

        def program(device: torch.device) -> list[Tensor]:
            network.to(device).zero_grad()
            own = {name: value.to(device) for name, value in features.items()}
            terms = mcis_losses(network, own, (tags[0].to(device), tags[1].to(device)), contrastive=True)
            torch.stack(list(terms.values())).sum().backward()
            assert network.affinity.weight.grad is not None
            return [*(value[None] for value in terms.values()), network.affinity.weight.grad]

        self.both(program)

    def test_regions(self) -> None:
        torch.manual_seed(0)
        features, centers, scores = torch.randn(30, 8), torch.randn(5, 8), torch.randn(30, 5)
        labels = torch.tensor([0, 1, 2, 3, 4, 255]).repeat(5)

        def program(device: torch.device) -> list[Tensor]:
            moved = centers.to(device, copy=True)
            together = center_loss(features.to(device), labels.to(device), moved)
            update_centers(moved, features.to(device), labels.to(device), 0.5)
            weights = torch.ones(5, device=device)
            return [together[None], moved, region_cross_entropy(scores.to(device), labels.to(device), weights)[None]]

        self.both(program)

    def test_best_cells_pooled_cells_and_labelled_pixels(self) -> None:
        torch.manual_seed(0)
        model = sensible(FcnMil(3, "tiny", "none", 16, 0.0))
        images, tags = torch.randn(2, 3, 65, 81), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
        labels = torch.randint(0, 4, (2, 20, 24))
        labels[:, :3] = 255
        scores = torch.randn(2, 4, 20, 24)

        def program(device: torch.device) -> list[Tensor]:
            best = model.to(device)(images.to(device))
            pair = scores.to(device), labels.to(device)
            return [
                mil_loss(best, tags.to(device))[None],
                spatial_pool(scores.to(device), 0.2, 0.2, 0.7),
                balanced_cross_entropy(*pair)[None],
                plain_cross_entropy(*pair)[None],
            ]

        self.both(program)

    @pytest.mark.parametrize("backbone", ["tiny", "mobilenet_v2"])
    def test_guided_gradients(self, backbone: str) -> None:
        torch.manual_seed(0)
        model = sensible(DcsmNet(5, backbone, "none", 16, 0.0)).requires_grad_(False)
        nn.init.normal_(model.head.weight, std=0.3)
        tags = [np.array([True, False, True, False, False]), np.array([False, True, False, False, False])]
        images, settings = list(pictures(2, 60, 70)), SaliencySettings(side=None)

        def program(device: torch.device) -> list[Tensor]:
            if device.type == "cuda":
                own_depthwise(to_device(model, device))
            return [maps for maps, _ in saliency_maps(model, images, tags, settings, device)]

        self.both(program, 1e-2)


class TestNetworks:
    @pytest.mark.parametrize("name", BACKBONES)
    def test_a_backbone_its_folded_copy_and_that_in_bfloat16(self, name: str) -> None:
        torch.manual_seed(0)
        model = sensible(build_backbone(name, "none", 16))
        images = torch.randn(2, 3, 65, 81)
        with torch.inference_mode():
            expected = model(images)[-1]
            to_device(model, GPU)
            there = images.to(GPU, memory_format=torch.channels_last)
            assert error(model(there)[-1], expected) < 1e-4
            assert error(folded(model)(there)[-1], expected) < 1e-4
            with torch.autocast("cuda", dtype=torch.bfloat16):
                assert error(folded(model, torch.bfloat16)(there)[-1].float(), expected) < 0.1

    @pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-4), ("bfloat16", 0.05)])
    def test_score_maps(self, precision: str, bound: float) -> None:
        torch.manual_seed(0)
        model = sensible(Classifier(3, "tiny", "none", 8, 0.5))
        images, settings = list(pictures(3, 50, 66)), CamSettings(scales=(0.5, 1.0, 1.5), precision=precision)
        assert CamSettings().number_format(GPU) == torch.bfloat16
        expected, scores = image_maps(model, images, settings, CPU), class_scores(model, images, CPU)
        network = folded(to_device(model, GPU), getattr(torch, precision))
        assert error(image_maps(network, images, settings, GPU), expected) < bound
        assert error(class_scores(folded(model), images, GPU), scores) < 1e-4
