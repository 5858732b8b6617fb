"""A picture of 6,000 px through CAM and IAL, and the memory that it takes; one of 2 GB: `make soak`."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image

from wsss.data.folder import add_folder
from wsss.errors import UserError
from wsss.run.plan import make_plan

SIDE, LIMIT_GB = 6000, 6
"""36 million pixels are a large picture; docs/data.md has what 10,000 px took."""
FAST = {
    "epochs": "1", "iterations": "1", "rounds": "1", "pairwise_epochs": "1", "pretrain_epochs": "1", "flip": "false",
}  # fmt: skip
"""What costs time and no memory."""


def settings(method):
    """The settings of preset demo by which time is saved."""
    values = make_plan(method, "demo").settings
    return {key: FAST[name] for key, value in values.items() if (name := key.rpartition(".")[2]) in FAST and value}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A dataset of small scenes, and of a large one in train and in val."""
    root = tmp_path_factory.mktemp("large")
    drawn = layouts.scene(7, 3, main=0, size=500)
    times = SIDE // 500
    image, labels = np.tile(drawn.image, (times, times, 1)), np.tile(drawn.labels, (times, times))
    for number in range(8):
        small = layouts.scene(number, 3, main=number % 3, size=96)
        layouts.save(root / "photos" / f"small_{number}.png", small)
        layouts.save_mask(root / "masks" / f"small_{number}.png", small.labels)
    for name in ("large", "seen"):
        Image.fromarray(image).save(root / "photos" / f"{name}.png", compress_level=1)
        layouts.save_mask(root / "masks" / f"{name}.png", labels)
    names = {"train": ["large", *(f"small_{n}" for n in range(7))], "dev": ["small_7"], "val": ["seen"]}
    (root / "lists").mkdir()
    for split, ids in names.items():
        (root / "lists" / f"{split}.txt").write_text("\n".join(ids) + "\n")
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
@pytest.mark.parametrize("method", ["cam", "ial"])
def test_a_large_picture_goes_through_a_method(pictures, method):
    words = [word for key, value in settings(method).items() for word in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "-m",
        "wsss.cli",
        "run",
        "--offline",
        f"out_{method}",
        "--data",
        "large",
        "--method",
        method,
        *words,
    ]
    measured = f"import resource, subprocess, sys; r = subprocess.run({command!r}); " + (
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(r.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", measured], cwd=pictures, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    peak = int(done.stdout.rpartition("peak ")[2]) / 2**20
    print(f"{method}: {peak:.1f} GB")
    assert peak < LIMIT_GB


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
