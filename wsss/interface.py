"""Step, Stage, Method: the interface every method fills, and what a running step is handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from wsss.data import Dataset
    from wsss.evaluation import Masks

STAGES = ("localize", "refine", "segment", "evaluate")


class Reporter(Protocol):
    """What listens to a running step: the console, a tracking server, a search. Decided by whoever runs it."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name, such as {"train/loss": 0.7}, at an iteration."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """`done` of `total` units of work are behind us; `note` is a short text such as a loss."""


@dataclass(frozen=True)
class StepContext:
    """All that a step may know.

    Attributes:
        settings: the step's own settings object.
        dataset: images and tags, never masks.
        rng: the seed of this step's random numbers, derived from the run's rng and the step's key.
        device: where tensors live.
        out: an empty folder, or one holding what an interrupted run of the same step left; becomes the output.
        inputs: the finished output folder of every step in `Step.needs`, by the name used there.
        report: what listens.
        masks: the ground truth; None unless the step declares the supervision "masks".
    """

    settings: Any
    dataset: Dataset
    rng: int
    device: torch.device
    out: Path
    inputs: Mapping[str, Path]
    report: Reporter
    masks: Masks | None = None


@dataclass(frozen=True)
class Step:
    """A piece of work that is done once for equal inputs.

    Attributes:
        name: its name within the stage.
        version: raised whenever the outputs change for the same settings; part of the fingerprint.
        settings: the settings class.
        run: does the work, writes into `context.out`.
        needs: the steps whose outputs are read: the name of an earlier step of the same stage, or an earlier stage's
            name for the output of its last step ("localize" for the score maps, "refine" for the label maps).
        gives: what of the output can be scored against masks, in `out/<name>/`: names out of "cam", "labels",
            "labels_crf", "rounds" (label maps in `rounds/1/`, `rounds/2/`, ...), "pred", "pred_crf", and "direct",
            "direct_crf" of a localizer that predicts without tags.
        supervision: what the step sees beyond tags, such as "masks".
        declares: the same, of what depends on its settings, such as an extra dataset.
        check: refuses settings that contradict each other (raises UserError); called before any step runs.
    """

    name: str
    version: int
    settings: type
    run: Callable[[StepContext], None]
    needs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    supervision: frozenset[str] = frozenset()
    declares: Callable[[Any], frozenset[str]] = lambda settings: frozenset()
    check: Callable[[Any], None] = lambda settings: None


@dataclass(frozen=True)
class Stage:
    """One filling of one of the four stages.

    Attributes:
        kind: one of `STAGES`.
        name: the name used in `--set <kind>.name=...`.
        steps: in the order they run; the last one's output is the stage's.
        presets: preset name to {"<step>.<setting>": value}.
    """

    kind: str
    name: str
    steps: tuple[Step, ...]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A named filling of the stages.

    Attributes:
        name: equals the file's name.
        title: how people call it.
        year: of publication.
        citation: authors, title, venue.
        stages: stage kind to the filling; a missing kind is skipped.
        presets: preset name to {"<stage>.<step>.<setting>": value}, on top of the stages' own presets.
        summary: what it does, in a sentence or two.
    """

    name: str
    title: str
    year: int
    citation: str
    stages: Mapping[str, Stage]
    summary: str
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def supervision(self) -> frozenset[str]:
        """What the method sees beyond tags with its default settings."""
        steps = [step for stage in self.stages.values() for step in stage.steps]
        return frozenset().union(*(step.supervision | step.declares(step.settings()) for step in steps))
