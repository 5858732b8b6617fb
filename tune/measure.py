"""What settings are worth: the objective's metric on dev, with nothing computed that it does not need.

The steps before the objective fall into two parts. What learns, and all that it needs, sees the training images and is
run whole. What comes after it makes something of each image by itself, and is run on the images of dev alone, some at a
time, so that settings that turn out to be worse can be given up early. Both parts are steps like any other: what was
computed with equal inputs is reused, and of several processes one computes a step while the others wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tune.objective import SPLIT, Objective
from wsss.data import Dataset
from wsss.errors import UserError
from wsss.interface import Reporter
from wsss.run.plan import Plan, PlannedStep
from wsss.run.steps import StepRunner
from wsss.run.store import StepStore
from wsss.scores import Evaluation, Masks
from wsss.scores.evaluation import joined
from wsss.stages.evaluate import read_evaluations

PIECES, SMALLEST_PIECE = 5, 8
"""Into about so many pieces dev is divided, of at least so many images."""
WAITED_S = 1.0
"""A step that was found only after so long was being computed by another trial."""


@dataclass(frozen=True)
class StepFact:
    """A step of a trial: "computed", "reused", or "waited" for while another trial computed it; its seconds."""

    key: str
    name: str
    fingerprint: str
    how: str
    seconds: float


@dataclass
class Measured:
    """What is known of settings so far.

    Attributes:
        value: the objective's metric on the images so far.
        evaluation: their confusion matrices, where the metric is made of them.
        images, of: so many of the images of dev.
        steps: what was done for it.
    """

    value: float
    evaluation: Evaluation | None
    images: int
    of: int
    steps: list[StepFact] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Every image of dev is in it."""
        return self.images == self.of

    @property
    def seconds(self) -> float:
        """What all the steps took when they were computed."""
        return sum(step.seconds for step in self.steps)

    @property
    def saved(self) -> float:
        """What the steps took that were not computed anew."""
        return sum(step.seconds for step in self.steps if step.how != "computed")


@dataclass(frozen=True)
class Place:
    """Where steps are run.

    Attributes:
        device: of steps that run a network, on whichever machine: fingerprints follow it.
        work: the local folder.
        store: of their outputs.
        gpu: this machine has the GPU that `device` may ask for; one that has not runs the other steps.
    """

    device: torch.device
    work: Path = Path("work")
    store: str = ""
    gpu: bool = True

    @property
    def here(self) -> str:
        """The device of this process: that one, or "cpu" without the GPU."""
        return self.device.type if self.gpu else "cpu"


def parts(plan: Plan, objective: Objective) -> tuple[list[PlannedStep], list[PlannedStep]]:
    """The steps that the objective needs: those to run whole, and those to run on dev alone."""
    steps = {planned.key: planned for planned in plan.steps}

    def needed(keys: set[str]) -> set[str]:
        before = {key for name in keys for key in steps[name].inputs.values()}
        return keys | needed(before) if before else keys

    wanted = needed({objective.step})
    whole = needed({key for key in wanted if not steps[key].step.each_image and steps[key].stage != "evaluate"})
    head = [planned for planned in plan.steps if planned.key in whole]
    return head, [planned for planned in plan.steps if planned.key in wanted - whole]


