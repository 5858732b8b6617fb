"""A step runs once for equal inputs, in one process at a time, and leaves all of its output or none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from wsss.data import Dataset
from wsss.data.layout import MASKS
from wsss.errors import UserError
from wsss.interface import Step, StepContext
from wsss.progress import ConsoleReporter
from wsss.run.plan import PlannedStep
from wsss.run.steps import StepRunner, choose_device
from wsss.settings import setting

REPORT = ConsoleReporter("test")


@dataclass(frozen=True)
class Number:
    """One setting."""

    value: int = setting(1, "a number")
    weights: str = setting("none", "a file", file=True)


def write_number(context: StepContext) -> None:
    with (context.out / "log").open("a") as log:
        log.write(f"{context.settings.value} {context.rng}\n")


def add_up(context: StepContext) -> None:
    (context.out / "sum").write_text((context.inputs["first"] / "log").read_text())


def planned(run=write_number, name: str = "first", needs: dict | None = None, **settings: object) -> PlannedStep:
    step = Step(name, 1, Number, run, inputs=tuple(needs or {}))
    return PlannedStep("refine", "test", step, Number(**settings), needs or {})  # type: ignore[arg-type]


@pytest.fixture
def runner(tiny_shapes: Dataset, tmp_path: Path) -> StepRunner:
    return StepRunner(tiny_shapes, 0, torch.device("cpu"), tmp_path / "work")


def again(runner: StepRunner, **changes: object) -> StepRunner:
    return replace(runner, results={}, **changes)  # type: ignore[arg-type]


def test_equal_inputs_are_computed_once(runner: StepRunner) -> None:
    first = runner.run(planned(), REPORT)
    second = again(runner).run(planned(), REPORT)
    assert not first.reused
    assert second.reused
    assert second.folder == first.folder
    assert len((first.folder / "log").read_text().splitlines()) == 1


def test_all_that_decides_the_output_is_in_the_fingerprint(runner: StepRunner, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_text("a")
    base = runner.fingerprint(planned())
    other_version = PlannedStep("refine", "test", Step("first", 2, Number, write_number), Number(), {})
    with_file = runner.fingerprint(planned(weights=str(weights)))
    weights.rename(tmp_path / "moved")
    moved = runner.fingerprint(planned(weights=str(tmp_path / "moved")))
    (tmp_path / "moved").write_text("b")
    found = {
        base,
        runner.fingerprint(planned(value=2)),
        runner.fingerprint(other_version),
        again(runner, rng=1).fingerprint(planned()),
        with_file,
        runner.fingerprint(planned(weights=str(tmp_path / "moved"))),
    }
    assert len(found) == 6
    assert moved == with_file


def test_masks_that_the_settings_declare_are_handed_over(runner: StepRunner, tmp_path: Path) -> None:
    seen: list[bool] = []
    step = Step(
        "first",
        1,
        Number,
        lambda context: seen.append(context.masks is not None),
        declares=lambda settings: frozenset({"masks"} if settings.value else ()),
    )
    shutil.copytree(runner.dataset.root, tmp_path / "other")
    next((tmp_path / "other" / MASKS).glob("*.png")).unlink()
    other = replace(runner, dataset=replace(runner.dataset, root=tmp_path / "other"))
    fingerprints = set()
    for value in (0, 1):
        chosen = PlannedStep("refine", "test", step, Number(value), {})
        runner.run(chosen, REPORT)
        fingerprints |= {runner.fingerprint(chosen), other.fingerprint(chosen)}
    assert seen == [False, True]
    assert len(fingerprints) == 3, "the masks count where they are seen"


def test_a_changed_input_changes_what_comes_after(runner: StepRunner) -> None:
    fingerprints = set()
    for value in (1, 2):
        chain = again(runner)
        chain.run(planned(value=value), REPORT)
        fingerprints.add(chain.run(planned(add_up, "second", {"first": "refine.first"}), REPORT).fingerprint)
    assert len(fingerprints) == 2


def test_a_step_that_fails_leaves_nothing_finished_and_goes_on_with_what_it_had(runner: StepRunner) -> None:
    def fail_once(context: StepContext) -> None:
        marker = context.out / "begun"
        if not marker.exists():
            marker.write_text("")
            raise UserError("no more paper")

    with pytest.raises(UserError, match="no more paper"):
        runner.run(planned(fail_once), REPORT)
    assert not list((runner.work / "store").rglob("manifest.json"))
    assert (runner.run(planned(fail_once), REPORT).folder / "begun").exists()


def test_a_second_process_on_the_same_step_is_refused(runner: StepRunner) -> None:
    step = planned()
    folder = runner.work / "scratch" / "refine.test.first"
    folder.mkdir(parents=True)
    lock = folder / f"{runner.fingerprint(step)}.lock"
    with (
        FileLock(lock),
        pytest.raises(UserError, match=r"refine\.first is being computed by .*; wait until it is done"),
    ):
        runner.run(step, REPORT)
    assert not runner.run(step, REPORT).reused


def test_a_killed_process_gives_its_lock_back(runner: StepRunner) -> None:
    step = planned()
    folder = runner.work / "scratch" / "refine.test.first"
    folder.mkdir(parents=True)
    lock = folder / f"{runner.fingerprint(step)}.lock"
    program = f"import filelock, os; filelock.FileLock({str(lock)!r}).acquire(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -9
    assert not runner.run(step, REPORT).reused


def test_a_step_sees_masks_only_where_it_says_so(runner: StepRunner) -> None:
    seen = []
    for supervision in (frozenset[str](), frozenset({"masks"})):
        step = Step("look", len(seen), Number, lambda c: seen.append(c.masks), supervision=supervision)
        runner.run(PlannedStep("refine", "test", step, Number(), {}), REPORT)
    assert seen[0] is None
    assert seen[1] is not None


def test_no_gpu_where_one_was_asked_for() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="unknown device 'tpu'; choose from auto, cpu, cuda"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no usable GPU; use --device cpu"):
            choose_device("cuda")
