"""What a search saves, and what it costs: steps reused among trials, cores kept busy, the machinery around a step.

The search is the user's, `tune.runner.run_search` on a Ray of this machine's cores with a study and MLflow in SQLite;
what follows the last trial, the comparison with the preset and its whole runs, is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from ray import tune

from benchmarks.common import Row
from tune.budget import Budget
from tune.measure import Measured, Place, StepFact, measure
from tune.runner import SearchResult, run_search
from tune.search import Candidate, SearchPlan, plan_search
from tune.study import PRUNED, TrialRecord
from tune.trial import CANDIDATE, NUMBER, Surroundings, prepare, report_of
from wsss.data import open_dataset
from wsss.data.shapes import make_shapes
from wsss.interface import Step, StepContext
from wsss.process import own_cores
from wsss.progress import ConsoleReporter
from wsss.run.method import WORK
from wsss.run.plan import PlannedStep
from wsss.run.steps import StepRunner, choose_device
from wsss.run.store import MANIFEST
from wsss.settings import setting
from wsss.stream import use_own_cores

TRIALS, FROM_SCRATCH = 24, 3
REUSE_AIM, SHARE_AIM, OVERHEAD_AIM = 8.0, 0.85, 0.95
ROUNDS = 3


def rows() -> Iterator[Row]:
    """All claims, on the built-in shapes with preset demo."""
    with _workspace():
        yield from reuse(plan_search("affinity", "demo", "shapes", keys=("refine.walk", "refine.crf")), TRIALS)
    for seconds, aim in ((10.0, OVERHEAD_AIM), (1.0, None)):
        with _workspace():
            yield overhead(seconds, aim)


def reuse(search: SearchPlan, trials: int, from_scratch: int = FROM_SCRATCH) -> Iterator[Row]:
    """A search against its trials each computed from scratch, and its wall time against that of its steps alone.

    A trial from scratch is what the search's trials compute, every step of it, one trial after the other with all the
    cores there are.

    Args:
        search: of one method, in a workspace without outputs.
        trials: how many it has.
        from_scratch: so many of them are computed, the first, the last and those between at equal distances; what all
            of them would take is extrapolated from their mean.
    """
    started = time.time()
    result = _searched(search, trials)
    wall = ended(result.records) - started
    chosen = [result.records[i] for i in np.linspace(0, trials - 1, from_scratch).round().astype(int)]
    alone = [_from_scratch(search, record.candidate) for record in chosen]
    given_up = sum(record.state == PRUNED for record in result.records)
    ratios = [trials * seconds / wall for seconds in alone]
    low, high = np.quantile(ratios, [0.25, 0.75])
    yield Row(
        f"reuse-{trials}-trials",
        f"a search of {trials} trials over walk and CRF, {given_up} given up early; the trials from scratch, from "
        f"{from_scratch} of them",
        wall,
        trials * float(np.mean(alone)),
        "s",
        trials * float(np.mean(alone)) / wall,
        (float(low), float(high)),
        REUSE_AIM,
    )
    ideal = steps_seconds(WORK / "store") / own_cores()
    yield Row(
        "share-of-ideal",
        "its distinct steps, seconds times their cores, over all cores; its wall time",
        ideal,
        wall,
        "s",
        ideal / wall,
        None,
        SHARE_AIM,
    )


def ended(records: tuple[TrialRecord, ...]) -> float:
    """When the last trial ended, in seconds since 1970."""
    return max(float(record.facts[ENDED]) for record in records)


def steps_seconds(store: Path) -> float:
    """The seconds of all steps in a store, each times the cores that it was given."""
    manifests = [json.loads(path.read_bytes()) for path in store.glob(f"*/*/{MANIFEST}")]
    return float(sum(manifest["seconds"] * manifest["cores"] for manifest in manifests))


ENDED = "ended"
"""The fact of a trial: when its last report came, in seconds since 1970."""


def _searched(search: SearchPlan, trials: int, cores: float | None = None) -> SearchResult:
    """A search up to the end of its last trial."""
    from tune.study import Study

    end = Study.end

    def end_now(self: Study, number: int, *arguments: Any) -> None:
        with suppress(KeyError):  # it has ended before
            self.note(number, **{ENDED: time.time()})
        end(self, number, *arguments)

    with patch("tune.runner.decide", return_value=None), patch.object(Study, "end", end_now):
        return run_search(search, Budget(trials=trials, cpus=cores), quiet=True)


def _from_scratch(search: SearchPlan, candidate: Candidate) -> float:
    """Seconds of a trial where nothing is there yet."""
    use_own_cores()
    objective, dataset = search.of(candidate.method).objective, open_dataset(search.data)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(choose_device(search.device), Path(folder), f"{folder}/store")
        started = time.perf_counter()
        for _ in measure(search.plan(candidate), objective, dataset, search.rng, place, ConsoleReporter):
            pass
        return time.perf_counter() - started


@dataclass(frozen=True)
class Work:
    """The settings of a step that only works."""

    number: int = setting(0, "tells one step from another", low=0)
    rounds: int = setting(1, "how much it works", low=1)


def _work(context: StepContext) -> None:
    """Works in one thread on little memory: how fast it is hangs on nothing but its core."""
    digest, block = hashlib.sha256(), bytes(2**20)
    for _ in range(context.settings.rounds):
        digest.update(block)
    (context.out / "done").write_text("", encoding="utf-8")


def _step(number: int, rounds: int) -> PlannedStep:
    return PlannedStep("refine", "work", Step("work", 1, Work, _work), Work(number, rounds), {})


def overhead(seconds: float, aim: float | None, rounds: int = ROUNDS) -> Row:
    """A step of so many seconds alone, against the same inside a warm trial of a search, one trial at a time.

    A trial's time is that from the end of the trial before to its own end: with all that is written of it, and with
    what passes until the next one begins.
    """
    use_own_cores()
    dataset = open_dataset("shapes")
    runner = StepRunner(dataset, 0, torch.device("cpu"), Path("alone"))

    def alone(number: int, amount: int) -> float:
        started = time.perf_counter()
        runner.run(_step(number, amount), ConsoleReporter("work"))
        return time.perf_counter() - started

    probe = 500
    alone(0, probe)
    amount = max(1, round(probe * seconds / alone(1, probe)))
    before = [alone(2 + number, amount) for number in range(rounds)]
    with (
        patch("tune.runner.compute_shared", return_value={}),
        patch("tune.runner.run_trial", _trial),
        patch.dict(os.environ, {_AMOUNT: str(amount)}),
    ):
        search = plan_search("cam", "demo", "shapes", keys=("refine.crf",), sampler="random", device="cpu")
        result = _searched(search, 1 + 2 * rounds, float(own_cores()))
    ends = sorted(float(record.facts[ENDED]) for record in result.records)
    inside = [float(each) for each in np.diff(ends)]
    own = [*before, *(alone(2 + rounds + number, amount) for number in range(rounds))]
    ratios = [lone / within for lone, within in zip(own, inside, strict=True)]
    low, high = np.quantile(ratios, [0.25, 0.75])
    return Row(
        "trial-overhead" if aim else f"trial-overhead-{seconds:g}s",
        f"a step of {seconds:g} s inside a warm trial; alone",
        median(inside),
        median(own),
        "s",
        median(own) / median(inside),
        (float(low), float(high)),
        aim,
    )


_AMOUNT = "WSSS_BENCH_ROUNDS"


def _trial(config: Mapping[str, Any], around: Surroundings) -> None:
    """What `tune.trial.run_trial` does, with one step that only works."""
    candidate = Candidate(config[CANDIDATE]["method"], config[CANDIDATE]["settings"])
    runner = StepRunner(prepare(around), around.search.rng, torch.device("cpu"), WORK, wait=True)
    planned = _step(config[NUMBER], int(os.environ[_AMOUNT]))
    result = runner.run(planned, ConsoleReporter("work"))
    fact = StepFact(planned.key, planned.name, result.fingerprint, "computed", result.seconds)
    tune.report(report_of(Measured(0.5, None, 1, 1, [fact]), around.search.of(candidate.method).objective.metric))


@contextmanager
def _workspace() -> Iterator[None]:
    """A folder with the built-in shapes, a tracking store of its own, and no outputs yet."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder), patch.dict(os.environ):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        for name in ("MLFLOW_RUN_ID", "WSSS_STORE", "WSSS_STUDIES", "RAY_ADDRESS"):
            os.environ.pop(name, None)
        make_shapes(Path("data", "shapes"))
        yield
