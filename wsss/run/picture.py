"""Score maps of a single picture, which need not be in any dataset, by the localizer that a method has trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsss.commands import command
from wsss.data import Dataset
from wsss.data.score_maps import ScoreMap, ScoreMaps
from wsss.errors import UserError
from wsss.interface import StepContext, StepResult
from wsss.run.plan import Plan, PlannedStep

CAM = "cam"
PICTURE = ".picture.png"
"""A hidden name, which no image of a dataset has."""


@dataclass(frozen=True)
class Localizer:
    """A trained localizer, to be called with one picture after the other.

    Attributes:
        dataset: what it was trained on; localizers that look at related images take them from its training images.
        step: the planned step that makes the score maps.
        inputs: the outputs that the step reads, the trained network among them.
        rng: the seed of what is drawn.
        device: where the network computes.
    """

    dataset: Dataset
    step: PlannedStep
    inputs: Mapping[str, Path]
    rng: int
    device: torch.device

    def __call__(self, image: np.ndarray, tags: Iterable[str]) -> ScoreMap:
        """The score maps of a picture.

        Args:
            image: uint8 H x W x 3, RGB.
            tags: the names of the classes that are in it; none is a background image.

        Returns:
            A map in [0, 1] for each tagged class, float16 K x h x w at the stride of the localizer, with the uint8
            label-map indices of the K maps; some localizers add one of the background, index 0.

        Raises:
            UserError: an image of another type or shape, or a tag that is no class of the dataset.
        """
        check_image(image)
        with tempfile.TemporaryDirectory(prefix="wsss-") as scratch:
            file, out = Path(scratch, PICTURE), Path(scratch, "out")
            Image.fromarray(image).save(file, compress_level=1)
            out.mkdir()
            context = StepContext(
                settings=self.step.settings,
                dataset=self.dataset.with_picture(file, tags),
                rng=self.rng,
                device=self.device,
                out=out,
                inputs=self.inputs,
                report=_Silent(),
            )
            self.step.step.run(context)
            return ScoreMaps(out / CAM).read(file.stem)


def localizer_of(
    plan: Plan, dataset: Dataset, results: Mapping[str, StepResult], rng: int, device: torch.device
) -> Localizer:
    """The localizer of a plan whose stage localize has run.

    Raises:
        UserError: the method makes no score maps.
    """
    step = score_map_step(plan)
    inputs = {name: results[key].folder for name, key in step.inputs.items()}
    return Localizer(dataset, step, inputs, rng, device)


def score_map_step(plan: Plan) -> PlannedStep:
    """The step of a plan that makes the score maps.

    Raises:
        UserError: the method makes none.
    """
    for planned in plan.steps:
        if planned.stage == "localize" and CAM in planned.step.outputs:
            return planned
    raise UserError(
        f"method {plan.method.name} has no localizer, so it makes no score maps; "
        f"`{command('wsss', 'methods')}` lists those that have"
    )


def check_image(image: np.ndarray) -> None:
    """Refuse what is not a picture.

    Raises:
        UserError: it is not uint8 H x W x 3.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"an image is a uint8 H x W x 3 array in RGB, this is {kind}; wsss.read_image reads a file")


class _Silent:
    """A `wsss.interface.Reporter` that nobody reads."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Nothing."""
