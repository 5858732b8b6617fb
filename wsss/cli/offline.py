"""`wsss import` and `wsss pack`: the records of runs that had no server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss.errors import UserError


def import_records(
    places: Annotated[
        list[Path], typer.Argument(metavar="OUT", help="The folder of `wsss run --offline`, or its packs.")
    ],
) -> None:
    """Bring the records of runs without a server into MLflow: whole, once, under the same run ids everywhere."""
    from wsss.registry import records
    from wsss.tracking.unpacking import opened

    problems = []
    with opened(places) as (out, left_out):
        steps = records.import_steps(out)
        for imported in records.import_records(out, left_out):
            if isinstance(imported, UserError):
                problems.append(str(imported))
                continue
            parts = [imported.file.title, imported.status.lower(), "brought in" if imported.new else "nothing new"]
            parts += [f"model {imported.model}"] if imported.model else []
            parts += [f"{imported.left_out} files were left out when it was packed"] if imported.left_out else []
            typer.echo(f"run {imported.file.id}: {', '.join(parts)}")
    if steps:
        typer.echo(f"{steps} step outputs entered the store")
    if problems:
        raise UserError("; ".join(problems))


def pack(
    out: Annotated[Path, typer.Argument(help="The folder that `wsss run --offline` wrote.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Where the archives go; it must not exist yet, or be empty.")],
    limit: Annotated[str, typer.Option(help="The most bytes of an archive, such as 16MB.")] = "16MB",
    files: Annotated[int, typer.Option(min=1, max=99, help="The most archives.")] = 8,
) -> None:
    """The records as a few archives of limited size, in order of worth: figures, matrices, pictures, models."""
    from wsss.tracking.packing import bytes_of, pack

    packed = pack(out, to, bytes_of(limit), files)
    for path in packed.archives:
        typer.echo(f"{path}: {path.stat().st_size:,} bytes")
    for name, why in packed.left_out.items():
        typer.echo(f"left out, {why}: {name}")
