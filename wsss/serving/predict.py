"""A folder of images through a model, on all cores, a GPU or a cluster; what was interrupted goes on.

OUT/ID.png             the label maps, palette PNGs of the images' sizes; each appears whole or not at all
OUT/predictions.json   which model made them, and how it predicts
OUT/inputs.jsonl       a line for each image that is done: its id and the sha256 of its file
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wsss.data import Dataset
from wsss.data.ids import files_by_id
from wsss.data.images import read_image
from wsss.data.palette_png import write_palette_png
from wsss.data.parallel import some
from wsss.errors import UserError, unknown
from wsss.progress import ConsoleReporter
from wsss.run.fingerprints import file_digest
from wsss.serving.package import load_package
from wsss.serving.segmenter import Segmenter, digest
from wsss.storage import disk_errors, remove_unfinished, write_bytes
from wsss.stream import ordered_map

if TYPE_CHECKING:
    from wsss.run.cluster import Row

ABOUT, INPUTS = "predictions.json", "inputs.jsonl"
_SHARD = 32
"""Images that a machine of a cluster is given at once."""


@dataclass(frozen=True)
class Prediction:
    """A folder of images and where their label maps go; small, so that it travels to other machines.

    Attributes:
        model: the address of a package that does not move: a folder, or a version.
        images: the folder of the images, and
        out: that of the label maps, under the same paths on every machine.
        runtime: the folder of the same model as it was exported for another runtime.
        split: of the dataset in the folder `images`; empty where that is a plain folder of images.
    """

    model: str
    images: Path
    out: Path
    runtime: Path | None = None
    split: str = ""

    @cached_property
    def paths(self) -> Mapping[str, Path]:
        if self._dataset is None:
            return files_by_id(self.images)
        return {id: self._dataset.image_path(id) for id in self._dataset.splits[self.split]}

    @cached_property
    def _dataset(self) -> Dataset | None:
        return Dataset.open(self.images) if self.split else None

    def file(self, image_id: str) -> Path | bytes:
        """What an image is read from, see `Dataset.image_file`."""
        return self._dataset.image_file(image_id) if self._dataset else self.paths[image_id]

    def stream(self, ids: Sequence[str], device: torch.device) -> Iterator[Row]:
        """Label images and write their maps; "id", "sha256" and, where an image can't be labelled, "problem"."""
        model = load_package(self.model)
        if self.runtime is not None:
            from wsss.serving.export import with_runtime

            model = with_runtime(model, self.runtime)
        else:
            model = replace(model, module=model.module.to(device))
        # On a GPU, threads read and write while one of them computes.
        yield from ordered_map(partial(self._label, model), ids)

    def _label(self, model: Segmenter, image_id: str) -> Row:
        try:
            file = self.file(image_id)
            sha256 = _digest(file)
            labels = model(read_image(file, model.inference.pixels, str(self.paths[image_id])))
        except (UserError, OSError) as error:
            return {"id": image_id, "sha256": "", "problem": str(error)}
        write_palette_png(self.out / f"{image_id}.png", labels)
        return {"id": image_id, "sha256": sha256, "problem": ""}


def predict_folder(
    images: Path,
    model: Segmenter,
    out: Path,
    device: torch.device,
    ray_address: str = "",
    runtime: Path | None = None,
    split: str = "",
) -> int:
    """Label all images of a folder, or of a dataset's split.

    Those that were labelled before, by the same model, are left as they are.

    Args:
        images: the folder; of a dataset, where a split is named.
        model: its address is loaded again where the work is done.
        out: the folder of the label maps, made if it is missing; see this module.
        device: where the network runs, if not on a cluster.
        ray_address: of a Ray cluster whose machines share the work; empty for this process alone.
        runtime: the folder of the same model as it was exported for another runtime, which runs on the CPU.
        split: the dataset's, such as "test"; empty for a plain folder.

    Returns:
        How many label maps there are.

    Raises:
        UserError: no image is in the folder, or `out` holds another model's label maps; when all others are done,
            images that can't be labelled (names the first ten).
    """
    version, runtime = _lasting(model.version), runtime and runtime.absolute()
    prediction = Prediction(version, images.absolute(), out.absolute(), runtime, split)
    if split and split not in (splits := Dataset.open(images).splits):
        raise unknown("split", split, splits)
    if not prediction.paths:
        raise UserError(
            f"split {split} of {images} holds no images"
            if split
            else f"{images} holds no images; give a folder of JPEG, PNG, WebP, BMP or TIFF files"
        )
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for folder in {out, *((out / image_id).parent for image_id in prediction.paths)}:
            remove_unfinished(folder)
        done = _begin(out, model)
        kept = {i for i, sha256 in done.items() if _is_done(prediction, i, sha256)}
        left = [image_id for image_id in sorted(prediction.paths) if image_id not in kept]
        if ray_address:
            from wsss.run.cluster import spread

            shards = [left[start : start + _SHARD] for start in range(0, len(left), _SHARD)]
            rows = spread(prediction.stream, shards, ray_address)
        else:
            rows = prediction.stream(left, device)
        report, problems = ConsoleReporter("predict"), []
        with (out / INPUTS).open("a", encoding="utf-8") as lines:
            for number, row in enumerate(rows, len(kept) + 1):
                if row["problem"]:
                    problems.append(row["problem"])
                else:
                    lines.write(json.dumps({"id": row["id"], "sha256": row["sha256"]}) + "\n")
                    lines.flush()
                report.progress(number, len(prediction.paths), "images")
    if problems:
        rest = f"the other {len(prediction.paths) - len(problems):,} are in {out}"
        raise UserError(f"{len(problems)} images of {images} can't be labelled ({rest}): {some(problems)}")
    return len(prediction.paths)


def _lasting(address: str) -> str:
    return address if ":/" in address else str(Path(address).absolute())


def _begin(out: Path, model: Segmenter) -> dict[str, str]:
    """Say whose label maps these are; the id and sha256 of the images that are done."""
    about = {
        "model": model.version,
        "sha256": digest(model),
        "predicts": str(model.inference),
        "sides": list(model.inference.sides),
        "classes": list(model.classes.with_background),
    }
    if not (out / ABOUT).exists():
        write_bytes(out / ABOUT, json.dumps(about, indent=1).encode())
        return {}
    try:
        before = json.loads((out / ABOUT).read_text(encoding="utf-8"))
        same = before["sha256"] == about["sha256"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{out / ABOUT} is damaged; name another folder with --out, or remove this one") from None
    if not same:
        raise UserError(
            f"{out} holds label maps of {before.get('model')}, not of {model.version}; name another folder with --out"
        )
    lines = (out / INPUTS).read_text(encoding="utf-8").splitlines() if (out / INPUTS).exists() else []
    return {entry["id"]: entry["sha256"] for entry in map(_entry, lines) if entry}


def _entry(line: str) -> Mapping[str, str] | None:
    """A line of `INPUTS`; None for one that was cut short."""
    try:
        entry: Any = json.loads(line)
        return entry if isinstance(entry["id"], str) and isinstance(entry["sha256"], str) else None
    except (ValueError, KeyError, TypeError):
        return None


def _is_done(prediction: Prediction, image_id: str, sha256: str) -> bool:
    if image_id not in prediction.paths or not (prediction.out / f"{image_id}.png").is_file():
        return False
    return _digest(prediction.file(image_id)) == sha256


def _digest(file: Path | bytes) -> str:
    return hashlib.sha256(file).hexdigest() if isinstance(file, bytes) else file_digest(file)
