"""What the commands of `wsss data` share: their options, and what they say of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsss.commands import command

if TYPE_CHECKING:
    from wsss.data import Dataset

Name = Annotated[str, typer.Argument(help="A dataset in data/, or the path of a dataset folder.")]
NewName = Annotated[str, typer.Option("--name", help="How the dataset is called: its folder is data/NAME.")]
DevList = Annotated[
    Path | None, typer.Option(help="A file of dev ids, one a line, instead of 10 % of the masked train ids by hash.")
]
ClassList = Annotated[Path | None, typer.Option("--classes", help="A file of class names, one a line.")]
Groups = Annotated[
    str | None,
    typer.Option(
        help="What belongs together (patient, scene): a file image,group, column:NAME of the tags, or name:REGEX."
    ),
]
MaxDisagreement = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE", help="The share of masks that may disagree with their image's tags (0.1; 1 takes any)."
    ),
]
Value255 = Annotated[
    str | None,
    typer.Option("--value-255", help="void or object: what 255 is in masks that hold nothing else beside 0."),
]
NoBackground = Annotated[
    bool, typer.Option("--no-background", help="There is no background: every pixel is of a class, or ignored.")
]
MaskValues = Annotated[
    str | None,
    typer.Option(metavar="VALUE=NAME,...", help='What masks hold: 0=sky,1=road, or colours, "#ff0000=road".'),
]
IgnoreValues = Annotated[
    str | None, typer.Option(metavar="VALUE,...", help="Values of masks that are not scored, beside 255.")
]
NoDvc = Annotated[bool, typer.Option("--no-dvc", help="Don't put the folder under DVC.")]


def added(dataset: Dataset, no_dvc: bool) -> None:
    """Say what a dataset holds, and put it under DVC."""
    print_dataset(dataset)
    if not no_dvc:
        track_dataset(dataset)


def track_dataset(dataset: Dataset) -> None:
    """Put a dataset under DVC, and say what is to be committed."""
    from wsss import git
    from wsss.errors import UserError
    from wsss.versions import add

    folder = _here(dataset.root)
    again = command("wsss", "data", "track", str(folder))
    try:
        version = add(dataset.root)
    except UserError as error:
        links = [str(parent) for parent in folder.parents if parent.is_symlink()]
        way = (
            f"DVC keeps no versions behind a link such as {links[0]}: go on without them, or have the whole workspace "
            "where the link leads"
            if links
            else f"mend that, then put it under DVC with `{again}`"
        )
        problem = str(error).rstrip(".")
        raise UserError(f"{problem}; the dataset itself is whole in {folder} and can be used; {way}") from error
    if trouble := git.trouble():
        typer.echo(
            f"under DVC as {version.md5}, but git was not understood ({trouble}): mend that, then run "
            f"`{command('dvc', 'config', 'core.no_scm', 'false')}` and `{again}`"
        )
    elif git.top():
        typer.echo(f"under DVC as {version.md5}: commit {folder}.dvc and {folder.parent}/.gitignore to git")
    else:
        typer.echo(f"under DVC as {version.md5}, which {folder}.dvc keeps; there is no git repository to commit it to")


def _here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def print_dataset(dataset: Dataset) -> None:
    """A table of splits, masks, groups and classes."""
    from rich.table import Table

    from wsss.console import show
    from wsss.data.layout import SPLITS, TEST, mask_counts
    from wsss.data.manifest import MASKS_FACT, open_manifest

    no_background = "" if dataset.has_background else " and no background"
    typer.echo(
        f"{dataset.name}: {dataset.kind}, {len(dataset.classes)} classes{no_background}, tags from "
        f"{dataset.tags_source}, in {_here(dataset.root)}, digest {dataset.digest[:12]}"
    )
    splits = [split for split in (*SPLITS, TEST) if split in dataset.splits]
    table = Table("", *splits, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("images", *(f"{len(dataset.splits[split]):,}" for split in splits))
    if dataset.grouped:
        table.add_row("groups", *(f"{len(set(dataset.groups_of(dataset.splits[split]))):,}" for split in splits))
    table.add_row("with a mask", *(f"{count:,}" for count in mask_counts(dataset.root, dataset.splits, splits)))
    tagged = {split: [id for id in dataset.splits[split] if dataset.has_tags(id)] for split in splits}
    for index, class_name in enumerate(dataset.classes.names):
        counts = (sum(bool(dataset.tags(id)[index]) for id in tagged[split]) for split in splits)
        table.add_row(class_name, *(f"{count:,}" for count in counts))
    show(table)
    if dataset.address:
        typer.echo(f"images stay in {dataset.address}, and are read from there")
    if dataset.pixels is not None:
        typer.echo(f"images are read so: {dataset.pixels}")
    if values := open_manifest(dataset.root).facts.get(MASKS_FACT):
        became = (f"{value} {each['name']} ({each['pixels']:,} px)" for value, each in values.items())
        typer.echo(f"values of the masks that were added: {', '.join(became)}")
    for note in dataset.settings.get("notes", ()):
        typer.echo(f"note: {note}")
