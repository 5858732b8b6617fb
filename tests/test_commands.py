"""What is printed as a command works as printed: in the folder and shell of whoever reads it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsss import commands
from wsss.commands import READER_PATH, command

PROJECT = Path(commands.__file__).parents[1]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scripts folder of an environment in the current folder, on the PATH of this process alone."""
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    for name in ("wsss", "python"):
        (scripts / name).write_text(f"#!/bin/sh\necho {name} of the project $@\n")
        (scripts / name).chmod(0o755)
    monkeypatch.setattr(commands.sysconfig, "get_path", lambda name: str(scripts))
    monkeypatch.setenv("PATH", f"{scripts}:{os.environ['PATH']}")
    monkeypatch.setenv(READER_PATH, "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return scripts


def in_a_new_shell(line: str) -> str:
    done = subprocess.run(["/bin/sh", "-c", line], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_where_the_readers_shell_does_not_find_the_program_its_path_is_printed(environment: Path) -> None:
    assert command("wsss", "compare") == ".venv/bin/wsss compare"
    assert in_a_new_shell(command("wsss", "labels", "import", "my photos")) == (
        "wsss of the project labels import my photos"
    )
    assert in_a_new_shell(command("python", "-m", "tune")) == "python of the project -m tune"


def test_from_another_folder_the_whole_path_is_printed(
    environment: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert command("wsss", "compare") == f"{environment}/wsss compare"


def test_where_the_readers_shell_finds_it_its_name_is_printed(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(READER_PATH, f"{environment}:/usr/bin:/bin")
    assert command("wsss", "compare") == "wsss compare" and command("python", "-V") == "python -V"
    links = tmp_path / "links"
    links.mkdir()
    (links / "wsss").symlink_to(environment / "wsss")
    monkeypatch.setenv(READER_PATH, str(links))
    assert command("wsss", "compare") == "wsss compare"
    monkeypatch.delenv(READER_PATH)
    assert command("wsss", "compare") == "wsss compare"


def test_another_installation_on_the_path_is_not_taken_for_this_one(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "wsss").write_text("#!/bin/sh\n")
    (other / "wsss").chmod(0o755)
    monkeypatch.setenv(READER_PATH, str(other))
    assert command("wsss", "compare") == ".venv/bin/wsss compare"
    # Interpreters of two environments are links to one file.
    (environment / "python").unlink()
    for folder in (environment, other):
        (folder / "python").symlink_to(sys.executable)
    assert command("python", "-m", "tune") == ".venv/bin/python -m tune"


def test_make_says_what_the_path_of_its_caller_is() -> None:
    database = subprocess.run(
        ["make", "--dry-run", "--print-data-base", "help"],
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"{READER_PATH} := /usr/bin:/bin\n" in database
    assert re.search(r"^PATH := .*/\.venv/bin:/usr/bin:/bin$", database, re.MULTILINE)


def test_every_command_in_a_message_is_made_by_the_one_function() -> None:
    by_hand = [
        f"{path.relative_to(PROJECT)}:{line}: {text.strip()}"
        for room in ("wsss", "tune", "pipelines", "benchmarks")
        for path in sorted((PROJECT / room).rglob("*.py"))
        if path.name != "generate.py"  # commands that DVC runs
        for line, text in printed(ast.parse(path.read_text()))
        if re.search(r"(?:^|[`\n:;] ?)\s*(wsss [a-z]|python -m )", text)
    ]
    assert by_hand == []


def printed(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of the strings, but for docstrings, the program's own name and the headings of pages."""
    silent: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.add(id(node.value))
        elif (isinstance(node, ast.keyword) and node.arg in ("prog", "help")) or isinstance(node, ast.Assign):
            silent.update(map(id, ast.walk(node.value)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


def is_page(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) and t.id.isupper() for t in node.targets)
