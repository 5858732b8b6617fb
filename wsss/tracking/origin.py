"""Where the numbers of a method's run come from, as its record says: data, steps, packages, machine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from wsss.interface import STAGES
from wsss.tracking import names
from wsss.tracking.artifacts import read_artifact
from wsss.tracking.connection import mlflow_client
from wsss.tracking.query import stage_runs


@dataclass(frozen=True)
class Origin:
    """What a run was made of.

    Attributes:
        digest: of its dataset, DVC's or the beginning of the content's; empty where it was not kept.
        source: where the dataset lay.
        stages: those that it ran, in order.
        steps: their keys to fingerprints.
        reused: some of them were there already, whoever made them.
        torch: the version; empty where it was not kept.
    """

    digest: str
    source: str
    stages: tuple[str, ...]
    steps: Mapping[str, str]
    reused: bool
    torch: str


def origin(run_id: str) -> Origin:
    """The origin of a method's run by its id, MLflow's."""
    client = mlflow_client()
    run = client.get_run(run_id)
    parts = stage_runs(client, run.info.experiment_id, run.info.run_id)
    tags = {key: value for part in parts.values() for key, value in part.data.tags.items()}
    begin = names.step_fingerprint("")
    known = run.inputs.dataset_inputs if run.inputs else []
    inputs = [each.dataset for each in known if each.dataset.name != names.LABELS]
    try:
        packages = read_artifact(run_id, names.ENVIRONMENT).decode()
    except FileNotFoundError:
        packages = ""
    return Origin(
        digest=inputs[0].digest if inputs else "",
        source=json.loads(inputs[0].source).get("uri", "") if inputs else "",
        stages=tuple(stage for stage in STAGES if stage in parts),
        steps={key.removeprefix(begin): value for key, value in tags.items() if key.startswith(begin)},
        reused=any(value == "true" for key, value in tags.items() if key.startswith(names.step_reused(""))),
        torch=next(iter(re.findall(r"^torch==(\S+)$", packages, re.MULTILINE)), ""),
    )
