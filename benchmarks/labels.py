"""Label maps of photographs in one stream, from image file to PNG, beside what the machine's cores could do at best."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import Row, photographs, row_of, threads
from wsss.classes import VOC
from wsss.data import Dataset
from wsss.data.folder import add_folder
from wsss.data.label_maps import LabelMapWriter, encode_label_map
from wsss.labels.stream import make_labels
from wsss.nets.folding import folded
from wsss.process import own_cores
from wsss.stages.cam import CamSettings, image_maps, tagged_score_map
from wsss.stages.labelling import Labelling
from wsss.stages.localize import Classifier, load_classifier
from wsss.stages.outputs import save_model
from wsss.stages.refine import BackgroundSettings, CrfSettings, crf_labels, upsampled, with_background

IMAGES, ROUNDS = 48, 5
CPU = torch.device("cpu")


def rows() -> Iterator[Row]:
    """The one claim; the stream and its parts, each alone in one thread, are timed in turns."""
    with photograph_dataset(IMAGES) as dataset:
        labelling = Labelling(dataset.root, classifier(), CamSettings(), BackgroundSettings(), CrfSettings())
        ids = dataset.splits["train"]
        cores = own_cores()
        stream, bound = [], []
        for turn in range(ROUNDS + 1):
            started = time.perf_counter()
            make_labels(labelling, ids, Path(f"labels-{turn}"), CPU, Silent())
            stream.append(time.perf_counter() - started)
            seconds = parts(labelling, dataset, ids[: IMAGES // 2], Path(f"parts-{turn}"))
            scaled = {name: value * len(ids) / (IMAGES // 2) for name, value in seconds.items()}
            bound.append(max(sum(scaled.values()) / cores, scaled["write"]))
        shares = ", ".join(f"{name} {1e3 * value / len(ids):.0f}" for name, value in scaled.items())
        what = (
            f"{len(ids)} images, MobileNetV2, CAM to PNG, {cores} cores, wall; the cores' bound (ms an image: {shares})"
        )
        yield row_of("labels-stream", what, 0.9, stream[1:], bound[1:])


class Silent:
    """A reporter that nobody hears."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def progress(self, done: int, total: int, unit: str, note: str = "") -> None:
        """Nothing."""


def parts(labelling: Labelling, dataset: Dataset, ids: Sequence[str], out: Path) -> dict[str, float]:
    """Core seconds of each part of the stream, by name, one after the other in one thread."""
    dtype = labelling.cam.number_format(CPU)
    network = folded(load_classifier(labelling.classifier), dtype)
    seconds = dict.fromkeys(("read", "infer", "refine", "encode", "write"), 0.0)
    with threads(1), LabelMapWriter(out) as writer:
        for image_id in ids:
            times = [time.process_time()]
            image = dataset.image(image_id)
            times.append(time.process_time())
            maps = image_maps(network, [image], labelling.cam, CPU)[0]
            found = tagged_score_map(maps, dataset.tags(image_id), (image.shape[0], image.shape[1]))
            times.append(time.process_time())
            full = with_background(found, labelling.background)
            labels = crf_labels(image, upsampled(full), full.classes, labelling.crf)
            times.append(time.process_time())
            encoded = encode_label_map(labels)
            times.append(time.process_time())
            writer.add(image_id, encoded)
            times.append(time.process_time())
            for name, spent in zip(seconds, np.diff(times), strict=True):
                seconds[name] += float(spent)
    return seconds


def classifier() -> Path:
    """The folder of a MobileNetV2 with random weights, in the current folder."""
    torch.manual_seed(0)
    architecture = {"classes": len(VOC), "backbone": "mobilenet_v2", "output_stride": 16, "dropout": 0.0}
    folder = Path("classifier").absolute()
    folder.mkdir()
    save_model(folder, Classifier(weights="none", **architecture), architecture)  # type: ignore[arg-type]
    return folder


@contextmanager
def photograph_dataset(count: int) -> Iterator[Dataset]:
    """A dataset of photographs, all to train on, two tags each; the current folder is its workspace meanwhile."""
    pictures = photographs(count)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("pictures").mkdir()
        Path("lists").mkdir()
        names = [f"image-{number:03d}" for number in range(count)]
        rows = ["image,labels"]
        for number, (name, picture) in enumerate(zip(names, pictures, strict=True)):
            Image.fromarray(picture).save(f"pictures/{name}.jpg", quality=90)
            rows.append(f"{name},{VOC[number % 20]};{VOC[(number + 7) % 20]}")
        Path("tags.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        Path("classes.txt").write_text("\n".join(VOC) + "\n", encoding="utf-8")
        Path("lists", "train.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        yield add_folder(
            Path("pictures"), "photographs", tags="tags.csv", class_list=Path("classes.txt"), lists=Path("lists")
        )
