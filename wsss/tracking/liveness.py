"""Is the process of a run still there? A dead run is marked failed, and continued by the command that started it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from wsss.process import is_gone, is_here, own_cores, this_process
from wsss.tracking import names
from wsss.tracking.forks import fork_lock
from wsss.tracking.query import search, stage_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

BEAT_S = 30
SILENT_S = 15 * 60
"""So old a heartbeat is a dead process's: clocks may differ by a minute or two, and a server be away for some."""

_beating = fork_lock()


def process_tags() -> dict[str, str]:
    """The tags that say which process writes a run, and that it is alive now."""
    return {
        names.HOST: socket.gethostname(),
        names.CORES: str(own_cores()),
        names.PID: str(os.getpid()),
        names.PROCESS: this_process(),
        names.HEARTBEAT: f"{time.time():.0f}",
    }


def process_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process that wrote these tags is no more.

    The process table answers where it is the one that the process stood in: a host's name is not enough, two
    containers may share it. Elsewhere all that is known is its heartbeat.
    """
    mark = tags.get(names.PROCESS, "")
    if is_here(mark):
        return is_gone(mark)
    return time.time() - float(tags.get(names.HEARTBEAT, 0)) > SILENT_S


def mark_dead_runs(client: MlflowClient) -> list[str]:
    """Mark the runs, and their stages' runs, that are RUNNING in name only as FAILED, ended at their last heartbeat.

    Returns:
        The ids of the methods' and searches' runs that were marked.
    """
    dead = []
    # One question for both kinds: each run that begins asks it.
    for run in search(client, "attributes.status = 'RUNNING'"):
        ours = run.data.tags.get(names.KIND) in (names.METHOD_RUN, names.SEARCH_RUN)
        if not ours or not _died(client, run):
            continue
        ended = int(float(run.data.tags.get(names.HEARTBEAT, time.time())) * 1000)
        for part in _parts(client, run):
            if part.info.status == "RUNNING":
                client.set_terminated(part.info.run_id, "FAILED", ended)
        client.set_terminated(run.info.run_id, "FAILED", ended)
        dead.append(run.info.run_id)
    return dead


def _parts(client: MlflowClient, run: Run) -> list[Run]:
    """The stages of a method's run, or the trials of a search's."""
    if run.data.tags[names.KIND] == names.METHOD_RUN:
        return list(stage_runs(client, run.info.experiment_id, run.info.run_id).values())
    parent = f"tags.`{names.MLFLOW_PARENT}` = '{run.info.run_id}' and tags.`{names.KIND}` = '{names.TRIAL_RUN}'"
    return list(search(client, parent))


def find_interrupted(client: MlflowClient, fingerprint: str, experiment: str | None = None) -> Run | None:
    """The newest run with a method run's fingerprint that did not finish and that no process is working on.

    Args:
        client: MLflow's.
        fingerprint: the run's.
        experiment: the id of the one to look in; all by default.
    """
    condition = f"tags.`{names.KIND}` = '{names.METHOD_RUN}' and tags.{names.FINGERPRINT} = '{fingerprint}'"
    for run in search(client, condition, within=experiment):
        if run.info.status in ("FAILED", "KILLED") or (run.info.status == "RUNNING" and _died(client, run)):
            return run
    return None


def _died(client: MlflowClient, run: Run) -> bool:
    """Whether the process of a run that was RUNNING when it was read is gone and did not end the run before it went."""
    return process_gone(run.data.tags) and client.get_run(run.info.run_id).info.status == "RUNNING"


def beat(client: MlflowClient, run_id: str) -> None:
    """Say once that a run is alive."""
    client.set_tag(run_id, names.HEARTBEAT, f"{time.time():.0f}")


class Heartbeat(threading.Thread):
    """Renews a run's heartbeat until stopped; a beat that does not get through is left out.

    Args:
        beat: says once that the run is alive.
    """

    def __init__(self, beat: Callable[[], object]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._beat = beat
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(BEAT_S):
            with contextlib.suppress(Exception), _beating:
                self._beat()

    def stop(self) -> None:
        self._stopped.set()
