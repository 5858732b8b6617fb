"""`wsss gc` and `wsss keep`: what nothing needs, and what somebody does."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsss.commands import command
from wsss.errors import UserError, unknown

if TYPE_CHECKING:
    from wsss.registry.gc import Garbage
    from wsss.registry.reach import Thing

_COUNTED = ("version", "model", "run", "output")
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_PARTS = {
    "runs": ("version", "model", "run"),
    "labels": ("labels",),
    "outputs": ("output",),
    "cache": ("cache",),
    "scratch": ("scratch",),
}


def gc(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="What was made or used since then stays, such as 12h, 30d, 8w.")
    ] = "30d",
    records: Annotated[
        int, typer.Option(min=0, help="So many of each ledger's last records keep the versions that they name.")
    ] = 10,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Remove no more than these: runs (with models), labels, outputs, cache, scratch; repeatable."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without a question.")] = False,
    why: Annotated[
        str, typer.Option(metavar="THING", help="Say what holds a run's id, a NAME/VERSION, or an output's path.")
    ] = "",
) -> None:
    """Show, then remove, what nothing needs: runs, models, labels, step outputs, cache and scratch."""
    from wsss import storage
    from wsss.registry.gc import Collector
    from wsss.run.store import StepStore

    work = Path("work")
    store = StepStore(storage.store_address(work / "store"), work / "cache")
    collector = Collector(store, work, records, time.time() - _seconds(older_than))
    garbage = collector.find(_kinds(only or list(_PARTS)))
    if why:
        typer.echo("\n".join(garbage.why(why)))
        return
    typer.echo(_shown(garbage))
    if dry_run:
        return
    if not yes and garbage.things:
        if not sys.stdin.isatty():
            raise UserError("nothing was removed, there is nobody to ask here: --yes removes it, --dry-run shows it")
        typer.confirm("remove all this?", abort=True)
    gone = collector.remove(garbage.things)
    if gone:
        typer.echo(f"removed: {_counted(gone)}")


def keep(
    run: Annotated[str, typer.Argument(help="The MLflow run of a method or a search.")],
    why: Annotated[str, typer.Option(help="Why, for those who ask later.")] = "somebody needs it",
    undo: Annotated[bool, typer.Option("--undo", help="Keep it no longer.")] = False,
) -> None:
    """Keep a run from `wsss gc`, with its models, its labels and the outputs of its steps."""
    from wsss.tracking import names
    from wsss.tracking.connection import mlflow_client
    from wsss.tracking.query import run_of

    client = mlflow_client()
    found = run_of(client, run)
    if found is None or found.data.tags.get(names.KIND) not in (names.METHOD_RUN, names.SEARCH_RUN):
        raise UserError(
            f"there is no run {run} of a method or a search; `{command('wsss', 'compare', '--wide')}` lists runs"
        )
    if not undo:
        client.set_tag(found.info.run_id, names.KEEP, why)
    elif names.KEEP in found.data.tags:
        client.delete_tag(found.info.run_id, names.KEEP)
    typer.echo(f"run {found.info.run_id} is {'no longer kept' if undo else f'kept: {why}'}")


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+)([mhdw])", age.strip())
    if match is None:
        raise UserError(f"--older-than {age!r} is no age; write a whole number and m, h, d or w, such as 30d")
    return int(match[1]) * _UNITS[match[2]]


def _kinds(parts: list[str]) -> list[str]:
    for part in parts:
        if part not in _PARTS:
            raise unknown("part for --only", part, _PARTS)
    return [kind for part in parts for kind in _PARTS[part]]


def _shown(garbage: Garbage) -> str:
    """A line for each thing, then how many there are and how much that is."""
    lines = []
    for thing in garbage.things:
        found = garbage.found(thing)
        when = time.strftime("%Y-%m-%d", time.localtime(found.used))
        lines.append(f"{thing.kind:8} {when} {_bytes(found.size):>9}  {thing.name}{found.note and f' ({found.note})'}")
    total = _bytes(sum(garbage.found(thing).size for thing in garbage.things)).strip()
    held = f"{len(garbage.inventory.things) - len(garbage.things)} things stay"
    if not lines:
        return f"nothing is unneeded; {held}"
    return "\n".join([*lines, f"nothing needs {_counted(garbage.things)}, {total} as far as counted; {held}"])


def _counted(things: Iterable[Thing]) -> str:
    counts = Counter(thing.kind for thing in things)
    return ", ".join(f"{n} {kind}{'s' if n > 1 and kind in _COUNTED else ''}" for kind, n in counts.items())


def _bytes(size: int) -> str:
    if not size:
        return ""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
