"""One stage of a method for `dvc repro`: run it, or find it done, and write what DVC tracks.

Settings come from params.yaml. A stage leaves the fingerprints of its steps in `work/pipeline/<method>/<stage>.json`;
refine also lays its label maps out as `labels/<dataset>/<method>-<preset>-<rng>`, and evaluate, which makes the tracked
run, leaves the figures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from pipelines.generate import PARAMS
from wsss import storage
from wsss.errors import UserError
from wsss.failures import ended
from wsss.interface import STAGES


def main(arguments: list[str] | None = None) -> int:
    """Run a stage and everything before it that is not done; exit status 2 is the user's to mend."""
    return ended("wsss", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.stage", description="Run one stage of a method.")
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--method", required=True)
    options = parser.parse_args(arguments)
    run_stage(options.stage, options.method)


def run_stage(stage: str, method: str) -> None:
    """Run `stage` of `method` with what params.yaml says, and write the files that dvc.yaml names."""
    from wsss.labels.exchange import label_path
    from wsss.registry.models import publish
    from wsss.run.method import label_folder, run_method
    from wsss.run.preset import PRESETS
    from wsss.scores import metric_names

    params = yaml.safe_load(Path(PARAMS).read_text(encoding="utf-8"))
    data, preset, rng, overrides = params["dataset"], params["preset"], int(params["rng"]), params["set"][method]
    if preset not in PRESETS:  # the folders that dvc.yaml names have it in their names
        raise UserError(
            f"{PARAMS}: preset is {preset!r}; here it is one of {', '.join(PRESETS)}, and `set` holds what differs"
        )
    evaluate = stage == "evaluate"
    outcome = run_method(
        method, preset, data, rng=rng, overrides=overrides, until=stage, track=evaluate, publish=publish
    )
    content: dict[str, Any]
    if evaluate:
        kept = (f"/{metric_names.MIOU}", metric_names.TAGS_MAP)
        content = {key: value for key, value in sorted(outcome.metrics.items()) if key.endswith(kept)}
    else:
        content = {key: done.fingerprint for key, done in outcome.steps.items() if key.startswith(f"{stage}.")}
    if stage == "refine":
        target = label_path(data, method, preset, rng)
        shutil.rmtree(target, ignore_errors=True)
        storage.download_folder(label_folder(outcome.steps), target)
    pointer = Path("work", "pipeline", method, f"{stage}.json")
    storage.write_bytes(pointer, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
