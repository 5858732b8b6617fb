"""Large pictures in tiles: seamless, and what they would be without tiles."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

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
from wsss.ops.tiles import each_tile, labels_in_tiles, part_at_size, windows
from wsss.scores import thresholds
from wsss.stages import evaluate, inference, refine
from wsss.stages.inference import multi_scale, node_grid, resize
from wsss.stages.localize import Classifier, class_scores
from wsss.stages.outputs import save_model
from wsss.stages.refine import CrfSettings, argmax_labels, crf_label_map


class Quiet:
    def metrics(self, values, step):
        pass

    def progress(self, done, total, unit, note=""):
        pass


DEVICE = torch.device("cpu")


@pytest.fixture
def small_tiles(monkeypatch):
    """Whatever has more than 5,000 px is large, and tiles are small."""
    monkeypatch.setattr(tiles, "LARGE", 5000)
    monkeypatch.setattr(tiles, "TILE", 128)
    monkeypatch.setattr(tiles, "OVERLAP", 48)


def score_map(height, width, classes=(1, 2, 4), cell=8):
    draw = np.random.default_rng(0)
    maps = draw.random((len(classes), height // cell + 1, width // cell + 1)).astype(np.float16)
    return ScoreMap(maps, np.array(classes, np.uint8), (height, width))


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"), [(100, 37, 30, 7), (5, 5, 9, 2), (64, 64, 64, 3), (31, 90, 13, 0)]
)
def test_the_kept_parts_cover_the_whole_once(height, width, tile, overlap):
    covered = np.zeros((height, width), int)
    for window in windows(height, width, tile, overlap):
        covered[window.kept] += 1
        seen = np.arange(height * width).reshape(height, width)[window.seen]
        assert max(seen.shape) <= tile
        assert (seen[window.middle] == np.arange(height * width).reshape(height, width)[window.kept]).all()
        rows, columns = window.middle
        for part, span, length in ((rows, window.seen[0], height), (columns, window.seen[1], width)):
            assert span.start == 0 or part.start >= overlap
            assert span.stop == length or span.stop - span.start - part.stop >= overlap
    assert (covered == 1).all()


def test_a_part_at_size_is_that_part_of_the_whole():
    maps = np.random.default_rng(1).random((3, 9, 7)).astype(np.float32)
    whole = resize(torch.from_numpy(maps)[None], (65, 50))[0].numpy()
    assert part_at_size(maps, (65, 50), slice(13, 40), slice(0, 50)) == pytest.approx(whole[:, 13:40], abs=1e-5)
    assert part_at_size(maps[:, :1, :1], (4, 5), slice(0, 4), slice(1, 3)) == pytest.approx(
        np.broadcast_to(maps[:, :1, :1], (3, 4, 2))
    )


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
@pytest.mark.parametrize("size", [(417, 321), (398, 290)])
def test_a_networks_maps_are_those_without_tiles(scales, size, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 9, 4, 4), nn.ReLU(), nn.Conv2d(6, 4, 3, 2, 1)).eval()
    ramp = np.linspace(0, 255, size[0])[:, None, None] * np.linspace(0.3, 1, size[1])[None, :, None]
    image = (np.broadcast_to(ramp, (*size, 3)) * np.array([1, 0.7, 0.4])).astype(np.uint8)
    how = {"scales": scales, "flip": True, "stride": 8, "grid": node_grid(*size, 8), "device": DEVICE}
    whole = multi_scale(net, [image, image[::-1].copy()], **how)
    for name, value in {"LARGE": 40_000, "TILE": 160, "OVERLAP": 48}.items():
        monkeypatch.setattr(tiles, name, value)
    seen = []
    tiled = multi_scale(lambda x: (seen.append(x.shape[2] * x.shape[3]), net(x))[1], [image, image[::-1].copy()], **how)
    assert len(seen) > 6 and max(seen) <= (161 * max(scales) + 16) ** 2
    difference = (tiled - whole).abs()
    exact = size == (417, 321)
    assert difference.max() <= (1e-5 if exact else 0.05) * whole.abs().max()


def test_labels_and_scores_are_those_without_tiles(monkeypatch, small_tiles):
    maps = score_map(230, 170)
    tiled, (best, score) = argmax_labels(maps), evaluate._foreground(maps)
    monkeypatch.setattr(tiles, "LARGE", 1 << 25)
    whole = argmax_labels(maps)
    assert (tiled == whole).mean() > 0.9999 and (best == whole).mean() > 0.9999
    assert score == pytest.approx(evaluate._foreground(maps)[1], abs=1e-4)


def test_a_crf_in_tiles_is_the_crf_away_from_what_it_can_see(monkeypatch, small_tiles):
    draw = np.random.default_rng(2)
    image = np.kron(draw.integers(0, 255, (8, 6, 3)), np.ones((30, 30, 1))).astype(np.uint8)
    maps = score_map(240, 180, cell=40)
    settings = CrfSettings(iterations=5, bilateral_sxy=8.0, gaussian_sxy=1.0, bilateral_srgb=13.0)
    tiled = crf_label_map(image, maps, settings)
    monkeypatch.setattr(tiles, "LARGE", 1 << 25)
    assert (tiled == crf_label_map(image, maps, settings)).mean() > 0.995
    assert refine.is_large is inference.tiles.is_large


def test_labels_in_tiles_puts_every_middle_in_its_place(small_tiles):
    truth = np.random.default_rng(3).integers(0, 5, (300, 200), np.uint8)
    assert (labels_in_tiles(300, 200, lambda rows, columns: truth[rows, columns]) == truth).all()


def test_tiles_of_one_picture_are_worked_on_together_and_those_of_two_never(monkeypatch):
    """Two pictures in threads of their own: as many tiles at work as there are cores, kept in their order."""
    monkeypatch.setattr("wsss.stream.own_cores", lambda: 2)
    at_work, seen, met = set(), [], threading.Barrier(2)

    def work(tile):
        at_work.add(tile)
        met.wait(20)  # none passes alone
        seen.append({picture for picture, _ in at_work})
        met.wait(20)
        at_work.discard(tile)
        return tile

    kept = {"a": [], "b": []}

    def go_through(picture):
        each_tile([(picture, n) for n in range(6)], work, lambda tile, made: kept[picture].append(made))

    threads = [threading.Thread(target=go_through, args=(picture,)) for picture in kept]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert kept == {p: [(p, n) for n in range(6)] for p in kept}
    assert all(len(pictures) == 1 for pictures in seen) and len(seen) == 12


def test_a_picture_whose_tile_fails_does_not_hold_up_the_next():
    def fail(tile):
        raise ValueError(tile)

    for _ in range(2):
        with pytest.raises(ValueError, match="0"):
            each_tile([0, 1, 2], fail, lambda tile, made: None)
    kept = []
    each_tile([1, 2], str, lambda tile, made: kept.append(made))
    assert kept == ["1", "2"]


def test_tiles_keep_the_number_format_that_they_are_asked_for(monkeypatch):
    """The threads of tiles have none of their caller's modes by themselves."""
    for name, value in {"LARGE": 40_000, "TILE": 128, "OVERLAP": 48}.items():
        monkeypatch.setattr(tiles, name, value)
    modes = set()

    def maps(x):
        dtype = torch.get_autocast_dtype("cpu")
        modes.add((torch.is_autocast_enabled("cpu"), dtype, torch.is_inference_mode_enabled()))
        return x[:, :1, ::8, ::8]

    image = np.zeros((241, 241, 3), np.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        multi_scale(maps, [image], scales=(1.0,), flip=True, stride=8, grid=(31, 31), device=DEVICE)
    assert modes == {(True, torch.bfloat16, True)}


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


def test_levels_of_scores_are_counted_band_by_band(monkeypatch):
    draw = np.random.default_rng(6)
    mask, best = draw.integers(0, 5, (70, 30), np.uint8), draw.integers(1, 4, (70, 30), np.uint8)
    mask[mask == 4], score = 255, draw.random((70, 30)).astype(np.float32)
    score[:9] = -1
    whole = thresholds.levels_of(mask, best, score, 3)
    monkeypatch.setattr(thresholds, "PIXELS", 200)
    assert (thresholds.levels_of(mask, best, score, 3) == whole).all() and whole[:, 3].sum() == (mask < 4).sum()


def test_labels_by_saliency_in_tiles_are_those_without(monkeypatch):
    draw = np.random.default_rng(5)
    maps, saliency = score_map(230, 170, cell=30), draw.integers(0, 256, (230, 170), np.uint8)
    whole = salient_labels(maps, saliency, 0.3)
    for name, value in {"LARGE": 5000, "TILE": 90, "OVERLAP": 10}.items():
        monkeypatch.setattr(tiles, name, value)
    assert (salient_labels(maps, saliency, 0.3) == whole).mean() > 0.999 and len(np.unique(whole)) > 3
