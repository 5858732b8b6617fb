"""Large pictures in tiles: seamless, and what they would be without tiles."""

import threading

import numpy as np
import pytest
import torch
from tiles_examples import score_map
from torch import nn

from wsss.ops import tiles
from wsss.ops.tiles import each_tile, labels_in_tiles, part_at_size, windows
from wsss.scores import thresholds
from wsss.stages import evaluate, inference, refine
from wsss.stages.inference import multi_scale, node_grid, resize
from wsss.stages.refine import CrfSettings, argmax_labels, crf_label_map

DEVICE = torch.device("cpu")


@pytest.fixture
def small_tiles(monkeypatch):
    """Whatever has more than 5,000 px is large, and tiles are small."""
    monkeypatch.setattr(tiles, "LARGE", 5000)
    monkeypatch.setattr(tiles, "TILE", 128)
    monkeypatch.setattr(tiles, "OVERLAP", 48)


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


def test_levels_of_scores_are_counted_band_by_band(monkeypatch):
    draw = np.random.default_rng(6)
    mask, best = draw.integers(0, 5, (70, 30), np.uint8), draw.integers(1, 4, (70, 30), np.uint8)
    mask[mask == 4], score = 255, draw.random((70, 30)).astype(np.float32)
    score[:9] = -1
    whole = thresholds.levels_of(mask, best, score, 3)
    monkeypatch.setattr(thresholds, "PIXELS", 200)
    assert (thresholds.levels_of(mask, best, score, 3) == whole).all() and whole[:, 3].sum() == (mask < 4).sum()
