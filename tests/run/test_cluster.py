"""Dividing a cluster: every part can be had, a worker gets what it needs, and passwords stay out of every text."""

from __future__ import annotations

import os

import pytest
import torch

from wsss.errors import UserError
from wsss.run.cluster import Share, Slots, connected, slots_of

MIXED = [{"CPU": 1.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 4.0}, {"GPU": 8.0}]


def can_be_had(slots: Slots, machines: list[dict[str, float]]) -> bool:
    """Whether all slots fit on the machines at once."""
    room = 0
    for machine in machines:
        by_cores = machine.get("CPU", 0) / slots.cores
        room += int(min(by_cores, machine.get("GPU", 0) / slots.gpus) if slots.gpus else by_cores)
    return room >= slots.count


@pytest.mark.parametrize(
    ("machines", "device", "cores", "expected"),
    [
        ([{"CPU": 2.0}], "auto", 2, (2, 0, 1)),
        ([{"CPU": 64.0}, {"CPU": 6.0}], "auto", 2, (2, 0, 35)),
        ([{"CPU": 1.0}, {"CPU": 1.0}], "auto", 2, (1, 0, 2)),
        ([{"CPU": 64.0}, {"CPU": 6.0}], "auto", float("inf"), (6, 0, 11)),
        ([{"CPU": 16.0, "GPU": 2.0}], "auto", 2, (8, 1, 2)),
        # More GPUs than cores: `cores // gpus` asked for none, and so did one that is beside a machine without a GPU.
        ([{"CPU": 2.0, "GPU": 4.0}], "cuda", 2, (0.5, 1, 4)),
        (MIXED, "auto", 2, (0.5, 1, 6)),
        (MIXED, "cpu", 2, (1, 0, 19)),
        # One machine's cores and another's GPU: a slot of both was waited for, for ever.
        ([{"CPU": 8.0}, {"GPU": 1.0}], "auto", float("inf"), (8, 0, 1)),
        # 8 cores in all and 2 GPUs, but 4 cores beside a GPU are nowhere.
        ([{"CPU": 6.0}, {"CPU": 2.0, "GPU": 2.0}], "auto", 2, (1, 1, 2)),
    ],
)
def test_every_part_of_a_cluster_can_be_had(
    machines: list[dict[str, float]], device: str, cores: float, expected: tuple[float, int, int]
) -> None:
    slots = slots_of(machines, device, cores)
    assert (slots.cores, slots.gpus, slots.count) == expected
    assert can_be_had(slots, machines)


def test_what_can_never_be_had_is_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"has a GPU .* is 2 machines \(4 cores, 0 GPUs; 0 cores, 1 GPUs\)"):
        slots_of([{"CPU": 4.0}, {"GPU": 1.0}], "cuda")
    with pytest.raises(UserError, match="no machine with a core: there is 0 machines"):
        slots_of([])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379"])
def test_a_cluster_that_does_not_answer_is_not_waited_for(address: str) -> None:
    with pytest.raises(UserError, match=f"no Ray cluster answers at {address}.*--ray-address"), connected(address):
        pass


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(UserError, match="'nonsense' is no address .*; give HOST:PORT"), connected("nonsense"):
        pass


def test_what_a_slot_is_stands_in_words() -> None:
    assert str(slots_of([{"CPU": 2.0}], "cpu")) == "2 cores each, 1 at once on 1 machine (2 cores, 0 GPUs)"
    assert str(slots_of([{"CPU": 1.0, "GPU": 1.0}])).startswith("1 core and a GPU each, 1 at once on")


def test_a_worker_gets_what_runs_need_and_no_text_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {
        "WSSS_STORE": "s3://bucket/store",
        "MLFLOW_TRACKING_URI": "http://tracking:5000",
        "MLFLOW_TRACKING_PASSWORD": "hidden-1",
        "AWS_SECRET_ACCESS_KEY": "hidden-2",
        "AWS_ENDPOINT_URL": "http://s3:9000",
    }
    for name, value in (needed | {"WSSS_CORES": "7", "MLFLOW_RUN_ID": "of this process", "OTHER": "x"}).items():
        monkeypatch.setenv(name, value)
    share = Share.of(slots_of([{"CPU": 1.0}]), {"MLFLOW_EXPERIMENT_NAME": "birds"})
    assert needed.items() <= share.variables.items() and share.variables["MLFLOW_EXPERIMENT_NAME"] == "birds"
    assert share.variables.keys().isdisjoint({"WSSS_CORES", "MLFLOW_RUN_ID", "OTHER"})
    assert "hidden" not in f"{share!r} {share}"


def test_a_worker_s_threads_are_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr("wsss.process._quotas", lambda: iter(()))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    try:
        Share.of(slots_of([{"CPU": 3.0}]), {"WSSS_STORE": "there"}).take()
        assert torch.get_num_threads() == 3 and os.environ["WSSS_STORE"] == "there"
        Share.of(slots_of([{"CPU": 1.0, "GPU": 4.0}])).take()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
