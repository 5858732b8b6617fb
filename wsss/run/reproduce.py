"""A run done again from its commit, data, settings and rng, every step computed anew, and its numbers compared.

It is done in `work/reproduce/<run>`: the code of the commit where that is not the code here, the data where DVC has to
fetch it, and the record of the run with its own store of steps, see `wsss.tracking.offline`. Nothing of it reaches
MLflow. What was interrupted goes on; of what came out as recorded nothing is kept.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from wsss import git, storage, versions
from wsss.commands import command
from wsss.data import Dataset, open_dataset
from wsss.data.manifest import read_manifest
from wsss.errors import UserError
from wsss.interface import STAGES
from wsss.process import own_cores
from wsss.progress import say
from wsss.run.fingerprints import file_digest
from wsss.run.method import WORK
from wsss.run.plan import make_plan
from wsss.run.recorded import Machine, Recorded
from wsss.run.steps import choose_device
from wsss.scores import Evaluation, Masks, metric_names
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
    dataset = _data(run, folder)
    _check_masks(run, dataset)
    dataset.check(thorough=True)
    code = _code(run, folder)
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


def _data(run: Recorded, folder: Path) -> Dataset:
    """The dataset that the run had: where it lay, of its name here, or fetched by DVC.

    Raises:
        UserError: none of them.
    """
    seen = {}
    for place in (run.source, run.data):
        try:
            dataset = open_dataset(place) if place else None
        except UserError as error:
            seen[place] = str(error)
            continue
        if dataset is not None:
            own = versions.content_of(dataset.root).md5 if run.md5 else run.digest_of(dataset)[: len(run.digest)]
            if own == (run.md5 or run.digest):
                return dataset
            seen[place] = f"{dataset.root} has {own[:12]}"
    wanted = (run.md5 or run.digest)[:12]
    sentence = (
        f"{run.title} had dataset {run.data} with the digest {wanted}, which is not here ({'; '.join(seen.values())})"
    )
    if not run.md5:
        raise UserError(f"{sentence}; DVC has no version of it: bring the images, tags and splits of then")
    target = folder / "data" / Path(run.data).name
    try:
        versions.fetch(run.md5)
        versions.checkout(run.md5, target)
    except UserError as error:
        raise UserError(f"{sentence}, and can't be fetched: {error}") from None
    say(f"dataset {run.data} is fetched in its version {run.md5}")
    return Dataset.open(target)


def _check_masks(run: Recorded, dataset: Dataset) -> None:
    """Refuse masks that are not those that the run was scored with.

    Raises:
        UserError: names the splits.
    """
    masks, entries = Masks(dataset), read_manifest(dataset.root)

    def as_listed(path: Path | None) -> bool:
        entry = entries.get(path.relative_to(dataset.root).as_posix()) if path else None
        return path is not None and entry is not None and file_digest(path) == entry.sha256

    def same(known: Evaluation) -> bool:
        return all(as_listed(masks.path(i)) for i in known.ids) and masks.digest_of(known.ids) == known.masks

    changed = sorted({known.split for known in run.evaluations.values() if known.masks and not same(known)})
    if changed:
        raise UserError(
            f"the masks of {', '.join(changed)} in {dataset.root} are not those that {run.title} was scored with; its "
            "numbers can come out again with the masks of then alone"
        )


def _code(run: Recorded, folder: Path) -> Path:
    """The folder that the package is imported from: this one's, or a clean copy of the run's commit.

    Raises:
        UserError: the commit is not in this clone.
    """
    here = Path(__file__).parents[2]
    repository = git.repository()
    if not run.commit:
        say(f"{run.title} was made outside of git, with version {run.version or 'unknown'}; the code here is used")
        return here
    if repository is None or not git.has(repository, run.commit):
        raise UserError(
            f"commit {run.commit} of {run.title} is not in {repository or 'a clone here'}; get it with `git fetch`, in "
            "a clone of the repository that it was made in"
        )
    if not git.has(repository, f"{run.commit}:wsss/__init__.py"):
        if run.version != git.VERSION:
            say(f"{run.title} was made with version {run.version} of this package, here is {git.VERSION}")
        return here
    if git.state_of(repository) == (run.commit, False) and repository.samefile(here):
        return here
    target = folder / "code" / run.commit
    if not target.is_dir():
        _lay_out(git.archive(repository, run.commit), target)
    say(f"the code is that of commit {run.commit[:8]}")
    return target


def _lay_out(archive: bytes, folder: Path) -> None:
    """The files of a zip archive as a new folder, which appears complete or not at all."""
    with storage.disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = storage.unfinished(folder)
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as files:
                files.extractall(part)
            os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


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
