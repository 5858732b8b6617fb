"""The `main` entry point of MLproject: `wsss run` with its settings in one text."""

from __future__ import annotations

import argparse
import sys

from wsss.errors import UserError
from wsss.failures import ended


def main(arguments: list[str] | None = None) -> int:
    """Run a method; exit status 2 is the user's to mend."""
    return ended("wsss", lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.run", description="Run a method, tracked.")
    parser.add_argument("--method", required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rng", type=int, required=True)
    parser.add_argument("--set", default="", help='settings, such as "refine.walk.beta=8 refine.walk.steps=64"')
    options, more = parser.parse_known_args(arguments)

    from wsss.cli.runs import parse_settings
    from wsss.commands import words
    from wsss.registry.models import publish
    from wsss.run.method import run_method
    from wsss.tables.report import print_outcome

    settings = parse_settings([*words(options.set), *_given_singly(more)])
    outcome = run_method(
        options.method, options.preset, options.data, rng=options.rng, overrides=settings, publish=publish
    )
    print_outcome(outcome, method=options.method, preset=options.preset, data=options.data, rng=options.rng)


def _given_singly(arguments: list[str]) -> list[str]:
    """`-P refine.walk.beta=8`, which MLflow passes on as `--refine.walk.beta 8`, as KEY=VALUE texts."""
    if len(arguments) % 2 or any(not key.startswith("--") for key in arguments[::2]):
        raise UserError(f"{' '.join(arguments)!r} is not a list of settings; give them as -P refine.walk.beta=8")
    return [f"{key[2:]}={value}" for key, value in zip(arguments[::2], arguments[1::2], strict=True)]


if __name__ == "__main__":
    sys.exit(main())
