"""From a method's name, a preset and overrides to the list of steps with their settings, checked before any work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import wsss.methods as methods
from wsss.data import Dataset
from wsss.errors import UserError, unknown
from wsss.interface import STAGES, Method, Stage, Step
from wsss.run.preset import PRESETS, Preset, of_preset, read_preset
from wsss.settings import Setting, check_files, flatten, parse, settings_of
from wsss.stages.evaluate import EVALUATIONS

_NAMED = 3
"""So many of a file's bad settings are named."""


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

    @property
    def work(self) -> PlannedStep:
        """The step that is run and kept: itself, or another implementation's that does the same (`Step.twin`)."""
        twin = self.step.twin(self.settings)
        return self if twin is None else replace(self, **vars(twin))

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
    """Decide every setting: default, then preset, then preset file, then override.

    Args:
        method: a method's name.
        preset: one of `PRESETS`, or the path of a preset file.
        overrides: "<stage>.name" or "<stage>.<step>.<setting>" to a value or its text; "weights" stands for the
            weights of every step that would begin with "imagenet".

    Raises:
        UserError: an unknown method, preset, stage, implementation, step or setting (names the known ones), a value
            out of its range, "weights" that no step would take, or a preset file that is not one of this method.
    """
    chosen, begin, own = methods.load(method), read_preset(preset), dict(overrides or {})
    if not begin.file:
        return _plan(chosen, preset, {}, own)
    if begin.method != method:
        raise UserError(
            f"preset file {preset} is of method {begin.method}, not of {method}; name --method {begin.method}, or "
            "another file"
        )
    _check_file(chosen, begin)
    try:
        return _plan(chosen, begin.name, begin.settings, own)
    except UserError as error:
        _plan(chosen, begin.name, {}, own)
        raise UserError(f"preset file {preset} does not fit the other settings: {error}") from None


def check_background(plan: Plan, dataset: Dataset) -> None:
    """Refuse a plan that can't do without a background on a dataset without.

    Raises:
        UserError: says why it can't.
    """
    if not dataset.has_background:
        reasons = [reason for p in plan.steps if (reason := p.step.needs_background(p.settings))]
        if reasons:
            raise UserError(
                f"method {plan.method.name} can't run on {dataset.name}, which has no background: {reasons[0]}"
            )


def _check_file(method: Method, preset: Preset) -> None:
    """Refuse a preset file's settings; where some are wrong, each is tried by itself, so that all of them are known.

    Raises:
        UserError: some are unknown or out of their range; names the first of them and how many more there are.
    """
    values = preset.settings
    wrong = [
        f"{key} is {json.dumps(value)}; a value is text, a number, true, false, null or a list of these"
        for key, value in values.items()
        if any(isinstance(element, dict | list) for element in (value if isinstance(value, list) else [value]))
    ]
    names = {key: value for key, value in values.items() if key in {f"{kind}.name" for kind in STAGES}}
    tried = [] if wrong else [values, names, *({key: value} for key, value in values.items() if key not in names)]
    for some in tried:
        try:
            _plan(method, preset.name, {**names, **some}, {})
        except UserError as error:
            wrong.append(str(error))
            if some is names:
                break
        else:
            if some is values:
                return
    wrong = list(dict.fromkeys(wrong))
    more = f"; and {len(wrong) - _NAMED} more like these" if len(wrong) > _NAMED else ""
    raise UserError(f"preset file {preset.file}: {'; '.join(wrong[:_NAMED])}{more}")


def _plan(chosen: Method, preset: str, own: Mapping[str, Any], overrides: Mapping[str, Any]) -> Plan:
    """The plan of a preset's name, a preset file's own settings, and overrides."""
    layers = [dict(own), dict(overrides)]
    if "weights" in layers[1]:
        layers[0].pop("weights", None)
    stages = _implementations(chosen, layers)
    values = _values(chosen, stages, preset, layers)

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


def _implementations(method: Method, layers: Sequence[dict[str, Any]]) -> dict[str, Stage]:
    """The stages in order, implementations replaced by "<stage>.name" in the layers (which are taken out)."""
    stages = {kind: method.stages[kind] for kind in STAGES if kind in method.stages}
    for kind in STAGES:
        for name in [layer.pop(f"{kind}.name", None) for layer in layers]:
            if name is not None:
                if kind not in stages:
                    raise UserError(f"method {method.name} has no stage {kind}; its stages are {', '.join(stages)}")
                stages[kind] = methods.implementation(kind, str(name))
    return stages


def _values(
    method: Method, stages: Mapping[str, Stage], preset: str, layers: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Step key to {setting: value}: the stages' presets, then the method's, then the layers."""
    chosen: dict[str, Any] = {}
    for kind, stage in stages.items():
        chosen |= {f"{kind}.{key}": value for key, value in of_preset(stage.presets, preset).items()}
    chosen |= of_preset(method.presets, preset)
    steps = [(kind, step) for kind, stage in stages.items() for step in stage.steps]
    for layer in layers:
        if "weights" in layer:
            begins = {f"{kind}.{step.name}.weights": getattr(step.settings, "weights", None) for kind, step in steps}
            meant = {key: layer["weights"] for key, own in begins.items() if chosen.get(key, own) == "imagenet"}
            if not meant:
                raise UserError(
                    f"weights = {layer['weights']} stands for the weights of the steps that would begin with imagenet, "
                    f"of which method {method.name} has none with preset {preset}; set those of a step: "
                    f"{', '.join(key for key, own in begins.items() if own is not None)}"
                )
            chosen |= meant
        chosen |= {key: value for key, value in layer.items() if key != "weights"}
    known = {f"{kind}.{step.name}" for kind, step in steps} | {
        f"evaluate.{what}" for _, s in steps for what in s.outputs
    }
    values: dict[str, dict[str, Any]] = {}
    for key, value in chosen.items():
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
