"""A dataset without a background: index 0 occurs in no label map and no prediction, and means are over the classes."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch

import wsss.methods as methods
from wsss.classes import IGNORE
from wsss.data import Dataset, open_dataset
from wsss.data.label_folder import LabelFolder
from wsss.data.label_maps import LabelMaps, index_format
from wsss.data.palette_png import write_palette_png
from wsss.data.score_maps import ScoreMaps
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.interface import Reporter
from wsss.run.plan import check_background, make_plan, stands_alone
from wsss.run.steps import StepRunner
from wsss.scores import Masks, Scores
from wsss.stages.evaluate import read_evaluations

pytestmark = pytest.mark.usefixtures("workplace")


class Quiet(Reporter):
    def metrics(self, values, step):
        pass

    def progress(self, done, total, unit, note=""):
        pass


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a store of steps that the tests of this module share."""
    root = tmp_path_factory.mktemp("tissue")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSSS_STORE", str(root / "store"))
        patch.chdir(root)
        yield root


@pytest.fixture(scope="module")
def dataset(workplace) -> Dataset:
    """20 scenes of 64 px in which each ground is a class: 4 classes and no background."""
    root = workplace / "data" / "tissue"
    root.mkdir(parents=True)
    make_shapes(root, images=14, val_images=6, size=64, classes=2, rng=1, name="tissue", background=False)
    return open_dataset(root)


def short(method: str) -> dict[str, str]:
    """Settings of preset demo with one epoch of everything."""
    settings = make_plan(method, "demo").settings
    once = {key: "1" for key in settings if key.endswith("epochs") and settings[key]}
    rounds = "2" if method == "deep_clustering" else "1"
    fewer = {"refine.rounds.rounds": rounds, "segment.train.crop": "65", "segment.predict.scales": "1"}
    return once | {key: value for key, value in fewer.items() if key in settings}


def run_all(method: str, dataset: Dataset, overrides: dict[str, str] | None = None) -> dict:
    plan = make_plan(method, "demo", {**short(method), **(overrides or {})})
    check_background(plan, dataset)
    runner = StepRunner(dataset, 0, torch.device("cpu"))
    results = {}
    for planned in plan.steps:
        planned.check()
        results[planned.key] = runner.run(planned, Quiet())
    return results


@pytest.mark.parametrize("method", [name for name in methods.names() if stands_alone(name)])
def test_every_method_labels_without_index_0(method, dataset):
    results = run_all(method, dataset)
    masks, seen = Masks(dataset), 0
    for key, result in results.items():
        for folder in sorted(path.parent for path in result.folder.rglob("index.json")):
            if index_format(folder).startswith("label-maps"):
                maps = LabelMaps(folder)
                values = {value for id in maps.ids for value in np.unique(maps.read(id)).tolist()}
                assert values <= {1, 2, 3, 4, IGNORE}, (key, folder)
                assert values - {IGNORE} and (IGNORE not in values or key.startswith("refine")), (key, folder)
                seen += 1
            elif folder.name != "affinity":  # a picture of no class
                scores = ScoreMaps(folder)
                assert all(scores.read(id).classes.min() >= 1 for id in scores.ids)
    assert seen > 1
    pred = LabelMaps(results["segment.predict"].folder / "pred")
    for split, evaluation in read_evaluations(results["evaluate.pred"].folder).items():
        assert evaluation.classes == ("", *dataset.classes.names)
        pairs = [(masks.read(id), pred.read(id)) for id in dataset.splits[split]]
        ious = plain_ious(pairs, 4)
        assert evaluation.scores.miou == pytest.approx(np.nanmean(ious), abs=1e-12)
        assert np.isnan(evaluation.scores.iou[0])
        metrics = evaluation.metrics
        assert not [name for name in metrics if name.endswith(("iou/", "background"))]
        assert sum("/iou/" in name for name in metrics) == 4
        assert metrics[f"{split}/pred/miou_low"] <= evaluation.scores.miou <= metrics[f"{split}/pred/miou_high"] + 1e-9


def plain_ious(pairs, classes):
    """IoU of each class, counted pixel by pixel; NaN where it does not occur."""
    found = []
    for index in range(1, classes + 1):
        both = sum(int(((p == index) & (m == index)).sum()) for m, p in pairs)
        either = sum(int((((p == index) | (m == index)) & (m != IGNORE)).sum()) for m, p in pairs)
        found.append(both / either if either else np.nan)
    return found


def test_open_pixels_are_missed_and_are_no_class():
    matrix = np.array([[0, 0, 0], [3, 5, 0], [0, 1, 7]])
    assert Scores.of(matrix, background=False).iou[1:] == pytest.approx([5 / 9, 7 / 8])
    assert Scores.of(matrix, background=False).miou == pytest.approx((5 / 9 + 7 / 8) / 2)
    assert Scores.of(matrix).miou == pytest.approx((0 + 5 / 9 + 7 / 8) / 3)


def test_what_needs_a_background_says_so_before_it_runs(dataset, tmp_path):
    plan = make_plan("mcis", "demo", {"refine.background.saliency": str(tmp_path)})
    with pytest.raises(UserError, match="mcis can't run on tissue, which has no background: .*saliency says"):
        check_background(plan, dataset)


def test_the_masks_of_shapes_fill_the_picture_and_tags_name_the_grounds(dataset):
    masks = Masks(dataset)
    for id in (*dataset.splits["train"], *dataset.splits["val"]):
        values = set(np.unique(masks.read(id)).tolist()) - {IGNORE}
        assert 0 not in values
        assert values <= {dataset.classes.index(name) for name in dataset.tag_names(id)}
    assert dataset.classes.names == ("disc-eyes", "square-ring", "ground-clouds", "ground-waves")
    assert not dataset.has_background and dataset.candidates(id)[0] > 0


def test_imported_label_maps_without_a_background_hold_no_0(dataset, tmp_path):
    ids = dataset.splits["train"]
    for number, id in enumerate(ids):
        write_palette_png(tmp_path / f"{id}.png", np.full((64, 64), 1 if number else 0, np.uint8))
    with pytest.raises(UserError, match=rf"{ids[0]} holds index 0 \(allowed: 1 to 4 and 255\)"):
        LabelFolder(tmp_path).check(dataset)


def test_a_mask_that_gets_a_0_later_is_named(dataset, tmp_path):
    root = tmp_path / "tissue"
    shutil.copytree(dataset.root, root)
    id = dataset.splits["val"][0]
    mask = Masks(dataset).read(id)
    mask[0, 0] = 0
    write_palette_png(root / "SegmentationClass" / f"{id}.png", mask)
    with pytest.raises(UserError, match=r"holds index 0 \(allowed: 1 to 4 and 255\)"):
        Dataset.open(root).check(thorough=True)
    with pytest.raises(UserError, match=r"neither a class \(1..4\) nor 255"):
        Masks(Dataset.open(root)).read(id)


def test_datasets_that_were_there_before_keep_digest_and_manifest(tiny_shapes):
    """A fingerprint follows from the digest, settings and versions; the first two figures are of before."""
    assert tiny_shapes.digest == "5523dfb8fc21d796335318518da051e401db50feb2c2d4d9af258450a77e01a8"
    manifest = hashlib.sha256((tiny_shapes.root / "manifest.json").read_bytes()).hexdigest()
    assert manifest == "1f8b4049c04d2a010e6ebfa508ba753a55ec153bd1d14a349e1dad588e78eb8b"
    assert "facts" not in json.loads((tiny_shapes.root / "manifest.json").read_text(encoding="utf-8"))
