"""Commands around runs: run a method, list the methods, fetch labels, look at the installation, measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsss.commands import command
from wsss.errors import UserError

if TYPE_CHECKING:
    from wsss.run.method import Publish

labels_app = typer.Typer(no_args_is_help=True)

Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as refine.walk.beta=8; repeatable."),
]

Wide = Annotated[bool, typer.Option("--wide", help="Every column, however long the lines get.")]
Csv = Annotated[bool, typer.Option("--csv", help="Comma-separated values, for programs.")]


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
    method: Annotated[str, typer.Option(help="The method; command methods lists them.")] = "affinity",
    preset: Annotated[str, typer.Option(help="demo, small, medium, paper, or a preset file.")] = "demo",
    data: Annotated[str, typer.Option(help="A dataset's name or folder; command data list lists them.")] = "shapes",
    rng: Annotated[int, typer.Option(help="The seed.", min=0)] = 0,
    settings: Setting = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    until: Annotated[str | None, typer.Option(help="The last stage: localize, refine or segment.")] = None,
    offline: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Without MLflow and DVC: leave the record in this folder, for `wsss import`."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Share each training of a classifier or segmenter among so many processes.")
    ] = 1,
    ray_address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="The Ray cluster of several workers.")
    ] = "local",
) -> None:
    """Run a method over a dataset, from tags to a registered model; the same command continues an interrupted run."""
    from wsss.run.method import run_method
    from wsss.tables.report import print_outcome

    overrides = parse_settings(settings or [])
    outcome = run_method(
        method,
        preset,
        data,
        rng=rng,
        overrides=overrides,
        device=device,
        until=until,
        publish=None if offline else _publish(),
        offline=offline,
        workers=workers,
        ray_address=ray_address,
    )
    print_outcome(outcome, method=method, preset=preset, data=data, rng=rng, offline=offline)


def _publish() -> Publish:
    from wsss.registry.models import publish

    return publish


def methods(
    wide: Wide = False,
    as_csv: Csv = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs, with every setting.")] = False,
) -> None:
    """List the methods: name, year, stages, supervision, settings, published figures."""
    from wsss.tables.catalogue import catalogue
    from wsss.tables.render import Column, Table, as_text
    from wsss.tables.render import as_csv as csv_text

    described = catalogue()
    if as_json:
        print(json.dumps(described, indent=1))
        return
    columns = (
        Column("method"),
        Column("name", rank=1, wrap=24),
        Column("year", rank=2, right=True),
        Column("supervision", rank=3, wrap=14),
        Column("published mIoU (VOC 2012)", rank=4, wrap=16),
        Column("stages", rank=5, wrap=36),
        Column("settings", rank=6, right=True),
    )
    rows = [
        [
            row["method"],
            row["title"],
            str(row["year"]),
            row["supervision"],
            ", ".join(_figure(published, row["supervision"]) for published in row["published"]) or "-",
            " > ".join(f"{kind}: {name}" for kind, name in row["stages"].items()),
            str(len(row["settings"])),
        ]
        for row in described
    ]
    if as_csv:
        print(csv_text([column.head for column in columns], rows))
    else:
        print(as_text([Table("", columns, rows)], wide=wide))


def _figure(published: dict[str, Any], supervision: str) -> str:
    """A published figure, with what was seen where that is more than the method here sees."""
    text = f"{published['miou']} {published['split'] or '(split not stated)'}"
    return text if published["supervision"] in ("tags", supervision) else f"{text}, {published['supervision']}"


@labels_app.command()
def make(
    to: Annotated[Path, typer.Option(help="The folder they go to; it must not exist yet.")],
    data: Annotated[str, typer.Option(help="A dataset's name or folder; command data list lists them.")] = "shapes",
    preset: Annotated[str, typer.Option(help="demo, small, medium, paper, or a preset file.")] = "demo",
    rng: Annotated[int, typer.Option(help="The seed.", min=0)] = 0,
    settings: Setting = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    ray_address: Annotated[str | None, typer.Option(help="A Ray cluster; by default this machine.")] = None,
) -> None:
    """Make method CAM's label maps in one stream from the images, nothing in between on disk; continues too."""
    from wsss.labels.stream import make_cam_labels

    overrides = parse_settings(settings or [])
    maps = make_cam_labels(preset, data, to, rng=rng, overrides=overrides, device=device, ray_address=ray_address)
    typer.echo(f"{to}: {len(maps):,} label maps")


@labels_app.command()
def pull(
    run: Annotated[str, typer.Option(help="The MLflow run whose labels are wanted.")],
    to: Annotated[Path | None, typer.Option(help="The folder they go to.")] = None,
) -> None:
    """Fetch the label maps that a run made, also those of a run that was never committed."""
    from wsss.labels.exchange import pull_labels

    folder, version = pull_labels(run, to)
    typer.echo(f"{folder}: {version}")


@labels_app.command()
def push(run: Annotated[str, typer.Option(help="The MLflow run whose labels others shall fetch.")]) -> None:
    """Copy the label maps of a run to DVC's default remote."""
    from wsss.labels.exchange import push_labels

    typer.echo(f"pushed {push_labels(run)}")


@labels_app.command("import")
def import_labels(
    folder: Annotated[Path, typer.Argument(help="Label maps ID.png: palette or grey PNGs of class indices.")],
    data: Annotated[str, typer.Option(help="The dataset whose training images they belong to.")],
    name: Annotated[
        str | None, typer.Option(help="Where they come from, as tables will say; by default the folder's name.")
    ] = None,
    preset: Annotated[str, typer.Option(help="demo, small, medium, paper, or a preset file.")] = "demo",
    max_disagreement: Annotated[
        float, typer.Option(metavar="SHARE", help="The share of label maps that may disagree with their image's tags.")
    ] = 0.5,
) -> None:
    """Bring in label maps made elsewhere: checked, scored where there are masks, versioned; then train on them."""
    from wsss.data import open_dataset
    from wsss.data.agreement import answers
    from wsss.data.label_folder import LabelFolder
    from wsss.run.method import run_method
    from wsss.tables.report import print_outcome

    settings = {"refine.read.folder": str(folder), "refine.read.name": name or folder.resolve().name}
    answers(max_disagreement)
    LabelFolder(folder).check(open_dataset(data), max_disagreement=max_disagreement)
    outcome = run_method("imported", preset, data, overrides=settings, until="refine")
    print_outcome(outcome, method="imported", preset=preset, data=data, rng=0)
    sets = [part for pair in settings.items() for part in ("--set", "=".join(pair))]
    train = command("wsss", "run", "--method", "imported", "--preset", preset, "--data", data, *sets)
    typer.echo(f"  {train}\n      train the segmentation network on them")


@labels_app.command()
def export(
    run: Annotated[str, typer.Option(help="The MLflow run whose labels are wanted.")],
    to: Annotated[Path, typer.Option(help="The folder they go to; it must not exist yet.")],
) -> None:
    """Write the label maps that a run made as a plain folder of palette PNGs, for other people's code."""
    from wsss.labels.exchange import export_labels

    typer.echo(f"{to}: {export_labels(run, to):,} label maps")


def doctor() -> None:
    """Say what is installed, what can be reached, and how to mend what can't."""
    from wsss.cli.doctor import examine

    raise typer.Exit(examine())


def bench(
    name: Annotated[str, typer.Argument(help="What to measure; without it, the names are listed.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    to: Annotated[Path | None, typer.Option(help="A file for the JSON, written anew after each row.")] = None,
) -> None:
    """Measure what is claimed about speed."""
    from benchmarks.common import run_benchmark

    raise typer.Exit(run_benchmark(name, as_json, to))
