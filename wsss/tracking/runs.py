"""One MLflow run for a method, with a child run for each stage; nothing that is written makes the work wait."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from wsss.errors import OutOfTimeError
from wsss.interface import Reporter, StepResult
from wsss.progress import ConsoleReporter
from wsss.scores import metric_names
from wsss.scores.evaluation import Evaluation, encode
from wsss.storage import disk_errors
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.info import RunInfo, dataset_input, environment, user
from wsss.tracking.liveness import Heartbeat, beat, mark_dead_runs
from wsss.tracking.offline import OpenRun, RecordWriter, open_record
from wsss.tracking.opening import open_run
from wsss.tracking.outbox import SPOOL, Outbox, send_left_behind
from wsss.tracking.writes import Write, batch

if TYPE_CHECKING:
    from wsss.versions import DataVersion

Console = Callable[[str], Reporter]


@contextmanager
def method_run(
    info: RunInfo,
    *,
    work: Path = Path("work"),
    parent: str | None = None,
    console: Console = ConsoleReporter,
    offline: Path | None = None,
) -> Iterator[MethodRun]:
    """A method's run; ends as the `with` block ends: FINISHED, FAILED, or KILLED by a keyboard interrupt.

    Under `mlflow run` it is the run that MLFLOW_RUN_ID names. Otherwise an interrupted run of the same fingerprint, if
    there is one, goes on under its id. Before that, what earlier runs could not write is written, and runs whose
    process is gone are marked FAILED.

    Args:
        info: what is known at the start.
        work: the local folder of scratch data.
        parent: the id of the run that this one is a part of, such as a search's.
        console: makes what shows a step's progress, from the step's key.
        offline: the folder of the record, where there is no server: see `wsss.tracking.offline`. MLflow is not asked.

    Raises:
        UserError: the tracking store can't be used, or MLFLOW_RUN_ID names a run that is not there or is another's.
    """
    opened = _open(info, work.absolute(), parent) if offline is None else open_record(offline.absolute(), info)
    heartbeat = Heartbeat(opened.beat)
    heartbeat.start()
    try:
        method = MethodRun(opened, console)
        with method._ending():
            settings = json.dumps(dict(info.settings), indent=1)
            method.artifacts({names.SETTINGS: settings.encode(), names.ENVIRONMENT: environment().encode()})
            yield method
    finally:
        heartbeat.stop()
        opened.close()


def _open(info: RunInfo, work: Path, parent: str | None) -> OpenRun:
    """The run in MLflow."""
    with disk_errors(work.parent):
        client = mlflow_client()
        send_left_behind(client, work)
        work.mkdir(parents=True, exist_ok=True)
        with FileLock(work / ".tracking.lock"):
            mark_dead_runs(client)
            run = open_run(client, info, parent)
    run_id = run.info.run_id
    outbox = Outbox(client, work / SPOOL / run_id, run_id)
    tables = run.data.tags.get(names.MLFLOW_TABLES, "[]")
    return OpenRun(run_id, run.info.experiment_id, outbox, partial(beat, client, run_id), outbox.close, tables)


class _Tracked:
    """What a method's run and a stage's run have in common."""

    def __init__(self, outbox: Outbox | RecordWriter, key: str) -> None:
        self._outbox, self._key = outbox, key

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Figures by name; those that are not finite are left out, not zero."""
        now = _now()
        finite = [(name, float(value), now, step) for name, value in values.items() if np.isfinite(value)]
        if finite:
            self._outbox.put(batch(self._key, finite))

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags by name."""
        self._outbox.put(batch(self._key, tags=dict(values)))

    def artifacts(self, files: Mapping[str, bytes | Path]) -> None:
        """Artifacts: path to content, or to a file or a folder, which is copied now."""
        self._outbox.put_files(self._key, files)

    def flush(self) -> None:
        """Wait until everything so far is sent, or on disk because the server is away."""
        self._outbox.flush()

    def _status(self, status: str) -> None:
        self._outbox.put(Write("status", self._key, {"status": status, "time": _now()}))

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Write how the run ended: FINISHED, FAILED with the error's text, or KILLED by an interrupt or a deadline."""
        try:
            yield
        except BaseException as error:
            self.tags({names.ERROR: f"{type(error).__name__}: {error}"[:1000]})
            self._status("KILLED" if isinstance(error, KeyboardInterrupt | OutOfTimeError) else "FAILED")
            raise
        self._status("FINISHED")


