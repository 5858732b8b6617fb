"""Processes that are forked from one that has imported what takes seconds: each costs little and begins at once.

They are processes like any other: with a folder, variables and streams of their own, to be killed and waited for.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
# Python has one server of forks for a process, with the imports that it is begun with: those of all tests.
CONTEXT.set_forkserver_preload(
    ["pytest", "mlflow.pytorch", "tune.__main__", "tune.runner", "tune.report", "wsss.cli", "wsss.registry.gate",
     "wsss.run.steps", "wsss.methods.affinity"]
)  # fmt: skip


def start(
    program: str, *arguments: str, folder: Path, variables: Mapping[str, str], out: Path, err: Path | None = None
) -> BaseProcess:
    """Begin a program of the project.

    Args:
        program: the module whose function `main` it is, such as "wsss.cli".
        arguments: its arguments.
        folder: where it runs.
        variables: all its variables.
        out, err: files for what it says; both streams go to the first where there is one alone.

    Returns:
        The process, to `join`; its `exitcode` is the program's status.
    """
    process = CONTEXT.Process(target=_run, args=(program, arguments, folder, dict(variables), out, err or out))
    process.start()
    return process


def _run(program: str, arguments: tuple[str, ...], folder: Path, variables: dict[str, str], *files: Path) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = [program, *arguments]
    sys.exit(importlib.import_module(program).main())
