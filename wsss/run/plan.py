"""From a method's name, a preset and overrides to the list of steps with their settings, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import wsss.methods as methods
from wsss.errors import UserError, unknown
from wsss.interface import STAGES, Method, Stage, Step
from wsss.settings import Setting, check_files, flatten, parse, settings_of
from wsss.stages.evaluate import EVALUATIONS

PRESETS = ("demo", "small", "paper")


@dataclass(frozen=True)
class PlannedStep:
    """A step with its settings, and where its inputs come from.

    Attributes:
        stage: the stage's kind, such as "refine".
        implementation: the name of what fills it, such as "affinity".
        step: what is run.
        settings: its settings object.
        inputs: each name in `step.inputs` to the key of the planned step whose output is meant.
    """

    stage: str
    implementation: str
    step: Step
    settings: Any
    inputs: Mapping[str, str]

    @property
    def key(self) -> str:
        """Such as "refine.walk"."""
        return f"{self.stage}.{self.step.name}"

    def check(self) -> None:
        """Refuse settings that can't be, before any step runs.

        Raises:
            UserError: a file that is not there, or settings that contradict each other.
        """
        check_files(self.settings, self.key + ".")
        self.step.check(self.settings)

    @property
    def name(self) -> str:
        """The step's name among those of all methods, such as "refine.affinity.walk"."""
        return f"{self.stage}.{self.implementation}.{self.step.name}"

    @property
    def supervision(self) -> frozenset[str]:
        """What the step sees beyond tags with these settings."""
        return self.step.supervision | self.step.declares(self.settings)


@dataclass(frozen=True)
class Plan:
    """A method with everything decided but the data and the rng."""

    method: Method
    preset: str
    steps: tuple[PlannedStep, ...]

    @property
    def model(self) -> str:
        """The key of the step whose output is the network that is registered; empty without one."""
        return next((planned.key for planned in self.steps if planned.step.model), "")

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, flattened: "<stage>.name" and "<stage>.<step>.<setting>" to JSON-ready values."""
        flat: dict[str, Any] = {}
        for planned in self.steps:
            if planned.stage != "evaluate":
                flat[f"{planned.stage}.name"] = planned.implementation
            flat |= flatten(planned.settings, planned.key + ".")
        return flat

    @property
    def supervision(self) -> frozenset[str]:
        """What the planned steps see beyond tags; scoring is not learning."""
        return frozenset().union(*(p.supervision for p in self.steps if p.stage != "evaluate"))


def make_plan(method: str, preset: str, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Decide every setting: default, then preset, then override.

    Args:
        method: a method's name.
        preset: one of `PRESETS`.
        overrides: "<stage>.name" or "<stage>.<step>.<setting>" to a value or its text; "weights" stands for the
            weights of every step that would begin with "imagenet".

    Raises:
        UserError: an unknown method, preset, stage, implementation, step or setting (names the known ones), a value
            out of its range, or "weights" that no step would take.
    """
    chosen = methods.load(method)
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    overrides = dict(overrides or {})
    stages = _implementations(chosen, overrides)
    values = _values(chosen, stages, preset, overrides)

    steps: list[PlannedStep] = []
    for kind, stage in stages.items():
        for step in stage.steps:
            key = f"{kind}.{step.name}"
            settings = parse(step.settings, values.get(key, {}), key + ".")
            steps.append(PlannedStep(kind, stage.name, step, settings, _inputs(step, kind, steps)))
    for planned in list(steps):
        for what in planned.step.outputs:
            key = f"evaluate.{what}"
            settings = parse(EVALUATIONS[what].settings, values.get(key, {}), key + ".")
            steps.append(PlannedStep("evaluate", "masks", EVALUATIONS[what], settings, {"maps": planned.key}))
    return Plan(chosen, preset, tuple(steps))


def all_settings(method: Method) -> list[Setting]:
    """Every setting of a method with its full key: what tables, help and searches are made from."""
    return [s for p in make_plan(method.name, PRESETS[0]).steps for s in settings_of(p.step.settings, p.key + ".")]


def stands_alone(method: str) -> bool:
    """Whether a method runs with nothing added to its presets; imported labels don't, without their folder.

    Raises:
        UserError: there is no such method.
    """
    plan = make_plan(method, PRESETS[0])
    try:
        for planned in plan.steps:
            planned.check()
    except UserError:
        return False
    return True


def _implementations(method: Method, overrides: dict[str, Any]) -> dict[str, Stage]:
    """The stages in order, implementations replaced by "<stage>.name" overrides (which are taken out)."""
    stages = {kind: method.stages[kind] for kind in STAGES if kind in method.stages}
    for kind in STAGES:
        name = overrides.pop(f"{kind}.name", None)
        if name is not None:
            if kind not in stages:
                raise UserError(f"method {method.name} has no stage {kind}; its stages are {', '.join(stages)}")
            stages[kind] = methods.implementation(kind, str(name))
    return stages


def _values(
    method: Method, stages: Mapping[str, Stage], preset: str, overrides: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Step key to {setting: value}: the stages' presets, then the method's, then the overrides."""
    layers: dict[str, Any] = {}
    for kind, stage in stages.items():
        layers |= {f"{kind}.{key}": value for key, value in stage.presets.get(preset, {}).items()}
    layers |= method.presets.get(preset, {})
    steps = [(kind, step) for kind, stage in stages.items() for step in stage.steps]
    if "weights" in overrides:
        begins = {f"{kind}.{step.name}.weights": getattr(step.settings, "weights", None) for kind, step in steps}
        chosen = {key: overrides["weights"] for key, own in begins.items() if layers.get(key, own) == "imagenet"}
        if not chosen:
            raise UserError(
                f"weights = {overrides['weights']} stands for the weights of the steps that would begin with imagenet, "
                f"of which method {method.name} has none with preset {preset}; set those of a step: "
                f"{', '.join(key for key, own in begins.items() if own is not None)}"
            )
        layers |= chosen
    layers |= {key: value for key, value in overrides.items() if key != "weights"}
    known = {f"{kind}.{step.name}" for kind, step in steps} | {
        f"evaluate.{what}" for _, s in steps for what in s.outputs
    }
    values: dict[str, dict[str, Any]] = {}
    for key, value in layers.items():
        step, _, name = key.rpartition(".")
        if step not in known:
            raise unknown(f"step in setting {key!r}:", step or key, known)
        values.setdefault(step, {})[name] = value
    return values


def _inputs(step: Step, kind: str, earlier: list[PlannedStep]) -> dict[str, str]:
    """Where each of a step's needs comes from.

    Raises:
        UserError: an earlier step that the chosen implementations don't have.
    """
    found: dict[str, str] = {}
    for need in step.inputs:
        candidates = [p for p in earlier if p.key in (need, f"{kind}.{need}") or p.stage == need]
        if not candidates:
            raise UserError(
                f"step {kind}.{step.name} needs the output of {need}, which this combination of implementations does "
                "not have"
            )
        found[need] = candidates[-1].key
    return found
