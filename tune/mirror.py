"""What a search does in MLflow: a run of its own, and one below it for each trial.

The driver writes it all, so that workers need no way to the tracking store. What can't be sent waits: a server may be
away for a while. The study has everything that is written here, so that what is missing in the end is written by the
next command that goes on with the search.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.search import Candidate
from tune.study import Study, TrialRecord
from wsss import git
from wsss.errors import one_line
from wsss.progress import say
from wsss.tracking import names
from wsss.tracking.info import user
from wsss.tracking.query import every
from wsss.tracking.searches import steps_text
from wsss.tracking.writes import RefusedError, Write, batch, send

if TYPE_CHECKING:
    from mlflow import MlflowClient

RETRY_S, PATIENCE_S = 2.0, 90.0
_STATUS = {names.COMPLETE: "FINISHED", names.PRUNED: "KILLED", names.FAILED: "FAILED"}


class Mirror:
    """Writes the trials of a study below the run of its search, one write after the other, in a thread of its own."""

    def __init__(self, client: MlflowClient, study: Study, parent: str, experiment: str) -> None:
        self._client, self._study, self._parent, self._experiment = client, study, parent, experiment
        self._writes: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._runs, self._whole = self._runs_that_are_there()
        self._computed: dict[str, int] = {}
        for record in study.records:
            self._learn(record)
        self._code = git.state()
        self._away = threading.Event()
        self._closing = float("inf")
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def begin(self, number: int, candidate: Candidate) -> None:
        """A trial begins, or goes on."""
        self._writes.put(lambda: self._begin(number, candidate))

    def report(self, number: int, metrics: Mapping[str, float], step: int) -> None:
        """A point of its curve."""
        now = int(time.time() * 1000)
        values = [(key, value, now, step) for key, value in metrics.items()]
        self._writes.put(lambda: self._send(number, batch(self._runs[number], values)))

    def end(self, record: TrialRecord) -> None:
        """A trial ended."""
        self._learn(record)
        self._writes.put(lambda: self._end(record))

    def whole(self) -> None:
        """Write what of ended trials is not there yet: a driver may have been killed between its study and here."""
        for record in self._study.records:
            if record.state in _STATUS and record.number not in self._whole:
                self.begin(record.number, record.candidate)
                self.end(record)

    def close(self) -> bool:
        """Wait until all is written, for a while; whether it is."""
        self._closing = time.monotonic() + PATIENCE_S
        self._writes.put(None)
        self._thread.join(PATIENCE_S + 60)
        return not self._away.is_set()

    @property
    def runs(self) -> Mapping[int, str]:
        """The ids of the trials' runs that are there, by number."""
        return dict(self._runs)

    def _runs_that_are_there(self) -> tuple[dict[int, str], set[int]]:
        """The ids of the trials' runs by number, and the numbers of those whose end is written."""
        condition = f"tags.`{names.MLFLOW_PARENT}` = '{self._parent}' and tags.`{names.KIND}` = '{names.TRIAL_RUN}'"
        found = {
            int(run.data.tags[names.TRIAL]): run
            for run in every(lambda page: self._client.search_runs([self._experiment], condition, page_token=page))
        }
        whole = {
            n for n, run in found.items() if run.info.status == _STATUS.get(run.data.tags.get(names.TRIAL_STATE, ""))
        }
        return {number: run.info.run_id for number, run in found.items()}, whole

    def _work(self) -> None:
        while (write := self._writes.get()) is not None:
            while True:
                try:
                    write()
                except (RefusedError, LookupError, TypeError, ValueError) as error:
                    say(f"the tracking store refused something of the search: {error}")
                except Exception as error:  # whatever a server that is away raises
                    if not self._away.is_set():
                        say(f"the tracking store does not answer ({one_line(error)}); what is to be written waits")
                        self._away.set()
                    if time.monotonic() > self._closing:
                        return
                    time.sleep(RETRY_S)
                    continue
                self._away.clear()
                break

    def _begin(self, number: int, candidate: Candidate) -> None:
        run = self._runs.get(number)
        search = self._study.search
        if run is None:
            tags = {
                names.KIND: names.TRIAL_RUN,
                names.MLFLOW_PARENT: self._parent,
                names.METHOD: candidate.method,
                names.PRESET: search.preset,
                names.RNG: str(search.rng),
                names.MLFLOW_USER: user(),
                names.GIT_COMMIT: self._code.commit or "",
                names.GIT_DIRTY: str(self._code.dirty).lower(),
                names.VERSION: git.VERSION,
                names.TRIAL: str(number),
            }
            run = self._client.create_run(self._experiment, tags=tags, run_name=f"trial {number}").info.run_id
            self._runs[number] = run
            params = {key: json.dumps(value) for key, value in candidate.settings.items()}
            self._send(number, batch(run, params=params))
        else:
            self._client.update_run(run, "RUNNING")

    def _end(self, record: TrialRecord) -> None:
        if record.number not in self._runs:
            self._begin(record.number, record.candidate)
        run, facts = self._runs[record.number], record.facts
        now = int(time.time() * 1000)
        metrics = {names.SECONDS: facts.get("seconds"), names.SECONDS_SAVED: facts.get("saved")}
        if record.state == names.COMPLETE:
            metrics[self._study.search.metric] = record.value
        values = [(key, float(value), now, 0) for key, value in metrics.items() if value is not None]
        steps = [self._with_origin(step) for step in facts.get("steps", [])]
        tags = {names.TRIAL_STATE: record.state, names.TRIAL_HOW: steps_text(steps)}
        if facts.get("error"):
            tags[names.ERROR] = facts["error"]
        self._send(record.number, batch(run, values, tags=tags))
        self._client.log_dict(run, {"steps": steps}, names.TRIAL_STEPS)
        self._client.set_terminated(run, _STATUS[record.state])

    def _learn(self, record: TrialRecord) -> None:
        """Keep which trial computed a step."""
        for step in record.facts.get("steps", []):
            for fingerprint in step["computed"]:
                self._computed.setdefault(fingerprint, record.number)

    def _with_origin(self, step: dict[str, Any]) -> dict[str, Any]:
        """A step's facts with the run that computed it: a trial's, or that of the search, which has the shared ones."""
        numbers = {self._computed.get(fingerprint) for fingerprint in step["fingerprints"]}
        runs = [self._parent if number is None else self._runs.get(number, self._parent) for number in numbers]
        return {**step, "from": sorted(set(runs))}

    def _send(self, number: int, write: Write) -> None:
        send(self._client, write, self._runs[number], Path())
