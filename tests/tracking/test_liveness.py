"""Whether the process of a run is still there, and that forks beside tracking's threads copy no closed lock."""

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from tracking_examples import INFO

from wsss.tracking import liveness, names
from wsss.tracking.liveness import Heartbeat, beat, mark_dead_runs, process_gone, process_tags
from wsss.tracking.outbox import Outbox
from wsss.tracking.runs import method_run
from wsss.tracking.writes import batch

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def elsewhere():
    """The tags of a live process in another container: the same host name, processes numbered anew."""
    code = (
        "import json; from wsss import process; from wsss.tracking import liveness\n"
        "process.machine = lambda: 'another'; print(json.dumps(liveness.process_tags()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_live_run_in_another_container_of_the_same_host_name_is_left_alone(store, elsewhere):
    """Its number means nothing here: no process has it, or another one."""
    for pid in ("999999999", str(os.getpid())):
        run = store.create_run("0", tags=INFO.all_tags | elsewhere | {names.PID: pid}).info.run_id
        assert mark_dead_runs(store) == []
        assert store.get_run(run).info.status == "RUNNING"
    assert process_gone(elsewhere | {names.HEARTBEAT: f"{time.time() - liveness.SILENT_S - 1:.0f}"})


def test_a_run_that_ends_well_while_another_looks_is_not_marked(store, monkeypatch):
    """Its process ends it and goes, after the other has read that it runs."""
    run = store.create_run("0", tags=INFO.all_tags | process_tags()).info.run_id

    def ends(tags):
        store.set_terminated(run, "FINISHED")
        return True

    monkeypatch.setattr(liveness, "process_gone", ends)
    assert mark_dead_runs(store) == []
    store.update_run(run, "RUNNING")
    assert liveness.find_interrupted(store, INFO.fingerprint) is None
    assert store.get_run(run).info.status == "FINISHED"


def test_the_tags_of_an_earlier_version_are_judged_by_the_heartbeat():
    """They name a host and a number, which may be another container's."""
    old = process_tags() | {names.PID: "999999999"}
    del old[names.PROCESS]
    assert not process_gone(old)
    assert process_gone(old | {names.HEARTBEAT: "1"})


def test_clocks_may_differ_by_a_minute_while_a_server_was_away():
    """Its clock is a minute behind, and the server took no heartbeat for five minutes."""
    tags = process_tags() | {names.HOST: "another", names.PROCESS: ""}
    assert not process_gone(tags | {names.HEARTBEAT: f"{time.time() - 60 - 5 * 60:.0f}"})
    assert not process_gone(tags | {names.HEARTBEAT: f"{time.time() + 60:.0f}"})


def test_a_clock_that_is_set_does_not_end_a_process(monkeypatch):
    """The kernel counts a process's start from the boot, not by the clock."""
    tags = process_tags()
    monkeypatch.setattr("psutil.boot_time", lambda: 1.0)
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: 1.0)
    assert not process_gone(tags)


def test_a_killed_process_is_gone_at_once_even_before_its_parent_looks():
    code = (
        "import json; from wsss.tracking.liveness import process_tags\n"
        "print(json.dumps(process_tags()), flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    tags = json.loads(process.stdout.readline())
    assert not process_gone(tags)
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not process_gone(tags) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process_gone(tags), "a zombie works on nothing"
    process.wait()
    assert process_gone(tags)
    process.stdin.close()
    process.stdout.close()


def test_a_number_that_another_process_has_taken_is_not_the_process():
    tags = process_tags()
    *place, started = tags[names.PROCESS].split("-")
    assert process_gone(tags | {names.PROCESS: "-".join((*place, str(int(started) + 1)))})


class Locking:
    """An MLflow client that holds a lock of its library while it works, as they do."""

    def __init__(self):
        self.lock, self.working = threading.Lock(), threading.Event()

    def _work(self, *_):
        with self.lock:
            self.working.set()
            time.sleep(0.3)
            logging.getLogger("wsss.tracking").info("sent")
            with ThreadPoolExecutor(1) as pool:
                pool.submit(time.sleep, 0).result()

    log_batch = set_tag = _work


def test_locks_that_others_close_before_a_fork_are_closed_after_trackings():
    """In a new process, where nothing else has imported the libraries that close them."""
    code = """
import os, threading, time
from wsss.tracking.forks import fork_lock
lock, inside = fork_lock(), threading.Event()
def send():
    with lock:
        inside.set()
        time.sleep(0.3)
        import logging
        from concurrent.futures import ThreadPoolExecutor
        logging.getLogger("library").warning("sent")
        ThreadPoolExecutor(1).submit(time.sleep, 0).result()
threading.Thread(target=send, daemon=True).start()
inside.wait()
import logging
from concurrent.futures import ThreadPoolExecutor
pid = os.fork()
if pid == 0:
    os._exit(0 if lock.acquire(blocking=False) else 1)
assert os.waitpid(pid, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def open_in_a_fork(lock):
    answer = FORK.SimpleQueue()
    child = FORK.Process(target=lambda: answer.put(not lock.locked()))
    child.start()
    is_open = answer.get()
    child.join()
    return is_open


@pytest.mark.parametrize("thread", ["tracking", "heartbeat"])
def test_a_fork_never_copies_a_closed_lock_of_trackings_threads(tmp_path, monkeypatch, thread):
    """Workers that load images are forked in the middle of a run; nobody would open the lock in them."""
    monkeypatch.setattr(liveness, "BEAT_S", 0.01)
    client = Locking()
    if thread == "tracking":
        box = Outbox(client, tmp_path / "run", "run")
        box.put(batch("run", [("x", 1.0, 0, 0)]))
        threading.Thread(target=box.flush).start()
    else:
        heartbeat = Heartbeat(partial(beat, client, "run"))
        heartbeat.start()
    assert client.working.wait(10)
    assert open_in_a_fork(client.lock)
    box.close() if thread == "tracking" else heartbeat.stop()


def test_a_process_can_track_after_it_was_forked_from_one_that_tracks(store):
    with method_run(INFO) as run:
        run.metrics({"train/loss": 1.0})
        answer = FORK.SimpleQueue()

        def in_the_child():
            box = Outbox(store, Path("work", "0" * 32), "0" * 32)
            box.close()
            answer.put(True)

        child = FORK.Process(target=in_the_child)
        child.start()
        child.join(20)
        assert child.exitcode == 0 and answer.get()
