"""Commands around runs: run a method, list the methods, fetch labels, look at the installation, measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wsss.errors import UserError

labels_app = typer.Typer(no_args_is_help=True)

Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as refine.walk.beta=8; repeatable."),
]


def parse_settings(pairs: list[str]) -> dict[str, str]:
    """Texts "key=value" as a dict.

    Raises:
        UserError: a text without "=".
    """
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--set {pair!r} is not KEY=VALUE, such as refine.walk.beta=8")
    return {key.strip(): value.strip() for key, value in (pair.split("=", 1) for pair in pairs)}


def run(
    method: Annotated[str, typer.Option(help="The method; `wsss methods` lists them.")] = "affinity",
    preset: Annotated[str, typer.Option(help="demo, small or paper.")] = "demo",
    data: Annotated[str, typer.Option(help="A dataset's name or folder; `wsss data list` lists them.")] = "shapes",
    rng: Annotated[int, typer.Option(help="The seed.", min=0)] = 0,
    settings: Setting = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    until: Annotated[str | None, typer.Option(help="The last stage: localize, refine or segment.")] = None,
) -> None:
    """Run a method over a dataset, from tags to a registered model; the same command continues an interrupted run."""
    from wsss.report import print_outcome
    from wsss.run import run_method

    outcome = run_method(
        method, preset, data, rng=rng, overrides=parse_settings(settings or []), device=device, until=until
    )
    print_outcome(outcome, method=method, preset=preset, data=data, rng=rng)


def methods(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """List the methods: name, year, stages, supervision, settings, published figures."""
    from rich.console import Console
    from rich.table import Table

    from wsss.report import describe_method

    described = [describe_method(name) for name in _method_names()]
    if as_json:
        print(json.dumps(described, indent=1))
        return
    table = Table("method", "name", "year", "stages", "supervision", "settings", "published mIoU")
    for row in described:
        stages = " > ".join(f"{kind}: {name}" for kind, name in row["stages"].items())
        published = "\n".join(f"{p['miou']} ({p['split'] or 'split not stated'})" for p in row["published"])
        table.add_row(
            row["method"],
            row["title"],
            str(row["year"]),
            stages,
            row["supervision"],
            str(len(row["settings"])),
            published,
        )
    Console().print(table)


def _method_names() -> tuple[str, ...]:
    from wsss.methods import names

    return names()


@labels_app.command()
def pull(
    run: Annotated[str, typer.Option(help="The MLflow run whose labels are wanted.")],
    to: Annotated[Path | None, typer.Option(help="The folder they go to.")] = None,
) -> None:
    """Fetch the label maps that a run made, also those of a run that was never committed."""
    from wsss.labels import pull_labels

    folder, version = pull_labels(run, to)
    typer.echo(f"{folder}: {version}")


@labels_app.command()
def push(run: Annotated[str, typer.Option(help="The MLflow run whose labels others shall fetch.")]) -> None:
    """Copy the label maps of a run to DVC's default remote."""
    from wsss.labels import push_labels

    typer.echo(f"pushed {push_labels(run)}")


def doctor() -> None:
    """Say what is installed, what can be reached, and how to mend what can't."""
    from wsss.doctor import examine

    raise typer.Exit(examine())


def bench(
    name: Annotated[str, typer.Argument(help="What to measure; without it, the names are listed.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure what is claimed about speed."""
    from benchmarks.common import run_benchmark

    raise typer.Exit(run_benchmark(name, as_json))
