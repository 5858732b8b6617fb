"""A real environment without MLflow, Ray and DVC, as a GPU node has: a method runs there and leaves a record."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_wheel import call

PROJECT = Path(__file__).parents[1]
PACKAGES = [
    "torch",
    "torchvision",
    "scikit-image",
    "scipy",
    "safetensors",
    "numpy",
    "pillow",
    "typer",
    "rich",
    "tqdm",
    "filelock",
]
QUICK = ("localize.train.epochs=1", "localize.train.crop=33", "segment.train.epochs=1", "segment.train.crop=33")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment with these packages and what they ask for, in the versions of the lock."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if not uv:
        pytest.skip("uv is not installed")
    root = tmp_path_factory.mktemp("small")
    call(root, uv, "venv", "--python", sys.executable, "env")
    install = (uv, "pip", "install", "--python", "env/bin/python", "--constraint", str(PROJECT / "requirements.lock"))
    try:
        call(root, *install, "--offline", *PACKAGES)
    except AssertionError:
        call(root, *install, *PACKAGES)
    yield root / "env" / "bin" / "python"
    shutil.rmtree(root / "env")


def test_a_method_runs_where_nothing_is_installed_but_torch_and_what_images_need(python: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        """A program of that environment, with a copy of the sources and nothing of this process's environment."""
        variables = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "PYTHONPATH": str(PROJECT)}
        command = [str(python), *words]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    absent = "mlflow ray dvc psutil boto3 yaml pandas optuna fastapi"
    run("-c", f"import importlib.util as u; assert not [n for n in '{absent}'.split() if u.find_spec(n)]")
    run("-m", "wsss.cli", "data", "make", "shapes", "--images", "16", "--size", "64", "--classes", "2")
    sets = [word for setting in QUICK for word in ("--set", setting)]
    words = ("results", "--data", "shapes", "--preset", "demo", "--run", "cam", "--rngs", "0", "--offline", "out")
    assert "all runs are in out" in run("-m", "wsss.cli", *words, *sets)
    (record,) = (tmp_path / "out" / "runs").iterdir()
    assert json.loads((record / "run.json").read_text())["status"] == "FINISHED"
    run("-m", "wsss.cli", "pack", "out", "--to", "packed")
    assert list((tmp_path / "packed").iterdir())
