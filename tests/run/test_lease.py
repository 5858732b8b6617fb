"""One process holds a lease, others are told who; clocks don't matter; stores that can't keep leases are refused."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wsss import storage
from wsss.errors import UserError
from wsss.process import machine
from wsss.run import lease as leases
from wsss.run.lease import lease
from wsss.storage import bucket

FAR = {"name": "process 7 on far-away", "process": "0123456789ab-7-1"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWED_S", 0.1)
    monkeypatch.setattr(leases, "EXPIRES_S", 1.0)


def held(store: str, count: int = 0, **holder: str) -> str:
    """The file of a lease that another machine holds."""
    url = storage.join(store, ".leases", "step.000001")
    storage.write_bytes(url, json.dumps({**FAR, **holder, "count": count}).encode())
    return url


@contextmanager
def renewed(store: str) -> Iterator[str]:
    """A lease that another machine holds and renews."""
    url, ended = held(store), threading.Event()

    def renew() -> None:
        count = 0
        while not ended.wait(0.2):
            count += 1
            held(store, count)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield url
    finally:
        ended.set()
        thread.join()


def test_it_is_held_once_and_given_back(place: str) -> None:
    with (
        lease(place, "step", "step refine.walk", wait=False),
        pytest.raises(
            UserError, match=rf"step refine\.walk is being computed by process {os.getpid()} on .*; wait unt"
        ),
        lease(place, "step", "step refine.walk", wait=False),
    ):
        pass
    with lease(place, "step", "step refine.walk", wait=False), lease(place, "step.2", "another", wait=False):
        pass
    assert storage.list_files(storage.join(place, ".leases")) == []


def test_a_holder_on_another_machine_that_lives_is_named(place: str) -> None:
    with (
        renewed(place),
        pytest.raises(UserError, match="step x is being computed by process 7 on far-away; wait until it is done"),
        lease(place, "step", "step x", wait=False),
    ):
        pass


def test_it_is_waited_for(place: str) -> None:
    with renewed(place) as url:
        waited = threading.Thread(target=lambda: lease(place, "step", "step x", wait=True).__enter__(), daemon=True)
        waited.start()
        waited.join(1.5)
        assert waited.is_alive()
    storage.remove(url)
    waited.join(20)
    assert not waited.is_alive()


def test_clocks_do_not_matter(tmp_path: Path) -> None:
    for seconds in (0, 2**31):
        with renewed(str(tmp_path)) as url, pytest.raises(UserError, match="far-away"):
            os.utime(url, (seconds, seconds))
            with lease(str(tmp_path), "step", "step x", wait=False):
                pass


def test_a_holder_on_another_machine_that_is_gone_is_replaced(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    held(place)
    with lease(place, "step", "step x", wait=False):
        assert "step.000002" in storage.list_files(storage.join(place, ".leases"))
    said = capsys.readouterr().err
    assert "step x was being computed by process 7 on far-away, which is gone; this process takes it over" in said
    assert storage.list_files(storage.join(place, ".leases")) == []


def test_one_of_many_takes_over(place: str) -> None:
    held(place)
    inside, most = [], []

    def work() -> None:
        with lease(place, "step", "step x", wait=True):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def test_a_dead_process_of_this_machine_is_replaced_at_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EXPIRES_S", 1000.0)
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    for process in (f"{machine()}-{pid}-1", f"{machine()}-{os.getpid()}-1"):
        held(place, process=process)
        with lease(place, "step", "step x", wait=False):
            pass


def test_one_that_cannot_be_read_expires(tmp_path: Path) -> None:
    storage.write_bytes(tmp_path / ".leases" / "step.000001", b"of a newer version")
    with lease(str(tmp_path), "step", "step x", wait=False):
        pass


def test_a_bucket_that_ignores_conditions_is_refused(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = bucket._client(os.environ["AWS_ENDPOINT_URL"], os.getpid())

    def ignore(request, **_) -> None:
        del request.headers["If-None-Match"]

    client.meta.events.register("before-sign.s3.PutObject", ignore)
    try:
        with (
            pytest.raises(UserError, match="this store ignores conditional writes .* use one that keeps them"),
            lease(f"{s3}/blind", "step", "step x", wait=False),
        ):
            pass
    finally:
        client.meta.events.unregister("before-sign.s3.PutObject", ignore)
    assert storage.list_files(f"{s3}/blind") == []
