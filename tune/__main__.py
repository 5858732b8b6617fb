"""`python -m tune`: search the settings of one method, of several, or of all; or run a grid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wsss.errors import StoppedError
from wsss.failures import ended

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def search(
    method: Annotated[str, typer.Option(help="A method, several separated by commas, or all.")] = "affinity",
    preset: Annotated[str, typer.Option(help="demo, small, medium, paper, or a preset file.")] = "demo",
    data: Annotated[str, typer.Option(help="A dataset's name or folder.")] = "shapes",
    trials: Annotated[int, typer.Option(min=1, help="So many trials in all; those that ended before count.")] = 20,
    hours: Annotated[float | None, typer.Option(min=0, help="End then; the same command goes on.")] = None,
    objective: Annotated[
        str, typer.Option(help="A metric, by default dev/labels_crf/miou; ',seconds' makes a front of both.")
    ] = "",
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE",
            help="Every combination of values instead of a search: method=all, rng=0,1,2, settings; repeatable.",
        ),
    ] = None,
    keys: Annotated[
        str, typer.Option(help="Settings, steps or stages, separated by commas; by default the objective's stage.")
    ] = "",
    space: Annotated[Path | None, typer.Option(help="A JSON file that says what is searched.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--fix", "--set", metavar="KEY=VALUE", help="A setting that every trial has; repeatable."),
    ] = None,
    sampler: Annotated[str, typer.Option(help="auto, gp, tpe or random.")] = "auto",
    rng: Annotated[int, typer.Option(min=0, help="The seed of the runs and of the search.")] = 0,
    seeds: Annotated[int, typer.Option(min=0, help="Measure the best again with so many further rngs.")] = 0,
    top: Annotated[int, typer.Option(min=1, help="So many of the best, with --seeds.")] = 3,
    cpus: Annotated[float | None, typer.Option(min=0.01, help="Cores of a trial; 1 by default.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of a trial; a part of one too.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a trial that failed is tried again.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    ray_address: Annotated[str | None, typer.Option(help="A Ray cluster; by default this machine.")] = None,
    name: Annotated[str, typer.Option(help="What the search is called.")] = "",
    resume: Annotated[
        str, typer.Option(help="Go on with the search of that name, with more --trials or --hours.")
    ] = "",
    warm: Annotated[str, typer.Option(help="Begin with the best of the search of that name.")] = "",
    quiet: Annotated[bool, typer.Option(help="Say nothing but the end.")] = False,
) -> None:
    """Search settings for the best labels on dev; the same command continues an interrupted search."""
    from tune.budget import Budget
    from tune.report import say_result
    from tune.runner import run_search
    from tune.search import plan_search
    from tune.space import Narrowing
    from tune.studies import check_new, resume_command, resumed
    from wsss.cli.runs import parse_settings
    from wsss.commands import words
    from wsss.run.method import WORK

    fixed = parse_settings([pair for text in settings or [] for pair in words(text)])
    budget = Budget(trials, hours, cpus, gpus, retries, seeds, top)
    if grid:
        from tune.grid_command import grid_command

        idle = {
            "--keys": keys,
            "--space": space,
            "--resume": resume,
            "--warm": warm,
            "--hours": hours,
            "--seeds": seeds,
        }
        grid_command(
            [text for given in grid for text in words(given) or [given]],
            method=method,
            preset=preset,
            data=data,
            rng=rng,
            objective=objective,
            fixed=fixed,
            device=device,
            name=name,
            budget=budget,
            ray_address=ray_address,
            quiet=quiet,
            idle=idle,
        )
        return
    if name and not resume:
        check_new(name, WORK)
    plan = (
        resumed(resume, WORK)
        if resume
        else plan_search(
            method,
            preset,
            data,
            rng=rng,
            objective=objective,
            keys=tuple(key.strip() for key in keys.split(",") if key.strip()),
            fixed=fixed,
            device=device,
            narrowing=Narrowing.read(space) if space else None,
            sampler=sampler,
            name=name,
        )
    )
    if not quiet:
        spaces = "; ".join(f"{each.method}: {', '.join(each.space) or 'nothing'}" for each in plan.methods)
        print(f"search {plan.name}: {plan.metric} over {spaces}", flush=True)
    try:
        result = run_search(plan, budget, ray_address=ray_address, quiet=quiet, warm=warm)
    except KeyboardInterrupt:
        again = resume_command(plan.name, "--trials", str(trials))
        raise StoppedError(f"interrupted; this goes on:\n  {again}") from None
    say_result(result, budget)


def main() -> int:
    """Run the command line; exit status 2 is the user's to mend."""
    return ended("tune", app)


if __name__ == "__main__":
    sys.exit(main())
