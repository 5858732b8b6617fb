"""Steps that several trials, or several runs, have in common, each computed once on the cluster: shared ones first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import ray

from tune.measure import parts
from tune.progress import reason
from tune.trial import Surroundings, prepare
from wsss.data import open_dataset
from wsss.errors import UserError
from wsss.progress import ConsoleReporter, say
from wsss.run.cluster import Share
from wsss.run.fingerprints import fingerprints
from wsss.run.method import WORK
from wsss.run.plan import PlannedStep
from wsss.run.steps import StepRunner, choose_device


@dataclass(frozen=True)
class SharedStep:
    """A step, once for all methods and runs that have it.

    Attributes:
        inputs: the fingerprints of its inputs.
        chain: the steps before it and itself, in an order that works.
        rng: the seed of its run.
        wanted: how many want it; what more want comes first.
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


def shared_steps(around: Surroundings) -> dict[str, SharedStep]:
    """By fingerprint: the steps that are run whole and that no searched setting reaches, in an order that works."""
    search = around.search
    dataset, device = open_dataset(search.data), choose_device(search.device)
    found: dict[str, SharedStep] = {}
    for each in search.methods:
        plan = search.plan(each.default)
        head, _ = parts(plan, each.objective)
        known = fingerprints(plan, dataset, search.rng, device)
        chains: dict[str, tuple[PlannedStep, ...]] = {}
        for planned in head:
            before = planned.inputs.values()
            searched = any(key.startswith(f"{planned.key}.") for key in each.space)
            if not searched and all(key in chains for key in before):
                needed = {step.key: step for key in before for step in chains[key]}
                chains[planned.key] = (*needed.values(), planned)
                inputs = frozenset(known[key] for key in before)
                found.setdefault(known[planned.key], SharedStep(inputs, chains[planned.key], search.rng))
    return found


def compute_shared(around: Surroundings, cores: float, gpus: float) -> dict[str, float]:
    """Compute what no searched setting reaches, before the first trial.

    Args:
        around: the search.
        cores: of the largest machine; steps that run at once divide them.
        gpus: of a step that runs a network.

    Returns:
        The seconds of those that were computed, by name.

    Raises:
        UserError: whatever a step refuses.
    """
    computed: dict[str, float] = {}
    for done in compute_steps(around, shared_steps(around), cores, gpus):
        if done.error:
            raise UserError(f"step {done.planned.name}: {done.error}")
        if not done.reused:
            computed[done.planned.name] = done.seconds
            say(f"{done.planned.name}, which the trials share: {done.seconds:.0f} s")
    return computed


def compute_steps(
    around: Surroundings, steps: Mapping[str, SharedStep], cores: float, gpus: float
) -> Iterator[ComputedStep]:
    """Compute steps on the connected cluster, at once those that do not need each other; none after one that failed.

    Args:
        around: whose dataset, device and variables they have.
        steps: by fingerprint.
        cores: of the largest machine; steps that run at once divide them.
        gpus: of a step that runs a network.

    Returns:
        What came of each, as soon as it is known.
    """
    most = max(1, int(ray.cluster_resources().get("CPU", 1)))
    done: set[str] = set()
    begun: set[str] = set()
    running: dict[ray.ObjectRef, str] = {}
    while True:
        ready = [each for each, step in steps.items() if each not in begun and step.inputs <= done]
        ready = sorted(ready, key=lambda each: -steps[each].wanted)[: most - len(running)]
        share = max(1, math.floor(cores / max(1, len(ready) + len(running))))
        for fingerprint in ready:
            step = steps[fingerprint]
            own = replace(around, share=Share(share, around.share.variables))
            wanted = gpus if "network" in step.planned.step.uses else 0
            task = _compute.options(num_cpus=min(share, cores), num_gpus=wanted).remote(own, step.chain, step.rng)
            running[task] = fingerprint
            begun.add(fingerprint)
        if not running:
            return
        [ended], _ = ray.wait(list(running))
        fingerprint = running.pop(ended)
        planned = steps[fingerprint].planned
        try:
            reused, seconds = ray.get(ended)
        except ray.exceptions.RayError as error:
            yield ComputedStep(fingerprint, planned, error=reason(str(error)))
        else:
            done.add(fingerprint)
            yield ComputedStep(fingerprint, planned, reused, seconds)


@ray.remote(max_retries=2)
def _compute(around: Surroundings, chain: tuple[PlannedStep, ...], rng: int) -> tuple[bool, float]:
    """Run the last of the steps; whether it was there already, and its seconds."""
    dataset, search = prepare(around), around.search
    runner = StepRunner(dataset, rng, choose_device(search.device), WORK, wait=True)
    for planned in chain:
        result = runner.run(planned, ConsoleReporter(planned.key))
    return result.reused, result.seconds
