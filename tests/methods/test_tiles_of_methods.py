"""Large pictures in tiles: what each method makes of them is what it would make without tiles."""

import numpy as np
import pytest
import torch
from tiles_examples import score_map

from wsss.data import Dataset
from wsss.data.scenes import draw_scene
from wsss.data.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from wsss.data.shapes import make_shapes
from wsss.interface import StepContext
from wsss.methods.affinity.network import AffinityNet, grid_features
from wsss.methods.affinity.walk import WalkSettings, walk
from wsss.methods.dcsm.network import DcsmNet
from wsss.methods.dcsm.saliency import SaliencySettings, saliency_maps
from wsss.methods.dcsm.tiled import saliency_of, scores_of_large
from wsss.methods.fcn_mil.network import FcnMil
from wsss.methods.ial.refinement import energy
from wsss.methods.ial.refinement import refine as refine_probabilities
from wsss.methods.ial.settings import RoundsSettings
from wsss.methods.ial.tiled import mined_labels, refined_in_tiles
from wsss.methods.mcis.refine import salient_labels
from wsss.ops import tiles
from wsss.ops.pairs import pair_affinity
from wsss.ops.region_crf import region_statistics
from wsss.ops.superpixels import masked_average, region_means, region_weights, superpixels
from wsss.stages.cam import class_scores
from wsss.stages.localize import Classifier
from wsss.stages.outputs import save_model

DEVICE = torch.device("cpu")


class Quiet:
    def metrics(self, values, step):
        pass

    def progress(self, done, total, unit, note=""):
        pass


@pytest.mark.parametrize("name", ["cam", "fcn_mil", "dcsm", "dcsm of averages"])
def test_class_scores_in_tiles_are_those_without(name, monkeypatch):
    """Their highest cell, or the mean of all cells, is that of the whole picture."""
    torch.manual_seed(0)
    if name == "fcn_mil":
        net = FcnMil(3, "tiny", "none", 8, 0.0)
    elif name == "cam":
        net = Classifier(3, "tiny", "none", 8, 0.0)
    else:
        net = DcsmNet(3, "tiny", "none", 8, 0.0, "average" if "averages" in name else "max")
    net.eval().requires_grad_(False).head.weight.data.normal_(std=100)
    image = draw_scene(np.random.default_rng(0), 417, 3).image
    whole = class_scores(net, [image], DEVICE)
    for name_, value in {"LARGE": 100_000, "TILE": 288, "OVERLAP": 112}.items():
        monkeypatch.setattr(tiles, name_, value)
    tiled = (scores_of_large if "dcsm" in name else class_scores)(net, [image], DEVICE)
    shrunk = class_scores(net, [image[::2, ::2]], DEVICE)
    off, off_shrunk = ((scores - whole).abs().max() / whole.abs().max() for scores in (tiled, shrunk))
    print(f"{name}: of tiles {off:.1e}, of a copy of half the side {off_shrunk:.1e}")
    assert off < 1e-3 < off_shrunk


def test_a_walk_in_tiles_is_the_walk_away_from_what_it_can_reach(monkeypatch, tmp_path):
    make_shapes(tmp_path / "data", images=2, val_images=0, size=417, classes=2, rng=0)
    dataset = Dataset.open(tmp_path / "data")
    torch.manual_seed(0)
    architecture = {"backbone": "tiny", "output_stride": 8, "stride": 8}
    (tmp_path / "train").mkdir()
    save_model(tmp_path / "train", AffinityNet(weights="none", **architecture).eval(), architecture)
    with ScoreMapWriter(tmp_path / "localize" / "cam") as writer:
        for id in dataset.splits["train"]:
            writer.add(id, score_map(417, 417, (1, 2), cell=40))
    found = []
    for large in (1 << 25, 40_000):
        for name, value in {"LARGE": large, "TILE": 200, "OVERLAP": 64}.items():
            monkeypatch.setattr(tiles, name, value)
        out = tmp_path / str(large)
        inputs = {name: tmp_path / name for name in ("localize", "train")}
        settings = WalkSettings(steps=4, every_source=True, radius=3)
        walk(StepContext(settings, dataset, 0, DEVICE, out, inputs, Quiet()))
        maps = ScoreMaps(out / "scores")
        found.append(maps.read(maps.ids[0]).scores.astype(np.float32))
    assert found[0].shape == found[1].shape == (3, 53, 53)
    assert np.abs(found[0] - found[1]).mean() < 0.02


def saliency_net(pooling: str, rng: int = 0) -> DcsmNet:
    torch.manual_seed(rng)
    net = DcsmNet(3, "tiny", "none", 8, 0.0, pooling).eval().requires_grad_(False)
    net.head.weight.data.normal_(std=0.5)
    return net


@pytest.mark.parametrize(("pooling", "subtract"), [("max", True), ("average", True), ("average", False)])
def test_saliency_in_tiles_is_that_without(monkeypatch, pooling: str, subtract: bool):
    image = draw_scene(np.random.default_rng(0), 289, 3).image
    how = SaliencySettings(scales=(1.0,), side=None, stride=4), DEVICE
    whole, classes = saliency_maps(saliency_net(pooling), [image], None, *how, True, subtract)[0]
    for name, value in {"LARGE": 80_000, "TILE": 208, "OVERLAP": 80}.items():
        monkeypatch.setattr(tiles, name, value)
    tiled, same = saliency_of(saliency_net(pooling), [image], None, *how, True, subtract)[0]
    assert same == classes and len(classes) >= 1 and tiled.shape == whole.shape
    assert whole.mean() > 0.01 and (tiled - whole).abs().mean() < 1e-3


