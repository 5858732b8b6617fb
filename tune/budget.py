"""What a search may take, and what that comes to on the machines of a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ray import tune

from tune.machines import looked_at
from tune.race import trained_step
from tune.search import SearchPlan
from tune.shared import needs_network
from tune.trial import Surroundings
from wsss.errors import UserError
from wsss.run.cluster import ADDRESS, LOCAL, Machine, Share, Slots

_CORES_A_TRIAL = 1.0


@dataclass(frozen=True)
class Budget:
    """How much a search may take.

    Attributes:
        trials: how many are to end.
        hours: after which it ends; the same search can be continued.
        cpus, gpus: of each trial; by default a core, and one GPU where a trial runs a network on one.
        retries: how often a trial that failed is tried again.
        seeds, top: the best `top` candidates are measured again with `seeds` further rngs.
    """

    trials: int = 20
    hours: float | None = None
    cpus: float | None = None
    gpus: float | None = None
    retries: int = 1
    seeds: int = 0
    top: int = 3


def address_of(ray_address: str | None) -> str:
    """The cluster's address: as given, of RAY_ADDRESS, or "local"."""
    return ray_address or os.environ.get(ADDRESS) or LOCAL


def _share(there: list[Machine], cpus: float | None, gpus: float) -> Share:
    """What a trial is given.

    Raises:
        UserError: no machine has it.
    """
    cores = _CORES_A_TRIAL if cpus is None else cpus
    shown = "; ".join(f"{machine.get('CPU', 0):g} cores, {machine.get('GPU', 0):g} GPUs" for machine in there)
    if not any(machine.get("CPU", 0) >= cores and machine.get("GPU", 0) >= gpus for machine in there):
        raise UserError(f"a trial asks for {cores:g} cores and {gpus:g} GPUs, which no machine has: there is {shown}")
    return Share.of(Slots(cores, 0, 1, shown))


def gpus_wanted(there: list[Machine], search: SearchPlan, budget: Budget) -> float:
    """The GPUs of a trial or step that runs a network."""
    if search.device == "cpu" or not any(machine.get("GPU", 0) for machine in there):
        return 0.0
    return 1.0 if budget.gpus is None else budget.gpus


@contextmanager
def surroundings_of(search: SearchPlan, budget: Budget, address: str, there: list[Machine]) -> Iterator[Surroundings]:
    """What trials are given, on machines that were looked at."""
    gpus = gpus_wanted(there, search, budget)
    of_trials = gpus if any(needs_network(search, each) for each in search.methods) else 0.0
    share = _share(there, budget.cpus, of_trials if budget.gpus is None else budget.gpus)
    around = Surroundings(search, os.getcwd(), share, trained_step(search), gpus=gpus)
    with looked_at(around, address, there) as same:
        yield same


def resources(cores: float, gpus: float) -> tune.PlacementGroupFactory:
    """What Ray is asked for."""
    return tune.PlacementGroupFactory([{"CPU": cores, **({"GPU": gpus} if gpus else {})}])


def at_once(there: list[Machine], cores: float, gpus: float) -> int:
    """How many trials fit on the machines."""
    fits = [
        min(machine.get("CPU", 0) // cores if cores else 1e9, machine.get("GPU", 0) // gpus if gpus else 1e9)
        for machine in there
    ]
    return int(sum(fits))
