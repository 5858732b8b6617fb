"""A built wheel, installed with its dependencies into an empty environment, works in an empty folder outside of git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SOURCES = ("wsss", "tune", "pipelines", "benchmarks", "pyproject.toml", "README.md", "LICENSE")
QUICK = {"localize.train.epochs": 1, "segment.train.epochs": 1}


@dataclass(frozen=True)
class Installation:
    """An environment with the wheel, and a workspace beside it."""

    bin: Path
    workspace: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment in the workspace, with nothing of this process's environment."""
        home = self.workspace.parent / "home"
        variables = {"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true"}
        done = subprocess.run(command, cwd=self.workspace, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Nothing is shared with the environment of this process: uv installs the wheel and what it asks for.

    The versions are those of the lock, and the files are linked from the cache of uv, which takes seconds; what is not
    there is fetched.
    """
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if not uv:
        pytest.skip("uv is not installed")
    root = tmp_path_factory.mktemp("wheel")
    copy_sources(root / "sources")
    build = "import setuptools.build_meta as build; build.build_wheel('../dist')"
    call(root / "sources", sys.executable, "-c", build)
    (wheel,) = (root / "dist").iterdir()
    call(root, uv, "venv", "--python", sys.executable, "env")
    install = (uv, "pip", "install", "--python", "env/bin/python", "--constraint", str(PROJECT / "requirements.lock"))
    try:
        call(root, *install, "--offline", str(wheel))
    except AssertionError:
        call(root, *install, str(wheel))
    (root / "workspace").mkdir()
    yield Installation(root / "env" / "bin", root / "workspace")
    shutil.rmtree(root / "env")


def copy_sources(to: Path) -> None:
    """What a wheel is made from, so that nothing is left in the project; compiled parts are not in git either."""
    for name in SOURCES:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, to / name)


def call(folder: Path, *command: str) -> None:
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, f"{command}:\n{done.stderr}"


def test_an_experiment_runs_where_there_is_nothing_but_the_wheel(installation: Installation) -> None:
    installation.run("wsss", "data", "make", "shapes", "--images", "16", "--size", "64", "--classes", "2")
    program = (
        "import json, wsss; "
        f"result = wsss.run(method='cam', settings={QUICK}); "
        "image = wsss.open_dataset('shapes').image(wsss.open_dataset('shapes').splits['val'][0]); "
        "from wsss import git; from wsss.ops.crf import choose_backend; "
        "print(json.dumps([wsss.__file__, result.model, result.metrics, wsss.load(result.model)(image).shape, "
        "len(wsss.results()), len(wsss.methods()[0]['published']), git.state().commit, choose_backend('auto')]))"
    )
    done = installation.run("python", "-c", program)
    file, model, metrics, shape, rows, published, commit, backend = json.loads(done.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(installation.bin.parent)
    assert model == "models:/wsss-shapes-candidates/1" and "val/pred_crf/miou" in metrics
    assert shape == [64, 64] and rows == 1 and published
    assert commit is None, "neither the workspace nor the installation is a repository"
    if shutil.which("c++"):
        assert backend == "native", "the kernels are compiled when they are first used"
    assert {path.name for path in installation.workspace.iterdir()} <= {
        ".dvc", ".dvcignore", "data", "mlflow.db", "mlruns", "work"
    }  # fmt: skip


@pytest.mark.parametrize("command", [("wsss", "methods"), ("python", "-m", "tune", "--help")])
def test_the_commands_are_there(installation: Installation, command: tuple[str, ...]) -> None:
    assert "affinity" in installation.run(*command).stdout
