"""Ablations: what runs gave that differ in a setting or two, a row for each combination, over their rngs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import mean, stdev
from typing import Any

from wsss.errors import UserError, unknown
from wsss.scores import metric_names
from wsss.tracking import names
from wsss.tracking.query import RunRecord

Kind = tuple[str, str, str]
"""Dataset, method and preset of runs, which then differ in settings alone."""
_SCORES = (f"/{metric_names.MIOU}", metric_names.TAGS_MAP)
_PAIRED = 6
"""Among so many keys, those with most values, the most telling pair is looked for."""


@dataclass(frozen=True)
class Row:
    """A combination of settings with what its runs gave.

    Attributes:
        settings: the values of the keys that are compared; None where the method lacks the setting.
        rngs: of the runs that ended well.
        runs: their ids.
        values: those of each metric, in the order of `rngs`.
        intervals: of some metrics the two ends of a bootstrap interval over images, in [0, 1].
    """

    settings: Mapping[str, Any]
    rngs: tuple[int, ...]
    runs: tuple[str, ...]
    values: Mapping[str, tuple[float, ...]]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def setting(self, key: str) -> Any:
        """The value of a key, as one that can be a key itself."""
        return hashable(self.settings[key])

    def mean(self, metric: str) -> float:
        """NaN where no run has it."""
        return mean(self.values[metric]) if self.values[metric] else math.nan

    def deviation(self, metric: str) -> float:
        """The sample's standard deviation over rngs; NaN with fewer than two."""
        return stdev(self.values[metric]) if len(self.values[metric]) > 1 else math.nan

    def text(self, metric: str) -> str:
        """Such as "61.3 ± 0.4 [60.1, 62.5]", in percent where it is a mean IoU; the interval where there is one."""
        if math.isnan(self.mean(metric)):
            return "-"
        scale, digits = (100, 1) if is_miou(metric) else (1, 4)
        deviation = "" if math.isnan(self.deviation(metric)) else f" ± {scale * self.deviation(metric):.{digits}f}"
        ends = [f"{scale * end:.{digits}f}" for end in self.intervals.get(metric, ())]
        return f"{scale * self.mean(metric):.{digits}f}{deviation}" + (f" [{', '.join(ends)}]" if ends else "")


def label(metric: str) -> str:
    """A metric for people: "dev/labels_crf mIoU"; what is of train is marked as analysis."""
    text = metric.removesuffix(f"/{metric_names.MIOU}") + (" mIoU" if is_miou(metric) else "")
    return f"{text} (analysis)" if metric.startswith("train/") and is_miou(metric) else text


def shown(value: Any) -> str:
    """A value for people."""
    if isinstance(value, list | tuple):
        return ",".join(map(shown, value))
    if isinstance(value, bool) or not isinstance(value, float):
        return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return f"{value:g}"


def is_miou(metric: str) -> bool:
    """Whether a metric is a mean IoU, which people read in percent."""
    return metric.endswith(f"/{metric_names.MIOU}")


def hashable(value: Any) -> Any:
    """A setting's value as one that can be a key."""
    return tuple(value) if isinstance(value, list) else value


def in_order(values: Iterable[Any]) -> list[Any]:
    """The different ones: numbers by size, everything else as they came."""
    found = list(dict.fromkeys(values))
    return sorted(found) if all(type(value) in (int, float) for value in found) else found