class MethodRun(_Tracked):
    """A method's run.

    Attributes:
        id: MLflow's; without a server the record's.
    """

    def __init__(self, opened: OpenRun, console: Console) -> None:
        super().__init__(opened.outbox, opened.id)
        self.id = opened.id
        self._experiment = opened.experiment
        self._tables: list[dict[str, str]] = json.loads(opened.tables)
        self._console = console

    @contextmanager
    def stage(self, name: str) -> Iterator[StageRun]:
        """A stage's child run, the earlier one of a continued run; ends as its `with` block ends."""
        stage = StageRun(self._outbox, f"{self.id}-{name}", self, self._console)
        body = {"experiment": self._experiment, "stage": name, "user": user(), "time": _now()}
        self._outbox.put(Write("start", stage._key, body))
        with stage._ending():
            yield stage

    def evaluation(self, evaluation: Evaluation) -> None:
        """An evaluation: its metrics in one write, its record and the mIoU of each image as artifacts."""
        self.metrics(evaluation.metrics)
        where = evaluation.split, evaluation.what
        table = names.per_image_file(*where)
        rows = [
            [id, None if np.isnan(miou) else round(miou, 6)]
            for id, miou in zip(evaluation.ids, evaluation.per_image, strict=True)
        ]
        content = json.dumps({"columns": ["image", metric_names.MIOU], "data": rows}).encode()
        entry = {"path": table, "type": "table"}
        if entry not in self._tables:
            self._tables.append(entry)
            self.tags({names.MLFLOW_TABLES: json.dumps(self._tables)})  # goes with the metrics, before the files
        self.artifacts({names.confusion_file(*where): encode(evaluation), table: content})

    def panel(self, image_id: str, panel: bytes) -> None:
        """The panel picture of an image (PNG)."""
        self.artifacts({names.panel_file(image_id): panel})

    def maps(self, what: str, content: bytes) -> None:
        """The maps of one thing that is drawn, a zip of `wsss.tracking.maps`."""
        self.artifacts({names.maps_file(what): content})

    def model(self, folder: Path, about: Mapping[str, Any]) -> None:
        """The trained network of a run without a server, to be packaged and registered when it is brought into MLflow.

        Args:
            folder: the training step's output.
            about: what `wsss.registry` needs to know of the data, JSON-ready.
        """
        assert isinstance(self._outbox, RecordWriter)
        self._outbox.put_model(self.id, folder, about)

    def labels(self, version: DataVersion, source: str, manifest: Sequence[Mapping[str, str]]) -> None:
        """The version of the labels that the run made and used, with the list of its files."""
        self.tags({names.LABELS_MD5: version.md5})
        labels = dataset_input(names.LABELS, names.LABELS, source, version.md5, version)
        self._outbox.put(Write("inputs", self.id, {"datasets": [labels]}))
        self.artifacts({names.dvc_manifest_file(names.LABELS): json.dumps(manifest, indent=1).encode()})


class StageRun(_Tracked):
    """The child run of a stage."""

    def __init__(self, outbox: Outbox | RecordWriter, key: str, method: MethodRun, console: Console) -> None:
        super().__init__(outbox, key)
        self._method, self._console = method, console

    def reporter(self, step: str) -> Reporter:
        """What listens to a step, such as "refine.walk": its metrics come here, its progress to the console."""
        return _StepReporter(self, self._console(step))

    def step_done(self, result: StepResult) -> None:
        """Write a step's fingerprint, seconds, memory and metrics; wait until all is sent, or on disk."""
        reused = str(result.reused).lower()
        self.tags({names.step_fingerprint(result.key): result.fingerprint, names.step_reused(result.key): reused})
        found = {
            metric_names.step_time(result.key): result.seconds,
            metric_names.step_memory(result.key): result.peak_memory_mb,
            **result.metrics,
        }
        self.metrics(found)
        self._method.metrics(
            {name: value for name, value in found.items() if name.startswith(metric_names.OF_THE_METHOD)}
        )
        self.flush()


class _StepReporter:
    def __init__(self, stage: StageRun, console: Reporter) -> None:
        self._stage, self._console = stage, console

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._stage.metrics(values, step)
        self._console.metrics(values, step)

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        self._console.progress(done, total, unit, note)


def _now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
