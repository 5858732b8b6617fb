"""The names of all metrics. Nobody spells one by hand."""

from __future__ import annotations

import re

TRAIN = "train/"
LOSS = "loss"
TRAIN_LOSS = TRAIN + LOSS
LOADER_WAIT = "loader_wait"
CAM_THRESHOLD = "cam/threshold"
EMPTY_CAMS = "cam/empty_maps"
MIOU = "miou"
MIOU_LOW, MIOU_HIGH = "miou_low", "miou_high"
IOU = "iou"
FALSE_POSITIVES = "fp"
FALSE_NEGATIVES = "fn"
PIXEL_ACCURACY = "pixel_accuracy"
TAGS_MAP = "tags/map"
IMAGES_PER_S = "images_per_s"
TIME, MEMORY = "time/", "memory/"
OF_THE_METHOD = (TIME, MEMORY, "tags/")
"""What these begin with is one metric for the whole method, so it is kept with the method's run too."""

# The split of the published metrics on train: dev is a part of it.
TRAIN_AND_DEV = "train_and_dev"

_REFUSED = re.compile(r"[^\w\- .]")
_ESCAPED = re.compile(r":([0-9a-f]+):")


def metric(split: str, what: str, name: str, class_name: str = "") -> str:
    """The key of a metric of an evaluation: `metric("val", "pred_crf", "iou", "cat")` is "val/pred_crf/iou/cat".

    Args:
        split: such as "train", "dev" or "val".
        what: what is scored: "cam", "labels", "labels_crf", "pred", "pred_crf".
        name: "miou", "iou", "fp", "fn", "pixel_accuracy", ...
        class_name: for a metric of one class.
    """
    return "/".join((split, what, name, *([class_in_key(class_name)] if class_name else [])))


def mode(key: str) -> str:
    """A loss is made small ("min"), everything else large ("max")."""
    return "min" if key.endswith(LOSS) else "max"


def class_in_key(name: str) -> str:
    """A class name as part of a metric key.

    MLflow allows letters, digits and "_-. :/" in a key, and "/" separates its parts. Every other character, "/", ":"
    itself, and the dots of a name made of dots, becomes its code point in hexadecimal between colons: "cat/dog*" is
    "cat:2f:dog:2a:".
    """
    refused = re.compile(r".") if set(name) == {"."} else _REFUSED
    return refused.sub(lambda found: f":{ord(found.group()):x}:", name)


def class_of_key(part: str) -> str:
    """The class name that `class_in_key` made a key's part of."""
    return _ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), part)


def tags_map(split: str) -> str:
    """The mean average precision with which a network ranks a split's images: `tags_map("dev")` is "dev/tags/map"."""
    return f"{split}/{TAGS_MAP}"


TAG_METRICS = (tags_map("dev"), tags_map("val"))
"""How well a localizer's step ranks the tags, on every split that it is asked of."""


def step_time(key: str) -> str:
    """The metric of a step's seconds: `step_time("refine.walk")` is "time/refine.walk_s"."""
    return f"{TIME}{key}_s"


def step_memory(key: str) -> str:
    """The metric of the most memory a step used, in MB: `step_memory("refine.walk")` is "memory/refine.walk_mb"."""
    return f"{MEMORY}{key}_mb"
