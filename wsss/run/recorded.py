"""What has been recorded of a run: all that it takes to do it again, and what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import STAGES
from wsss.scores import Evaluation, metric_names
from wsss.scores.scored import SCORED
from wsss.tracking import names
from wsss.tracking.origin import origin
from wsss.tracking.query import evaluation, find_run

COMPARED = (f"/{metric_names.MIOU}", metric_names.TAGS_MAP)
"""How the names of the metrics end by which a run is told from another; the others follow from these, or are costs."""


@dataclass(frozen=True)
class Machine:
    """What of a machine may move a number in its last digits, from which a training makes more."""

    host: str
    cores: str
    torch: str


@dataclass(frozen=True)
class Recorded:
    """A run, or a trial, as it was recorded.

    Attributes:
        id: MLflow's.
        title: for people, such as "run 1a2b".
        method, preset, rng, settings: what was run; settings as text by key.
        until: the last stage.
        data: the dataset's name or folder, as it is tried after `source`.
        source: where it lay.
        digest: of the data, or its beginning; empty where it was not kept.
        digest_of: makes it of a dataset.
        md5: DVC's version of the data; empty without one.
        commit: of the code; empty where there was none.
        dirty: whether the code held anything else.
        version: of the package.
        metrics: what came out, by name.
        evaluations: of the run, by "<split>/<what>".
        steps: the steps' fingerprints by key; empty where they were not kept.
        machine: that computed every step; None where that is not known of each.
        torch: the version; empty where it was not kept.
    """

    id: str
    title: str
    method: str
    preset: str
    rng: int
    settings: Mapping[str, str]
    until: str
    data: str
    metrics: Mapping[str, float]
    commit: str
    dirty: bool
    version: str = ""
    source: str = ""
    digest: str = ""
    digest_of: Callable[[Dataset], str] = field(default=lambda dataset: dataset.digest)
    md5: str = ""
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    steps: Mapping[str, str] = field(default_factory=dict)
    machine: Machine | None = None
    torch: str = ""


def recorded(run_id: str) -> Recorded:
    """The method's run of an id.

    Raises:
        UserError: there is no such run, it did not finish, or it has no number that could come out again.
    """
    run = find_run(run_id)
    if run.status != "FINISHED":
        raise UserError(f"run {run_id} is {run.status}; only a finished run has numbers that can come out again")
    metrics = {key: value for key, value in run.metrics.items() if key.endswith(COMPARED)}
    of = origin(run.id)
    if not metrics or not of.stages:
        raise UserError(f"run {run_id} has neither a mIoU nor a {metric_names.TAGS_MAP}; there is nothing to compare")
    scored = {key.rpartition("/")[0] for key in metrics if key.split("/")[1:2] and key.split("/")[1] in SCORED}
    found = {place: evaluation(run, *place.split("/")) for place in sorted(scored)}
    known = [run.tags.get(names.HOST, ""), run.tags.get(names.CORES, ""), of.torch]
    return Recorded(
        id=run.id,
        title=f"run {run_id}",
        method=run.method,
        preset=run.preset,
        rng=run.rng,
        settings={key: value for key, value in run.params.items() if key.partition(".")[0] in STAGES and "." in key},
        until=of.stages[-1],
        data=run.dataset,
        metrics=metrics,
        commit=run.tags.get(names.GIT_COMMIT, ""),
        dirty=run.tags.get(names.GIT_DIRTY) == "true",
        version=run.tags.get(names.VERSION, ""),
        source=of.source,
        digest="" if names.DATA_MD5 in run.tags else of.digest,
        md5=run.tags.get(names.DATA_MD5, ""),
        evaluations={place: each for place, each in found.items() if each is not None},
        steps=of.steps,
        machine=Machine(*known) if all(known) and not of.reused else None,
        torch=of.torch,
    )
