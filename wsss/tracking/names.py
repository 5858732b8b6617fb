"""Every name under which something is kept in MLflow: tags, metrics, artifacts. Writers and readers use these alone."""

from __future__ import annotations

import re

# Tags of a run.
KIND = "wsss.kind"
METHOD_RUN, STAGE_RUN = "method", "stage"
METHOD = "method"
PRESET = "preset"
DATASET = "dataset"
SUPERVISION = "supervision"
FINGERPRINT = "fingerprint"
GROUP = "group"
RNG = "rng"
DATA_MD5 = "data.md5"
LABELS_MD5 = "labels.md5"
GIT_COMMIT = "git.commit"
GIT_DIRTY = "git.dirty"
COMMAND = "command"
BACKBONE = "backbone"
PRETRAINING = "pretraining"
ERROR = "error"
STAGE = "stage"
HOST = "host"
PID = "pid"
PID_STARTED = "pid.started"
HEARTBEAT = "heartbeat"

# Tags of a dataset input.
DVC_MD5 = "dvc.md5"
DVC_NFILES = "dvc.nfiles"
DVC_SIZE = "dvc.size"
IMAGES = "images"

# Tags that MLflow itself reads.
MLFLOW_PARENT = "mlflow.parentRunId"
MLFLOW_USER = "mlflow.user"
MLFLOW_SOURCE_NAME = "mlflow.source.name"
MLFLOW_SOURCE_TYPE = "mlflow.source.type"
MLFLOW_SOURCE_COMMIT = "mlflow.source.git.commit"
MLFLOW_INPUT_CONTEXT = "mlflow.data.context"
MLFLOW_TABLES = "mlflow.loggedArtifacts"

# Metrics.
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
"""What these begin with is one figure for the whole method, so it is kept with the method's run too."""

# The split of the published figures on train: dev is a part of it.
TRAIN_AND_DEV = "train_and_dev"

# Artifacts of a method run.
SETTINGS = "settings.json"
ENVIRONMENT = "environment.txt"
PANELS = "panels"
MAPS = "maps"
DVC_MANIFESTS = "dvc"

_REFUSED = re.compile(r"[^\w\- .]")
_ESCAPED = re.compile(r":([0-9a-f]+):")


def metric(split: str, what: str, name: str, class_name: str = "") -> str:
    """The key of a figure of an evaluation: `metric("val", "pred_crf", "iou", "cat")` is "val/pred_crf/iou/cat".

    Args:
        split: such as "train", "dev" or "val".
        what: what is scored: "cam", "labels", "labels_crf", "pred", "pred_crf".
        name: "miou", "iou", "fp", "fn", "pixel_accuracy", ...
        class_name: for a figure of one class.
    """
    return "/".join((split, what, name, *([class_in_key(class_name)] if class_name else [])))


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


def step_time(key: str) -> str:
    """The metric of a step's seconds: `step_time("refine.walk")` is "time/refine.walk_s"."""
    return f"{TIME}{key}_s"


def step_memory(key: str) -> str:
    """The metric of the most memory a step used, in MB: `step_memory("refine.walk")` is "memory/refine.walk_mb"."""
    return f"{MEMORY}{key}_mb"


def step_fingerprint(key: str) -> str:
    """The tag of a stage's run that holds a step's fingerprint."""
    return f"{FINGERPRINT}.{key}"


def step_reused(key: str) -> str:
    """The tag of a stage's run that says whether a step's output was there already ("true" or "false")."""
    return f"reused.{key}"


def confusion_file(split: str, what: str) -> str:
    """The artifact with the confusion matrices of an evaluation (npz: ids, classes, matrices, summed)."""
    return f"confusion/{split}/{what}.npz"


def per_image_file(split: str, what: str) -> str:
    """The artifact with the mIoU of each image (an MLflow table: columns image, miou)."""
    return f"per_image/{split}/{what}.json"


def panel_file(image_id: str) -> str:
    """The artifact with the panel of an image."""
    return f"{PANELS}/{image_id}.png"


def map_file(what: str, image_id: str) -> str:
    """The artifact with a label map behind a panel (palette PNG)."""
    return f"{MAPS}/{what}/{image_id}.png"


def dvc_manifest_file(what: str) -> str:
    """The artifact that lists the files of a DVC version; `what` is "data" or "labels"."""
    return f"{DVC_MANIFESTS}/{what}.json"
