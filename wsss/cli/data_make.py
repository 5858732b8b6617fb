"""`wsss data make`: datasets drawn by program."""

from __future__ import annotations

from typing import Annotated

import typer

from wsss.cli.data_told import NewName, print_dataset

app = typer.Typer(no_args_is_help=True, help="Draw a dataset by program.")


@app.command()
def shapes(
    name: NewName = "shapes",
    images: Annotated[int, typer.Option(help="Number of train images.")] = 400,
    size: Annotated[int, typer.Option(help="Side of an image in pixels.")] = 96,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 6,
    rng: Annotated[int, typer.Option(help="Random seed: the same seed draws the same images.")] = 0,
    val_images: Annotated[int | None, typer.Option(help="Number of val images; by default a quarter.")] = None,
    single: Annotated[bool, typer.Option("--single", help="Exactly one creature in each image.")] = False,
    tag_noise: Annotated[float, typer.Option(metavar="SHARE", help="Share of the tag rows with a wrong class.")] = 0.0,
    no_background: Annotated[
        bool, typer.Option("--no-background", help="Grounds are classes of their own: every pixel is of a class.")
    ] = False,
    bands: Annotated[
        bool, typer.Option("--bands", help="TIFFs of 4 bands of 16 bits, of which the fourth tells the classes best.")
    ] = False,
    groups: Annotated[
        int | None, typer.Option(metavar="SCENES", help="So many scenes at a time are of one place, with one ground.")
    ] = None,
) -> None:
    """Scenes drawn by program: hard for weak supervision, the same from the same seed."""
    from wsss.data import Dataset
    from wsss.data.layout import building, home, rename
    from wsss.data.shapes import make_shapes

    target = home(name)
    with building(target) as root:
        make_shapes(
            root,
            images=images,
            size=size,
            classes=classes,
            rng=rng,
            val_images=val_images,
            name=name,
            single=single,
            tag_noise=tag_noise,
            group_size=groups or 1,
            background=not no_background,
            bands=bands,
        )
        rename(root, name)
    print_dataset(Dataset.open(target))
