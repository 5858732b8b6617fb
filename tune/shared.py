"""The beginnings that all trials of a method share, computed once before the first trial, with all cores there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch

from tune.measure import begin, parts, run_step
from tune.progress import reason
from tune.search import Candidate, MethodSearch, SearchPlan
from tune.told import News, told
from tune.trial import Surroundings, prepare
from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.interface import Reporter
from wsss.progress import ConsoleReporter, say
from wsss.run.cluster import Machine
from wsss.run.fingerprints import fingerprints
from wsss.run.plan import PlannedStep
from wsss.run.steps import StepRunner

LOST = "the processes that computed it were lost again and again; look at the machines' memory"


@dataclass(frozen=True)
class SharedStep:
    """A step, once for all that have it.

    Attributes:
        inputs: the fingerprints of its inputs.
        chain: the steps before it, and itself.
        rng: the seed.
        wanted: by how many runs; the step that most want comes first.
    """

    inputs: frozenset[str]
    chain: tuple[PlannedStep, ...]
    rng: int
    wanted: int = 1

    @property
    def planned(self) -> PlannedStep:
        return self.chain[-1]


@dataclass(frozen=True)
class ComputedStep:
    """What came of a step: whether it was there already, its seconds, and why it failed ("" where it did not)."""

    fingerprint: str
    planned: PlannedStep
    reused: bool = False
    seconds: float = 0.0
    error: str = ""


def beginnings(search: SearchPlan, each: MethodSearch) -> set[str]:
    """The steps of a method that no searched setting reaches: all its trials have them alike."""
    head, tail = parts(search.plan(each.default), each.objective)
    found: set[str] = set()
    for planned in (*head, *tail):
        searched = any(key.startswith(f"{planned.key}.") for key in each.space)
        if not searched and found.issuperset(planned.inputs.values()):
            found.add(planned.key)
    return found


def needs_network(search: SearchPlan, each: MethodSearch) -> bool:
    """Whether a trial of a method runs a network itself, beside what all trials share."""
    head, tail = parts(search.plan(each.default), each.objective)
    shared = beginnings(search, each)
    return any("network" in planned.step.uses for planned in (*head, *tail) if planned.key not in shared)


def shared_steps(around: Surroundings) -> dict[str, SharedStep]:
    """By fingerprint: the steps that are run whole and that no searched setting reaches, in an order that works."""
    search = around.search
    dataset, device = open_dataset(search.data), around.place.device
    found: dict[str, SharedStep] = {}
    for each in search.methods:
        plan = search.plan(each.default)
        head, _ = parts(plan, each.objective)
        known = fingerprints(plan, dataset, search.rng, device)
        chains: dict[str, tuple[PlannedStep, ...]] = {}
        shared = beginnings(search, each)
        for planned in head:
            before = planned.inputs.values()
            if planned.key in shared:
                needed = {step.key: step for key in before for step in chains[key]}
                chains[planned.key] = (*needed.values(), planned)
                inputs = frozenset(known[key] for key in before)
                found.setdefault(known[planned.key], SharedStep(inputs, chains[planned.key], search.rng))
    return found


def steps_of_runs(
    search: SearchPlan,
    wanted: Sequence[tuple[Candidate, int]],
    device: torch.device,
    takes: Callable[[PlannedStep], bool],
) -> tuple[dict[str, SharedStep], list[list[str]]]:
    """The steps that runs are made of.

    Args:
        search: what the runs have in common.
        wanted: candidates with their rngs.
        device: of steps that run a network.
        takes: whether a step is one of them; with a step, all that it needs has to be.

    Returns:
        By fingerprint: the steps of all runs, each once; and for each run the fingerprints of its own.
    """
    dataset = open_dataset(search.data)
    steps: dict[str, SharedStep] = {}
    needs: list[list[str]] = []
    for candidate, rng in wanted:
        plan = search.plan(candidate)
        known = fingerprints(plan, dataset, rng, device)
        chains: dict[str, tuple[PlannedStep, ...]] = {}
        for planned in filter(takes, plan.steps):
            before = planned.inputs.values()
            chain = {step.key: step for key in before for step in chains[key]}
            chains[planned.key] = (*chain.values(), planned)
            own = SharedStep(frozenset(known[key] for key in before), chains[planned.key], rng, wanted=0)
            step = steps.setdefault(known[planned.key], own)
            steps[known[planned.key]] = replace(step, wanted=step.wanted + 1)
        needs.append([known[key] for key in chains])
    return steps, needs


def compute_shared(around: Surroundings, there: Sequence[Machine], *, quiet: bool = False) -> dict[str, float]:
    """Compute what no searched setting reaches, before the first trial.

    Args:
        around: the search.
        there: the cluster's machines.
        quiet: say nothing.

    Returns:
        The seconds of those that were computed, by name.

    Raises:
        UserError: whatever a step refuses.
    """
    computed: dict[str, float] = {}
    for done in compute_steps(around, shared_steps(around), there, quiet=quiet):
        if done.error:
            raise UserError(f"step {done.planned.name}: {done.error}")
        if not done.reused:
            computed[done.planned.name] = done.seconds
            if not quiet:
                say(f"{done.planned.name}, which the trials share: {done.seconds:.0f} s")
    if around.gpus:
        _compute_networks(around, there)
    return computed


def compute_steps(
    around: Surroundings,
    steps: Mapping[str, SharedStep],
    there: Sequence[Machine],
    most: float = math.inf,
    *,
    quiet: bool = False,
) -> Iterator[ComputedStep]:
    """Compute steps on the connected cluster, at once those that do not need each other; none after one that failed.

    Args:
        around: whose dataset, device and variables they have.
        steps: by fingerprint.
        there: the cluster's machines; steps that run at once divide the cores of the largest.
        most: cores of a step.
        quiet: do not say how far they are.

    Returns:
        What came of each, as soon as it is known.
    """
    at_once = max(1, int(sum(machine.get("CPU", 0.0) for machine in there)))
    done: set[str] = set()
    begun: set[str] = set()
    running: dict[ray.ObjectRefGenerator, str] = {}
    shown: dict[str, ConsoleReporter] = {}
    while True:
        ready = [each for each, step in steps.items() if each not in begun and step.inputs <= done]
        ready = sorted(ready, key=lambda each: -steps[each].wanted)[: at_once - len(running)]
        for fingerprint in ready:
            step = steps[fingerprint]
            gpus = around.gpus if "network" in step.planned.step.uses else 0.0
            own, cpus = _part(around, there, gpus, len(ready) + len(running), most)
            running[_compute.options(num_cpus=cpus, num_gpus=gpus).remote(own, step.chain, step.rng)] = fingerprint
            begun.add(fingerprint)
        if not running:
            return
        heard: Any = ray.wait(list(running))[0][0]
        fingerprint = running[heard]
        planned = steps[fingerprint].planned
        try:
            news = ray.get(next(heard))
            if isinstance(news, News):
                if not quiet:
                    reporter = shown.setdefault(fingerprint, ConsoleReporter(news.step))
                    reporter.progress(news.done, news.total, news.unit, news.note)
                continue
            running.pop(heard)
            reused, seconds = news
        except ray.exceptions.RayTaskError as error:
            running.pop(heard)
            yield ComputedStep(fingerprint, planned, error=reason(str(error)))
        except ray.exceptions.RayError as error:
            running.pop(heard)
            yield ComputedStep(fingerprint, planned, error=f"{LOST} ({type(error).__name__})")
        else:
            done.add(fingerprint)
            yield ComputedStep(fingerprint, planned, reused, seconds)


def _compute_networks(around: Surroundings, there: Sequence[Machine]) -> None:
    """Where networks ask for GPUs: run them on dev for trials that then need none.

    Raises:
        UserError: whatever a step refuses.
    """
    methods = [each for each in around.search.methods if not needs_network(around.search, each)]
    own, cpus = _part(around, there, around.gpus, len(methods))
    tasks = {
        _begin.options(num_cpus=cpus, num_gpus=around.gpus).remote(own, each.method): each.method for each in methods
    }
    for task, method in tasks.items():
        try:
            ray.get(task)
        except ray.exceptions.RayTaskError as error:
            raise UserError(f"what the trials of {method} share: {reason(str(error))}") from None
        except ray.exceptions.RayError as error:
            raise UserError(f"what the trials of {method} share: {LOST} ({type(error).__name__})") from None


def _part(
    around: Surroundings, there: Sequence[Machine], gpus: float, count: int, most: float = math.inf
) -> tuple[Surroundings, float]:
    """Of the largest machine with so many GPUs, the cores of one of so many tasks: as a share, and as Ray is asked."""
    cores = max((machine.get("CPU", 0.0) for machine in there if machine.get("GPU", 0.0) >= gpus), default=1.0)
    cores = min(cores, most)
    share = max(1, math.floor(cores / max(1, count)))
    return replace(around, share=replace(around.share, cores=share)), min(share, cores)


@ray.remote(max_retries=2)
def _begin(around: Surroundings, method: str) -> None:
    """Run the steps of a method that all its trials share."""
    dataset, search = prepare(around), around.search
    each = search.of(method)
    plan, keys = search.plan(each.default), beginnings(search, each)
    begin(plan, each.objective, dataset, search.rng, around.place, ConsoleReporter, keys)


@ray.remote(max_retries=2)
def _compute(around: Surroundings, chain: tuple[PlannedStep, ...], rng: int) -> Iterator[News | tuple[bool, float]]:
    """Run the last of the steps: how far it is; at last whether it was there already, and its seconds."""

    def work(report: Callable[[str], Reporter]) -> tuple[bool, float]:
        dataset, place = prepare(around), around.place
        runner = StepRunner(dataset, rng, place.device, place.work, wait=True)
        *_, last = (run_step(runner, planned, place, report) for planned in chain)
        return last.how != "computed", last.seconds

    yield from told(work)
