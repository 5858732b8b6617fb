"""The names under which runs keep things in MLflow, but for metrics: tags and artifacts. Nobody spells one by hand."""

from __future__ import annotations

import re

_IN_ADDRESSES = re.compile(r"[%?#:;=\\\\]")

# Tags of a run.
KIND = "wsss.kind"
METHOD_RUN, STAGE_RUN, SEARCH_RUN, TRIAL_RUN = "method", "stage", "search", "trial"
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
CORES = "cores"
PID = "pid"
PROCESS = "process"
HEARTBEAT = "heartbeat"
VERSION = "wsss.version"
RUN_ID = "run.id"
"""The id that a run gave itself where there was no server; commands find it by this one too."""
IMPORTED = "run.imported"
"""How far the record of such a run was brought in."""
KEEP = "wsss.keep"
"""Why somebody wants a run, and all that it needs, to be kept."""

# Tags of a search's run, of its trials' runs, of a grid's runs.
SEARCH = "tune.search"
"""The name of the search; whole runs that a search made have it too."""
OBJECTIVE, BEST_TRIAL, BEST_RUN = "tune.objective", "tune.best_trial", "tune.best_run"
TRIAL, TRIAL_STATE = "tune.trial", "tune.status"
"""The number of a trial, counted from 0, and how it ended."""
TRIAL_HOW = "tune.steps"
"""Its steps as JSON: key to how, and to the runs that computed it."""
COMPLETE, PRUNED, FAILED, RUNNING = "complete", "pruned", "failed", "running"
GRID = "tune.grid"
CHOSEN_FROM = "tune.chosen_from"
"""Of a whole run: among so many combinations of a grid its own was the best on dev."""

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

# Artifacts of a method run.
SETTINGS = "settings.json"
ENVIRONMENT = "environment.txt"
LINEAGE = "lineage.json"
"""The images that its model learnt from, see `wsss.registry.lineage`."""
PANELS = "panels"
MAPS = "maps"
DVC_MANIFESTS = "dvc"
SEARCH_PLAN, VERDICT = "search.json", "verdict.json"
"""Of a search's run: what is searched, and what came out."""
TRIAL_STEPS = "steps.json"
"""Of a trial's run: the steps that it ran, with their fingerprints."""
LABELS = "labels"
"""The dataset input, and the DVC version, of the labels that a run made."""

# Metrics of a trial's run beside the objective.
SECONDS, SECONDS_SAVED = "seconds", "seconds_saved"
"""What its steps took when they were computed, and what of this was not computed anew."""

CANDIDATES = "-candidates"
"""What the name of a registered model ends in whose versions are candidates of the model without it."""


def so_far(objective: str) -> str:
    """The metric of the objective on as many images of dev as have been looked at, which is the metric's step."""
    return f"{objective}/so_far"


def step_fingerprint(key: str) -> str:
    """The tag of a stage's run that holds a step's fingerprint."""
    return f"{FINGERPRINT}.{key}"


def step_reused(key: str) -> str:
    """The tag of a stage's run that says whether a step's output was there already ("true" or "false")."""
    return f"reused.{key}"


def confusion_file(split: str, what: str) -> str:
    """The artifact with the record of an evaluation, see `wsss.scores.evaluation`."""
    return f"confusion/{split}/{what}.npz"


def per_image_file(split: str, what: str) -> str:
    """The artifact with the mIoU of each image (an MLflow table: columns image, miou)."""
    return f"per_image/{split}/{what}.json"


def _in_path(image_id: str) -> str:
    """An id as part of an artifact's path: what has a meaning in addresses becomes its code point, "100%" "100=25="."""
    return _IN_ADDRESSES.sub(lambda found: f"={ord(found.group()):x}=", image_id)


def panel_file(image_id: str) -> str:
    """The artifact with the panel of an image."""
    return f"{PANELS}/{_in_path(image_id)}.png"


def maps_file(what: str) -> str:
    """The artifact with the maps of one thing that is drawn, see `wsss.tracking.maps`."""
    return f"{MAPS}/{what}.zip"


def shown_in(path: str) -> str:
    """What the maps of an artifact are of; empty where it is none of `maps_file`."""
    folder, _, file = path.rpartition("/")
    return file.removesuffix(".zip") if folder == MAPS and file.endswith(".zip") else ""


def dvc_manifest_file(what: str) -> str:
    """The artifact that lists the files of a DVC version; `what` is such as `LABELS`."""
    return f"{DVC_MANIFESTS}/{what}.json"
