"""Label maps and predictions that come from elsewhere or go there: import, export, the evaluation server's archive."""

from __future__ import annotations

import gzip
import io
import re
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Workspace
from PIL import Image

from wsss import methods
from wsss.classes import VOC, Classes, palette
from wsss.cli import main
from wsss.data import Dataset
from wsss.data.augmentation import MEAN, STD
from wsss.data.label_folder import LabelFolder
from wsss.data.label_maps import LabelMaps, LabelMapWriter
from wsss.data.palette_png import decode_palette_png, read_palette_png, write_palette_png
from wsss.errors import UserError
from wsss.interface import Reporter
from wsss.labels.exchange import export_labels
from wsss.progress import ConsoleReporter
from wsss.run.method import run_method
from wsss.run.plan import make_plan, stands_alone
from wsss.run.steps import StepRunner
from wsss.scores import Masks
from wsss.serving.deployed import Deployed
from wsss.serving.segmenter import Segmenter
from wsss.serving.voc_test import write_voc_test
from wsss.stages.evaluate import read_evaluations
from wsss.tracking.query import find_run

Command = Callable[..., tuple[int, str]]

REPORT: Reporter = ConsoleReporter("test")


@pytest.fixture
def elsewhere(tiny_shapes: Dataset, tmp_path: Path) -> Path:
    """Label maps of train and dev as other code writes them: grey PNGs, without a palette."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    masks = Masks(tiny_shapes)
    for split in ("train", "dev"):
        for image_id in tiny_shapes.splits[split]:
            Image.fromarray(masks.read(image_id)).save(folder / f"{image_id}.png")
    return folder


def refine(dataset: Dataset, folder: Path, work: Path) -> StepRunner:
    """The steps of refine and their scores, run."""
    runner = StepRunner(dataset, 0, torch.device("cpu"), work)
    for planned in make_plan("imported", "demo", {"refine.read.folder": str(folder)}).steps:
        if planned.key in ("refine.read", "evaluate.labels_crf"):
            runner.run(planned, REPORT)
    return runner


def test_imported_labels_are_those_of_the_folder_and_are_scored(
    tiny_shapes: Dataset, elsewhere: Path, tmp_path: Path
) -> None:
    runner = refine(tiny_shapes, elsewhere, tmp_path / "work")
    maps = LabelMaps(runner.results["refine.read"].folder / "labels_crf")
    assert set(maps.ids) == {*tiny_shapes.splits["train"], *tiny_shapes.splits["dev"]}
    assert all((maps.read(i) == read_palette_png(elsewhere / f"{i}.png")).all() for i in maps.ids)
    scores = read_evaluations(runner.results["evaluate.labels_crf"].folder)
    assert set(scores) == {"train", "dev"}
    assert all(matrix.sum() == np.trace(matrix) for evaluation in scores.values() for matrix in evaluation.matrices)


def test_a_segmenter_learns_from_imported_labels(tiny_shapes: Dataset, elsewhere: Path, tmp_path: Path) -> None:
    settings = {"refine.read.folder": str(elsewhere), "segment.train.epochs": "1", "segment.train.crop": "33"}
    plan = make_plan("imported", "demo", settings)
    assert [planned.key for planned in plan.steps if planned.stage != "evaluate"] == [
        "refine.read", "segment.train", "segment.prior", "segment.predict"
    ]  # fmt: skip
    runner = StepRunner(tiny_shapes, 0, torch.device("cpu"), tmp_path / "work")
    for planned in plan.steps[:2]:
        runner.run(planned, REPORT)
    assert runner.results["segment.train"].metrics["train/loss"] > 0


def test_labels_of_train_alone_are_enough(tiny_shapes: Dataset, elsewhere: Path, tmp_path: Path) -> None:
    for image_id in tiny_shapes.splits["dev"]:
        (elsewhere / f"{image_id}.png").unlink()
    runner = refine(tiny_shapes, elsewhere, tmp_path / "work")
    assert set(read_evaluations(runner.results["evaluate.labels_crf"].folder)) == {"train"}


def test_the_same_labels_in_shards_are_imported_alike(tiny_shapes: Dataset, elsewhere: Path, tmp_path: Path) -> None:
    with LabelMapWriter(tmp_path / "shards") as writer:
        for path in elsewhere.glob("*.png"):
            writer.add(path.stem, read_palette_png(path))
    digests = {
        LabelMaps(refine(tiny_shapes, folder, tmp_path / "work").results["refine.read"].folder / "labels_crf").digest
        for folder in (elsewhere, tmp_path / "shards")
    }
    assert len(digests) == 1


def test_the_content_of_the_folder_counts_not_its_name(tiny_shapes: Dataset, elsewhere: Path, tmp_path: Path) -> None:
    runner = StepRunner(tiny_shapes, 0, torch.device("cpu"), tmp_path / "work")

    def fingerprint(folder: Path) -> str:
        return runner.fingerprint(make_plan("imported", "demo", {"refine.read.folder": str(folder)}).steps[0])

    first = fingerprint(elsewhere)
    moved = elsewhere.rename(tmp_path / "moved")
    assert fingerprint(moved) == first
    path = next(moved.glob("*.png"))
    write_palette_png(path, np.zeros_like(read_palette_png(path)))
    assert fingerprint(moved) != first


def damage(kind: str, path: Path) -> None:
    labels = read_palette_png(path)
    if kind == "missing":
        path.unlink()
    elif kind == "size":
        write_palette_png(path, labels[1:])
    elif kind == "index":
        write_palette_png(path, np.full_like(labels, 4))
    elif kind == "colours":
        Image.fromarray(palette()[labels]).save(path)
    else:
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", r"has no label map for 2 of the \d+ images of shapes in train and dev: {0}, {1}$"),
        ("size", r"don't fit shapes: {0} is 64 x 63, its image 64 x 64, {1} is 64 x 63"),
        ("index", r"{0} holds index 4 \(allowed: 0 to 3 and 255\), {1} holds"),
        ("colours", r"{0}\.png is a label map in mode RGB; .*save it with indices instead of colours.*{1}\.png"),
        ("damaged", r"{0}\.png can't be read as a label map.*{1}\.png"),
    ],
)
def test_what_is_wrong_with_label_maps_is_named_at_once(
    kind: str, sentence: str, tiny_shapes: Dataset, elsewhere: Path
) -> None:
    first, second = sorted(tiny_shapes.splits["train"])[:2]
    for image_id in (first, second):
        damage(kind, elsewhere / f"{image_id}.png")
    with pytest.raises(UserError, match=sentence.format(first, second)):
        LabelFolder(elsewhere).check(tiny_shapes)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "has no label maps of its own; bring some in with .*labels import FOLDER`"),
        ({"refine.read.folder": "nowhere"}, "refine.read.folder = nowhere is not a folder"),
        ({"refine.read.folder": ".", "refine.read.name": "a, b"}, "name = 'a, b' must be letters, digits"),
    ],
)
def test_settings_without_labels_are_refused_before_any_work(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        run_method("imported", "demo", "shapes", overrides=settings)


def test_imported_labels_are_supervision_and_need_their_folder() -> None:
    plan = make_plan("imported", "demo", {"refine.read.folder": ".", "refine.read.name": "seam"})
    assert plan.supervision == {"labels from seam"}
    assert methods.load("imported").supervision == {"labels from elsewhere"}
    assert not stands_alone("imported")
    assert stands_alone("cam") and stands_alone("affinity")


@pytest.fixture
def wsss(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `wsss ARGUMENTS` in the shared workspace and gives its status and what it printed."""
    monkeypatch.chdir(workspace.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wsss", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out = capsys.readouterr()
        return int(end.value.code or 0), out.out + out.err

    return run


def test_labels_are_exported_and_imported_again(workspace: Workspace, wsss: Command, tmp_path: Path) -> None:
    code, text = wsss("labels", "export", "--run", workspace.run_id, "--to", str(tmp_path / "plain"))
    files = sorted((tmp_path / "plain").iterdir())
    assert code == 0 and text.endswith(f"{len(files)} label maps\n")
    assert all(path.suffix == ".png" for path in files)
    with Image.open(files[0]) as image:
        assert image.mode == "P" and image.getpalette() == palette().flatten().tolist()

    code, text = wsss("labels", "import", str(tmp_path / "plain"), "--data", "shapes", "--name", "ours")
    assert code == 0 and "│ labels" in text
    assert f"wsss run --method imported --preset demo --data shapes --set refine.read.folder={tmp_path}" in text
    run_id = next(line.split()[1].rstrip(",") for line in text.splitlines() if line.startswith("run "))
    export_labels(run_id, tmp_path / "again")
    assert all((tmp_path / "again" / path.name).read_bytes() == path.read_bytes() for path in files)
    assert find_run(run_id).supervision == {"labels from ours"}


def test_an_export_never_writes_into_a_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists; name a folder that does not exist yet"):
        export_labels("0123", tmp_path)


class Stripes(Deployed):
    """Class 20 where red is above a half, else background."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity(), 8, MEAN, STD)

    def coarse(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        images = pictures[0]
        found = torch.zeros(1, 21, *images.shape[2:])
        found[:, 20] = (images[:, 0] > 0.5).float()
        found[:, 0] = 1 - found[:, 20]
        return found


@pytest.fixture
def voc_folder(tmp_path: Path) -> Path:
    """Two listed images of different sizes, and one that is not on the list."""
    folder = tmp_path / "VOC2012" / "JPEGImages"
    folder.mkdir(parents=True)
    for name, size in {"2008_000006": (40, 30), "2008_000011": (20, 50), "2007_000001": (8, 8)}.items():
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[: size[0] // 2] = 255
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=100)
    lists = tmp_path / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("2008_000011\n2008_000006\n")
    return folder


def test_the_archive_is_laid_out_as_the_evaluation_server_wants_it(voc_folder: Path, tmp_path: Path) -> None:
    model = Segmenter(Stripes(), Classes(VOC), "models:/wsss-voc/1")
    out = tmp_path / "out" / "results.tar.gz"
    assert write_voc_test(model, voc_folder, "comp6", out) == 2
    with tarfile.open(out, "r:gz") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [
            "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png",
            "results/VOC2012/Segmentation/comp6_test_cls/2008_000011.png",
        ]
        for member, size in zip(members, ((40, 30), (20, 50)), strict=True):
            content = archive.extractfile(member)
            assert content is not None
            data = content.read()
            expected = np.zeros(size, np.uint8)
            expected[: size[0] // 2] = 20
            assert (decode_palette_png(data, member.name) == expected).all()
            with Image.open(io.BytesIO(data)) as image:
                assert image.mode == "P" and image.getpalette() == palette().flatten().tolist()
    first = out.read_bytes()
    write_voc_test(model, voc_folder, "comp6", out)
    assert out.read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == ["results.tar.gz"]
    write_voc_test(model, voc_folder, "comp5", out)
    assert b"comp5_test_cls" in gzip.decompress(out.read_bytes())


def test_without_a_list_every_image_is_labelled(voc_folder: Path, tmp_path: Path) -> None:
    (voc_folder.parent / "ImageSets" / "Segmentation" / "test.txt").unlink()
    assert write_voc_test(Segmenter(Stripes(), Classes(VOC), "m"), voc_folder, "comp6", tmp_path / "all.tar.gz") == 3


def test_an_archive_that_can_not_be_right_is_refused_before_any_work(voc_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.tar.gz"
    model = Segmenter(Stripes(), Classes(VOC), "m")
    with pytest.raises(UserError, match="unknown competition 'comp7'; choose from comp5, comp6"):
        write_voc_test(model, voc_folder, "comp7", out)
    with pytest.raises(UserError, match=r"m knows the classes disc, bar; the evaluation server expects VOC's 20"):
        write_voc_test(Segmenter(Stripes(), Classes(("disc", "bar")), "m"), voc_folder, "comp6", out)
    with pytest.raises(UserError, match="holds no images"):
        write_voc_test(model, tmp_path, "comp6", out)
    Image.new("L", (4, 4)).save(voc_folder / "2008_000006.jpg")
    with pytest.raises(UserError, match="2008_000006 is of mode L, not RGB"):
        write_voc_test(model, voc_folder, "comp6", out)
    (voc_folder / "2008_000011.jpg").unlink()
    with pytest.raises(UserError, match=r"test\.txt, line 1: .* lacks the images 2008_000011"):
        write_voc_test(model, voc_folder, "comp6", out)
    assert not out.exists()


def test_a_runs_own_model_is_taken(workspace: Workspace, wsss: Command, voc_folder: Path, tmp_path: Path) -> None:
    arguments = ("export", "voc-test", workspace.run_id, "--images", str(voc_folder), "--comp", "comp6")
    code, text = wsss(*arguments, "--to", str(tmp_path / "results.tar.gz"))
    assert code == 2
    assert re.search(r"model models:/m-\w+ knows the classes .*; the evaluation server expects VOC's 20", text)
