"""The results page of a dataset: a row for each method, from the logged matrices."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wsss.commands import command
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import STAGES
from wsss.run.plan import make_plan
from wsss.run.preset import read_preset
from wsss.scores import Evaluation, Scores, metric_names
from wsss.scores.scored import reported
from wsss.tables.groups import same_but_for_rng
from wsss.tables.percent import Percent, percent
from wsss.tables.render import Column, Table, as_csv, as_markdown, as_text
from wsss.tables.rows import shown_order
from wsss.tracking import names
from wsss.tracking.query import RunRecord, evaluation, runs

CAM = "cam"


@dataclass(frozen=True)
class Results:
    """What the runs of a dataset reached.

    Attributes:
        identity: a sentence on the data.
        rows: the runs of each method, or of a method with settings of its own.
        chosen: names and indices of classes for a second mean; None for all.
    """

    identity: str
    rows: Sequence[_Row]
    chosen: Sequence[tuple[str, Sequence[int] | None]]

    def markdown(self) -> str:
        """A page: the data's identity, mIoU of all and of chosen classes, seconds of the steps."""
        parts = [self.identity]
        for table in self._tables():
            parts += [table.title, as_markdown([column.head for column in table.columns], table.rows)]
        return "\n\n".join(parts)

    def text(self, width: int | None = None, wide: bool = False) -> str:
        """The same for a terminal; see `wsss.tables.render.as_text`."""
        drawn = "groups" if any(groups for row in self.rows for groups in row.groups.values()) else "images"
        note = f"In brackets 95 % bootstrap intervals over {drawn}; ± is the deviation over rngs."
        interval = " [" if wide else "\n["
        tables = [
            replace(table, rows=[[cell.replace("`", "").replace(" [", interval) for cell in row] for row in table.rows])
            for table in self._tables()
        ]
        return as_text(tables, note, width=width, wide=wide)

    def csv(self) -> str:
        """A line for each row, set of classes and figure: mIoU in [0, 1]; ids and commits separated by spaces."""
        head = ["method", "supervision", "rngs", "classes", "split", "what",
                "miou", "deviation", "low", "high", "runs", "commits"]  # fmt: skip
        lines = []
        for row in self.rows:
            rngs = " ".join(str(run.rng) for run in row.runs)
            runs = [" ".join(run.id for run in row.runs), " ".join(row.commits)]
            for names_of, indices in self.chosen:
                for split, what in row.matrices:
                    miou = row.percent((split, what), indices)
                    values = [miou.mean, miou.deviation, miou.low, miou.high]
                    shares = [None if value is None else round(value / 100, 6) for value in values]
                    lines.append([row.name, row.supervision, rngs, names_of, split, what, *shares, *runs])
        return as_csv(head, lines)

    def _tables(self) -> list[Table]:
        figures = [
            _figures(
                self.rows,
                indices,
                f"Over {chosen}, cam at its best threshold on dev for these:"
                if number
                else f"mIoU in percent over {chosen}:",
            )
            for number, (chosen, indices) in enumerate(self.chosen)
        ]
        return [*figures, _costs(self.rows), _seconds(self.rows)]


def results_of(dataset: Dataset, preset: str, chosen: Sequence[str]) -> Results:
    """The results of a dataset, from the logged matrices of its finished runs.

    Args:
        dataset: whose runs are shown.
        preset: that of the runs; of a preset file, the preset that it stands on.
        chosen: class names, "background" among them if wanted, for a second mean.

    Raises:
        UserError: no finished run, or an unknown class.
    """
    classes, indices = dataset.classes, class_indices(dataset, chosen)
    preset = read_preset(preset).name
    groups = same_but_for_rng(run for run in runs(dataset.name) if run.preset == preset and not _part_of_a_grid(run))
    if not groups:
        raise UserError(
            f"there is no finished run with preset {preset} on {dataset.name}; start one with "
            f"`{command('wsss', 'run', '--data', dataset.name, '--preset', preset)}`"
        )
    every = None if classes.background else [*classes.indices]
    means: list[tuple[str, Sequence[int] | None]] = [(f"all {len(classes.occurring)} classes", every)]
    if indices:
        means.append((", ".join(chosen), indices))
    rows = [_Row.of(group, preset) for group in sorted(groups, key=lambda group: shown_order(group[0].method))]
    return Results(_identity(dataset), rows, means)


