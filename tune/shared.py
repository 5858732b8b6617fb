"""The beginnings that all trials of a method share, computed once before the first trial, with all cores there are."""

from __future__ import annotations

import math
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
    """A step, once for all methods that have it: the fingerprints of its inputs, and the steps before it and itself."""

    inputs: frozenset[str]
    chain: tuple[PlannedStep, ...]

    @property
    def planned(self) -> PlannedStep:
        return self.chain[-1]


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
                found.setdefault(known[planned.key], SharedStep(inputs, chains[planned.key]))
    return found


def compute_shared(around: Surroundings, cores: float, gpus: float) -> dict[str, float]:
    """Compute them on the connected cluster, those at once that do not need each other.

    Args:
        around: the search.
        cores: of the largest machine; steps that run at once divide them.
        gpus: of a step that runs a network.

    Returns:
        The seconds of those that were computed, by name.

    Raises:
        UserError: whatever a step refuses.
    """
    steps = shared_steps(around)
    done: set[str] = set()
    running: dict[ray.ObjectRef, str] = {}
    computed: dict[str, float] = {}
    while len(done) < len(steps):
        begun = done.union(running.values())
        ready = [each for each, step in steps.items() if each not in begun and step.inputs <= done]
        share = max(1, math.floor(cores / max(1, len(ready) + len(running))))
        for fingerprint in ready:
            step = steps[fingerprint]
            own = replace(around, share=Share(share, around.share.variables))
            wanted = gpus if "network" in step.planned.step.uses else 0
            task = _compute.options(num_cpus=min(share, cores), num_gpus=wanted).remote(own, step.chain)
            running[task] = fingerprint
        [ended], _ = ray.wait(list(running))
        planned = steps[running[ended]].planned
        try:
            reused, seconds = ray.get(ended)
        except ray.exceptions.RayTaskError as error:
            raise UserError(f"step {planned.name}: {reason(str(error))}") from None
        done.add(running.pop(ended))
        if not reused:
            computed[planned.name] = seconds
            say(f"{planned.name}, which the trials share: {seconds:.0f} s")
    return computed


@ray.remote(max_retries=2)
def _compute(around: Surroundings, chain: tuple[PlannedStep, ...]) -> tuple[bool, float]:
    """Run the last of the steps; whether it was there already, and its seconds."""
    dataset, search = prepare(around), around.search
    runner = StepRunner(dataset, search.rng, choose_device(search.device), WORK, wait=True)
    for planned in chain:
        result = runner.run(planned, ConsoleReporter(planned.key))
    return result.reused, result.seconds
