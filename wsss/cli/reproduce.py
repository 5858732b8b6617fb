"""`wsss reproduce`: a run done again, and whether its numbers came out."""

from __future__ import annotations

from typing import Annotated

import typer


def reproduce(
    run: Annotated[str, typer.Argument(help="The MLflow run: of a method, of a search (its winner), or of a trial.")],
    points: Annotated[
        float,
        typer.Option(
            "--tolerance", min=0.0, help="In points of mIoU, where the machine is not known to be the same as then."
        ),
    ] = 2.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Run it again from its commit, data, settings and rng, computing every step; exit status 1 if it differs."""
    from rich.table import Table

    from tune.recorded import find_recorded
    from wsss.console import show
    from wsss.run.reproduce import reproduce

    known = find_recorded(run)
    result = reproduce(known, points=points, device=device)
    table = Table("metric", "recorded", "again", "difference", "", box=None)
    for line in result.lines:
        again = "-" if line.again is None else f"{line.again:.4f}"
        difference = "" if line.again is None else f"{line.again - line.recorded:+.4f}"
        table.add_row(line.metric, f"{line.recorded:.4f}", again, difference, "" if line.close else "differs")
    show(table)
    equal = sum(result.labels.values())
    if result.labels:
        typer.echo(f"label maps and predictions: {equal} of {len(result.labels)} are the same, pixel for pixel")
    asked = (
        "on the same machine, with as many cores, so the same numbers were asked for"
        if result.exact
        else f"within {points:g} points, since not every step is known to be of this machine's processor and cores"
    )
    typer.echo(f"{known.title} {'came out again' if result.reproduced else 'did not come out'} ({asked})")
    if not result.reproduced:
        typer.echo(f"the record of the new run is kept in {result.record}")
        raise typer.Exit(1)