def class_indices(dataset: Dataset, names: Sequence[str]) -> list[int]:
    """The label-map indices of some classes, "background" among them if wanted.

    Raises:
        UserError: an unknown class.
    """
    classes = dataset.classes
    return [classes.with_background.index(n) if n in classes.occurring else classes.index(n) for n in names]


def _part_of_a_grid(run: RunRecord) -> bool:
    """Whether a run belongs to a grid whose runs end with the labels: the grid's own pages show it."""
    segment = metric_names.step_time("segment.").removesuffix("_s")
    return names.GRID in run.tags and not any(key.startswith(segment) for key in run.metrics)


def changed_settings(run: RunRecord, preset: str) -> dict[str, str]:
    """What a run has otherwise than its method's preset, weights apart: setting to value, as text."""
    params = run.params
    stages = {key: params[key] for key in (f"{stage}.name" for stage in STAGES) if key in params}
    settings = make_plan(run.method, preset, stages).settings | {
        key: value for key, value in make_plan(run.method, preset).settings.items() if key in stages
    }
    texts = {key: json.dumps(value).strip('"') for key, value in settings.items()}
    return {
        key: value
        for key, value in params.items()
        if not key.endswith(".weights") and value.strip('"') != texts.get(key)
    }


@dataclass(frozen=True)
class _Row:
    """The runs of one row, by rng; `matrices` has (split, what) to one N x C x C array for each rng, `groups` the same
    to the group of each image, empty where each is its own; `maps` for each rng the evaluations of its score maps on
    dev and train, where a mean over some classes can choose a threshold of its own on dev.
    """

    name: str
    runs: Sequence[RunRecord]
    matrices: Mapping[tuple[str, str], list[np.ndarray]]
    groups: Mapping[tuple[str, str], tuple[str, ...]]
    maps: Sequence[tuple[Evaluation, Evaluation]]

    @classmethod
    def of(cls, group: Sequence[RunRecord], preset: str) -> _Row:
        changed = changed_settings(group[0], preset)
        chosen_from = group[0].tags.get(names.CHOSEN_FROM)
        best = [f"(best of {chosen_from} combinations on dev)"] if chosen_from else []
        found = {where: [e for run in group if (e := evaluation(run, *where))] for where in reported()}
        found = {where: evaluations for where, evaluations in found.items() if evaluations}
        matrices = {where: [e.matrices for e in evaluations] for where, evaluations in found.items()}
        groups = {where: evaluations[0].groups for where, evaluations in found.items()}
        maps = [
            (dev, train)
            for run in group
            if (dev := evaluation(run, "dev", CAM)) and (train := evaluation(run, "train", CAM)) and len(dev.levels)
        ]
        return cls(" ".join([group[0].method, *_changes(changed), *best]), group, matrices, groups, maps)

    def percent(self, figure: tuple[str, str], classes: Sequence[int] | None) -> Percent:
        """A figure over all classes or over some; of score maps at the threshold that is the best for these on dev."""
        matrices = self.matrices[figure]
        if figure == ("train", CAM) and classes is not None and len(self.maps) == len(matrices):
            matrices = [train.at(dev.best_threshold(classes)).matrices for dev, train in self.maps]
        return percent(matrices, classes, self.groups[figure])

    @property
    def supervision(self) -> str:
        return ", ".join(sorted(self.runs[0].supervision)) or "tags"

    @property
    def commits(self) -> list[str]:
        return sorted({run.tags.get(names.GIT_COMMIT, "")[:8] for run in self.runs})


