"""`python -m tune`: search the settings of a method."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from wsss.failures import ended

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def search(
    method: Annotated[str, typer.Option(help="The method.")] = "affinity",
    preset: Annotated[str, typer.Option(help="demo, small or paper.")] = "demo",
    data: Annotated[str, typer.Option(help="A dataset's name or folder.")] = "shapes",
    trials: Annotated[int, typer.Option(min=1, help="How many settings are tried.")] = 20,
    objective: Annotated[
        str | None,
        typer.Option(help="A metric, by default dev/labels_crf/miou; an unknown one lists them."),
    ] = None,
    keys: Annotated[
        str, typer.Option(help="Settings, steps or stages, separated by commas; by default the objective's stage.")
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting that every trial has; repeatable.")
    ] = None,
    rng: Annotated[int, typer.Option(min=0, help="The seed of the runs and of the search.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    ray_address: Annotated[str | None, typer.Option(help="A Ray cluster; by default this machine.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=1, help="End then; the same command goes on.")] = None,
) -> None:
    """Search the settings of a method for the best labels on dev; the same command continues an interrupted search."""
    from tune.runner import run_search
    from tune.search import plan_search
    from wsss.cli.runs import parse_settings, words

    plan = plan_search(
        method,
        preset,
        data,
        trials=trials,
        rng=rng,
        objective=objective or None,
        keys=tuple(key.strip() for key in keys.split(",") if key.strip()),
        fixed=parse_settings([pair for text in settings or [] for pair in words(text)]),
        device=device,
    )
    metric = plan.objective.metric
    print(f"search {plan.name}: {metric} over {', '.join(plan.keys)}", flush=True)
    result = run_search(plan, ray_address=ray_address, max_seconds=max_seconds)
    failed = f", {result.failed} failed" if result.failed else ""
    print(f"\nbest of {result.trials} trials{failed}: {metric} {result.value:.4f}, run {result.run}")
    for key, value in result.settings.items():
        preset = "" if value == plan.first[key] else f" ({plan.first[key]} in the preset)"
        print(f"  {key} = {value}{preset}")
    print(f"\nA whole run with it (what the search computed is reused):\n  {result.command}")
    if result.trials < trials:
        print(f"\n{trials - result.trials} of {trials} trials did not finish; the same command goes on with them.")


def main() -> int:
    """Run the command line; exit status 2 is the user's to mend."""
    return ended("tune", app)


if __name__ == "__main__":
    sys.exit(main())
