"""`wsss serve`, `compare`, `results`, `evaluate`: what is done with trained models."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsss.cli.runs import Csv, Setting, Wide, parse_settings
from wsss.commands import command
from wsss.errors import UserError

if TYPE_CHECKING:
    from wsss.data import Dataset
    from wsss.tables.rows import Entry

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def follow_ledger(address: str) -> None:
    """Finish a promotion of an address's model that was cut short; warn where its ledger can't be used from here."""
    from wsss.registry.standing import settle_address

    if problem := settle_address(address):
        typer.echo(f"wsss: the alias is taken as it is: {problem}", err=True)


def serve(
    model: Annotated[str, typer.Argument(help="models:/NAME@champion, models:/NAME/VERSION, or a package's folder.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    memory: Annotated[
        float, typer.Option(min=0.5, help="GiB that answers may take together, above the idle server.")
    ] = 1.0,
    api_keys: Annotated[Path | None, typer.Option(metavar="FILE", help="Keys that requests need, one a line.")] = None,
    watch: Annotated[float, typer.Option(min=0, help="Seconds between two looks at the alias; 0 for none.")] = 5.0,
    shadow: Annotated[
        str | None, typer.Option(metavar="ALIAS:SHARE", help="Who labels a share too, such as challenger:0.1.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")] = "auto",
    runtime: Annotated[
        str, typer.Option(help="torch, or fused: faster on a CPU, the same labels but for rounding.")
    ] = "torch",
    on_ray: Annotated[bool, typer.Option("--ray", help="On Ray Serve, in several replicas.")] = False,
    replicas: Annotated[str, typer.Option(help="With --ray: how many, 2, or 1-4 by how many requests wait.")] = "1-4",
    ray_address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="With --ray: the cluster; local is one of this machine's cores.")
    ] = "local",
) -> None:
    """Serve a model over HTTP: the bytes of images in, their masks out; a page to try it at /."""
    from wsss.registry.standing import settle_address
    from wsss.run.steps import choose_device
    from wsss.serving import server
    from wsss.serving.keys import ApiKeys
    from wsss.serving.options import Options
    from wsss.serving.package import load_package
    from wsss.serving.shadow import ShadowSettings

    chosen = Options(
        memory=int(memory * 2**30),
        device=choose_device("cpu" if on_ray else device),  # a replica's is its machine's
        keys=ApiKeys.read(api_keys) if api_keys else None,
        shadow=ShadowSettings.parse(shadow, model) if shadow else None,
        address=model,
        every=watch,
        settle=lambda: settle_address(model),
        runtime=runtime,
    )
    follow_ledger(model)
    if host not in ("127.0.0.1", "::1", "localhost") and api_keys is None:
        typer.echo(f"wsss: whoever reaches {host} may ask for masks; --api-keys FILE asks for a key", err=True)
    if on_ray:
        from wsss.serving.ray_serve import replicas_of, serve_on_ray

        serve_on_ray(model, host, port, chosen, replicas_of(replicas), device, ray_address, told=typer.echo)
    else:
        server.serve(load_package(model), host, port, chosen)


def compare(
    data: Annotated[str | None, typer.Option(help="Only runs on this dataset.")] = None,
    method: Annotated[str | None, typer.Option(help="Only runs of this method.")] = None,
    wide: Wide = False,
    as_csv: Csv = False,
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table, of package booktabs.")] = False,
) -> None:
    """A table of the finished runs: mean and deviation over rngs, and the published number beside it."""
    from wsss.tables import compare as comparison
    from wsss.tracking.query import runs

    forms = {"--json": as_json, "--csv": as_csv, "--markdown": markdown, "--latex": latex}
    if len(given := [option for option, value in forms.items() if value]) > 1:
        raise UserError(f"{' and '.join(given)} are several forms of one table; name one")
    rows = comparison.table(runs(data, method))
    if not rows and (method or data):
        comparison.check_known(runs(), method, data)
    if as_json:
        typer.echo(comparison.render_json(rows))
    elif as_csv:
        typer.echo(comparison.render_csv(rows))
    elif not rows:
        typer.echo(f"no finished run yet; `{command('wsss', 'run')}` makes one")
    elif markdown:
        typer.echo(comparison.render_markdown(rows))
    elif latex:
        typer.echo(comparison.render_latex(rows))
    else:
        typer.echo(comparison.render_text(rows, wide=wide))


def results(
    data: Annotated[str, typer.Option(help="The dataset whose runs are shown.")],
    preset: Annotated[str, typer.Option(help="The preset of the runs, or a preset file.")] = "small",
    classes: Annotated[str, typer.Option(help="Class names, separated by commas, for a second mean.")] = "",
    run: Annotated[str, typer.Option(help="First run what is missing of these methods, or of `all`.")] = "",
    also: Annotated[
        list[str] | None, typer.Option(help="One more row: a method and its settings, 'METHOD KEY=VALUE'; repeatable.")
    ] = None,
    combine: Annotated[
        bool,
        typer.Option(
            "--combine", help="Every localizer with every refiner of the methods of --run; a heat map of their labels."
        ),
    ] = False,
    rngs: Annotated[
        str | None, typer.Option(help="The seeds, separated by commas; by default 0, with --offline 0,1,2.")
    ] = None,
    settings: Setting = None,
    offline: Annotated[
        Path | None,
        typer.Option(help="Run without MLflow, in order of worth; the records go to this folder, for `wsss import`."),
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="With --offline: stop after so long; the same command goes on.")
    ] = None,
    wide: Wide = False,
    as_csv: Csv = False,
    to: Annotated[Path | None, typer.Option(help="A file for the page, in Markdown; with --csv, for the CSV.")] = None,
) -> None:
    """A row for each method on a dataset, with bootstrap intervals over images; with --to a page in Markdown."""
    from wsss.data import open_dataset
    from wsss.storage import write_bytes
    from wsss.tables.rows import entries, rngs_of

    dataset = open_dataset(data)
    own = parse_settings(settings or [])
    if hours is not None and offline is None:
        raise UserError("--hours belongs to --offline OUT, the folder of the records")
    if combine:
        _refuse_beside("--combine makes its own rows in MLflow", {"--also": also, "--offline": offline})
    elif offline is not None:
        table = {"--classes": classes, "--wide": wide, "--csv": as_csv, "--to": to}
        _refuse_beside("--offline leaves records and makes no table", table)
    elif not run and not also:
        asked = {"--rngs": rngs is not None, "--set": settings}
        _refuse_beside("without --run, --also or --combine finished runs are shown and none is made", asked)
    seeds = rngs_of(_split("0" if offline is None else "0,1,2") if rngs is None else _split(rngs))
    if offline is not None:
        rows = entries(_split(run or ("" if also else "all")), also or [])
        _run_offline(dataset, preset, seeds, rows, own, offline, hours)
        return
    from wsss.tables.measure import measure
    from wsss.tables.results import class_indices, results_of

    class_indices(dataset, _split(classes))
    if to is not None and to.is_dir():
        raise UserError(f"--to {to} is a folder; name the file of the page, such as {to / 'results.md'}")
    with redirect_stdout(sys.stderr) if as_csv else nullcontext():
        if combine:
            from tune.combine_command import combine as run_combinations

            run_combinations(_split(run or "all"), preset, data, rngs=seeds, fixed=own)
        elif run or also:
            measure(dataset, preset, seeds, entries(_split(run), also or []), own)
    page = results_of(dataset, preset, _split(classes))
    if to is not None:
        write_bytes(to, ((page.csv() if as_csv else page.markdown()) + "\n").encode())
    else:
        typer.echo(page.csv() if as_csv else page.text(wide=wide))


def _refuse_beside(why: str, idle: Mapping[str, object]) -> None:
    """Refuse options, by name with what was given, that would not be heard."""
    if given := [option for option, value in idle.items() if value]:
        raise UserError(f"{why}, so {', '.join(given)} can't stand beside it; leave it away")


def _run_offline(
    dataset: Dataset,
    preset: str,
    rngs: tuple[int, ...],
    rows: list[Entry],
    settings: dict[str, str],
    out: Path,
    hours: float | None,
) -> None:
    from wsss.tables.offline import measure_offline

    left = measure_offline(dataset, preset, rngs, rows, settings, out, math.inf if hours is None else hours)
    if left:
        runs = "; ".join(left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
        typer.echo(f"left: {runs}; this goes on:\n  {command('wsss', *sys.argv[1:])}")
    else:
        typer.echo(f"\nall runs are in {out}; this brings them into MLflow:\n  {command('wsss', 'import', str(out))}")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def evaluate(
    path: Annotated[str, typer.Argument(help="A model (models:/..., a folder), or a folder of label maps.")],
    data: Annotated[str, typer.Option(help="The dataset whose masks are compared with.")],
    split: Annotated[str, typer.Option(help="train, dev, val, or test where it has masks.")] = "val",
    as_json: Json = False,
) -> None:
    """Compare a model, or a folder of label maps, with the masks of a split."""
    from wsss.console import show
    from wsss.data import open_dataset
    from wsss.serving import evaluate as comparison

    dataset = open_dataset(data)
    follow_ledger(path)
    evaluation = comparison.evaluate(path, dataset, split)
    if as_json:
        typer.echo(json.dumps(comparison.as_json(evaluation, dataset), indent=1))
    else:
        show(comparison.as_table(evaluation, dataset))