def _changes(settings: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def _identity(dataset: Dataset) -> str:
    splits = ", ".join(f"{split} {len(ids)} (ids `{_hash(ids)}`)" for split, ids in dataset.splits.items())
    background = " and background" if dataset.has_background else ", no background"
    official = dataset.splits.get("train_official", dataset.splits["train"])
    some = f" Figures of train are of the {len(official)} official training images that are not in dev."
    return (
        f"Images: {splits}, the hash being the first 16 digits of the sha256 of the sorted ids, one a line; tags from "
        f"{dataset.tags_source}; {len(dataset.classes)} classes{background}."
        f"{some if len(official) < len(dataset.splits['train']) else ''}"
    )


def _hash(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def _figures(rows: Sequence[_Row], classes: Sequence[int] | None, title: str) -> Table:
    shown = [figure for figure in reported() if any(figure in row.matrices for row in rows)]
    columns = (
        Column("method", wrap=24),
        Column("supervision", rank=2, wrap=14),
        Column("rngs", rank=3, right=True),
        *(Column(f"{what} ({split})", rank=_rank(shown, split, what), wrap=12) for split, what in shown),
        Column("mean FP", rank=4, right=True),
        Column("mean FN", rank=4, right=True),
    )
    lines = []
    for row in rows:
        cells = [str(row.percent(figure, classes)) if figure in row.matrices else "-" for figure in shown]
        errors = ["-", "-"]
        if last := [figure for figure in shown if figure in row.matrices]:
            total = Scores.of(np.sum([m.sum(0, dtype=np.int64) for m in row.matrices[last[-1]]], 0))
            errors = [f"{np.nanmean(e if classes is None else e[list(classes)]):.2f}" for e in (total.fp, total.fn)]
        lines.append([row.name, row.supervision, str(len(row.runs)), *cells, *errors])
    return Table(title, columns, lines)


def _rank(shown: Sequence[tuple[str, str]], split: str, what: str) -> int:
    """The most telling figure of train and of val stays longest."""
    of_split = [figure for figure in shown if figure[0] == split]
    return 1 if (split, what) == of_split[-1] and split != "dev" else 5 + (split == "dev")


def _costs(rows: Sequence[_Row]) -> Table:
    lines = []
    for row in rows:
        seconds = statistics.fmean(sum(_times(run).values()) for run in row.runs)
        memory = max(
            (v for run in row.runs for k, v in run.metrics.items() if k.startswith(metric_names.MEMORY)), default=0
        )
        tags = row.runs[0].tags
        ids = ", ".join(f"`{run.id[:8]}`" for run in row.runs)
        lines.append([row.name, tags.get(names.BACKBONE, ""), tags.get(names.PRETRAINING, ""), f"{seconds:.0f}",
                      f"{memory:.0f}", ids, ", ".join(f"`{commit}`" for commit in row.commits)])  # fmt: skip
    columns = (
        Column("method", wrap=24),
        Column("backbone", rank=2),
        Column("pretraining", rank=3, wrap=16),
        Column("seconds", rank=1, right=True),
        Column("peak memory, MB", rank=4, right=True, wrap=12),
        Column("runs", rank=5, wrap=22),
        Column("commit", rank=1),
    )
    return Table("The runs:", columns, lines)


def _times(run: RunRecord) -> dict[str, float]:
    return {
        k.removeprefix(metric_names.TIME).removesuffix("_s"): v
        for k, v in run.metrics.items()
        if k.startswith(metric_names.TIME)
    }


def _seconds(rows: Sequence[_Row]) -> Table:
    times = [(row.name, _times(row.runs[0])) for row in rows]
    lines = [[name, ", ".join(f"{step} {value:.0f}" for step, value in sorted(steps.items()))] for name, steps in times]
    return Table("Seconds of each step, where it was computed:", (Column("method", wrap=24), Column("seconds")), lines)
