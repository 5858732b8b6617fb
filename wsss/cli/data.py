"""`wsss data`: download, list, show, check and mend datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss.cli.data_add import app as add_app
from wsss.cli.data_make import app as make_app
from wsss.cli.data_told import DevList, MaxDisagreement, Name, NoDvc, Value255, added, print_dataset, track_dataset
from wsss.commands import command

app = typer.Typer(no_args_is_help=True, help="Datasets of images and tags.")
app.add_typer(add_app, name="add")
app.add_typer(make_app, name="make")


@app.command()
def download(
    what: Annotated[str, typer.Argument(help="voc or sbd.")],
    into: Annotated[Path, typer.Argument(metavar="DIR", help="Where it is unpacked.")],
    url: Annotated[str | None, typer.Option(help="A mirror of the same file; the checksum stays.")] = None,
) -> None:
    """Fetch PASCAL VOC 2012 (2 GB) or SBD (1.4 GB), checked and unpacked; goes on where it broke off."""
    from dataclasses import replace

    from wsss.data.download import ARCHIVES
    from wsss.data.download import download as fetch
    from wsss.errors import unknown

    if what not in ARCHIVES:
        raise unknown("download", what, ARCHIVES)
    archive = replace(ARCHIVES[what], url=url) if url else ARCHIVES[what]
    typer.echo(f"{fetch(archive, into)} is there; next: {command('wsss', 'data', 'add', what, str(into))}")


@app.command("list")
def list_datasets(
    wide: Annotated[bool, typer.Option("--wide", help="Every column, however long the lines get.")] = False,
) -> None:
    """The datasets of the workspace."""
    from wsss.data import open_dataset
    from wsss.data.layout import SPLITS
    from wsss.data.workspace import dataset_names
    from wsss.tables.render import Column, Table, as_text

    columns = (
        Column("name"),
        Column("kind", rank=2),
        Column("classes", rank=1, right=True),
        *(Column(split, rank=1, right=True) for split in SPLITS),
        Column("tags from", rank=2),
        Column("digest", rank=3),
    )
    rows = []
    for name in dataset_names():
        dataset = open_dataset(name)
        counts = [f"{len(dataset.splits[split]):,}" for split in SPLITS]
        described = [name, dataset.kind, str(len(dataset.classes)), *counts]
        rows.append([*described, dataset.tags_source, dataset.digest[:12]])
    if rows:
        typer.echo(as_text([Table("", columns, rows)], wide=wide))
    else:
        add, make = command("wsss", "data", "add"), command("wsss", "data", "make", "shapes")
        typer.echo(f"no dataset yet; `{add}` and `{make}` make one")


@app.command()
def show(
    name: Name,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write a page that needs nothing else: counts, examples, problems found."
        ),
    ] = None,
) -> None:
    """Splits, masks and images of each class."""
    from wsss.data import open_dataset

    dataset = open_dataset(name)
    print_dataset(dataset)
    if html is not None:
        from wsss.dashboard.data.sheet import sheet
        from wsss.storage import write_bytes

        page, problems = sheet(dataset)
        write_bytes(html, page.encode())
        found = f"{len(problems)} problem{'' if len(problems) == 1 else 's'} found" if problems else "no problem found"
        typer.echo(f"{html}: {len(page.encode()) / 1e6:.1f} MB, {found}; open it with a browser, it needs nothing else")


@app.command()
def check(
    name: Name,
    alike: Annotated[
        Path | None, typer.Option(help="A CSV file for all pairs of images that look the same in two splits.")
    ] = None,
) -> None:
    """Compare every file with what was added, decode images and masks, compare masks with tags; name what is wrong.

    Images that are equal, or look the same, and are in different splits are told too.
    """
    from wsss.data import open_dataset
    from wsss.data.alike import find_alike, sentence, write_pairs
    from wsss.data.layout import SPLITS, TEST

    dataset = open_dataset(name)
    note = dataset.check(thorough=True)
    images = sum(len(dataset.splits.get(split, ())) for split in (*SPLITS, TEST))
    typer.echo(f"{dataset.name}: {images:,} images, their tags and what masks there are, are sound")
    if note:
        typer.echo(note)
    pairs = find_alike(dataset)
    if pairs:
        typer.echo(f"warning: {sentence(pairs)}")
    if alike is not None:
        write_pairs(alike, pairs)


@app.command("accept")
def accept_changes(
    name: Name, max_disagreement: MaxDisagreement = None, value_255: Value255 = None, no_dvc: NoDvc = False
) -> None:
    """Take in files of a dataset that were corrected, added or removed since it was added; they are checked first."""
    from wsss.data import open_dataset
    from wsss.data.checking import accept

    dataset = open_dataset(name)
    count, note = accept(dataset, max_disagreement, value_255)
    files = "1 file that differed from what was added is" if count == 1 else f"{count:,} files that differed are"
    typer.echo(f"{dataset.name}: {files} taken in")
    if note:
        typer.echo(note)
    tracked = dataset.root.with_name(f"{dataset.root.name}.dvc").is_file()
    added(open_dataset(name), no_dvc or not tracked)


@app.command("write-dev")
def write_dev(
    name: Name,
    dev_list: DevList = None,
    share: Annotated[float, typer.Option(help="Share of the masked train ids, chosen by hash.")] = 0.1,
    no_dvc: NoDvc = False,
) -> None:
    """Choose the dev split anew; train becomes all the other ids that are not val."""
    from wsss.data import open_dataset
    from wsss.data.assemble import write_dev as write

    added(write(open_dataset(name), dev_list, share), no_dvc)


@app.command()
def track(name: Name) -> None:
    """Put a dataset under DVC that is not, because it was added without or DVC refused."""
    from wsss.data import open_dataset

    track_dataset(open_dataset(name))
