"""Keep watch that no step changes what it computes without a new version: finished outputs are found by the version.

    python -m pipelines.sources                       name the steps whose source changed while their version did not
    python -m pipelines.sources --no-effect WHY KEY   record that the change of a step (or of `all`) changes no output

The source of a step is its function and everything in `wsss` that the function names, directly or through what it
names, but for storage and the wording of what is printed; comments, docstrings and annotations don't count. What is
reached through an object alone, such as the dataset's reading of images, is not seen, nor is what is compiled.
`sources.json` keeps the hash of each step's source. `make generate` adds new steps and new versions to it; a changed
source it leaves for a person to decide.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import wsss.methods as methods
from wsss import storage
from wsss.commands import command
from wsss.failures import ended
from wsss.interface import Step
from wsss.stages.evaluate import EVALUATIONS

FILE = "pipelines/sources.json"
BESIDE = ("wsss.storage", "wsss.errors", "wsss.commands")
"""Where files are put and how refusals and commands are worded changes no output."""
Record = dict[str, dict[str, Any]]


class Module(NamedTuple):
    """What a module's source defines and imports.

    Attributes:
        defined: name to the statements that define it, at the top level.
        imported: name to the module it comes from and its name there, "" for the module itself.
    """

    defined: Mapping[str, list[ast.stmt]]
    imported: Mapping[str, tuple[str, str]]


def main(arguments: list[str] | None = None) -> int:
    """Check, or record that changes have no effect; 1 when a step changed without a new version."""
    return ended("wsss", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.sources", description="Steps changed without a version.")
    parser.add_argument("--no-effect", metavar="WHY", help="record that the change changes no output, and why")
    parser.add_argument("steps", nargs="*", metavar="KEY", help="steps such as refine.affinity.walk, or all")
    options = parser.parse_args(arguments)
    path = Path(FILE)
    record: Record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    changed = unexplained(record)
    if options.no_effect:
        chosen = changed if options.steps == ["all"] else options.steps
        if wrong := sorted(set(chosen) - set(changed)) or (not chosen and ["no step"]):
            print(f"{', '.join(wrong)} did not change; changed: {', '.join(changed) or 'none'}", file=sys.stderr)
            return 2
        now = current()
        record |= {key: now[key] | {"no effect": options.no_effect} for key in chosen}
        storage.write_bytes(path, text(record).encode())
        changed = [key for key in changed if key not in chosen]
    for key in changed:
        print(
            f"the source of {key} changed, its version did not: if an output changes, raise the version in its Step; "
            f"else run: {command('python', '-m', 'pipelines.sources', '--no-effect', 'WHY', key)}"
        )
    return int(bool(changed))


def current() -> Record:
    """Key to version and source hash of every step of every method, and of the evaluations."""
    found = {f"evaluate.masks.{name}": _entry(step) for name, step in EVALUATIONS.items()}
    for name in methods.names():
        for kind, stage in methods.load(name).stages.items():
            found |= {f"{kind}.{stage.name}.{step.name}": _entry(step) for step in stage.steps}
    return dict(sorted(found.items()))


def updated(record: Record) -> Record:
    """A record with new steps and new versions in it, without the steps that are gone; other entries as they are."""
    return {
        key: record[key] if key in record and record[key]["version"] == entry["version"] else entry
        for key, entry in current().items()
    }


def unexplained(record: Record) -> list[str]:
    """The steps whose source is not the recorded one, though their version is."""
    return [
        key
        for key, entry in current().items()
        if key in record and record[key]["version"] == entry["version"] and record[key]["sha256"] != entry["sha256"]
    ]


def text(record: Record) -> str:
    """A record as the text of its file."""
    return json.dumps(dict(sorted(record.items())), indent=1, ensure_ascii=False) + "\n"


def _entry(step: Step) -> dict[str, Any]:
    return {"version": step.version, "sha256": source_hash(step.run)}


def source_hash(function: Callable[..., Any]) -> str:
    """The sha256 of a function's source and of all that it names, as defined above, in hexadecimal."""
    lines = "".join(f"{module}.{name} {source}\n" for (module, name), source in sorted(reached(function).items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def reached(function: Callable[..., Any]) -> dict[tuple[str, str], str]:
    """Module and name to source: a function and all that it names in `wsss`, directly or through what it names.

    A function made by another one (`crf_step("walk")`) has the source of its maker, a lambda that of its module.
    """
    module, name = function.__module__, function.__qualname__.partition(".")[0]
    defined = _module(module).defined
    start = [(module, each) for each in ([name] if name in defined else defined)]
    sources: dict[tuple[str, str], str] = {}
    while start:
        at = start.pop()
        if at not in sources:
            sources[at], named = _read(*at)
            start += named
    return sources


@cache
def _read(module: str, name: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The source of a name that a module defines, and module and name of what it names in `wsss`."""
    statements = [_Bare().visit(deepcopy(statement)) for statement in _module(module).defined[name]]
    named = [found for statement in statements for found in _named(module, statement)]
    return " ".join(map(_written, statements)), tuple(dict.fromkeys(named))


def _named(module: str, statement: ast.AST) -> Iterator[tuple[str, str]]:
    imported = _module(module).imported
    for node in ast.walk(statement):
        found = None
        if isinstance(node, ast.Name):
            found = _definition(module, node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            found = _definition(".".join(filter(None, imported[node.value.id])), node.attr)
        if found is not None:
            yield found


def _definition(module: str, name: str) -> tuple[str, str] | None:
    """Where a name that a module uses is defined; None outside `wsss`, in `BESIDE`, and for a module."""
    if not module.startswith("wsss.") or module in BESIDE or _file(module) is None:
        return None
    if name in _module(module).defined:
        return module, name
    source, there = _module(module).imported.get(name, ("", ""))
    return _definition(source, there) if there else None


@cache
def _file(module: str) -> Path | None:
    """A module's source file; None for what is no module."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


@cache
def _module(name: str) -> Module:
    file = _file(name)
    assert file is not None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    defined: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            defined.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for node in (node for target in targets for node in ast.walk(target)):
                if isinstance(node, ast.Name):
                    defined.setdefault(node.id, []).append(statement)
    imported: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.asname: (alias.name, "") for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return Module(defined, imported)


class _Bare(ast.NodeTransformer):
    """Takes docstrings and annotations out."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            return ast.Assign([node.target], node.value) if node.value is not None else ast.Pass()
        return node


def _written(node: Any) -> str:
    """A syntax tree as text: its kinds and their fields, without positions, and without what is empty."""
    if isinstance(node, ast.AST):
        fields = [f"{name}={_written(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({', '.join(fields)})"
    return f"[{', '.join(map(_written, node))}]" if isinstance(node, list) else repr(node)


if __name__ == "__main__":
    sys.exit(main())
