"""A run done again from its commit, data, settings and rng, every step computed anew, and its numbers compared.

It is done in `work/reproduce/<run>`: the code of the commit where that is not the code here, the data where DVC has to
fetch it, and the record of the run with its own store of steps, see `wsss.tracking.offline`. Nothing of it reaches
MLflow. What was interrupted goes on; of what came out as recorded nothing is kept.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from wsss.commands import command
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import STAGES
from wsss.process import own_cores
from wsss.progress import say
from wsss.run.method import WORK
from wsss.run.plan import make_plan
from wsss.run.provenance import code_of, dataset_of, refuse_changed_masks
from wsss.run.recorded import Machine, Recorded
from wsss.run.steps import choose_device
from wsss.scores import Evaluation, metric_names
from wsss.scores.evaluation import load
from wsss.settings import settings_of
from wsss.tracking import names
from wsss.tracking.record import RunFile, read_record, record_folders

FOLDER = "reproduce"
POINTS = 2.0
"""The tolerance where it may not be asked for the same number: on other machines, sums end in other digits."""
_EQUAL = 1e-9


@dataclass(frozen=True)
class Line:
    """A metric as recorded, and as it came out; None where it did not."""

    metric: str
    recorded: float
    again: float | None
    close: bool


@dataclass(frozen=True)
class Reproduction:
    """What came out.

    Attributes:
        lines: metric by metric.
        labels: "<split>/<what>" to whether the label maps that were scored are the recorded ones, pixel for pixel.
        exact: every step is known to be of this machine's processor, with as many cores and the same torch, so that
            the same numbers were asked for; the sums of a GPU may end in other digits each time.
        points: else the tolerance, in points of a hundred.
        record: the folder of the record.
    """

    lines: tuple[Line, ...]
    labels: Mapping[str, bool]
    exact: bool
    points: float
    record: Path

    @property
    def reproduced(self) -> bool:
        """Whether all came out as recorded."""
        return all(line.close for line in self.lines) and (not self.exact or all(self.labels.values()))


@dataclass
class _Again:
    """What the record of the new run says."""

    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)


def reproduce(run: Recorded, *, points: float = POINTS, device: str = "auto") -> Reproduction:
    """Do a run again and compare.

    Args:
        run: what was recorded.
        points: the tolerance in points of a hundred (a mIoU of 0.512 is 51.2) where the machine is not known to be the
            same; of a loss, in percent of it.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: its code or its data is not to be had, its masks changed, or the run fails.
    """
    folder = WORK.absolute() / FOLDER / run.id
    if run.dirty:
        raise UserError(
            f"{run.title} was made with changes that commit {run.commit[:8]} does not have, so its code is not known; "
            "commit first, then run, and it can be reproduced"
        )
    dataset = dataset_of(run, folder)
    refuse_changed_masks(run, dataset)
    dataset.check(thorough=True)
    code = code_of(run, folder)
    here = Machine(socket.gethostname(), str(own_cores()), version("torch"))
    if run.torch and run.torch != here.torch:
        say(f"{run.title} was made with torch {run.torch}, here is {here.torch}; its numbers may differ for that")
    record = folder / "record"
    if any(_finished(each) for each in record_folders(record)):
        shutil.rmtree(record)
    _run(run, code, dataset, record, device)
    again = _read(record)
    exact = (
        choose_device(device).type == "cpu"
        and run.machine == here
        and run.steps.items() <= {key: again.tags.get(names.step_fingerprint(key)) for key in run.steps}.items()
    )
    lines = tuple(
        Line(metric, value, (new := again.metrics.get(metric)), _close(metric, value, new, None if exact else points))
        for metric, value in sorted(run.metrics.items())
    )
    labels = {
        place: known.labels == again.evaluations[place].labels
        for place, known in run.evaluations.items()
        if known.labels and place in again.evaluations
    }
    result = Reproduction(lines, labels, exact, points, record)
    shutil.rmtree(folder if result.reproduced else folder / "code", ignore_errors=True)
    return result


def _close(metric: str, recorded: float, again: float | None, points: float | None) -> bool:
    if again is None:
        return False
    scale = abs(recorded) if metric.endswith(metric_names.LOSS) else 1.0
    return abs(again - recorded) <= (_EQUAL if points is None else points / 100 * scale + _EQUAL)


def _run(run: Recorded, code: Path, dataset: Dataset, record: Path, device: str) -> None:
    """Let the code run what was recorded.

    Raises:
        UserError: it fails.
    """
    record.mkdir(parents=True, exist_ok=True)
    settings = {**run.settings, **_whole_paths(run)}
    words = ["run", "--method", run.method, "--preset", run.preset, "--data", str(dataset.root.absolute())]
    words += ["--rng", str(run.rng), "--device", device, "--offline", str(record)]
    words += [] if run.until == STAGES[-2] else ["--until", run.until]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    own = {k: v for k, v in os.environ.items() if k not in ("WSSS_STORE", "MLFLOW_RUN_ID")}
    path = os.pathsep.join(filter(None, (str(code), own.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "wsss.cli", *words],
        cwd=record,
        env=own | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        raise UserError(
            f"{run.title} failed when it was done again, see above; what was computed is kept, and the same command "
            f"goes on. Its command was:\n  {command('wsss', *words)}"
        )


def _whole_paths(run: Recorded) -> dict[str, str]:
    """The settings that name a file, a folder or a dataset that is here, by its whole path."""
    try:
        plan = make_plan(run.method, run.preset, run.settings)
    except UserError:  # the code of then knows other settings
        return {}
    keys = [
        f"{planned.key}.{spec.key}"
        for planned in plan.steps
        for spec in settings_of(planned.step.settings)
        if spec.file or spec.folder or spec.dataset
    ]
    named = {key: run.settings[key] for key in keys if key in run.settings}
    places = {key: [Path("data", value), Path(value)] for key, value in named.items()}
    here = {key: [place.absolute() for place in tried if place.exists()] for key, tried in places.items()}
    return {key: str(found[0]) for key, found in here.items() if found}


def _finished(folder: Path) -> bool:
    try:
        return RunFile.read(folder).finished
    except UserError:
        return True


def _read(record: Path) -> _Again:
    """What the newest record says.

    Raises:
        UserError: it can't be read.
    """
    again = _Again()
    folder = record_folders(record)[-1]
    for write in read_record(folder):
        if write.kind == "batch":
            again.metrics |= {key: value for key, value, *_ in write.body["metrics"]}
            again.tags |= write.body["tags"]
        elif write.kind == "files":
            files = folder / "files" / write.body["folder"]
            for path in sorted(files.glob("confusion/*/*.npz")):
                known = load(path)
                again.evaluations[f"{known.split}/{known.what}"] = known
    return again