def test_ials_refinement_in_tiles_is_that_without(monkeypatch):
    torch.manual_seed(1)
    net = AffinityNet(weights="none", backbone="tiny", output_stride=8, stride=8).eval()
    image = draw_scene(np.random.default_rng(1), 321, 2).image
    settings = RoundsSettings(radius=3, steps=8, beta=4.0)
    given = torch.rand(1, 3, 41, 41, generator=torch.Generator().manual_seed(2)).softmax(1)
    classes = np.array([0, 2], np.uint8)
    found = []
    for tile, overlap in ((4096, 192), (208, 72)):
        monkeypatch.setattr(tiles, "TILE", tile)
        monkeypatch.setattr(tiles, "OVERLAP", overlap)
        with torch.inference_mode():
            found.append(refined_in_tiles(lambda images, grid: given, net, image, classes, settings, DEVICE))
    (p, y, energies), (_, tiled, in_tiles) = found
    with torch.inference_mode():
        affinity = pair_affinity(grid_features(net, [image], (41, 41), DEVICE), 3, "mean", every_source=True)[0]
        assert y == pytest.approx(refine_probabilities(p, affinity, 3, 4.0, 8), abs=1e-5)
    assert energies["energy"] == pytest.approx(sum(energy(y, p, affinity, 3, 4.0, 8)), rel=1e-3)
    assert (tiled - y).abs().mean() < 1e-4 and in_tiles == pytest.approx(energies, rel=1e-2)
    own, refined = (ScoreMap(m.numpy().astype(np.float16), classes, (321, 321)) for m in (p, y))
    mined = mined_labels(image, own, refined, settings.mining_crf, 0.5, 0.55)
    monkeypatch.setattr(tiles, "LARGE", 40_000)
    assert (mined_labels(image, own, refined, settings.mining_crf, 0.5, 0.55) == mined).mean() > 0.9999


def test_regions_of_a_large_picture_keep_to_objects_as_those_at_full_size_do(monkeypatch):
    drawn = draw_scene(np.random.default_rng(3), 201, 3)

    def best_accuracy(regions):
        counts = np.bincount(regions.ravel().astype(int) * 256 + drawn.labels.ravel(), minlength=256 * 200)
        return counts.reshape(-1, 256).max(1).sum() / regions.size

    monkeypatch.setattr(tiles, "LARGE", 12_000)
    coarse = superpixels(drawn.image, 60, 10.0)
    assert coarse.shape == (201, 201) and 30 < coarse.max() < 90
    assert (coarse[0:200:2] == coarse[1:200:2]).all() and set(np.unique(coarse)) == set(range(coarse.max() + 1))
    monkeypatch.setattr(tiles, "LARGE", 1 << 25)
    fine = superpixels(drawn.image, 60, 10.0)
    print(best_accuracy(coarse), best_accuracy(fine))
    assert best_accuracy(coarse) > best_accuracy(fine) - 0.02 > 0.9


def test_a_large_picture_of_many_small_things_has_about_as_many_regions_as_asked_for(monkeypatch):
    image = np.tile(draw_scene(np.random.default_rng(7), 64, 3, 0).image, (10, 10, 1))
    few = superpixels(image, 40, 10.0).max() + 1
    monkeypatch.setattr(tiles, "LARGE", 400_000)
    found = superpixels(image, 40, 10.0).max() + 1
    print(few, found)
    assert few < 15 and 20 <= found <= 50


def test_means_and_statistics_of_regions_in_tiles_are_those_without(monkeypatch):
    draw = np.random.default_rng(4)
    regions = np.kron(draw.integers(0, 12, (10, 9)), np.ones((11, 13), int))
    regions.ravel()[:12] = np.arange(12)
    maps, image = draw.random((3, 15, 17)).astype(np.float32), draw.integers(0, 256, (110, 117, 3), np.uint8)
    monkeypatch.setattr(tiles, "TILE", 40)
    weights = torch.from_numpy(region_weights(regions, 12, (15, 17)))
    expected = masked_average(torch.from_numpy(maps), weights).numpy()
    assert region_means(maps, regions, 12) == pytest.approx(expected, abs=1e-5)
    found = region_statistics(image, regions, 12)
    for number in range(12):
        assert found.colour[number] == pytest.approx(image[regions == number].mean(0))
        assert found.position[number] == pytest.approx(np.argwhere(regions == number).mean(0))


def test_labels_by_saliency_in_tiles_are_those_without(monkeypatch):
    draw = np.random.default_rng(5)
    maps, saliency = score_map(230, 170, cell=30), draw.integers(0, 256, (230, 170), np.uint8)
    whole = salient_labels(maps, saliency, 0.3)
    for name, value in {"LARGE": 5000, "TILE": 90, "OVERLAP": 10}.items():
        monkeypatch.setattr(tiles, name, value)
    assert (salient_labels(maps, saliency, 0.3) == whole).mean() > 0.999 and len(np.unique(whole)) > 3
