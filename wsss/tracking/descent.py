"""What runs made, from what, and which other runs stand on it: asked of MLflow by what tags say, never all runs."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsss.interface import STAGES
from wsss.scores import metric_names
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import RunRecord, experiments, stage_runs

if TYPE_CHECKING:
    from mlflow.entities import Run

MOST = 100
"""So many runs are asked for at once."""


@dataclass(frozen=True)
class StepMade:
    """A step of a method's run.

    Attributes:
        key: such as "refine.walk".
        fingerprint: of its output.
        reused: the output was there already.
        seconds: what the work took when it was done; None where the run does not say.
    """

    key: str
    fingerprint: str
    reused: bool
    seconds: float | None


@dataclass(frozen=True)
class DataUsed:
    """A dataset, or label maps, that a run had.

    Attributes:
        name: the dataset's, or `names.LABELS`.
        source: where it lay.
        md5: DVC's version; empty without one.
        digest: the version, or the beginning of the content's digest.
        files: how many; empty where it is not known.
        size: in bytes; empty where it is not known.
        images: split to how many of its images.
    """

    name: str
    source: str
    md5: str
    digest: str
    files: str
    size: str
    images: dict[str, str]


class Look:
    """One look at the tracking store, for one answer.

    Attributes:
        client: MLflow's.

    Raises:
        UserError: the tracking store can't be used.
    """

    def __init__(self) -> None:
        self.client = mlflow_client()
        self._experiments = experiments(self.client)

    def steps_made(self, run: RunRecord) -> list[StepMade]:
        """The steps of a method's run, stage by stage."""
        experiment = self.client.get_run(run.id).info.experiment_id
        parts = stage_runs(self.client, experiment, run.id)
        begin, steps = names.step_fingerprint(""), []
        for stage in (stage for stage in STAGES if stage in parts):
            tags, metrics = parts[stage].data.tags, parts[stage].data.metrics
            for key in (tag.removeprefix(begin) for tag in tags if tag.startswith(begin)):
                reused = tags.get(names.step_reused(key)) == "true"
                steps.append(StepMade(key, tags[begin + key], reused, metrics.get(metric_names.step_time(key))))
        return steps

    def data_used(self, run_id: str) -> list[DataUsed]:
        """What a run had as inputs: its dataset, and the labels that it made, if it did."""
        inputs = self.client.get_run(run_id).inputs
        found: dict[str, DataUsed] = {}
        for each in inputs.dataset_inputs if inputs else ():
            tags = {tag.key: tag.value for tag in each.tags}
            name, _, split = each.dataset.name.partition("/")
            used = found.setdefault(
                name,
                DataUsed(
                    name,
                    _uri(each.dataset.source),
                    tags.get(names.DVC_MD5, ""),
                    each.dataset.digest,
                    tags.get(names.DVC_NFILES, ""),
                    tags.get(names.DVC_SIZE, ""),
                    {},
                ),
            )
            if split and names.IMAGES in tags:
                used.images[split] = tags[names.IMAGES]
        return list(found.values())

    def computed_by(self, step: StepMade) -> str:
        """The id of the run that computed a step's output; empty where a search did, or a run that was deleted."""
        found = self._stages_with(step, "false", 1)
        return found[0] if found else ""

    def reused_by(self, step: StepMade, most: int = MOST) -> list[str]:
        """The ids of the methods' runs that found a step's output and used it, newest first, at most so many."""
        return self._stages_with(step, "true", most)

    def runs_with(
        self, tag: str, value: str, before: int | None = None, most: int = MOST
    ) -> tuple[list[RunRecord], bool]:
        """The methods' runs with a tag's value, newest first, and whether there are older ones.

        Args:
            tag: such as `names.DATA_MD5`.
            value: as the run has it.
            before: leave out those that were begun then or later, in milliseconds since 1970.
            most: at most so many.
        """
        condition = f"tags.`{names.KIND}` = '{names.METHOD_RUN}' and tags.`{tag}` = {quoted(value)}"
        if before is not None:
            condition += f" and attributes.start_time < {before}"
        found = self._some(condition, most + 1)
        return [RunRecord.of(run) for run in found[:most]], len(found) > most

    def runs_of(self, ids: Collection[str]) -> dict[str, RunRecord]:
        """Methods' runs by id; those that are no more, or are something else's, are left out."""
        if not ids:
            return {}
        listed = ", ".join(quoted(run_id) for run_id in ids)
        found = self._some(f"attributes.run_id IN ({listed}) and tags.`{names.KIND}` = '{names.METHOD_RUN}'", len(ids))
        return {run.info.run_id: RunRecord.of(run) for run in found}

    def search_named(self, name: str) -> str:
        """The id of the newest search of a name; empty without one."""
        found = self._some(f"tags.`{names.KIND}` = '{names.SEARCH_RUN}' and tags.`{names.SEARCH}` = {quoted(name)}", 1)
        return found[0].info.run_id if found else ""

    def _stages_with(self, step: StepMade, reused: str, most: int) -> list[str]:
        condition = (
            f"tags.`{names.step_fingerprint(step.key)}` = {quoted(step.fingerprint)} "
            f"and tags.`{names.step_reused(step.key)}` = '{reused}'"
        )
        return [parent for run in self._some(condition, most) if (parent := run.data.tags.get(names.MLFLOW_PARENT))]

    def _some(self, condition: str, most: int) -> Sequence[Run]:
        """The newest runs that meet a condition, at most so many."""
        order = ["attributes.start_time DESC"]
        found: Sequence[Run] = self.client.search_runs(self._experiments, condition, max_results=most, order_by=order)
        return found


def quoted(value: str) -> str:
    """A value in MLflow's search language, in which none can have both kinds of quotes."""
    return f'"{value}"' if "'" in value and '"' not in value else "'" + value.replace("'", "") + "'"


def _uri(source: str) -> str:
    try:
        return str(json.loads(source).get("uri", ""))
    except (ValueError, AttributeError):
        return source
