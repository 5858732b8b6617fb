"""Every method's maps, labels and predictions of a picture in tiles are what they are without tiles."""

import sys

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
SMALL_TILES = {"LARGE": 30_000, "TILE": 321, "OVERLAP": 112}
"""Widths at which the networks' cells lie on the same pixels with and without tiles, at the scales of all presets."""
CHANGES = {
    "bilateral_sxy": "23", "gaussian_sxy": "1", "steps": "16", "beta": "32", "rounds": "1", "prior": "0",
}  # fmt: skip
"""The reach of CRF and walk, by as much as the overlap is smaller; one round."""
SCORES, LABELS, BY_NETWORK = 1e-3, 0.99, 0.9999
"""The mean difference of scores; the share of equal labels, after a CRF, a walk or rounds, and of a network alone."""
CANDIDATES = {("wildcat", "direct"): 0.9, ("wildcat", "direct_crf"): 0.9}
"""The classes that WILDCAT finds are those of a halved copy: an untrained network, unsure of all, may find others."""


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
    """A dataset of two wide pictures, in train and dev, and methods none of which trains."""
    root = tmp_path_factory.mktemp("wide")
    for number, (split, id) in enumerate({"train": "a", "dev": "b"}.items()):
        scenes = [layouts.scene(10 * number + n, 3, main=n % 3, size=HEIGHT) for n in range(6)]
        image = np.concatenate([scene.image for scene in scenes], 1)[:, :WIDTH]
        layouts.save_mask(root / "masks" / f"{id}.png", np.concatenate([s.labels for s in scenes], 1)[:, :WIDTH])
        (root / "photos").mkdir(exist_ok=True)
        Image.fromarray(image).save(root / "photos" / f"{id}.png")
        (root / f"{split}.txt").write_text(f"{id}\n")
    (root / "classes.txt").write_text("\n".join(layouts.TISSUES))
    for name in names():
        load(name)
    fit = training.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, module in list(sys.modules.items()):
            if name.startswith("wsss.") and getattr(module, "fit", None) is fit:
                patch.setattr(module, "fit", untrained)
        patch.setattr(regions, "superpixels", superpixels_at_full_size)
        add_folder(
            root / "photos", "wide", tags="masks", masks="masks", lists=root, max_disagreement=1.0,
            class_list=root / "classes.txt",
        )  # fmt: skip
        yield root


def outputs(method, folder, work):
    """The maps of all steps of a method's preset demo: (step, name) to maps."""
    read = {"refine.read.folder": str(folder / "masks")} if method == "imported" else {}
    known = make_plan(method, "demo", read).settings
    changes = {key: CHANGES[name] for key in known if (name := key.rpartition(".")[2]) in CHANGES}
    runner = StepRunner(open_dataset("wide"), 0, torch.device("cpu"), folder / work)
    found = {}
    for planned in make_plan(method, "demo", changes | read).steps:
        if planned.stage == "evaluate":
            continue
        for path in sorted(runner.run(planned, Quiet()).folder.iterdir()):
            if (path / "index.json").exists():
                kind = ScoreMaps if path.name in ("cam", "scores", "affinity") else LabelMaps
                found[planned.key, path.name] = kind(path)
    return found


@pytest.mark.parametrize("method", names())
def test_what_a_method_makes_in_tiles_is_what_it_makes_without(method, folder, monkeypatch):
    whole = outputs(method, folder, "whole")
    for name, value in SMALL_TILES.items():
        monkeypatch.setattr(tiles, name, value)
    tiled = outputs(method, folder, "tiled")
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
                limit = CANDIDATES.get((method, name), BY_NETWORK if name in ("pred", "direct") else LABELS)
                assert equal >= limit, (step, name, id)
    assert telling
