"""A large picture through every method: seconds, memory and seams; a PNG of 2 GB: `make soak`."""

import json
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch
from PIL import Image

from wsss.data import open_dataset
from wsss.data.folder import add_folder
from wsss.data.label_maps import LabelMaps
from wsss.errors import UserError
from wsss.methods import names
from wsss.progress import ConsoleReporter
from wsss.run.plan import make_plan
from wsss.run.steps import StepRunner

SIDE = int(os.environ.get("WSSS_LARGE_SIDE", "6000"))
"""36 million pixels are a large picture already; docs/data.md has what 10,000 px took."""
LIMIT_GB = 6
PERIOD = 1000
"""Of the picture, in px: at the same cells of a network there is the same."""
FAST = {
    "epochs": "15", "iterations": "1", "rounds": "1", "pairwise_epochs": "1", "pretrain_epochs": "1", "flip": "false",
    "scales": "1",
}  # fmt: skip
"""What costs time and little memory."""
OF_THE_WHOLE = ("mcis", "deep_clustering")
"""Their maps are of the picture warped to a square, or of regions, and don't repeat as it does."""
METHODS = [name for name in names() if name != "imported"]


def measure(method):
    """Run the steps of a method that are its own, CAM's with segmenter and figures; print what each took."""
    known = make_plan(method, "demo").settings
    changes = {key: FAST[name] for key, value in known.items() if (name := key.rpartition(".")[2]) in FAST and value}
    runner = StepRunner(open_dataset("large"), 0, torch.device("cpu"), Path("work"))
    for planned in make_plan(method, "demo", changes).steps:
        if planned.stage in ("segment", "evaluate") and method not in ("cam", "bound"):
            continue
        clock, cpu = time.perf_counter(), time.process_time()
        folder = runner.run(planned, ConsoleReporter(planned.key)).folder
        took = {"step": planned.key, "s": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        made = [LabelMaps(index.parent) for index in folder.glob("*/index.json") if is_of_labels(index)]
        seams = {maps.folder.name: unequal(maps) for maps in made if "large" in maps}
        shown = {maps.folder.name: len(np.unique(maps.read("large"))) for maps in made if "large" in maps}
        print("took", json.dumps({**took, "gb": peak, "seams": seams, "shown": shown}), flush=True)


def is_of_labels(index):
    return "label" in json.loads(index.read_text())["format"]


def unequal(maps):
    """Of the large picture's labels the share that is another a period further on, a period away from the border."""
    inner = maps.read("large")[PERIOD:-PERIOD, PERIOD:-PERIOD]
    return float(max((inner[PERIOD:] != inner[:-PERIOD]).mean(), (inner[:, PERIOD:] != inner[:, :-PERIOD]).mean()))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A dataset of small scenes in train, and of a large picture in dev: a scene of 500 px, repeated."""
    root = tmp_path_factory.mktemp("large")
    drawn = layouts.scene(7, 3, main=0, size=500)
    times = SIDE // 500
    for number in range(12):
        small = layouts.scene(number, 3, main=number % 3, size=96)
        layouts.save(root / "photos" / f"small_{number}.png", small)
        layouts.save_mask(root / "masks" / f"small_{number}.png", small.labels)
    Image.fromarray(np.tile(drawn.image, (times, times, 1))).save(root / "photos" / "large.png", compress_level=1)
    layouts.save_mask(root / "masks" / "large.png", np.tile(drawn.labels, (times, times)))
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("".join(f"small_{n}\n" for n in range(12)))
    (root / "lists" / "dev.txt").write_text("large\n")
    (root / "classes.txt").write_text("\n".join(layouts.TISSUES))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        add_folder(
            root / "photos", "large", tags="masks", masks="masks", lists=root / "lists",
            class_list=root / "classes.txt", max_disagreement=1.0,
        )  # fmt: skip
    return root


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("method", METHODS)
def test_a_large_picture_goes_through_a_method(pictures, method):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); "
    command = [sys.executable, "-c", f"{code}import test_large_pictures; test_large_pictures.measure({method!r})"]
    done = subprocess.run(command, cwd=pictures, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line.removeprefix("took ")) for line in done.stdout.splitlines() if line.startswith("took ")]
    for step in steps:
        print(f"{method} {step['step']}: {step['s']:.0f} s, {step['cpu']:.0f} of a core; {step['gb']:.1f} GB; ", end="")
        print(*(f"{name}: {step['shown'][name]} labels, {share:.1e} unequal" for name, share in step["seams"].items()))
    assert max(step["gb"] for step in steps) < LIMIT_GB
    if method not in OF_THE_WHOLE:
        assert all(share < 0.01 for step in steps for share in step["seams"].values())


@pytest.mark.soak
@pytest.mark.parametrize(
    ("side", "said"),
    [(30_000, "more than 178,956,970 pixels, as no image may; cut it"), (10_000, "broken data stream")],
)
def test_a_png_of_2_gb_is_refused_in_one_sentence(side, said, tmp_path, monkeypatch):
    """A header of many pixels, or of some, and 2 GB of nothing behind it."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        layouts.save(Path("photos", f"{number}.png"), layouts.scene(number))
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    with open("photos/big.png", "wb") as file:
        file.write(start + struct.pack(">I", 2**31 - 1) + b"IDAT")
        file.truncate(2**31)
    Path("tags.csv").write_text("image,labels\nbig.png,cat\n" + "".join(f"{n}.png,cat\n" for n in range(6)))
    with pytest.raises(UserError) as refused:
        add_folder(Path("photos"), "pets", tags="tags.csv")
    assert "big.png can't be read (" in str(refused.value) and said in str(refused.value)
    assert not Path("data/pets").exists()
