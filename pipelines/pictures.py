"""The pictures of the method pages, from finished runs of the tracking store: `python -m pipelines.pictures`.

For each method the newest finished run of preset demo as it is, on the built-in shapes with rng 0, gives three of its
panels, as `docs/methods/METHOD.png`. A method that has none is named, with the command that makes one.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import wsss.methods as methods
from wsss import storage
from wsss.commands import command
from wsss.failures import ended
from wsss.run.pictures import stacked
from wsss.run.plan import stands_alone
from wsss.tables.results import changed_settings
from wsss.tracking import names
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import runs

DATA, PRESET, RNG = "shapes", "demo", 0
SCENES = (
    ("train_000001", "train_000004", "train_000006"),
    ("val_000000", "val_000001", "val_000002"),
)
"""Scenes of train; for a run that draws more of unseen scenes, such as the bound's, scenes of val."""
WIDTH = 740
"""Of a picture at most, in px: that of a page."""
LARGEST = 60_000
"""Bytes of a picture."""


def main(arguments: list[str] | None = None) -> int:
    """Write the pictures of all methods that have a run; 1 when one has none."""
    return ended("wsss", lambda: _write(arguments))


def _write(arguments: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.pictures", description="Pictures of the method pages.")
    parser.add_argument("--to", type=Path, default=Path("docs", "methods"), help="the folder they go to")
    folder = parser.parse_args(arguments).to
    plain = (run for run in reversed(runs(DATA)) if (run.preset, run.rng) == (PRESET, RNG))
    newest = {run.method: run.id for run in plain if not changed_settings(run, PRESET)}
    for method, run_id in newest.items():
        storage.write_bytes(folder / f"{method}.png", picture(run_id))
    missing = [method for method in methods.names() if method not in newest and stands_alone(method)]
    for method in missing:
        print(f"{method} has no run: {command('wsss', 'run', '--method', method, '--preset', PRESET)}", file=sys.stderr)
    return int(bool(missing))


def picture(run_id: str) -> bytes:
    """Three panels of a run below each other: a PNG with as many colours as `LARGEST` bytes hold."""
    drawn = max((stacked(_panels(run_id, scenes)) for scenes in SCENES), key=lambda panels: panels.shape[1])
    small = Image.fromarray(drawn)
    small.thumbnail((WIDTH, drawn.shape[0]), Image.Resampling.LANCZOS)
    data = b""
    for colours in (256, 192, 128, 96, 64, 48, 32):
        data = _with_colours(small, colours)
        if len(data) <= LARGEST:
            break
    return data


def _panels(run_id: str, ids: Sequence[str]) -> list[np.ndarray]:
    client = mlflow_client()
    paths = [client.download_artifacts(run_id, names.panel_file(image_id)) for image_id in ids]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def _with_colours(picture: Image.Image, colours: int) -> bytes:
    """A palette PNG."""
    file = io.BytesIO()
    picture.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
