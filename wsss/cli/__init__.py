"""The `wsss` command. Rooms are imported by the command that needs them, so that `wsss --help` answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from wsss import commands
from wsss.cli import (
    backup,
    cluster,
    dashboard,
    data,
    exports,
    gc,
    models,
    offline,
    packages,
    registry,
    report,
    reproduce,
    runs,
    store,
)
from wsss.errors import UserError
from wsss.failures import DEBUG, ended

app = typer.Typer(
    name="wsss",
    help="Weakly supervised semantic segmentation: from image-level tags to a served model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data", help="Datasets: add, download, make, list, show, check.")
app.add_typer(runs.labels_app, name="labels", help="Label maps: of runs, and from elsewhere.")
app.add_typer(cluster.app, name="cluster", help="Work on a Ray cluster.")
app.add_typer(packages.app, name="model", help="Packaged models: export.")
app.add_typer(backup.app, name="backup", help="Back up everything, check and list backups.")
app.add_typer(exports.app, name="export", help="Predictions in other people's formats.")
_COMMANDS: tuple[Callable[..., None], ...] = (
    runs.run,
    reproduce.reproduce,
    runs.methods,
    models.evaluate,
    models.compare,
    models.results,
    registry.promote,
    registry.rollback,
    registry.history,
    models.serve,
    dashboard.dashboard,
    report.report,
    packages.predict,
    offline.pack,
    runs.doctor,
    store.migrate,
    gc.gc,
    gc.keep,
    backup.restore,
    runs.bench,
)
_NOT_OFFLINE = (
    "boto3",
    "botocore",
    "dash",
    "dash_ag_grid",
    "dvc",
    "fastapi",
    "mlflow",
    "optuna",
    "pandas",
    "plotly",
    "psutil",
    "pydantic",
    "ray",
    "yaml",
)
"""What a machine may lack and still run methods."""
for command in _COMMANDS:
    app.command()(command)
app.command("import")(offline.import_records)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error; it may stand anywhere.")] = False,
) -> None:
    """Weakly supervised semantic segmentation: from image-level tags to a served model."""


def main() -> None:
    """Run the command line; what goes wrong is one sentence, and status 2 where the user can mend it."""
    # Threads that wait for each other spin for a moment: longer ones stall other processes, sleeping at once is slow.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Maps of a few dozen MB come and go with every layer; in huge pages that costs the kernel a tenth of the time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    sys.exit(ended("wsss", _run))


def _run() -> None:
    try:
        app()
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in _NOT_OFFLINE:
            raise
        run, bring = commands.command("wsss", "run", "--offline", "OUT"), commands.command("wsss", "import", "OUT")
        raise UserError(
            f"this needs {package}, which is not installed here; what works without is `{run}`, whose record `{bring}` "
            "brings in where all is installed"
        ) from error
