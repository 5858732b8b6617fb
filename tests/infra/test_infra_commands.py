"""infra/: every command in its files and in its page is one that the programs know."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import typer
from infra_files import (
    INFRA,
    PAGE,
    TEXTS,
    containers,
    scripts,
)

from wsss import methods
from wsss.cli import replicated
from wsss.errors import UserError
from wsss.run.plan import stands_alone


@cache
def program(name: str) -> Any:
    """The commands of a program that has them in Python."""
    if name == "mlflow server":
        return importlib.import_module("mlflow.cli").server
    if name == "ray":
        return importlib.import_module("ray.scripts.scripts").cli
    module = {"wsss": "wsss.cli", "python -m tune": "tune.__main__"}[name]
    return typer.main.get_command(importlib.import_module(module).app)


def command_tree(words: list[str]) -> tuple[Any, list[str]] | None:
    """The command that the first words name, and the words that follow; None for other programs."""
    for name in ("wsss", "python -m tune", "ray", "mlflow server"):
        size = len(name.split())
        if words[:size] == name.split():
            command, rest = program(name), words[size:]
            break
    else:
        return None
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        inner = command.get_command(None, rest[0])
        assert inner is not None, f"there is no {shlex.join(words)}"
        command, rest = inner, rest[1:]
    return command, rest


def unknown_options(words: list[str]) -> list[str]:
    found = command_tree(words)
    if found is None:
        return []
    command, rest = found
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    if "--" in rest:  # a command within a command
        place = rest.index("--")
        return unknown_options(rest[place + 1 :]) + [w for w in options(rest[:place]) if w not in known]
    return [word for word in options(rest) if word not in known]


def options(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if word.startswith("--")]


def commands() -> Iterator[list[str]]:
    """Every command of ours, Ray's and MLflow's: of containers, of scripts and manifests, of the page."""
    for container in containers():
        yield container.words
    lines = [line for path in (*scripts(), *TEXTS) for line in TEXTS[path].replace("\\\n", " ").splitlines()]
    lines += PAGE.replace("\\\n", " ").splitlines()
    for line in lines:
        line = re.sub(r'"?\$\{?\w+(\[@\])?[^\s"]*"?', "X", line)
        for match in re.finditer(r"(?:^|[\s`(])((?:wsss|python -m tune|ray start|mlflow server) [^`#;|&>'\"]*)", line):
            words = match[1].split()
            if words[0] != "wsss" or re.fullmatch(r"[a-z]+", words[1] if len(words) > 1 else ""):
                yield words


def test_every_command_is_one_that_the_programs_know():
    found = [words for words in commands() if command_like(words)]
    assert len(found) > 30
    assert {shlex.join(words): unknown for words in found if (unknown := unknown_options(words))} == {}
    assert unknown_options(["wsss", "serve", "--prot", "1"]) == ["--prot"]
    assert unknown_options(["wsss", "cluster", "submit", "--", "python", "-m", "tune", "--trails", "1"]) == ["--trails"]
    with pytest.raises(AssertionError, match="there is no"):
        unknown_options(["wsss", "backups"])


def command_like(words: list[str]) -> bool:
    """Not a sentence that begins with the package's name."""
    return words[:1] != ["wsss"] or len(words) < 2 or words[1] in program("wsss").commands


def test_the_slurm_array_has_every_method_and_rng():
    text = TEXTS[INFRA / "slurm" / "methods.sbatch"]
    listed = re.search(r"METHODS=\((.*)\)", text)
    rngs, last = re.search(r"^RNGS=(\d+)", text, re.M), re.search(r"--array=0-(\d+)", text)
    assert listed and rngs and last
    assert listed[1].split() == sorted(filter(stands_alone, methods.names()))
    assert int(last[1]) + 1 == len(listed[1].split()) * int(rngs[1])


def test_replicas_by_a_file_are_those_of_the_command(monkeypatch, tmp_path):
    made = {}

    def deployment(address, options, replicas, device):
        made.update(address=address, options=options, replicas=replicas, device=device)

    monkeypatch.setattr("wsss.serving.ray_serve.deployment", deployment)
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    model = "models:/wsss-shapes@champion"
    replicated.application({"model": model, "replicas": "2-3", "device": "cpu", "api_keys": str(tmp_path / "keys")})
    assert (
        made["address"] == made["options"].address == model and made["replicas"] == (2, 3) and made["device"] == "cpu"
    )
    assert made["options"].keys is not None and made["options"].every == 5
    with pytest.raises(UserError, match="api_keys"):
        replicated.application({"model": model, "apikeys": "x"})
