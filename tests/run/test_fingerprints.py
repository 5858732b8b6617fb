"""Fingerprints are known before a run, and hold all that changes an output: content, never names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pipelines.sources import reached
from wsss import methods
from wsss.data import Dataset
from wsss.interface import CRF, NETWORK, Step
from wsss.progress import ConsoleReporter
from wsss.run.fingerprints import fingerprints
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner
from wsss.stages.evaluate import EVALUATIONS

CPU = torch.device("cpu")
STEPS = {f"evaluate.masks.{name}": step for name, step in EVALUATIONS.items()} | {
    f"{kind}.{stage.name}.{step.name}": step
    for method in methods.names()
    for kind, stage in methods.load(method).stages.items()
    for step in stage.steps
}
CRF_STEPS = {"refine.labels", "refine.crf", "segment.predict"}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {key for key in before if before[key] != after[key]}


def behind(keys: set[str], method: str) -> set[str]:
    """The steps and all that read them."""
    for planned in make_plan(method, "demo").steps:
        if keys & set(planned.inputs.values()):
            keys = keys | {planned.key}
    return keys


def test_every_planned_step_has_one_that_a_run_then_has(tiny_shapes: Dataset, tmp_path: Path) -> None:
    settings = {"localize.train.epochs": 1, "localize.train.crop": 33, "localize.infer.scales": (1.0,)}
    plan = make_plan("cam", "demo", settings)
    before = fingerprints(plan, tiny_shapes, 3, CPU)
    assert before.keys() == {planned.key for planned in plan.steps}
    assert "evaluate.pred_crf" in before
    assert not list(tmp_path.iterdir())
    runner = StepRunner(tiny_shapes, 3, CPU, tmp_path)
    for planned in plan.steps:
        if planned.stage == "localize":
            runner.run(planned, ConsoleReporter(planned.key))
    assert {key: result.fingerprint for key, result in runner.results.items()}.items() <= before.items()


def test_another_setting_or_rng_changes_what_it_concerns(tiny_shapes: Dataset) -> None:
    base = fingerprints(make_plan("affinity", "demo"), tiny_shapes, 0, CPU)
    beta = fingerprints(make_plan("affinity", "demo", {"refine.walk.beta": 2.0}), tiny_shapes, 0, CPU)
    assert changed(base, beta) == behind({"refine.walk"}, "affinity")
    assert changed(base, fingerprints(make_plan("affinity", "demo"), tiny_shapes, 1, CPU)) == base.keys()


def test_the_number_format_of_the_machine_is_in_what_it_changes(
    tiny_shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    of: dict[object, dict[str, str]] = {}
    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        of[has] = fingerprints(make_plan("affinity", "demo"), tiny_shapes, 0, CPU)
    assert changed(of[True], of[False]) == behind({"localize.infer"}, "affinity")
    for precision, has in (("float32", False), ("bfloat16", True)):
        plan = make_plan("affinity", "demo", {"localize.infer.precision": precision})
        assert fingerprints(plan, tiny_shapes, 0, CPU) == of[has]


def test_the_backend_of_the_crf_is_in_what_it_changes(tiny_shapes: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    of = []
    for backends in (("native", "torch"), ("torch",)):
        monkeypatch.setattr("wsss.ops.crf.installed_backends", lambda backends=backends: backends)
        of.append(fingerprints(make_plan("affinity", "demo"), tiny_shapes, 0, CPU))
    assert changed(*of) == behind(CRF_STEPS, "affinity")


def test_the_kind_of_device_is_in_what_it_changes(tiny_shapes: Dataset) -> None:
    plan = make_plan("mcis", "demo")
    cpu, gpu = (fingerprints(plan, tiny_shapes, 0, torch.device(name)) for name in ("cpu", "cuda"))
    assert changed(cpu, gpu) == cpu.keys()
    plan = make_plan("imported", "demo", {"refine.read.folder": str(tiny_shapes.root / "SegmentationClass")})
    cpu, gpu = (fingerprints(plan, tiny_shapes, 0, torch.device(name)) for name in ("cpu", "cuda"))
    assert changed(cpu, gpu) == behind({"segment.train", "segment.predict"}, "imported")


def test_weights_folders_and_datasets_count_by_their_content(tiny_shapes: Dataset, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights").write_bytes(b"1")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.copytree(tiny_shapes.root, tmp_path / "again")

    def with_names(folder: str, extra: Path) -> dict[str, str]:
        overrides = {
            "localize.train.weights": str(tmp_path / folder / "weights"),
            "localize.train.extra": str(extra),
            "refine.background.saliency": str(tmp_path / folder),
        }
        return fingerprints(make_plan("mcis", "demo", overrides), tiny_shapes, 0, CPU)

    first = with_names("a", tiny_shapes.root)
    assert with_names("b", tmp_path / "again") == first
    (tmp_path / "b" / "weights").write_bytes(b"2")
    assert {"localize.train", "refine.background"} <= changed(first, with_names("b", tmp_path / "again"))


@pytest.mark.parametrize("key", STEPS)
def test_every_step_says_whether_it_runs_a_network_or_a_crf(key: str) -> None:
    step: Step = STEPS[key]
    names = reached(step.run)
    network = any(module == "wsss.training" or module.startswith("wsss.nets.") for module, _ in names)
    crf = ("wsss.ops.crf", "DenseCrf") in names
    assert step.uses == (NETWORK if network else frozenset()) | (CRF if crf else frozenset())
