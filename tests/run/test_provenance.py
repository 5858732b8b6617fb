"""The code that a recorded run was made with, found again."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import wsss
from wsss.run.provenance import code_of
from wsss.run.recorded import Recorded

pytestmark = pytest.mark.usefixtures("surroundings")


def test_the_code_of_a_repository_that_is_the_users_own_is_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    run = Recorded("1", "run 1", "cam", "demo", 0, {}, "refine", "shapes", {}, commit, False, version="0.0.9")
    assert code_of(run, tmp_path / "folder") == Path(wsss.__file__).parents[1]
    assert "run 1 was made with version 0.0.9 of this package, here is" in capsys.readouterr().err
    # A commit with the package in it is laid out, whole and clean, whatever lies about.
    (tmp_path / "wsss").mkdir()
    (tmp_path / "wsss" / "__init__.py").write_text("then = 1\n")
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", *identity, "commit", "-q", "-m", "y"], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "wsss" / "__init__.py").write_text("now = 1\n")
    code = code_of(replace(run, commit=commit), tmp_path / "folder")
    assert (code / "wsss" / "__init__.py").read_text() == "then = 1\n" and code.is_relative_to(tmp_path / "folder")