def parsed(text: str) -> Any:
    """A setting out of a run's params, where text stands as it is and everything else as JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Base:
    """Runs that differ in the keys that are compared, and in the rng, alone.

    Attributes:
        records: newest first.
        settings: what of the other settings tells them from other bases, as text.
        data: the version of the dataset.
    """

    records: tuple[RunRecord, ...]
    settings: Mapping[str, str]
    data: str

    def combinations(self, keys: Sequence[str]) -> set[tuple[str, ...]]:
        """The different values of the keys, as text."""
        return {tuple(record.params[key] for key in keys) for record in self.records}

    def rows(self, keys: Sequence[str], metrics: Sequence[str]) -> list[Row]:
        """A row for each combination: of its newest group, since runs of older ones had other versions of steps."""
        groups: dict[tuple[str, ...], str] = {}
        cells: dict[tuple[str, ...], dict[int, RunRecord]] = defaultdict(dict)
        for record in self.records:
            where = tuple(record.params[key] for key in keys)
            if groups.setdefault(where, record.group) == record.group:
                before = cells[where].get(record.rng)
                # Of several with one rng the newest of those that went farthest.
                if before is None or len(record.metrics) > len(before.metrics):
                    cells[where][record.rng] = record
        rows = []
        for where, by_rng in cells.items():
            own = [by_rng[rng] for rng in sorted(by_rng)]
            values = {metric: tuple(run.metrics[metric] for run in own if metric in run.metrics) for metric in metrics}
            settings = {key: parsed(text) for key, text in zip(keys, where, strict=True)}
            rows.append(Row(settings, tuple(run.rng for run in own), tuple(run.id for run in own), values))
        orders = {key: in_order(row.setting(key) for row in rows) for key in keys}
        return sorted(rows, key=lambda row: [orders[key].index(row.setting(key)) for key in keys])


@dataclass(frozen=True)
class Runs:
    """Runs of one method and preset on one dataset, and the settings in which some of them differ.

    Attributes:
        kind: dataset, method and preset.
        records: finished, newest first.
        varied: the values, in order, of each key that has several.
    """

    kind: Kind
    records: tuple[RunRecord, ...]
    varied: Mapping[str, Sequence[Any]]

    @property
    def metrics(self) -> list[str]:
        """What can be compared: scores on dev, those of the label maps first; val is nobody's to choose by."""
        known = {name for record in self.records for name in record.metrics if name.startswith("dev/")}
        first = metric_names.metric("dev", "labels_crf", metric_names.MIOU)
        return sorted((name for name in known if name.endswith(_SCORES)), key=lambda name: (name != first, name))

    def bases(self, keys: Sequence[str], metric: str) -> list[Base]:
        """The sets of runs that have a metric and differ in these keys alone, the one with most combinations first."""
        others = [key for key in self.varied if key not in keys]
        found: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
        for record in self.records:
            if metric in record.metrics and all(key in record.params for key in keys):
                same = (record.tags.get(names.DATA_MD5, ""), *(record.params.get(key, "") for key in others))
                found[same].append(record)
        bases = [Base(tuple(own), dict(zip(others, same[1:], strict=True)), same[0]) for same, own in found.items()]
        several = [base for base in bases if len(base.combinations(keys)) > 1]
        return sorted(several, key=lambda base: -len(base.combinations(keys)))

    def telling_keys(self, metric: str) -> tuple[str, ...]:
        """The key, or the two, with most combinations of which there are runs; none where nothing varies."""
        counts: dict[tuple[str, ...], int] = {(key,): self._most(metric, key) for key in self.varied}
        telling = sorted((keys for keys, count in counts.items() if count > 1), key=lambda keys: -counts[keys])
        for pair in combinations([key for keys in telling[:_PAIRED] for key in keys], 2):
            counts[pair] = self._most(metric, *pair)
        best: tuple[str, ...] = max(counts, key=lambda keys: (counts[keys], -len(keys)), default=())
        return best if best and counts[best] > 1 else ()

    def _most(self, metric: str, *keys: str) -> int:
        return max((len(base.combinations(keys)) for base in self.bases(keys, metric)), default=0)


def kinds(records: Iterable[RunRecord]) -> dict[Kind, Runs]:
    """The kinds of finished runs that differ in a setting, the one with most runs first.

    Runs that are a part of another, such as the trials of a search, are left out.
    """
    found: dict[Kind, list[RunRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.start, reverse=True):
        if record.status == "FINISHED" and names.MLFLOW_PARENT not in record.tags:
            found[record.dataset, record.method, record.preset].append(record)
    kinds = {}
    for kind, own in sorted(found.items(), key=lambda each: -len(each[1])):
        texts: dict[str, dict[str, None]] = defaultdict(dict)
        for record in own:
            for key, text in record.params.items():
                texts[key][text] = None
        varied = {key: in_order(hashable(parsed(text)) for text in each) for key, each in texts.items()}
        several = {key: values for key, values in varied.items() if len(values) > 1}
        if several:
            kinds[kind] = Runs(kind, tuple(own), several)
    return kinds


def check_keys(runs: Runs, keys: Sequence[str]) -> None:
    """Refuse keys that can't be compared.

    Raises:
        UserError: more than two, or one that does not vary among the runs (names those that do).
    """
    if not 1 <= len(keys) <= 2 or len(set(keys)) < len(keys):
        raise UserError(f"an ablation is over one setting or two different ones, not over {', '.join(keys)}")
    for key in keys:
        if key not in runs.varied:
            raise unknown("setting that varies", key, list(runs.varied))
