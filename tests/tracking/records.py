"""What the tests of runs without a server have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SETTINGS = {
    "localize.train.epochs": "4",
    "localize.train.crop": "65",
    "segment.train.epochs": "3",
    "segment.train.crop": "65",
}
"""Settings that make method CAM with preset demo a matter of seconds on 64 px images."""

_PROGRAM = """
import sys

ABSENT = {"boto3", "botocore", "dvc", "dvc_data", "dvc_objects", "fastapi", "fsspec", "mlflow", "optuna", "pandas",
          "psutil", "pydantic", "ray", "s3fs", "sqlalchemy", "uvicorn", "yaml"}

class Absent:
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            frame = sys._getframe(1)
            while frame.f_code.co_filename.startswith("<frozen importlib"):
                frame = frame.f_back
            # Typer brings pydantic along for itself.
            if not name.startswith("pydantic") or frame.f_globals["__name__"].startswith("wsss"):
                return None
        return next(filter(None, (finder.find_spec(name, path, target) for finder in self.finders)), None)

sys.meta_path[:] = [Absent(list(sys.meta_path))]
from wsss.cli import main
main()
"""


def bare(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """`wsss ARGUMENTS` in a folder, begun where nothing but what trains a network is installed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "WSSS_"))}
    # By the branch that says nothing of git, as on a node that has none.
    environment["PATH"] = str(root)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments], cwd=root, stdout=pipe, stderr=pipe, text=True, env=environment
    )
