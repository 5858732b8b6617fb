"""`wsss backup` and `wsss restore`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wsss.commands import command
from wsss.errors import UserError

_MAKE = "to"
_DATABASE = Annotated[
    str,
    typer.Option(
        "--database",
        metavar="ADDRESS",
        help="MLflow's database, such as postgresql:///mlflow; by default MLFLOW_BACKEND_STORE_URI, else "
        "MLFLOW_TRACKING_URI.",
    ),
]
_ARTIFACTS = Annotated[
    str,
    typer.Option(
        "--artifacts",
        metavar="PLACE",
        help="Where a tracking server keeps artifacts, a folder or s3://bucket/key; by default "
        "MLFLOW_ARTIFACTS_DESTINATION.",
    ),
]
_NAME = Annotated[str, typer.Option("--backup", metavar="NAME", help="Which; by default the newest.")]
_FROM = Annotated[str, typer.Argument(metavar="FROM", help="The place of backups: a folder or s3://bucket/prefix.")]


class _Places(TyperGroup):
    """`wsss backup PLACE` is `wsss backup to PLACE`."""

    def get_command(self, ctx: Any, name: str) -> Any:
        return super().get_command(ctx, name) or super().get_command(ctx, _MAKE)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = not args or args[0] in (*self.commands, "--help")
        return super().parse_args(ctx, args if known else [_MAKE, *args])


app = typer.Typer(cls=_Places, no_args_is_help=True, rich_markup_mode=None, subcommand_metavar="TO|check|list ...")


@app.command(_MAKE)
def make(
    to: Annotated[str, typer.Argument(metavar="TO", help="A folder or s3://bucket/prefix; several backups share it.")],
    keep: Annotated[int, typer.Option(min=0, help="Keep so many of the newest backups there; 0 keeps all.")] = 0,
    database: _DATABASE = "",
    artifacts: _ARTIFACTS = "",
) -> None:
    """Back up ledger, databases, artifacts, step store and DVC's contents, while people work (`wsss backup TO`)."""
    from wsss.backup.make import back_up
    from wsss.backup.places import find_places
    from wsss.backup.vault import Vault

    vault = Vault(to)
    started = time.monotonic()
    backup = back_up(find_places(database, artifacts), vault, keep)
    seconds = time.monotonic() - started
    for part in backup.parts:
        typer.echo(f"{part.name}: {part.files} files, {_bytes(part.size)}")
    typer.echo(
        f"backup {backup.name} in {vault.url}: {_bytes(backup.size)}, of which {_bytes(backup.new)} are new, in "
        f"{seconds:.0f} s; `{command('wsss', 'backup', 'check', to)}` tries it"
    )


@app.command("check")
def check(
    place: _FROM,
    name: _NAME = "",
    database: _DATABASE = "",
    artifacts: _ARTIFACTS = "",
) -> None:
    """Restore a backup into a scratch place and compare; fails where it could not be relied on."""
    from wsss.backup.check import check as look
    from wsss.backup.places import find_places
    from wsss.backup.vault import Vault

    checked = look(find_places(database, artifacts), Vault(place), name)
    for remark in checked.remarks:
        typer.echo(f"note: {remark}")
    if checked.problems:
        more = f" (and {len(checked.problems) - 1} more)" if len(checked.problems) > 1 else ""
        raise UserError(f"backup {checked.backup.name} is not whole: {checked.problems[0]}{more}")
    counts = ", ".join(f"{count} {what}" for what, count in checked.counts.items())
    typer.echo(f"backup {checked.backup.name} is whole: {counts}; all files have their sha256")


@app.command("list")
def list_(place: _FROM) -> None:
    """List the complete backups of a place, newest first."""
    from wsss.backup.vault import Vault

    vault = Vault(place)
    for name in reversed(vault.names()):
        try:
            backup = vault.read(name)
        except UserError as error:
            typer.echo(f"{name}  {error}")
            continue
        parts = ", ".join(part.name for part in backup.parts)
        typer.echo(f"{name}  {_bytes(backup.size):>9}, {_bytes(backup.new)} new: {parts}")
    if not vault.names():
        typer.echo(f"{vault.url} holds no complete backup")


def restore(
    place: _FROM,
    name: _NAME = "",
    without: Annotated[
        list[str] | None, typer.Option(metavar="PART", help="Leave out a part, such as accounts; repeatable.")
    ] = None,
    database: _DATABASE = "",
    artifacts: _ARTIFACTS = "",
) -> None:
    """Restore a backup (`wsss backup`) into an empty place: where the same variables say that things lie."""
    from wsss.backup.places import find_places
    from wsss.backup.restore import restore as put_back
    from wsss.backup.vault import Vault

    backup = put_back(find_places(database, artifacts), Vault(place), name, without or ())
    typer.echo(f"backup {backup.name} is restored: {_bytes(backup.size)}")


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
