"""`wsss export`: predictions in the formats that others ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss.cli.models import follow_ledger

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _export() -> None:
    """Predictions in other people's formats."""


@app.command("voc-test")
def voc_test(
    model: Annotated[str, typer.Argument(help="A run's id, models:/..., or a package's folder.")],
    images: Annotated[Path, typer.Option(help="The test images; of VOC2012/JPEGImages those of the list test.txt.")],
    comp: Annotated[str, typer.Option(help="comp5 (trained on VOC alone) or comp6 (on anything).")],
    to: Annotated[Path, typer.Option(help="The archive, such as results.tar.gz.")],
) -> None:
    """Label VOC's test images and pack them as the evaluation server wants them."""
    from wsss.registry.models import model_of_run
    from wsss.serving.package import load_package
    from wsss.serving.voc_test import write_voc_test

    address = model if model.startswith("models:/") or Path(model).is_dir() else model_of_run(model)
    follow_ledger(address)
    count = write_voc_test(load_package(address), images, comp, to)
    typer.echo(f"{to}: {count:,} predictions for {comp}")
