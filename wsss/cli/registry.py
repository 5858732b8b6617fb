"""`wsss promote`, `rollback`, `history`: who is champion."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from wsss.cli.models import Json
from wsss.commands import command
from wsss.errors import UserError

if TYPE_CHECKING:
    from wsss.data import Dataset


def promote(
    candidate: Annotated[
        str, typer.Argument(help="A run's id, a version of NAME-candidates, or models:/NAME-candidates/VERSION.")
    ],
    name: Annotated[
        str | None, typer.Option(help="The registered model; by default the run's: wsss-DATASET, wsss-DATASET-masks.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The dataset of the comparison; by default the run's.")] = None,
    force: Annotated[str | None, typer.Option(metavar="WHY", help="Promote whatever the gate says; why.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and say what would come of it.")] = False,
    direct: Annotated[
        bool, typer.Option("--direct", help="The run's localizer, which predicts by itself: wsss-DATASET-direct.")
    ] = False,
    challenger: Annotated[
        bool, typer.Option("--challenger", help="Make it the challenger, for `wsss serve --shadow`; no comparison.")
    ] = False,
) -> None:
    """Make a model the champion, if the gate finds it better than the present one on val (params.yaml, gate)."""
    from wsss.console import show
    from wsss.registry import gate
    from wsss.registry.table import looks_sentence, verdict_table

    if challenger and (force is not None or dry_run):
        raise UserError("--challenger compares nothing: it goes with neither --force nor --dry-run")
    name, dataset = _names(candidate, name, data, direct)
    if challenger:
        record = gate.challenge(candidate, name, dataset)
        typer.echo(f"{name} version {record.challenger} is challenger of version {record.to or '-'}")
        return
    look = gate.promote(candidate, name, dataset, force, dry_run)
    show(verdict_table(look))
    if said := looks_sentence(look):
        typer.echo(said)
    typer.echo(gate.sentence(look.record, dry_run))
    if not look.record.promoted:
        raise typer.Exit(1)


def _names(candidate: str, name: str | None, data: str | None, direct: bool) -> tuple[str, Dataset]:
    """The registered model and the dataset, from what was said of them."""
    from wsss.data import open_dataset
    from wsss.registry import models

    run = candidate
    if direct and name is not None and not models.is_direct(name):
        raise UserError(f"--direct goes with names that end in {models.DIRECT_NAMES}, which {name} does not")
    if candidate.startswith("models:/"):
        name = name or candidate.removeprefix("models:/").rpartition("/")[0].removesuffix(models.CANDIDATES)
    if candidate.startswith("models:/") or candidate.isdecimal():
        if name is None and data is None:
            raise UserError(f"version {candidate} of which model? give --name, or --data for wsss-DATASET")
        name = name or models.default_name(open_dataset(str(data)).name, direct=direct)
        run = models.find_version(candidate, name).run
    dataset = open_dataset(data or models.dataset_of_run(run))
    return name or models.default_name(dataset.name, models.supervision_of_run(run) or (), direct=direct), dataset


def rollback(
    name: Annotated[str, typer.Argument(help="A registered model, such as wsss-DATASET.")],
    why: Annotated[str, typer.Option(help="The reason, for the ledger.")] = "",
) -> None:
    """Make the champion before the present one champion again; once more goes further back."""
    from wsss.registry.rollback import roll_back

    record = roll_back(name, why)
    typer.echo(f"{name} version {record.to} is champion again; version {record.from_} was until now")


def history(
    model: Annotated[str, typer.Argument(help="A registered model, such as wsss-DATASET.")],
    as_json: Json = False,
) -> None:
    """Who became champion, when and why, newest first; the ledger is verified first."""
    from wsss.console import show
    from wsss.registry import standing
    from wsss.registry.ledger import BrokenChainError
    from wsss.registry.table import as_table

    try:
        records = standing.history(model)
    except BrokenChainError as error:
        if error.records and not as_json:
            show(as_table(list(reversed(error.records))))
        raise
    if as_json:
        typer.echo(json.dumps([record.content for record in records], indent=1))
    elif not records:
        typer.echo(f"nobody has asked for a promotion of {model} yet; `{command('wsss', 'promote', 'RUN')}` does")
    else:
        show(as_table(records))
        if records[0].number:
            typer.echo(f"the chain of {len(records)} records is whole; the last is {records[0].sha256[:16]}")
