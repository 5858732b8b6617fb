"""Write what is derived from the methods: DVC stages, params, versions and sources of the steps, catalogue, tables.

A table stands in a Markdown file between `<!-- table: NAME -->` and `<!-- end of table -->`; its names are
`leaderboard`, `methods` and `settings METHOD`. Run it with `make generate`; with `--check` nothing is written and what
is out of date is named.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

import wsss.methods as methods
from pipelines import sources
from pipelines.leaderboard import RESULTS, leaderboard
from wsss import storage
from wsss.errors import unknown
from wsss.failures import ended
from wsss.interface import Method
from wsss.run.plan import all_settings, make_plan, stands_alone
from wsss.run.preset import PRESETS
from wsss.settings import Setting
from wsss.tables.catalogue import FILE, entry
from wsss.tables.render import as_markdown

HEADER = "# Written by `make generate` from wsss/methods; change those instead.\n"
PARAMS_HEADER = """\
# What `dvc repro` runs every method with. `set` holds a method's own settings, such as affinity: {refine.walk.beta: 8};
# `make generate` adds new methods to it.
"""
STEPS = "pipelines/steps.yaml"
PARAMS = "params.yaml"
CATALOGUE = f"wsss/tables/{FILE}"
_TABLE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main(arguments: list[str] | None = None) -> int:
    """Write, or with `--check` compare, every derived file of the current folder; 1 when something is out of date."""
    return ended("wsss", lambda: _write(arguments))


def _write(arguments: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.generate", description="Write what the methods derive.")
    parser.add_argument("--check", action="store_true", help="write nothing; name what is out of date")
    check = parser.parse_args(arguments).check
    stale = {
        path: text
        for path, text in derived(Path.cwd())
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(f"{path.relative_to(Path.cwd())} is out of date; run: make generate" if check else f"wrote {path.name}")
        if not check:
            storage.write_bytes(path, text.encode())
    return int(check and bool(stale))


def derived(root: Path) -> Iterator[tuple[Path, str]]:
    """Every derived file below `root` and the text it should have."""
    names, params = [name for name in methods.names() if stands_alone(name)], root / PARAMS
    yield root / "dvc.yaml", HEADER + _dump({"stages": {k: v for name in names for k, v in stages(name).items()}})
    yield root / STEPS, HEADER + _dump({name: step_versions(name) for name in names})
    yield params, params_text(params.read_text(encoding="utf-8") if params.exists() else "", names)
    sources_file = root / sources.FILE
    record = json.loads(sources_file.read_text(encoding="utf-8")) if sources_file.exists() else {}
    yield sources_file, sources.text(sources.updated(record))
    described = {name: entry(name) for name in methods.names()}
    yield root / CATALOGUE, json.dumps(described, indent=1, ensure_ascii=False) + "\n"
    for page in [*root.glob("README.md"), *sorted((root / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if _TABLE.search(text):
            yield page, _TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], text)


def stages(name: str) -> dict[str, Any]:
    """The DVC stages of a method: one for each stage it fills, chained by small files with the steps' fingerprints."""
    chain: dict[str, Any] = {}
    previous: list[str] = []
    for kind in step_versions(name):
        pointer = f"work/pipeline/{name}/{kind}.json"
        stage: dict[str, Any] = {
            "cmd": f"python -m pipelines.stage {kind} --method {name}",
            "deps": ["data/${dataset}", *previous],
            "params": ["dataset", "preset", "rng", f"set.{name}", {STEPS: [f"{name}.{kind}"]}],
            "metrics" if kind == "evaluate" else "outs": [pointer],
        }
        if kind == "refine":
            stage["outs"].append(f"labels/${{dataset}}/{name}-${{preset}}-${{rng}}")
        chain[f"{name}-{kind}"] = stage
        previous = [pointer]
    return chain


def step_versions(name: str) -> dict[str, dict[str, int]]:
    """Stage kind to {step name: version}, in order: what makes DVC run a stage again when a step's outputs change."""
    versions: dict[str, dict[str, int]] = {}
    for planned in make_plan(name, PRESETS[0]).steps:
        versions.setdefault(planned.stage, {})[planned.step.name] = planned.step.version
    return versions


def params_text(current: str, names: Sequence[str]) -> str:
    """The text of params.yaml: the current one where it knows every method, else with the missing ones added."""
    params = {"dataset": "shapes", "preset": "demo", "rng": 0} | (yaml.safe_load(current) or {})
    settings = params.get("set") or {}
    if current and set(settings) == set(names):
        return current
    params["set"] = {name: settings.get(name) or {} for name in names}
    return PARAMS_HEADER + _dump(params)


def table(name: str) -> str:
    """The Markdown table of that name; the leaderboard is made from the results of the current folder.

    Raises:
        UserError: there is none.
    """
    kind, _, method = name.partition(" ")
    if name == "leaderboard":
        return leaderboard(RESULTS.read_text(encoding="utf-8"))
    if name == "methods":
        return _methods_table([methods.load(each) for each in methods.names()])
    if kind == "settings":
        return _settings_table(methods.load(method))
    raise unknown("table", name, ["leaderboard", "methods", "settings METHOD"])


def _methods_table(known: list[Method]) -> str:
    rows = [
        (
            f"[`{method.name}`]({method.name}.md)",
            method.title,
            str(method.year),
            method.summary,
            ", ".join(sorted(method.supervision)) or "tags only",
            f"no: {method.needs_background}" if method.needs_background else "yes",
            method.citation,
        )
        for method in sorted(known, key=lambda method: (method.year, method.name))
    ]
    return _markdown(("method", "name", "year", "what it does", "supervision", "without background", "source"), rows)


def _settings_table(method: Method) -> str:
    values = {preset: make_plan(method.name, preset).settings for preset in PRESETS}
    rows = [
        (
            f"`{setting.key}`",
            setting.meaning,
            *(_text(values[preset][setting.key]) for preset in PRESETS),
            setting.allowed,
            _search(setting),
            setting.source,
        )
        for setting in all_settings(method)
    ]
    return _markdown(("setting", "what it is", *PRESETS, "allowed", "searched", "source"), rows)


def _text(value: Any) -> str:
    return (
        ", ".join(map(_text, value))
        if isinstance(value, list)
        else f"{value:g}"
        if type(value) is float
        else str(value)
    )


def _search(setting: Setting) -> str:
    return setting.search.text if setting.search else ""


def _markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return as_markdown(header, rows) + "\n"


def _dump(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=120)


if __name__ == "__main__":
    sys.exit(main())
