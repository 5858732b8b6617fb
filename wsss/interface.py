"""Step, Stage, Method: the interface of every method, and what a running step is handed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wsss.errors import OutOfTimeError

if TYPE_CHECKING:
    import torch

    from wsss.data import Dataset
    from wsss.scores import Masks

STAGES = ("localize", "refine", "segment", "evaluate")
NETWORK, CRF = frozenset({"network"}), frozenset({"crf"})
"""What a step may compute with, whose output depends on the machine: see `Step.uses`."""


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
        inputs: the finished output folder of every step in `Step.inputs`, by the name used there.
        report: what listens.
        masks: the ground truth; None unless the step declares the supervision "masks".
        deadline: when the step has to stop, on the clock of `time.monotonic`. What reports progress is stopped then; a
            step that keeps its work in large pieces asks `time_for` before each.
    """

    settings: Any
    dataset: Dataset
    rng: int
    device: torch.device
    out: Path
    inputs: Mapping[str, Path]
    report: Reporter
    masks: Masks | None = None
    deadline: float = math.inf

    def of_dataset(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that are images of train or dev: a search looks at some images of dev alone."""
        splits = self.dataset.splits
        wanted = {*splits["train"], *splits["dev"]}
        return [image_id for image_id in ids if image_id in wanted]

    def time_for(self, seconds: float) -> None:
        """Stop here, where what was done is kept, if the next piece of work would not end in time.

        Raises:
            OutOfTimeError: `seconds` from now is after the deadline.
        """
        if time.monotonic() + seconds > self.deadline:
            raise OutOfTimeError(f"the next piece of work takes about {seconds:.0f} s, which is more than is left")


@dataclass(frozen=True)
class StepResult:
    """A finished step.

    Attributes:
        key: such as "refine.walk".
        fingerprint: 64 hexadecimal digits.
        folder: the local folder of its output.
        reused: nothing had to be done.
        seconds: what the work took when it was done, with the attempts that were stopped (killed ones are not known).
        peak_memory_mb: on a GPU the most its tensors took within the step, else the most memory its process had used
            when the work was done, in MB.
        metrics: the step's own metrics, such as {"train/loss": 0.1}.
    """

    key: str
    fingerprint: str
    folder: Path
    reused: bool
    seconds: float
    peak_memory_mb: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Picture:
    """What of a step's output is drawn in the panels of a run, besides what is scored.

    Attributes:
        name: under which it stands in panels.
        folder: of the step's output, with score maps or label maps.
        index: draw the score map of this class alone (0 is the background), not the largest.
    """

    name: str
    folder: str
    index: int | None = None


BACKGROUND_SCORES = Picture("background", "scores", 0)


@dataclass(frozen=True)
class Twin:
    """Another implementation's step that does the same work.

    Attributes:
        implementation: its name, such as "cam".
        step: of the same name as the one whose twin it is, in a stage of the same kind.
        settings: its settings object.
    """

    implementation: str
    step: Step
    settings: Any


@dataclass(frozen=True)
class Step:
    """A piece of work that is done once for equal inputs.

    Attributes:
        name: its name within the stage.
        version: raised whenever the outputs change for the same settings; part of the fingerprint.
        settings: the settings class.
        run: does the work, writes into `context.out`.
        inputs: the steps whose outputs are read: the name of an earlier step of the same stage, or an earlier stage's
            name for the output of its last step ("localize" for the score maps, "refine" for the label maps).
        outputs: what of the output is scored against masks and drawn in panels, in `out/<name>/`: names out of
            `wsss.scores.scored.SCORED`, and "rounds" (label maps in `rounds/1/`, `rounds/2/`, ...).
        pictures: what else is drawn.
        metrics: the final metrics that it writes (`write_metrics`) and a search may ask for.
        uses: what it computes with (`NETWORK`, `CRF` or both): "network" where it runs one, on the context's device and
            in the number format that its settings and the device decide; "crf" where it runs a dense CRF, by the
            backend that is installed. These things of the machine are in the step's fingerprint.
        model: its output is the network that is registered and served.
        each_image: what it makes of an image depends on that image and on its inputs, on no other image: it may be run
            on some images alone.
        workers: it is a training that several workers may share, a part of each batch each (`wsss.workers`).
        supervision: what the step sees beyond tags, such as "masks".
        declares: the same, of what depends on its settings, such as an extra dataset.
        check: refuses settings that contradict each other (raises UserError); called before any step runs.
        twin: with these settings another implementation's step does the same: that one is run, found and kept, so that
            methods share it; None: with these settings none does.
        needs_background: why the step can't do with these settings in a dataset without a background; empty: it can.
    """

    name: str
    version: int
    settings: type
    run: Callable[[StepContext], None]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    metrics: tuple[str, ...] = ()
    uses: frozenset[str] = frozenset()
    model: bool = False
    each_image: bool = False
    workers: bool = False
    supervision: frozenset[str] = frozenset()
    declares: Callable[[Any], frozenset[str]] = lambda settings: frozenset()
    check: Callable[[Any], None] = lambda settings: None
    twin: Callable[[Any], Twin | None] = lambda settings: None
    needs_background: Callable[[Any], str] = lambda settings: ""


@dataclass(frozen=True)
class Stage:
    """One implementation of one of the four stages.

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
    """A named choice of an implementation for each stage.

    Attributes:
        name: equals the file's name.
        title: how people call it.
        year: of publication.
        citation: authors, title, venue.
        stages: stage kind to the implementation; a missing kind is skipped.
        presets: preset name to {"<stage>.<step>.<setting>": value}, on top of the stages' own presets.
        summary: what it does, in a sentence or two.
        role: "floor" is what all others are compared with, "bound" what they can reach at most; tables begin and end
            with them.
    """

    name: str
    title: str
    year: int
    citation: str
    stages: Mapping[str, Stage]
    summary: str
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    role: str = ""

    @property
    def needs_background(self) -> str:
        """Why it can't do without a background with its default settings; empty: it can."""
        steps = [step for stage in self.stages.values() for step in stage.steps]
        return "; ".join(filter(None, (step.needs_background(step.settings()) for step in steps)))

    @property
    def supervision(self) -> frozenset[str]:
        """What the method sees beyond tags with its default settings."""
        steps = [step for stage in self.stages.values() for step in stage.steps]
        return frozenset().union(*(step.supervision | step.declares(step.settings()) for step in steps))
