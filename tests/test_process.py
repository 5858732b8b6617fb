"""The cores of this process: what it was given, and nothing else decides how many threads there are."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from wsss import process
from wsss.errors import UserError
from wsss.process import own_cores
from wsss.stream import ordered_map, use_own_cores


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may use four cores, without a quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4, 6}, raising=False)
    monkeypatch.setattr(process, "_quotas", lambda: iter(()))
    monkeypatch.delenv(process.CORES, raising=False)


def test_affinity_quota_and_variable_each_lower_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_cores() == 4
    monkeypatch.setattr(process, "_quotas", lambda: iter((3, 8)))
    assert own_cores() == 3
    monkeypatch.setenv(process.CORES, "2")
    assert own_cores() == 2
    monkeypatch.setenv(process.CORES, "64")
    assert own_cores() == 3


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_variable_that_is_no_number_of_cores_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.CORES, text)
    with pytest.raises(UserError, match=f"WSSS_CORES is '{text}'; it must be a whole number of cores, 1 or more"):
        own_cores()


QUOTAS = {
    "the group's own, of version 2": ("0::/job/1", {"job/1/cpu.max": "150000 100000"}, [2]),
    "that of the group around it": ("0::/job/1", {"job/1/cpu.max": "max 100000", "job/cpu.max": "400000 100000"}, [4]),
    "a container's, which is its root": ("0::/host/name", {"cpu.max": "50000 100000"}, [1]),
    "version 1": (
        "4:cpu,cpuacct:/job\n3:memory:/job",
        {"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"},
        [3],
    ),
    "version 1 without one": (
        "4:cpu:/",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        [],
    ),
    "none": ("0::/", {}, []),
}


@pytest.mark.parametrize("case", QUOTAS.values(), ids=QUOTAS.keys())
def test_the_quota_of_a_control_group_counts(
    case: tuple[str, dict[str, str], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    groups, files, expected = case
    (tmp_path / "groups").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert list(process._quotas(tmp_path / "groups", tmp_path / "mounted")) == expected


def test_a_stream_has_as_many_threads_as_the_process_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.CORES, "3")
    together = threading.Barrier(3)
    used = ordered_map(lambda _: (together.wait(10), threading.get_ident())[1], range(6))
    assert len(set(used)) == 3


def test_torch_takes_no_more_threads_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        for asked, cores_given, expected in ((2, "1", 1), (1, "3", 1)):
            torch.set_num_threads(asked)
            monkeypatch.setenv(process.CORES, cores_given)
            use_own_cores()
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_nothing_else_asks_what_the_machine_has() -> None:
    root = Path(__file__).parents[1]
    folders = ("wsss", "tune", "pipelines", "benchmarks")
    asking = [path for folder in folders for path in (root / folder).rglob("*.py") if "cpu_count" in path.read_text()]
    assert asking == [root / "wsss" / "process.py"]
