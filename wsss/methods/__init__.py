"""The methods: each file or folder in here is one, named as its file is.

The package can be called: `wsss.methods()` is `wsss.api.methods`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from wsss.errors import unknown
from wsss.interface import STAGES, Method, Stage


def names() -> tuple[str, ...]:
    """The names of all methods, from the file names alone (nothing is imported)."""
    folders = [Path(folder) for folder in __path__]
    modules = [path.stem for folder in folders for path in folder.glob("*.py")]
    modules += [path.parent.name for folder in folders for path in folder.glob("*/__init__.py")]
    return tuple(sorted(name for name in modules if not name.startswith("_")))


def load(name: str) -> Method:
    """The method of that name.

    Raises:
        UserError: there is none (names the known ones).
    """
    if name not in names():
        raise unknown("method", name, names())
    method: Method = importlib.import_module(f"wsss.methods.{name}").METHOD
    return method


def implementation(kind: str, name: str) -> Stage:
    """The implementation `name` of the stage `kind`, from whichever method carries it.

    Raises:
        UserError: no method has one of that name (names the known ones).
    """
    known = {method.stages[kind].name: method.stages[kind] for method in map(load, names()) if kind in method.stages}
    if kind not in STAGES or name not in known:
        raise unknown(f"{kind} implementation", name, known)
    return known[name]
