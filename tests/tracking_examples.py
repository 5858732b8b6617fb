"""What the tests of tracking have in common: a run to track, its classes, a step's result, the way to an artifact."""

from pathlib import Path

from wsss.git import GitState
from wsss.interface import StepResult
from wsss.tracking import names
from wsss.tracking.info import DatasetInfo, RunInfo
from wsss.versions import DataVersion

DATA = DataVersion("1" * 32 + ".dir", 48, 1000)
INFO = RunInfo(
    method="affinity",
    preset="demo",
    dataset=DatasetInfo("shapes", "data/shapes", "d" * 64, {"train": 40, "val": 8}, DATA),
    settings={"refine.walk.beta": 8.0, "localize.infer.scales": [1.0, 0.5], "localize.name": "cam", "x.none": None},
    supervision=frozenset({"saliency", "masks"}),
    rng=3,
    fingerprint="f" * 64,
    group="a" * 64,
    git=GitState("c" * 40, True),
    command="wsss run --method affinity",
    tags={names.BACKBONE: "tiny"},
)
CLASSES = ("background", "cat", "traffic light/red*")


def step(key="localize.train", **metrics):
    return StepResult(key, "e" * 64, Path(), False, 12.5, 900.0, metrics)


def artifact(client, run_id, path):
    return Path(client.download_artifacts(run_id, path)).read_bytes()
