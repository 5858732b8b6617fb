"""The rounds of Iterative Affinity Learning (a reconstruction, after Wang et al., IJCV 2020)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wsss.data import Dataset
from wsss.data.label_maps import LabelMaps, LabelMapWriter
from wsss.data.score_maps import ScoreMaps
from wsss.errors import UserError
from wsss.interface import StepContext
from wsss.methods.ial import REFINE, rounds
from wsss.methods.ial.rounds import train_branch
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.stages.prior import load_segmenter, read_shares

TINY = {
    "localize.train.epochs": "1",
    "localize.train.crop": "33",
    "localize.infer.scales": "1",
    "refine.labels.iterations": "1",
    "refine.rounds.rounds": "2",
    "refine.rounds.epochs": "1",
    "refine.rounds.pairwise_epochs": "1",
    "refine.rounds.crop": "33",
    "refine.crf.iterations": "1",
}


class Report:
    """Listens, and breaks off at a given call of `progress`."""

    def __init__(self, stop: Callable[[str], bool] = lambda note: False) -> None:
        self.stop = stop
        self.notes: list[str] = []

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        assert np.isfinite(list(values.values())).all()

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self.notes.append(note)
        if self.stop(note):
            raise KeyboardInterrupt


def run(runner: StepRunner, report: Report, **overrides: str) -> dict[str, Path]:
    """Run localize and refine; step key to output folder."""
    settings = TINY | {f"refine.rounds.{name}": value for name, value in overrides.items()}
    planned = [p for p in make_plan("ial", "demo", settings).steps if p.stage in ("localize", "refine")]
    return {p.key: runner.run(p, report).folder for p in planned}


@pytest.fixture(scope="module")
def ran(tiny_shapes: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[StepRunner, dict[str, Path]]:
    """A finished run on the tiny shapes."""
    runner = StepRunner(tiny_shapes, 0, torch.device("cpu"), tmp_path_factory.mktemp("ial") / "work")
    return runner, run(runner, Report())


def test_two_rounds_leave_labels_scores_and_figures(ran: tuple[StepRunner, dict[str, Path]]) -> None:
    runner, folders = ran
    out = folders["refine.rounds"]
    assert {p.name for p in out.iterdir()} == {"rounds", "labels", "scores", "metrics.json", "manifest.json"}
    assert sorted(p.name for p in (out / "rounds").iterdir()) == ["1", "2"]
    maps = {name: LabelMaps(out / name) for name in ("rounds/1", "rounds/2", "labels")}
    assert maps["labels"].digest == maps["rounds/2"].digest
    dataset = runner.dataset
    ids = {*dataset.splits["train"], *dataset.splits["dev"]}
    assert set(maps["labels"].ids) == set(ScoreMaps(out / "scores").ids) == ids
    assert set(LabelMaps(folders["refine.crf"] / "labels_crf").ids) == ids
    for name in ids:
        scores = ScoreMaps(out / "scores").read(name)
        assert scores.classes.tolist() == [0, *(np.flatnonzero(dataset.tags(name)) + 1)]
        assert np.allclose(scores.scores.astype(np.float64).sum(0), 1, atol=2e-3)
        assert set(np.unique(maps["labels"].read(name))) <= set(scores.classes)
    figures = json.loads((out / "metrics.json").read_text())
    assert np.isfinite(list(figures.values())).all()
    for number in (1, 2):
        assert figures[f"round_{number}/energy"] <= figures[f"round_{number}/energy_before"]
        assert 0 < figures[f"round_{number}/confident"] <= 1
        assert {f"round_{number}/unary/loss", f"round_{number}/pairwise/loss"} <= set(figures)


def test_the_unary_networks_prior_is_divided_out_before_the_refinement(
    ran: tuple[StepRunner, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(*ran, tmp_path, prior=1.0, rounds=1)
    plain = []
    monkeypatch.setattr(
        rounds,
        "load_segmenter",
        lambda folder, prior: plain.append(load_segmenter(folder)) or load_segmenter(folder, prior),
    )
    rounds.one_round(context, 1)
    shares = read_shares(tmp_path / "parts" / "round_1" / "unary")
    corrected = load_segmenter(tmp_path / "parts" / "round_1" / "unary", 1.0)
    shift = plain[0].head[0].bias - corrected.head[0].bias
    assert torch.allclose(shift, torch.from_numpy(np.log(np.where(shares > 0, shares, 1))).float(), atol=1e-5)


def test_a_run_broken_off_in_any_part_goes_on_to_the_same_bytes(
    ran: tuple[StepRunner, dict[str, Path]], tmp_path: Path
) -> None:
    runner, folders = ran
    again = replace(runner, work=tmp_path, store=str(tmp_path / "store"), results={})
    order = [f"round_{number}/{part}" for number in (1, 2) for part in ("unary", "pairwise", "refine")]
    previous = "round_1/unary"
    for part in ("round_1/pairwise", "round_1/refine", "round_2/unary", "round_2/refine"):
        with pytest.raises(KeyboardInterrupt):
            run(again, report := Report(lambda note, part=part: note.startswith(part)))
        seen = [note.split()[0] for note in report.notes if note.startswith("round")]
        # The parts before it were found; it too, where its last checkpoint was written.
        assert order.index(seen[0]) - order.index(previous) in (0, 1)
        previous = part
    found = run(again, Report())
    for step in ("refine.rounds", "refine.crf"):
        files, others = (
            json.loads((folder[step] / "manifest.json").read_text())["files"] for folder in (folders, found)
        )
        assert files == others
        assert files


def test_any_refiner_follows_and_the_seeds_are_affinitys(ran: tuple[StepRunner, dict[str, Path]]) -> None:
    runner, folders = ran
    seeds_as_here = {f"refine.{k}": str(v) for k, v in REFINE.presets["demo"].items() if k.startswith("labels.")}
    settings = {k: v for k, v in TINY.items() if "rounds" not in k} | seeds_as_here | {"refine.name": "affinity"}
    planned = {p.key: p for p in make_plan("ial", "demo", settings).steps}
    for key in ("localize.train", "localize.infer"):
        assert runner.run(planned[key], Report()).reused
    seeds = runner.run(planned["refine.labels"], Report()).folder
    assert LabelMaps(seeds / "labels").digest == LabelMaps(folders["refine.labels"] / "labels").digest


def context_of(runner: StepRunner, folders: dict[str, Path], out: Path, **settings: object) -> StepContext:
    """The context of the step `rounds` of a finished run, with an empty folder to write to."""
    planned = next(p for p in make_plan("ial", "demo", TINY).steps if p.key == "refine.rounds")
    inputs = {need: folders[key] for need, key in planned.inputs.items()}
    return StepContext(replace(planned.settings, **settings), runner.dataset, 0, runner.device, out, inputs, Report())


def test_a_round_begins_from_the_networks_of_the_round_before(
    ran: tuple[StepRunner, dict[str, Path]], tmp_path: Path
) -> None:
    context = context_of(*ran, tmp_path, later_lr=0.0)
    classifier = load_file(ran[1]["localize.train"] / "model.safetensors")
    for branch in ("unary", "pairwise"):
        folders = [tmp_path / "parts" / f"round_{number}" / branch for number in (1, 2)]
        with LabelMapWriter(tmp_path / "parts" / "round_1" / "refine" / branch) as writer:
            for name in context.dataset.splits["train"]:
                writer.add(name, np.zeros((64, 64), np.uint8))
        for number in (1, 2):
            train_branch(context, number, branch)
        first, second = (load_file(folder / "model.safetensors") for folder in folders)
        learnt = [key for key in first if key.endswith(("weight", "bias"))]
        assert all(torch.equal(first[key], second[key]) for key in learnt)
        assert any(not torch.equal(first[key], classifier[key]) for key in learnt if key in classifier)


def test_weights_of_another_backbone_are_named(ran: tuple[StepRunner, dict[str, Path]], tmp_path: Path) -> None:
    context = context_of(*ran, tmp_path, backbone="mobilenet_v2")
    with pytest.raises(
        UserError, match=r'refine\.rounds\.weights = "localize" needs .*refine\.rounds\.backbone is mobilenet_v2'
    ):
        train_branch(context, 1, "unary")


def retagged(dataset: Dataset, tags: Callable[[str, np.ndarray], np.ndarray]) -> Dataset:
    """A dataset with other tags."""
    changed = {
        name: tags(name, dataset.tags(name)) for split in ("train", "dev", "val") for name in dataset.splits[split]
    }
    return replace(dataset, _tags=changed, digest="0" * 64)


def test_odd_data_is_counted_and_gives_no_nan(ran: tuple[StepRunner, dict[str, Path]], tmp_path: Path) -> None:
    """Images without tags, a class with a single image, and rounds in which nothing is confident."""
    runner, _ = ran
    train = runner.dataset.splits["train"]

    def odd(name: str, tags: np.ndarray) -> np.ndarray:
        return np.array([name not in train[:3] and bool(tags[0]), False, name == train[3]])

    def nothing(name: str, tags: np.ndarray) -> np.ndarray:
        return np.zeros(3, bool)

    for number, (tags, untagged) in enumerate(((odd, None), (nothing, len(train)))):
        dataset = retagged(runner.dataset, tags)
        folders = run(
            StepRunner(dataset, 0, runner.device, tmp_path / str(number)),
            Report(),
            confident_foreground="1",
            confident_background="1",
            loosen="0",
            mining_iterations="1",
            prior="1",
        )
        figures = json.loads((folders["refine.rounds"] / "metrics.json").read_text())
        assert np.isfinite(list(figures.values())).all()
        expected = sum(not dataset.tags(i).any() for i in train)
        assert figures["images_without_tags"] == expected == (untagged or expected) >= 3
        # An image without tags is background, surely; no other reaches a probability of 1.
        assert figures["round_1/unsure_images"] == len(train) - expected
        assert figures["round_1/images_without_pixel"] <= figures["round_1/tags_without_pixel"]
        labels = LabelMaps(folders["refine.crf"] / "labels_crf")
        assert all((labels.read(i) == 0).all() for i in train if not dataset.tags(i).any())
        # ... so that it is trained on what it was trained on before.
        assert figures["round_2/confident"] == pytest.approx(figures["round_1/confident"], abs=1e-9)
