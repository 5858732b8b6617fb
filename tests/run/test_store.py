"""Several machines share one store: each step is computed once, published whole, and read as it was published."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import forks
import pytest
import torch

from wsss import process as processes
from wsss import storage
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import Step, StepContext
from wsss.progress import ConsoleReporter
from wsss.run import lease
from wsss.run.plan import PlannedStep
from wsss.run.steps import StepRunner
from wsss.settings import setting

REPORT = ConsoleReporter("test")
COMPUTED: list[str] = []


@dataclass(frozen=True)
class Number:
    """One setting."""

    value: int = setting(1, "a number")


def write_names(context: StepContext) -> None:
    """Output that no other computation has."""
    COMPUTED.append(str(context.out))
    for name in ("a", "deep/b"):
        (context.out / name).parent.mkdir(exist_ok=True)
        (context.out / name).write_text(f"{time.time_ns()} {threading.get_ident()}")


def planned(run=write_names, value: int = 1) -> PlannedStep:
    return PlannedStep("refine", "test", Step("first", 1, Number, run), Number(value), {})


def machine(dataset: Dataset, work: Path, store: str) -> StepRunner:
    """A machine: a work folder of its own."""
    return StepRunner(dataset, 0, torch.device("cpu"), work, store)


@pytest.fixture(autouse=True)
def counted() -> None:
    COMPUTED.clear()


def sound(folder: Path) -> bool:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return len(files) == 2 and all(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"] for name, entry in files.items()
    )


def test_two_that_publish_one_step_at_once_leave_the_files_of_one(
    tiny_shapes: Dataset, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second's files go up when the first's are there, then the first's manifest, then the second's."""
    write, upload = storage.write_bytes, storage.upload_folder
    first_up, second_up, first_done = (threading.Event() for _ in range(3))
    uploads, manifests = iter((None, first_up)), iter(((first_up, second_up), (second_up, first_done)))

    def upload_in_turn(*args, **options) -> bool:
        if (turn := next(uploads)) is not None:
            assert turn.wait(60)
        return upload(*args, **options)

    def write_in_turn(url: str | Path, data: bytes, if_absent: bool = False) -> bool:
        if not (str(url).startswith("s3://") and str(url).endswith("manifest.json")):
            return write(url, data, if_absent)
        arrived, turn = next(manifests)
        arrived.set()
        assert turn.wait(60)
        written = write(url, data, if_absent)
        first_done.set()
        return written

    monkeypatch.setattr(storage, "upload_folder", upload_in_turn)
    monkeypatch.setattr(storage, "write_bytes", write_in_turn)
    monkeypatch.setattr("wsss.run.steps.lease", lambda *a: nullcontext(), raising=False)
    machines = [machine(tiny_shapes, tmp_path / name, f"{s3}/at-once") for name in "ab"]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda each: each.run(planned(), REPORT), machines))
    assert len(COMPUTED) == 2
    third = machine(tiny_shapes, tmp_path / "c", f"{s3}/at-once").run(planned(), REPORT)
    assert third.reused
    assert all(sound(result.folder) for result in (*results, third))
    assert len({(result.folder / "a").read_text() for result in (*results, third)}) == 1
    assert len(storage.list_dirs(storage.join(f"{s3}/at-once", "refine.test.first", third.fingerprint))) == 1


