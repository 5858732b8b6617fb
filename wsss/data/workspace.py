"""The datasets of a workspace: which there are, and opening one by its name."""

from __future__ import annotations

from pathlib import Path

from wsss.commands import command
from wsss.data import layout
from wsss.data.dataset import Dataset
from wsss.errors import UserError, unknown

DEFAULT = "shapes"


def open_dataset(name: str | Path) -> Dataset:
    """Open a dataset by its name in the workspace (`data/<name>` of the current folder) or by the path of its folder.

    The built-in `shapes` is made with its defaults on first use.

    Raises:
        UserError: there is no such dataset (names the known ones), or it is damaged.
    """
    path = Path(name)
    if (path / layout.DESCRIPTION).is_file():
        return Dataset.open(path)
    known = dataset_names()
    if str(name) in known:
        return Dataset.open(layout.home(str(name)))
    if str(name) == DEFAULT:
        return _make_shapes()
    if path.is_dir():
        raise UserError(
            f"{path} is not a dataset folder: it has no {layout.DESCRIPTION}; add it with "
            f"`{command('wsss', 'data', 'add')}`"
        )
    pointer = Path("data") / f"{name}.dvc"
    if pointer.is_file():
        raise UserError(f"dataset {name} is tracked but not here; fetch it with `dvc pull {pointer}`")
    raise unknown("dataset", str(name), {*known, DEFAULT})


def dataset_names() -> list[str]:
    """The names of the datasets that are in the workspace, sorted."""
    return sorted(path.parent.name for path in Path("data").glob(f"[!.]*/{layout.DESCRIPTION}"))


def _make_shapes() -> Dataset:
    from wsss.data.shapes import make_shapes

    target = layout.home(DEFAULT)
    try:
        with layout.building(target) as partial:
            make_shapes(partial)
    except UserError:
        if not (target / layout.DESCRIPTION).is_file():  # else another process was faster
            raise
    return Dataset.open(target)
