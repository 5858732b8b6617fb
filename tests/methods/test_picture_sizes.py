"""Every method, with pictures of any size: in tiles what it is without tiles, and of a single pixel."""

import sys
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from wsss import training
from wsss.data import open_dataset
from wsss.data.augmentation import normalise
from wsss.data.folder import add_folder
from wsss.data.label_maps import LabelMaps
from wsss.data.score_maps import ScoreMaps
from wsss.methods import load, names
from wsss.methods.deep_clustering import regions
from wsss.ops import tiles
from wsss.ops.superpixels import superpixels
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.scores.metric_names import TRAIN_LOSS

HEIGHT, WIDTH = 81, 481
PIXEL = np.full((1, 1, 3), 200, np.uint8)
SMALL_TILES = {"LARGE": 30_000, "TILE": 321, "OVERLAP": 112}
"""Widths at which the networks' cells lie on the same pixels with and without tiles, at the scales of all presets."""
CHANGES = {
    "bilateral_sxy": "23", "gaussian_sxy": "1", "steps": "16", "beta": "32", "rounds": "1", "prior": "0",
}  # fmt: skip
"""The reach of CRF and walk, by as much as the overlap is smaller; one round."""
SCORES, LABELS, BY_NETWORK = 1e-3, 0.985, 0.9999
"""The mean difference of scores; the share of equal labels, after a CRF, a walk or rounds, and of a network alone."""

SEGMENTERS = ("cam", "bound", "imported")
"""Whose segmenter predicts: it is the same for all methods."""


class Quiet:
    def metrics(self, values, step):
        pass

    def progress(self, done, total, unit, note=""):
        pass


def untrained(model, groups, ids, sample, loss, context, **_):
    """In place of a training: the network as it was made, whose head's scores are spread alike for all classes."""
    model.eval()
    heads = [model.head] if isinstance(getattr(model, "head", None), nn.Conv2d) else getattr(model, "head", [])
    given = []
    hooks = [head.register_forward_hook(lambda head, inputs, scores: given.append((head, scores))) for head in heads]
    if hooks:
        picture = torch.from_numpy(context.dataset.image(ids[0])[:, :HEIGHT])
        with torch.no_grad():
            getattr(model, "maps", model)(normalise(picture)[None])
    for hook in hooks:
        hook.remove()
    for head, scores in given:
        mean, std = scores.mean((0, 2, 3)), scores.std((0, 2, 3)).clamp(min=1e-3)
        head.weight.data *= (3 / std)[:, None, None, None]
        if head.bias is not None:
            head.bias.data = 3 * (head.bias.data - mean) / std
    return {TRAIN_LOSS: 0.0}


def superpixels_at_full_size(*given):
    """Those of a large picture are of a copy of it: others, see `test_tiles`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "LARGE", 1 << 25)
        return superpixels(*given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two datasets, of wide pictures and of single pixels, and methods none of which trains."""
    root = tmp_path_factory.mktemp("sizes")
    for name in names():
        load(name)
    fit = training.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, module in list(sys.modules.items()):
            if name.startswith("wsss.") and getattr(module, "fit", None) is fit:
                patch.setattr(module, "fit", untrained)
        patch.setattr(regions, "superpixels", superpixels_at_full_size)
        scenes = [layouts.scene(n, 3, main=n % 3, size=HEIGHT) for n in range(12)]
        add("wide", {split: wide(scenes[first : first + 6]) for split, first in (("train", 0), ("dev", 6))})
        add("pixels", {"train": wide(scenes[:1]), **dict.fromkeys(("dev", "val"), (PIXEL, PIXEL[..., 0] // 100))})
        yield root


def wide(scenes):
    """The image and the mask of scenes beside each other."""
    parts = [np.concatenate(parts, 1)[:, :WIDTH] for parts in zip(*((s.image, s.labels) for s in scenes), strict=True)]
    return parts[0], parts[1]


def add(name, pictures):
    """A dataset of one picture in each split, an image and its mask."""
    root = Path(name)
    root.mkdir()
    (root / "photos").mkdir()
    (root / "classes.txt").write_text("\n".join(layouts.TISSUES))
    for split, (image, mask) in pictures.items():
        Image.fromarray(image).save(root / "photos" / f"{split}.png")
        layouts.save_mask(root / "masks" / f"{split}.png", mask)
        (root / f"{split}.txt").write_text(f"{split}\n")
    add_folder(
        root / "photos", f"of_{name}", tags="masks", masks=str(root / "masks"), lists=root, max_disagreement=1.0,
        class_list=root / "classes.txt",
    )  # fmt: skip


def outputs(method, data, work):
    """The maps of all steps of a method's preset demo: (step, name) to maps."""
    read = {"refine.read.folder": str(Path(data, "masks"))} if method == "imported" else {}
    known = make_plan(method, "demo", read).settings
    changes = {key: CHANGES[name] for key in known if (name := key.rpartition(".")[2]) in CHANGES}
    runner = StepRunner(open_dataset(f"of_{data}"), 0, torch.device("cpu"), Path(work))
    found = {}
    for planned in make_plan(method, "demo", changes | read).steps:
        if planned.stage == "evaluate" or (planned.stage == "segment" and method not in SEGMENTERS):
            continue
        for path in sorted(runner.run(planned, Quiet()).folder.iterdir()):
            if (path / "index.json").exists():
                kind = ScoreMaps if path.name in ("cam", "scores", "affinity") else LabelMaps
                found[planned.key, path.name] = kind(path)
    return found


@pytest.mark.parametrize("method", names())
def test_what_a_method_makes_in_tiles_is_what_it_makes_without(method, folder, monkeypatch):
    whole = outputs(method, "wide", "whole")
    for name, value in SMALL_TILES.items():
        monkeypatch.setattr(tiles, name, value)
    tiled = outputs(method, "wide", "tiled")
    telling = False
    for (step, name), maps in whole.items():
        for id in maps.ids:
            if name == "affinity":  # a picture for the panels, of small pictures alone
                continue
            one, other = maps.read(id), tiled[step, name].read(id)
            if isinstance(maps, ScoreMaps):
                difference = np.abs(one.scores.astype(np.float32) - other.scores).mean()
                print(method, step, name, id, f"{difference:.1e}")
                assert difference < SCORES
            else:
                equal = (one == other).mean()
                shares = np.bincount(one.ravel(), minlength=256) / one.size
                telling |= (shares > 0.02).sum() > 1
                print(method, step, name, id, f"{equal:.4f}", shares[shares > 0].round(3))
                limit = BY_NETWORK if name in ("pred", "direct") else LABELS
                assert equal >= limit, (step, name, id)
    assert telling


@pytest.mark.parametrize("method", names())
def test_a_picture_of_one_pixel_goes_through_every_method(method, folder):
    made = outputs(method, "pixels", "whole")
    sizes = {maps.read(id).shape for maps in made.values() if isinstance(maps, LabelMaps) for id in maps.ids}
    assert sizes == {(1, 1), (HEIGHT, HEIGHT)} or sizes == {(1, 1)}
