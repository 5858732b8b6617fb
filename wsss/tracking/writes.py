"""One write to MLflow as data: it can be sent now, or kept as JSON and sent when the server is back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss.tracking import names
from wsss.tracking.query import stage_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_METRICS = 1000
_ATTEMPTS = 5


@dataclass(frozen=True)
class Write:
    """One write.

    Attributes:
        kind: "start" (of a stage), "batch" (metrics, params, tags), "inputs" (datasets), "files" (artifacts), "status".
        run: the id of the run, or what stands for it until the server has given it one.
        body: what is written, JSON-ready; see `send`.
    """

    kind: str
    run: str
    body: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Write:
        """The write that `to_json` wrote.

        Raises:
            ValueError: the text is none.
        """
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"not a write: {error}") from None


class RefusedError(Exception):
    """The server answered that it will not take a write, now or later."""


def batch(
    run: str,
    metrics: Iterable[tuple[str, float, int, int]] = (),
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> Write:
    """Metrics (key, value, milliseconds since 1970, step), params and tags in one write."""
    return Write("batch", run, {"metrics": [list(m) for m in metrics], "params": params or {}, "tags": tags or {}})


def merged(writes: Iterable[Write]) -> Iterator[Write]:
    """The same writes, neighbouring batches of one run put together as far as MLflow takes them."""
    held: Write | None = None
    for write in writes:
        if held and write.kind == held.kind == "batch" and write.run == held.run:
            metrics = held.body["metrics"] + write.body["metrics"]
            if len(metrics) <= MAX_METRICS:
                params, tags = held.body["params"] | write.body["params"], held.body["tags"] | write.body["tags"]
                held = Write("batch", held.run, {"metrics": metrics, "params": params, "tags": tags})
                continue
        if held:
            yield held
        held = write
    if held:
        yield held


def send(client: MlflowClient, write: Write, run: str, files: Path) -> str:
    """Send a write.

    Args:
        client: MLflow's.
        write: what to send.
        run: the run's id; of a "start", the method's.
        files: the folder in which the folders of "files" lie.

    Returns:
        The run's id; of a "start", the stage's.

    Raises:
        RefusedError: the server takes it neither now nor later.
        Exception: whatever MLflow and its storage raise when they can't be reached; try again later.
    """
    from mlflow.exceptions import MlflowException

    try:
        return _SENDERS[write.kind](client, write.body, run, files)
    except MlflowException as error:
        status = error.get_http_status_code()
        if 400 <= status < 500 and status not in (401, 403, 408, 429):
            raise RefusedError(" ".join(str(error).split())) from error
        raise
    except (FileNotFoundError, LookupError, TypeError, ValueError) as error:
        raise RefusedError(f"{type(error).__name__}: {error}") from error


def _start(client: MlflowClient, body: dict[str, Any], method: str, files: Path) -> str:
    """A method has one run for each stage: a start that was sent before, or by an interrupted process, finds it."""
    found = stage_runs(client, body["experiment"], method).get(body["stage"])
    if found:
        client.update_run(found.info.run_id, "RUNNING")
        return found.info.run_id
    tags = {
        names.KIND: names.STAGE_RUN,
        names.STAGE: body["stage"],
        names.MLFLOW_PARENT: method,
        names.MLFLOW_USER: body["user"],
    }
    return client.create_run(body["experiment"], body["time"], tags, body["stage"]).info.run_id


def _batch(client: MlflowClient, body: dict[str, Any], run: str, files: Path) -> str:
    from mlflow.entities import Metric, Param, RunTag

    client.log_batch(
        run,
        [Metric(key, value, time, step) for key, value, time, step in body["metrics"]],
        [Param(key, value) for key, value in body["params"].items()],
        [RunTag(key, value) for key, value in body["tags"].items()],
    )
    return run


def _inputs(client: MlflowClient, body: dict[str, Any], run: str, files: Path) -> str:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    inputs = [
        DatasetInput(
            Dataset(item["name"], item["digest"], "local", json.dumps({"uri": item["source"]})),
            [InputTag(key, value) for key, value in item["tags"].items()],
        )
        for item in body["datasets"]
    ]
    for left in reversed(range(_ATTEMPTS)):
        try:
            client.log_inputs(run, inputs)
            break
        except MlflowException as error:
            # Of several runs that bring an experiment a new dataset at once, one does; asked again, the others find it.
            said = str(error).lower()
            if not left or "unique" not in said or "datasets" not in said:
                raise
    return run


def _files(client: MlflowClient, body: dict[str, Any], run: str, files: Path) -> str:
    client.log_artifacts(run, str((files / body["folder"]).resolve(strict=True)))
    return run


def _status(client: MlflowClient, body: dict[str, Any], run: str, files: Path) -> str:
    if body["status"] == "RUNNING":
        client.update_run(run, "RUNNING")
    else:
        client.set_terminated(run, body["status"], body["time"])
    return run


_SENDERS = {"start": _start, "batch": _batch, "inputs": _inputs, "files": _files, "status": _status}
