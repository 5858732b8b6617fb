"""`wsss data`: add, download, make, list, show and check datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsss.commands import command

if TYPE_CHECKING:
    from wsss.data import Dataset

app = typer.Typer(no_args_is_help=True, help="Datasets of images and tags.")
add_app = typer.Typer(no_args_is_help=True, help="Make data/NAME from a folder that exists, and put it under DVC.")
make_app = typer.Typer(no_args_is_help=True, help="Draw a dataset by program.")
app.add_typer(add_app, name="add")
app.add_typer(make_app, name="make")

Name = Annotated[str, typer.Argument(help="A dataset in data/, or the path of a dataset folder.")]
NewName = Annotated[str, typer.Option("--name", help="How the dataset is called: its folder is data/NAME.")]
DevList = Annotated[
    Path | None, typer.Option(help="A file of dev ids, one a line, instead of 10 % of the masked train ids by hash.")
]
ClassList = Annotated[Path | None, typer.Option("--classes", help="A file of class names, one a line.")]
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


@add_app.command()
def voc(
    path: Annotated[Path, typer.Argument(help="VOCdevkit, the folder that holds it, or VOC2012 in it.")],
    name: NewName = "voc",
    tags: Annotated[str, typer.Option(help="xml (the boxes), masks, or a .csv or .npz file.")] = "xml",
    sbd: Annotated[Path | None, typer.Option(help="benchmark_RELEASE of SBD, for train_aug and its masks.")] = None,
    train_list: Annotated[
        str | None, typer.Option(help="train or train_aug; by default train_aug where it is known.")
    ] = None,
    dev_list: DevList = None,
    classes: ClassList = None,
    max_disagreement: MaxDisagreement = None,
    value_255: Value255 = None,
    no_background: NoBackground = False,
    mask_values: MaskValues = None,
    ignore_values: IgnoreValues = None,
    no_dvc: NoDvc = False,
) -> None:
    """PASCAL VOC 2012, or any dataset in its layout."""
    from wsss.data.voc import add_voc

    dataset = add_voc(
        path,
        name,
        tags=tags,
        sbd_path=sbd,
        train_list=train_list,
        dev_list=dev_list,
        class_list=classes,
        max_disagreement=max_disagreement,
        value_255=value_255,
        background=not no_background,
        mask_values=mask_values,
        ignore_values=ignore_values,
    )
    _added(dataset, no_dvc)


@add_app.command()
def sbd(
    path: Annotated[Path, typer.Argument(help="benchmark_RELEASE, the folder that holds it, or dataset in it.")],
    name: NewName = "sbd",
    tags: Annotated[str, typer.Option(help="masks, or a .csv or .npz file.")] = "masks",
    dev_list: DevList = None,
    max_disagreement: MaxDisagreement = None,
    no_dvc: NoDvc = False,
) -> None:
    """The Semantic Boundaries Dataset alone, with its own train and val lists."""
    from wsss.data.sbd import add_sbd

    _added(add_sbd(path, name, tags=tags, dev_list=dev_list, max_disagreement=max_disagreement), no_dvc)


@add_app.command()
def folder(
    path: Annotated[Path, typer.Argument(help="A folder of images, in subfolders too.")],
    tags: Annotated[str, typer.Option(help="A .csv (image,labels) or .npz file of tags, or masks.")],
    name: Annotated[str | None, typer.Option(help="How the dataset is called; by default like the folder.")] = None,
    classes: ClassList = None,
    masks: Annotated[Path | None, typer.Option(help="A folder of masks ID.png, where there are any.")] = None,
    lists: Annotated[Path | None, typer.Option(help="A folder with train.txt and val.txt.")] = None,
    val_share: Annotated[
        float | None, typer.Option(help="The share held out as val where there are no lists (0.2; 0.1 if no masks).")
    ] = None,
    dev_list: DevList = None,
    max_disagreement: MaxDisagreement = None,
    value_255: Value255 = None,
    no_background: NoBackground = False,
    mask_values: MaskValues = None,
    ignore_values: IgnoreValues = None,
    bands: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="Which bands become red, green and blue, from 1; or one.")
    ] = None,
    stretch: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Percentiles of the training images' values that become 0 and 255."),
    ] = None,
    no_dvc: NoDvc = False,
) -> None:
    """Any folder of images with tags; masks are not needed."""
    from wsss.data.folder import add_folder

    dataset = add_folder(
        path,
        name or path.resolve().name,
        tags=tags,
        class_list=classes,
        masks=masks,
        lists=lists,
        val_share=val_share,
        dev_list=dev_list,
        max_disagreement=max_disagreement,
        value_255=value_255,
        background=not no_background,
        mask_values=mask_values,
        ignore_values=ignore_values,
        bands=bands,
        stretch=stretch,
    )
    _added(dataset, no_dvc)


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


@make_app.command()
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
            background=not no_background,
            bands=bands,
        )
        rename(root, name)
    _print(Dataset.open(target))


@app.command("list")
def list_datasets(
    wide: Annotated[bool, typer.Option("--wide", help="Every column, however long the lines get.")] = False,
) -> None:
    """The datasets of the workspace."""
    from wsss.data import open_dataset
    from wsss.data.dataset import dataset_names
    from wsss.data.layout import SPLITS
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
def show(name: Name) -> None:
    """Splits, masks and images of each class."""
    from wsss.data import open_dataset

    _print(open_dataset(name))


@app.command()
def check(name: Name) -> None:
    """Compare every file with what was added, decode images and masks, compare masks with tags; name what is wrong."""
    from wsss.data import open_dataset
    from wsss.data.layout import SPLITS

    dataset = open_dataset(name)
    note = dataset.check(thorough=True)
    images = sum(len(dataset.splits[split]) for split in SPLITS)
    typer.echo(f"{dataset.name}: {images:,} images, their tags and what masks there are, are sound")
    if note:
        typer.echo(note)


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
    _added(open_dataset(name), no_dvc or not tracked)


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

    _added(write(open_dataset(name), dev_list, share), no_dvc)


@app.command()
def track(name: Name) -> None:
    """Put a dataset under DVC that is not, because it was added without or DVC refused."""
    from wsss.data import open_dataset

    _track(open_dataset(name))


def _added(dataset: Dataset, no_dvc: bool) -> None:
    _print(dataset)
    if not no_dvc:
        _track(dataset)


def _track(dataset: Dataset) -> None:
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


def _print(dataset: Dataset) -> None:
    from rich.table import Table

    from wsss.console import show
    from wsss.data.layout import SPLITS, mask_counts
    from wsss.data.manifest import MASKS_FACT, open_manifest

    no_background = "" if dataset.has_background else " and no background"
    typer.echo(
        f"{dataset.name}: {dataset.kind}, {len(dataset.classes)} classes{no_background}, tags from "
        f"{dataset.tags_source}, in {_here(dataset.root)}, digest {dataset.digest[:12]}"
    )
    table = Table("", *SPLITS, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("images", *(f"{len(dataset.splits[split]):,}" for split in SPLITS))
    table.add_row("with a mask", *(f"{count:,}" for count in mask_counts(dataset.root, dataset.splits, SPLITS)))
    for index, class_name in enumerate(dataset.classes.names):
        counts = (sum(bool(dataset.tags(id)[index]) for id in dataset.splits[split]) for split in SPLITS)
        table.add_row(class_name, *(f"{count:,}" for count in counts))
    show(table)
    if dataset.pixels is not None:
        typer.echo(f"images are read so: {dataset.pixels}")
    if values := open_manifest(dataset.root).facts.get(MASKS_FACT):
        became = (f"{value} {each['name']} ({each['pixels']:,} px)" for value, each in values.items())
        typer.echo(f"values of the masks that were added: {', '.join(became)}")
    for note in dataset.settings.get("notes", ()):
        typer.echo(f"note: {note}")