def test_a_file_with_another_sha256_is_said_and_the_step_computed_again(
    tiny_shapes: Dataset, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = machine(tiny_shapes, tmp_path / "a", place).run(planned(), REPORT)
    name = "refine.test.first"
    folder = storage.join(place, name, first.fingerprint)
    upload = storage.list_dirs(folder)[0] if storage.is_remote(place) else ""
    good = (first.folder / "deep/b").read_bytes()
    storage.write_bytes(storage.join(folder, upload, "deep/b"), good[::-1])

    second = machine(tiny_shapes, tmp_path / "b", place).run(planned(), REPORT)
    assert not second.reused
    assert sound(second.folder)
    said = capsys.readouterr().err
    assert said.count("deep/b has another sha256 than its manifest says") == 1
    assert "the step is computed again" in said
    assert machine(tiny_shapes, tmp_path / "c", place).run(planned(), REPORT).reused
    assert len(COMPUTED) == 2


def test_a_file_that_is_missing_or_cut_off_is_noticed_too(tiny_shapes: Dataset, tmp_path: Path, s3: str) -> None:
    store = f"{s3}/cut"
    for number, spoil in enumerate((storage.remove, lambda url: storage.write_bytes(url, b"1"))):
        first = machine(tiny_shapes, tmp_path / f"{number}a", store).run(planned(value=number), REPORT)
        folder = storage.join(store, "refine.test.first", first.fingerprint)
        spoil(storage.join(folder, *storage.list_dirs(folder), "a"))
        assert sound(machine(tiny_shapes, tmp_path / f"{number}b", store).run(planned(value=number), REPORT).folder)
    assert len(COMPUTED) == 4


def test_a_computation_whose_publication_fails_is_published_and_not_repeated(
    tiny_shapes: Dataset, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = machine(tiny_shapes, tmp_path / "a", f"{s3}/refused")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload_folder", lambda *a, **k: refuse())
        with pytest.raises(UserError, match="no route to the store"):
            runner.run(planned(), REPORT)
    assert sound(runner.run(planned(), REPORT).folder)
    assert len(COMPUTED) == 1
    assert machine(tiny_shapes, tmp_path / "b", f"{s3}/refused").run(planned(), REPORT).reused


def refuse() -> None:
    raise UserError("no route to the store")


@dataclass(frozen=True)
class Machine:
    """A machine as a process: a host of its own, as far as leases can tell, and a work folder of its own.

    Attributes:
        name: also its work folder's, and what its steps write.
        root: the dataset's folder.
        folder: where it works, and writes what it says, its outputs and, into `log`, what it computes.
        store: what it shares with others.
        seconds: that each of its two steps takes.
        dies: while it publishes the first.
    """

    name: str
    root: Path
    folder: Path
    store: str
    seconds: float = 0.0
    dies: bool = False

    def start(self) -> BaseProcess:
        process = forks.CONTEXT.Process(target=self, args=(dict(os.environ),), daemon=True)
        process.start()
        return process

    def __call__(self, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        os.chdir(self.folder)
        sys.stderr = open(f"{self.name}.said", "w", buffering=1)  # noqa: SIM115
        lease.RENEWED_S, lease.EXPIRES_S = 0.3, 3.0
        processes.machine = lambda: self.name  # type: ignore[assignment]
        if self.dies:
            storage.upload_folder = lambda *a, **k: os._exit(9)  # type: ignore[assignment]
        runner = StepRunner(
            Dataset.open(self.root), 0, torch.device("cpu"), Path(self.name), self.store, wait=True
        )  # fmt: skip
        first = PlannedStep("refine", "test", Step("first", 1, Number, self.compute), Number(), {})
        step = Step("second", 1, Number, self.compute, ("first",))
        second = PlannedStep("refine", "test", step, Number(), {"first": "refine.first"})
        outputs = [(runner.run(each, REPORT).folder / "made").read_text() for each in (first, second)]
        Path(f"{self.name}.outputs").write_text(" ".join(outputs))

    def compute(self, context: StepContext) -> None:
        with open("log", "a") as log:
            log.write(f"{self.name} {context.out.parent.name}\n")
        time.sleep(self.seconds)
        (context.out / "made").write_text(self.name)


def ended(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def test_two_machines_running_one_plan_compute_each_step_once(tiny_shapes: Dataset, tmp_path: Path, place: str) -> None:
    both = [Machine(name, tiny_shapes.root, tmp_path, place, 1.0).start() for name in ("one", "two")]
    assert [ended(process) for process in both] == [0, 0]
    steps = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(steps) == ["refine.test.first", "refine.test.second"]
    assert (tmp_path / "one.outputs").read_text() == (tmp_path / "two.outputs").read_text()


def test_the_step_of_a_machine_that_is_gone_is_taken_over(tiny_shapes: Dataset, tmp_path: Path, s3: str) -> None:
    log, store = tmp_path / "log", f"{s3}/gone"
    log.touch()
    holder = Machine("one", tiny_shapes.root, tmp_path, store, 100).start()
    while not log.read_text():
        assert holder.is_alive()
        time.sleep(0.1)
    other = Machine("two", tiny_shapes.root, tmp_path, store).start()
    time.sleep(1)
    holder.kill()
    assert ended(other) == 0
    said = (tmp_path / "two.said").read_text()
    assert "step refine.first was being computed by process" in said
    assert "which is gone; this process takes it over" in said
    assert log.read_text().split() == [
        "one", "refine.test.first", "two", "refine.test.first", "two", "refine.test.second"
    ]  # fmt: skip
    assert (tmp_path / "two.outputs").read_text() == "two two"
    assert not storage.list_files(storage.join(store, ".leases"))


def test_a_step_killed_between_computing_and_publishing_is_published(
    tiny_shapes: Dataset, tmp_path: Path, place: str
) -> None:
    assert ended(Machine("one", tiny_shapes.root, tmp_path, place, dies=True).start()) == 9
    assert ended(Machine("one", tiny_shapes.root, tmp_path, place).start()) == 0
    assert "step refine.first was computed before and is published now" in (tmp_path / "one.said").read_text()
    assert (tmp_path / "log").read_text().split() == ["one", "refine.test.first", "one", "refine.test.second"]


def test_a_store_of_a_newer_version_is_refused(tiny_shapes: Dataset, tmp_path: Path, place: str) -> None:
    first = machine(tiny_shapes, tmp_path / "a", place).run(planned(), REPORT)
    url = storage.join(place, "refine.test.first", first.fingerprint, "manifest.json")
    storage.write_bytes(url, json.dumps({**json.loads(storage.read_bytes(url)), "format": 99}).encode())
    with pytest.raises(UserError, match=r"written by a newer version \(format 99, this one knows 2\); update"):
        machine(tiny_shapes, tmp_path / "b", place).run(planned(), REPORT)


def test_names_in_a_manifest_stay_in_the_steps_folder(tiny_shapes: Dataset, tmp_path: Path, place: str) -> None:
    first = machine(tiny_shapes, tmp_path / "a", place).run(planned(), REPORT)
    url = storage.join(place, "refine.test.first", first.fingerprint, "manifest.json")
    manifest = json.loads(storage.read_bytes(url))
    manifest["files"]["../../outside"] = manifest["files"].pop("a")
    storage.write_bytes(url, json.dumps(manifest).encode())
    with pytest.raises(UserError, match=r"'\.\./\.\./outside' does not stay inside"):
        machine(tiny_shapes, tmp_path / "b", place).run(planned(), REPORT)
    assert not list(tmp_path.rglob("outside"))


def test_a_workspace_that_cannot_be_written_is_one_sentence(tiny_shapes: Dataset, tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file")
    for work in (tmp_path / "work", Path("/sys/wsss")):
        with pytest.raises(
            UserError, match="can't be used .*; (change its permissions|a file is where a folder is meant)"
        ):
            machine(tiny_shapes, work, "").run(planned(), REPORT)


def test_what_killed_processes_left_unfinished_is_removed(tiny_shapes: Dataset, tmp_path: Path, s3: str) -> None:
    runner = machine(tiny_shapes, tmp_path, f"{s3}/left")
    first = runner.run(planned(), REPORT)
    program = "from pathlib import Path; from wsss.storage import unfinished; print(unfinished(Path('x')))"
    mark = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    gone, own = first.folder.parent / mark, storage.unfinished(first.folder)
    for folder in (gone, own):
        folder.mkdir()
    storage.remove_folder(first.folder)
    assert replace(runner, results={}).run(planned(), REPORT).reused
    assert not gone.exists()
    assert own.exists()
