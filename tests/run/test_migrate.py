"""A store of the first format: told of, brought over by `wsss migrate` with all that its manifests decide."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import command

from wsss import storage
from wsss.data import Dataset
from wsss.progress import ConsoleReporter
from wsss.run.fingerprints import fingerprints, mask_digests
from wsss.run.migrate import ANOTHER_VERSION, BEHIND, CHANGED, DAMAGED, UNKNOWN_MACHINE, first_fingerprint, migrate
from wsss.run.plan import Plan, make_plan
from wsss.run.steps import StepRunner
from wsss.run.store import file_digests
from wsss.settings import flatten

CPU = torch.device("cpu")


def plan() -> Plan:
    return make_plan("affinity", "demo")


def write_first_format(dataset: Dataset, store: Path, **changes: object) -> dict[str, str]:
    """A store as the version before wrote it, with small files; step key to fingerprint."""
    masks = mask_digests(dataset)
    of: dict[str, str] = {}
    for planned in plan().steps:
        inputs = {need: of[key] for need, key in planned.inputs.items()}
        of[planned.key] = first_fingerprint(planned, inputs, dataset.digest, masks, 0)
        folder = store / planned.name / of[planned.key]
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "made").write_text(planned.key)
        (folder / "metrics.json").write_text(json.dumps(dict.fromkeys(planned.step.metrics, 0.5)))
        manifest = {
            "step": planned.name,
            "version": planned.step.version,
            "settings": flatten(planned.settings),
            "rng": 0,
            "inputs": inputs,
            "data": {"name": str(dataset.root), "digest": dataset.digest},
            "device": "cpu",
            "seconds": 12.5,
            "peak_memory_mb": 100.0,
            "files": file_digests(folder),
        }
        (folder / "manifest.json").write_text(json.dumps(manifest | (changes if planned.key == "refine.walk" else {})))
    return of


def reused(dataset: Dataset, work: Path, store: str) -> set[str]:
    """The steps of the plan that are found, with the files that the version before wrote."""
    runner = StepRunner(dataset, 0, CPU, work, store)
    found = set()
    for planned in plan().steps:
        try:
            result = runner.run(planned, ConsoleReporter("test"))
        except Exception:  # what has to be computed finds no real inputs here
            break
        assert result.reused and result.seconds == 12.5
        assert (result.folder / "deep" / "made").read_text() == planned.key
        found.add(planned.key)
    return found


def test_all_steps_are_found_again(tiny_shapes: Dataset, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_first_format(tiny_shapes, store)
    done = migrate(str(store), tmp_path / "work", made_here=True)
    assert (done.moved, done.left) == (len(plan().steps), {})
    new = fingerprints(plan(), tiny_shapes, 0, CPU)
    assert {planned.key: storage.list_dirs(store / planned.name) for planned in plan().steps} == {
        key: [fingerprint] for key, fingerprint in new.items()
    }
    assert reused(tiny_shapes, tmp_path / "work", str(store)) == new.keys()
    assert migrate(str(store), tmp_path / "work", made_here=True).moved == 0


def test_one_that_was_cut_off_is_completed(
    tiny_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    write_first_format(tiny_shapes, store)
    moves = iter(range(5))
    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(storage, "move_folder", lambda a, b, move=storage.move_folder: (next(moves), move(a, b))[1])
        migrate(str(store), tmp_path / "work", made_here=True)
    migrate(str(store), tmp_path / "work", made_here=True)
    assert reused(tiny_shapes, tmp_path / "work", str(store)) == {planned.key for planned in plan().steps}


def test_what_the_machine_decides_is_left_in_a_shared_store(tiny_shapes: Dataset, tmp_path: Path, s3: str) -> None:
    write_first_format(tiny_shapes, tmp_path / "first")
    url = f"{s3}/first"
    storage.upload_folder(tmp_path / "first", url)
    done = migrate(url, tmp_path / "work", made_here=False)
    assert done.moved > 0 and set(done.left) == {UNKNOWN_MACHINE, BEHIND}
    assert "localize.train" in reused(tiny_shapes, tmp_path / "work", url)
    rest = migrate(url, tmp_path / "work", made_here=True)
    assert rest.left == {} or set(rest.left) == {BEHIND}


def test_what_cannot_be_decided_is_left_and_counted(tiny_shapes: Dataset, tmp_path: Path) -> None:
    for number, (changes, reason) in enumerate(
        (
            ({"version": 1}, ANOTHER_VERSION),
            ({"settings": {"gone": 1}}, ANOTHER_VERSION),
            ({"rng": 7}, CHANGED),
            ({"files": {"deep/made": {"size": 3, "sha256": "0" * 64}}}, DAMAGED),
        )
    ):
        store = tmp_path / str(number)
        write_first_format(tiny_shapes, store, **changes)
        done = migrate(str(store), tmp_path / "work", made_here=True)
        assert done.left[reason] == 1
        assert done.moved + sum(done.left.values()) == len(plan().steps)
        assert storage.list_dirs(store / "refine.affinity.walk")


def test_the_command_and_the_run_that_tells_of_it(tiny_shapes: Dataset, tmp_path: Path) -> None:
    shutil.copytree(tiny_shapes.root, tmp_path / "data" / "shapes")
    write_first_format(tiny_shapes, tmp_path / "work" / "store")
    runner = StepRunner(tiny_shapes, 0, CPU, tmp_path / "work")
    first = plan().steps[0]
    assert is_told(runner, first)
    said = command(tmp_path, "migrate").stdout
    assert f"work/store: {len(plan().steps)} step outputs of the version before moved under their new" in said
    assert reused(tiny_shapes, tmp_path / "work", str(tmp_path / "work" / "store"))


def is_told(runner: StepRunner, planned) -> bool:
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsss.run.steps.say", said.append)
        patch.setattr(StepRunner, "_work", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            runner.run(planned, ConsoleReporter("test"))
    return any("of an earlier version; `wsss migrate` brings such outputs over" in each for each in said)
