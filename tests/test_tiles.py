"""Large pictures in tiles: seamless, and what they would be without tiles."""

import numpy as np
import pytest
import torch
from torch import nn

from wsss.data import Dataset
from wsss.data.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from wsss.data.shapes import make_shapes
from wsss.interface import StepContext
from wsss.methods.affinity.network import AffinityNet
from wsss.methods.affinity.walk import WalkSettings, walk
from wsss.ops import tiles
from wsss.ops.tiles import labels_in_tiles, part_at_size, windows
from wsss.stages import evaluate, inference, refine
from wsss.stages.inference import multi_scale, node_grid, resize
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
    monkeypatch.setattr(evaluate, "TILE", 50)


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
