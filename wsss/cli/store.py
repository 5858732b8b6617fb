"""Commands about the step store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss.commands import command


def migrate(
    store: Annotated[
        str, typer.Option(help="A folder or s3:// address; by default WSSS_STORE, else work/store.", show_default=False)
    ] = "",
    made_here: Annotated[
        bool,
        typer.Option(
            "--made-here",
            help="All machines that wrote to the bucket are like this one: same number format, same CRF backend. Of a "
            "folder that is taken for granted.",
        ),
    ] = False,
) -> None:
    """Bring the step outputs of an earlier version under today's fingerprints, so that they are found again."""
    from wsss import storage
    from wsss.run import migrate as migration

    work = Path("work")
    store = store or storage.store_address(work / "store")
    done = migration.migrate(store, work, made_here or not storage.is_remote(store))
    typer.echo(f"{store}: {done.moved} step outputs of the version before moved under their new fingerprints")
    for reason, number in sorted(done.left.items()):
        typer.echo(f"{number} left as they were, {reason}: they are computed again when they are needed")
    if migration.UNKNOWN_MACHINE in done.left:
        typer.echo(
            "if all machines that wrote to this store are like this one, run: "
            + command("wsss", "migrate", "--made-here")
        )
