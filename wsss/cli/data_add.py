"""`wsss data add`: datasets from folders that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss.cli.data_told import (
    ClassList,
    DevList,
    Groups,
    IgnoreValues,
    MaskValues,
    MaxDisagreement,
    NewName,
    NoBackground,
    NoDvc,
    Value255,
    added,
)

app = typer.Typer(no_args_is_help=True, help="Make data/NAME from a folder that exists, and put it under DVC.")


@app.command()
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
    groups: Groups = None,
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
        groups=groups,
        max_disagreement=max_disagreement,
        value_255=value_255,
        background=not no_background,
        mask_values=mask_values,
        ignore_values=ignore_values,
    )
    added(dataset, no_dvc)


@app.command()
def sbd(
    path: Annotated[Path, typer.Argument(help="benchmark_RELEASE, the folder that holds it, or dataset in it.")],
    name: NewName = "sbd",
    tags: Annotated[str, typer.Option(help="masks, or a .csv or .npz file.")] = "masks",
    dev_list: DevList = None,
    groups: Groups = None,
    max_disagreement: MaxDisagreement = None,
    no_dvc: NoDvc = False,
) -> None:
    """The Semantic Boundaries Dataset alone, with its own train and val lists."""
    from wsss.data.sbd import add_sbd

    dataset = add_sbd(path, name, tags=tags, dev_list=dev_list, groups=groups, max_disagreement=max_disagreement)
    added(dataset, no_dvc)


@app.command()
def folder(
    path: Annotated[str, typer.Argument(help="A folder of images, in subfolders too; or s3://bucket/folder.")],
    tags: Annotated[
        str | None,
        typer.Option(
            help="A .csv, .tsv, .npz or COCO .json file; folders, name:REGEX, coco, xml, roboflow or masks; by default "
            "what the folder shows."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="How the dataset is called; by default like the folder.")] = None,
    classes: Annotated[str | None, typer.Option(help="A file of class names, one a line.")] = None,
    negative: Annotated[
        str, typer.Option(metavar="NAMES", help="Names, separated by commas, that stand for no class, such as good.")
    ] = "",
    masks: Annotated[
        str | None,
        typer.Option(
            help="A folder of masks ID.png, suffix:_GT where they lie beside the images, or coco, drawn of its JSON."
        ),
    ] = None,
    groups: Groups = None,
    splits: Annotated[
        str | None,
        typer.Option(help="folders (train, val, test), column:NAME, none (chosen by hash), or one split for all."),
    ] = None,
    lists: Annotated[str | None, typer.Option(help="A folder with train.txt, val.txt, test.txt, dev.txt.")] = None,
    val_share: Annotated[
        float | None, typer.Option(help="The share held out as val where there are no lists (0.2; 0.1 if no masks).")
    ] = None,
    dev_list: Annotated[
        str | None, typer.Option(help="A file of dev ids, instead of 10 % of the masked train ids by hash.")
    ] = None,
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
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Take images behind links that lead out of the folder.")
    ] = False,
    no_dvc: NoDvc = False,
) -> None:
    """Any folder of images with tags; masks are not needed.

    Images of a bucket stay there, and are read from there. Tags, classes, groups and lists may be s3:// addresses too.
    """
    from wsss.data.addresses import folder_name
    from wsss.data.folder import add_folder

    dataset = add_folder(
        path,
        name or folder_name(path),
        tags=tags,
        class_list=classes,
        negative=[part.strip() for part in negative.split(",") if part.strip()],
        masks=masks,
        groups=groups,
        splits=splits,
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
        follow_links=follow_links,
    )
    added(dataset, no_dvc)
