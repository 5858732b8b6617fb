"""What the tests of grids share: quick settings, a dataset, what a grid compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune.__main__ import main
from wsss.data.shapes import make_shapes

FAST = {"localize.train.epochs": "1", "localize.train.crop": "33", "refine.crf.iterations": "0"}
WALK = {"refine.walk.beta": ["2", "4", "8", "16"], "refine.walk.steps": ["16", "64", "256"]}
DEV, TRAIN = "dev/labels_crf/miou", "train/labels_crf/miou"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Scenes of 40 px and two classes."""
    folder = tmp_path_factory.mktemp("grid") / "data" / "little"
    folder.mkdir(parents=True)
    make_shapes(folder, images=16, val_images=2, size=40, classes=2, rng=0)
    return folder


def main_status() -> int:
    """What the command ends with."""
    try:
        return main()
    except SystemExit as ended:
        return int(ended.code or 0)
