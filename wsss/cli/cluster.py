"""Commands about a Ray cluster."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from wsss.commands import command

app = typer.Typer(no_args_is_help=True)


@app.callback()
def cluster() -> None:
    """Work on a Ray cluster."""


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="Such as: -- python -m tune --method all")],
    address: Annotated[
        str, typer.Option(help="The dashboard's, http://HOST:8265; by default RAY_API_SERVER_ADDRESS.")
    ] = "",
    code: Annotated[
        bool, typer.Option("--code", help="Send this package's sources too; else the machines have it installed.")
    ] = False,
    secrets: Annotated[
        bool,
        typer.Option(help="Send variables that hold passwords too; without, the machines have their own."),
    ] = True,
) -> None:
    """Run a command as a job of a cluster, with the variables, datasets and files that it needs."""
    from wsss.run import jobs

    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or jobs.ADDRESS
    job = jobs.submit(words, address, code=code, secrets=secrets)
    typer.echo(f"job {job} runs on {address}")
    for what, verb in (
        ("what it says", ["logs", "--follow"]),
        ("how it stands", ["status"]),
        ("to stop it", ["stop"]),
    ):
        typer.echo(f"{what}:\n  {command('ray', 'job', *verb, '--address', address, job)}")
    if "tune" in words:
        typer.echo("a search that was stopped goes on when the same command is submitted again, with --resume NAME")