def pieces(plan: Plan, objective: Objective, dataset: Dataset) -> list[tuple[str, ...]]:
    """The images of dev, divided: shuffled where the metric is a sum over images, else all at once."""
    evaluated = next(planned for planned in plan.steps if planned.key == objective.step)
    if evaluated.stage != "evaluate":
        return [dataset.splits[SPLIT]]
    ids = Masks(dataset).ids(SPLIT)
    if evaluated.step.name == "cam":  # the threshold is chosen on all of them
        return [ids]
    count = max(1, min(PIECES, len(ids) // SMALLEST_PIECE))
    shuffled = np.random.default_rng(0).permutation(len(ids))
    return [tuple(ids[i] for i in part) for part in np.array_split(shuffled, count)]


def measure(
    plan: Plan, objective: Objective, dataset: Dataset, rng: int, place: Place, report: Callable[[str], Reporter]
) -> Iterator[Measured]:
    """The objective of a plan's settings, again after each piece of dev; a step is never computed twice.

    Args:
        plan: the method with its settings.
        objective: what is measured.
        dataset: of which masks are looked at for dev alone, save by a method that learns from masks.
        rng: the seed.
        place: where.
        report: from a step's key to who hears its metrics and progress.

    Raises:
        UserError: whatever a step refuses.
    """
    head, tail = parts(plan, objective)
    runner = StepRunner(dataset, rng, place.device, place.work, place.store, wait=True)
    facts = [run_step(runner, planned, place, report) for planned in head]
    if not tail:
        value = runner.results[objective.step].metrics[objective.metric]
        yield Measured(value, None, 1, 1, facts)
        return
    divided = pieces(plan, objective, dataset)
    evaluations: list[Evaluation] = []
    for number, ids in enumerate(divided, 1):
        some = _on_some(runner, ids)
        facts = [*facts, *(run_step(some, planned, place, report) for planned in tail)]
        result = some.results[objective.step]
        seen = sum(map(len, divided[:number])), sum(map(len, divided))
        if objective.metric in result.metrics:
            yield Measured(result.metrics[objective.metric], None, *seen, facts)
        else:
            evaluations.append(read_evaluations(result.folder)[SPLIT])
            so_far = joined(SPLIT, evaluations)
            yield Measured(so_far.scores.miou, so_far, *seen, facts)


def begin(
    plan: Plan,
    objective: Objective,
    dataset: Dataset,
    rng: int,
    place: Place,
    report: Callable[[str], Reporter],
    keys: Collection[str],
) -> list[StepFact]:
    """Compute some of the steps that `measure` would: what they take as inputs has to be among them."""
    head, tail = parts(plan, objective)
    runner = StepRunner(dataset, rng, place.device, place.work, place.store, wait=True)
    facts = [run_step(runner, planned, place, report) for planned in head if planned.key in keys]
    some = [_on_some(runner, ids) for ids in pieces(plan, objective, dataset)] if tail else []
    return facts + [run_step(each, planned, place, report) for each in some for planned in tail if planned.key in keys]


def _on_some(runner: StepRunner, ids: Sequence[str]) -> StepRunner:
    """Like a runner that has run the head, for the tail on some images of dev."""
    return replace(runner, dataset=runner.dataset.only(SPLIT, ids), results=dict(runner.results))


def run_step(runner: StepRunner, planned: PlannedStep, place: Place, report: Callable[[str], Reporter]) -> StepFact:
    """Run a step.

    Raises:
        UserError: it runs a network, nobody computed it, and this machine lacks the GPU for it.
    """
    started = time.monotonic()
    if place.device.type == "cuda" and not place.gpu:
        store = StepStore(runner.store, runner.work / "cache")
        if "network" not in planned.step.uses:
            runner = replace(runner, device=torch.device("cpu"))
        elif store.manifest(planned.work.name, runner.fingerprint(planned)) is None:
            raise UserError(f"step {planned.key} runs a network on a GPU, and this process was given none")
    result = runner.run(planned, report(planned.key))
    how = "computed" if not result.reused else "waited" if time.monotonic() - started > WAITED_S else "reused"
    return StepFact(planned.key, planned.name, result.fingerprint, how, result.seconds)


def facts_of(measured: Measured) -> list[dict[str, Any]]:
    """The steps of a trial as JSON has them; of a step that was run in pieces, one fact, with what it computed."""
    found: dict[str, dict[str, Any]] = {}
    order = {"reused": 0, "waited": 1, "computed": 2}
    for step in measured.steps:
        fact: Mapping[str, Any] = found.get(
            step.key, {"how": "reused", "seconds": 0.0, "fingerprints": [], "computed": []}
        )
        found[step.key] = {
            "key": step.key,
            "how": max(fact["how"], step.how, key=order.__getitem__),
            "seconds": fact["seconds"] + step.seconds,
            "fingerprints": [*fact["fingerprints"], step.fingerprint],
            "computed": [*fact["computed"], *([step.fingerprint] if step.how == "computed" else [])],
        }
    return list(found.values())
