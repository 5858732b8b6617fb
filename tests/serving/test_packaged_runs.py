"""What a run registers: it predicts as the run's table says, and its card says what it is."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from served_examples import WITHOUT_WSSS

from wsss.data import open_dataset
from wsss.data.described import described, facts, longer_sides
from wsss.errors import UserError


@pytest.fixture(scope="module")
def package(workspace):
    """The folder of the package that the run of the workspace registered."""
    found = (workspace.root / "mlruns").rglob("MLmodel")
    (its,) = (path for path in found if workspace.run_id in path.read_text(encoding="utf-8"))
    return its.parent


def test_the_runs_pred_and_its_model_are_one_number(workspace):
    address = next(word for word in workspace.log.split() if word.startswith("models:/"))
    assert "it predicts as `pred` above" in workspace.log
    out = json.loads(workspace.command("evaluate", address, "--data", "shapes", "--split", "val", "--json").stdout)
    row = next(line for line in workspace.log.splitlines() if "│ pred " in line and "│ val" in line)
    assert f"{out['miou']:.1%}" in row


def test_the_package_knows_the_sizes_and_the_scales_of_its_run(package):
    inference = json.loads((package / "model.json").read_text())["inference"]
    assert inference == {"sides": [64, 64], "scales": [0.75, 1.0, 1.25], "flip": True, "crf": None}


def test_the_card_says_what_it_is_made_of_how_good_it_is_and_what_its_scales_cost(package, workspace):
    card = (package / "README.md").read_text()
    for text in (
        "Supervision: image-level tags;",
        "Label maps, DVC version: `",
        "Code, commit: `",
        f"run `{workspace.run_id}`",
        "scales 0.75, 1, 1.25; mirrored copies; without a CRF. The longer sides of its training images are 64 px",
        "| class | dev, IoU in % | val, IoU in % |",
        "times as long as one scale without mirrored copies, and changes the mean IoU from",
        "Not for decisions about people",
    ):
        assert text in card, text
    background = next(line for line in card.splitlines() if line.startswith("| background | "))
    assert background.count(" to ") == 2


def test_a_dataset_of_a_record_knows_its_sizes(tiny_shapes):
    content = facts(tiny_shapes)
    assert longer_sides(tiny_shapes) == (64, 64)
    assert longer_sides(described(json.loads(json.dumps(content)), "a record")) == (64, 64)
    del content["sides"]
    assert longer_sides(described(content, "an older record")) is None
    with pytest.raises(UserError, match="sides must be two lengths"):
        described(content | {"sides": [9, 5]}, "a record")


def test_the_model_needs_torch_and_mlflow_alone(package, workspace, tmp_path):
    """The pyfunc model answers the same, bit for bit, where wsss can't be imported."""
    dataset = open_dataset(workspace.root / "data" / "shapes")
    image = dataset.image(dataset.splits["val"][0])
    np.save(tmp_path / "image.npy", image)
    program = (
        WITHOUT_WSSS
        + """
import mlflow.pyfunc, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
np.save("labels.npy", model.predict(np.load("image.npy")[None]))
"""
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", program, str(package)], cwd=tmp_path, check=True, env=environment)
    from wsss.serving.package import load_package

    assert np.array_equal(np.load(tmp_path / "labels.npy")[0], load_package(str(package))(image))
    requirements = (package / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in requirements] == ["mlflow", "numpy", "torch"]
