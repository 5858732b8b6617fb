"""The command line: answers at once, says one sentence for what is wrong, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Workspace

from wsss.cli import main
from wsss.methods import names


def wsss(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["wsss", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, wsss.cli; print(*sorted({'torch', 'mlflow', 'ray', 'dvc', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == ""
    )


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = wsss(monkeypatch, capsys, "--help")
    assert code == 0
    for command in (
        "run",
        "methods",
        "data",
        "labels",
        "export",
        "evaluate",
        "compare",
        "promote",
        "rollback",
        "history",
        "serve",
        "doctor",
        "migrate",
        "bench",
    ):
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--method", "afinity"), f"wsss: unknown method 'afinity'; choose from {', '.join(names())}\n"),
        (("run", "--data", "nowhere"), "wsss: unknown dataset 'nowhere'; choose from shapes\n"),
        (("run", "--set", "beta"), "wsss: --set 'beta' is not KEY=VALUE, such as refine.walk.beta=8\n"),
        (("bench", "nothing"), "wsss: unknown benchmark 'nothing'; choose from"),
        (("data", "show", "nowhere"), "wsss: unknown dataset 'nowhere'"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = wsss(monkeypatch, capsys, *arguments)
    assert code == 2
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_methods_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = wsss(monkeypatch, capsys, "methods", "--json")
    found = {row["method"]: row for row in json.loads(out)}
    assert code == 0
    assert found["affinity"]["stages"] == {"localize": "cam", "refine": "affinity", "segment": "deeplab"}
    assert found["bound"]["supervision"] == "masks"
    beta = next(s for s in found["affinity"]["settings"] if s["key"] == "refine.walk.beta")
    assert beta["default"] == 8.0
    assert beta["allowed"] == "1 to 64"


def test_doctor_looks_at_every_part(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace.root)
    code, out, _ = wsss(monkeypatch, capsys, "doctor")
    assert code == 0
    for part in ("python", "packages", "gpu", "dense crf", "tracking", "step store", "versions", "datasets"):
        assert part in out


def test_compare_shows_the_run_beside_what_was_published(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace.root)
    code, out, _ = wsss(monkeypatch, capsys, "compare", "--json")
    row = next(row for row in json.loads(out) if workspace.run_id in row["runs"] or row["method"] == "affinity")
    assert code == 0
    assert row["figures"]["train/cam"]["mean"] > 0
    assert any(p["miou"] == 61.7 for p in row["published"])
