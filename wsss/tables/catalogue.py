"""The methods as plain data, so that listing them waits for no network to be imported.

`make generate` writes `catalogue.json` from the methods; a method that is not in it yet is imported and described.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import wsss.methods as methods
from wsss.tables.published import published

FILE = "catalogue.json"


def catalogue() -> list[dict[str, Any]]:
    """Every method, by name: title, year, citation, stages, supervision, settings, and what was published of it."""
    path = Path(__file__).with_name(FILE)
    written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [(written.get(name) or entry(name)) | {"published": _published(name)} for name in methods.names()]


def roles() -> dict[str, str]:
    """Method to its role: "floor", "bound" or none."""
    return {row["method"]: row["role"] for row in catalogue()}


def entry(name: str) -> dict[str, Any]:
    """A method without its published results, JSON-ready."""
    from wsss.run.plan import all_settings

    method = methods.load(name)
    return {
        "method": method.name,
        "title": method.title,
        "year": method.year,
        "citation": method.citation,
        "summary": method.summary,
        "role": method.role,
        "stages": {kind: stage.name for kind, stage in method.stages.items()},
        "supervision": ", ".join(sorted(method.supervision)) or "tags",
        "needs_background": method.needs_background,
        "settings": [
            {
                "key": s.key,
                "default": list(s.default) if isinstance(s.default, tuple) else s.default,
                "meaning": s.meaning,
                "allowed": s.allowed,
                "unit": s.unit,
                "source": s.source,
                "searched": s.search is not None,
            }
            for s in all_settings(method)
        ],
    }


def _published(name: str) -> list[dict[str, Any]]:
    return [
        {"title": p.title, "miou": p.miou, "split": p.split, "supervision": p.supervision, "source": p.source}
        for p in published()
        if p.method == name
    ]
