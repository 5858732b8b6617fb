"""`wsss predict` and `wsss model`: what is done with packaged models beside serving them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss.cli.models import follow_ledger

app = typer.Typer(no_args_is_help=True)
Model = Annotated[str, typer.Option(help="models:/NAME@champion, models:/NAME/VERSION, or a package's folder.")]


def predict(
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder of the label maps; an interrupted command goes on there.")],
    images: Annotated[Path | None, typer.Argument(help="A folder of images.")] = None,
    data: Annotated[str | None, typer.Option(help="A dataset instead of a folder.")] = None,
    split: Annotated[str, typer.Option(help="Of the dataset: train, dev, val or test.")] = "test",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    ray_address: Annotated[
        str, typer.Option(help="A Ray cluster that shares the folders: its address, auto, or local for this machine.")
    ] = "",
    runtime: Annotated[
        Path | None, typer.Option(help="What `wsss model export` made of this model: its runtime computes the network.")
    ] = None,
) -> None:
    """Label a folder of images: ID.png of class indices for each, on all cores, a GPU or a cluster."""
    from wsss.data import open_dataset
    from wsss.errors import UserError
    from wsss.run.steps import choose_device
    from wsss.serving.package import load_package
    from wsss.serving.predict import predict_folder

    if (images is None) == (data is None):
        raise UserError("name a folder of images, or a dataset with --data NAME and --split, and not both")
    folder, of = (images, "") if images is not None else (open_dataset(str(data)).root, split)
    follow_ledger(model)
    count = predict_folder(folder, load_package(model), out, choose_device(device), ray_address, runtime, of)
    typer.echo(f"{out}: {count:,} label maps")


@app.callback()
def _model() -> None:
    """Packaged models."""


@app.command("export")
def export(
    model: Annotated[str, typer.Argument(help="models:/NAME@champion, models:/NAME/VERSION, or a package's folder.")],
    to: Annotated[str, typer.Option(help="The format: onnx or openvino.")],
    data: Annotated[str, typer.Option(help="The dataset on whose images both must agree.")],
    out: Annotated[Path, typer.Option(help="A new folder for the exported network.")],
    split: Annotated[str, typer.Option(help="The split of these images: train, dev or val.")] = "val",
) -> None:
    """A model's network for another runtime, kept only if it agrees with the package on a split."""
    from wsss.data import open_dataset
    from wsss.serving.export import export_model
    from wsss.serving.package import load_package

    follow_ledger(model)
    agreement = export_model(load_package(model), to, open_dataset(data), split, out)
    typer.echo(f"{out}: {agreement}")
