"""The Python API: what the commands do, for programs and notebooks. All of it is reached as `wsss.NAME`.

It works in the current folder, as the commands do: datasets in `data/`, step outputs in `work/` (or WSSS_STORE), runs
in `mlflow.db` (or MLFLOW_TRACKING_URI). What is wrong with the input is a `UserError` of one sentence. Rooms are
imported by the call that needs them, so that listing something waits for no network library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas as pd
    from _typeshed import DataclassInstance

    from wsss.data import Dataset
    from wsss.interface import StepResult
    from wsss.run.picture import Localizer
    from wsss.scores import Evaluation
    from wsss.serving.segmenter import Segmenter
    from wsss.tables.compare import Row as ResultRow
    from wsss.tracking.query import RunRecord

Row = TypeVar("Row", bound="DataclassInstance | dict[str, Any]")


class Table(list[Row]):
    """A list of rows that can be had as a data frame."""

    def to_frame(self) -> pd.DataFrame:
        """The rows as a pandas data frame; what is nested has a column "outer.inner" for each part."""
        import pandas as pd

        return pd.json_normalize([asdict(row) if is_dataclass(row) else row for row in self])


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes:
        run_id: of the MLflow run.
        method, preset, data, rng: what was run, on which dataset; of a preset file, the preset that it stands on.
        metrics: every metric by its name, such as "val/pred_crf/miou", in [0, 1]; where there are no masks, none of
            those that need them.
        model: the address of the registered model, "models:/NAME/VERSION"; empty where no segmenter was trained.
        steps: the finished steps by key, such as "refine.walk", each with the folder of its output.
    """

    run_id: str
    method: str
    preset: str
    data: str
    rng: int
    metrics: Mapping[str, float] = field(repr=False)
    model: str
    steps: Mapping[str, StepResult] = field(repr=False)

    @property
    def labels(self) -> Path | None:
        """The folder of the label maps that the segmenter learns from, for `wsss.LabelMaps`; None without any."""
        from wsss.run.method import label_folder

        return label_folder(self.steps) if any(key.startswith("refine.") for key in self.steps) else None

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluations by "<split>/<what>", such as "val/pred_crf"; empty where there are no masks."""
        from wsss.stages.evaluate import read_evaluations

        steps = [step for key, step in self.steps.items() if key.startswith("evaluate.")]
        evaluations = [e for step in steps for e in read_evaluations(step.folder).values()]
        return {f"{e.split}/{e.what}": e for e in evaluations}

    def to_frame(self) -> pd.DataFrame:
        """A row for each evaluation: split, what, number of images, then its metrics, the IoU of each class last."""
        import pandas as pd

        return pd.DataFrame(
            {"split": e.split, "what": e.what, "images": len(e.ids)}
            | {name.removeprefix(f"{place}/"): value for name, value in e.metrics.items()}
            for place, e in self.evaluations.items()
        )


def datasets() -> list[str]:
    """The names of the datasets in this workspace; the built-in "shapes" is drawn when it is first opened."""
    from wsss.data.workspace import dataset_names

    return dataset_names()


def add_folder(
    path: str | Path,
    *,
    tags: str | Path | None = None,
    name: str | None = None,
    masks: str | Path | None = None,
    classes: str | Path | None = None,
    negative: Sequence[str] = (),
    groups: str | None = None,
    splits: str | None = None,
    lists: str | Path | None = None,
    val_share: float | None = None,
    max_disagreement: float | None = None,
    value_255: str | None = None,
    follow_links: bool = False,
    version: bool = True,
) -> Dataset:
    """Make a dataset from any folder of images, as `wsss data add folder` does.

    Args:
        path: the folder of images, searched through all its subfolders; or the s3:// address of one. Tags, classes,
            groups and lists may be s3:// addresses too.
        tags: a table (CSV, TSV) with the columns image and labels (several labels joined by ";"; empty for a background
            image) or a column of 0 and 1 for each class, an npz file, COCO's JSON, "folders", "name:REGEX", "coco",
            "xml", "roboflow" or "masks"; by default what the folder shows.
        name: how the dataset is called; by default like the folder.
        masks: a folder of masks ID.png, for all or some of the images, or "suffix:_GT" where they lie beside these and
            are so called; not needed.
        classes: a file of class names, one a line; by default those of the tags.
        negative: names of classes, as of folders, that stand for no class.
        groups: what belongs together, so that no split or bootstrap divides it: a file image,group, "column:NAME" of
            the table, or "name:REGEX" with a named group `group`; by default each image is its own.
        splits: "folders" (train, val, test), "column:NAME", "none" to choose them by hash, or one split for all images;
            by default folders where there are any.
        lists: a folder with train.txt, val.txt, test.txt, dev.txt, of ids.
        val_share: the share held out as val where there are no lists, 0 to below 1.
        max_disagreement: the share of masks that may disagree with their image's tags, 0 to 1; 0.1 by default.
        value_255: "void" or "object": what 255 stands for in masks that hold nothing else beside 0.
        follow_links: take images behind links that lead out of the folder.
        version: put the dataset under DVC.

    Raises:
        UserError: the dataset exists, an image has no tags, or anything else that is wrong with the files.
    """
    from wsss import versions
    from wsss.data.addresses import folder_name
    from wsss.data.folder import add_folder as add

    dataset = add(
        path,
        name or folder_name(path),
        tags=None if tags is None else str(tags),
        masks=masks,
        class_list=classes,
        negative=negative,
        groups=groups,
        splits=splits,
        lists=lists,
        val_share=val_share,
        max_disagreement=max_disagreement,
        value_255=value_255,
        follow_links=follow_links,
    )
    if version:
        versions.add(dataset.root)
    return dataset


def methods() -> Table[dict[str, Any]]:
    """The methods: a row for each, with "method" (its name), "title", "year", "citation", "supervision", "settings"."""
    from wsss.tables.catalogue import catalogue

    return Table(catalogue())


def run(
    method: str = "affinity",
    *,
    preset: str | Path = "demo",
    data: str | Path | Dataset = "shapes",
    rng: int = 0,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
    until: str | None = None,
) -> RunResult:
    """Run a method over a dataset, from its tags to a registered model, as `wsss run` does.

    A step that was done before with equal inputs is reused, whoever did it; an interrupted run goes on.

    Args:
        method: its name; `wsss.methods()` lists them.
        preset: "demo", "small", "medium", "paper", or the path of a preset file.
        data: a dataset, its name, or its folder.
        rng: the seed, at least 0.
        settings: those that differ from the preset, such as {"refine.walk.beta": 4}.
        device: "auto", "cpu" or "cuda".
        until: the last stage: "localize", "refine" or "segment"; all by default.

    Raises:
        UserError: an unknown name, a setting out of its range, data that is damaged, a store that can't be reached.
    """
    from wsss.registry.models import publish
    from wsss.run.method import run_method
    from wsss.run.preset import read_preset

    outcome = run_method(
        method, str(preset), _address(data), rng=rng, overrides=settings, device=device, until=until, publish=publish
    )
    name = str(getattr(data, "name", data))
    begin = read_preset(str(preset)).name
    return RunResult(outcome.run_id, method, begin, name, rng, outcome.metrics, outcome.model, outcome.steps)


def runs(data: str | None = None, method: str | None = None, *, finished: bool = True) -> Table[RunRecord]:
    """The methods' runs that MLflow has, newest first.

    Args:
        data, method: only those on this dataset, of this method.
        finished: leave out those that are running, failed or killed.

    Raises:
        UserError: the tracking store can't be used.
    """
    from wsss.tracking import query

    return Table(query.runs(data, method, finished))


def results(data: str | None = None, method: str | None = None) -> Table[ResultRow]:
    """The table of finished runs that `wsss compare` prints: mean and deviation over rngs, and what was published.

    Args:
        data, method: only of this dataset, of this method.

    Raises:
        UserError: the tracking store can't be used.
    """
    from wsss.tables import compare
    from wsss.tracking import query

    return Table(compare.table(query.runs(data, method)))


def load(address: str | Path) -> Segmenter:
    """A trained model, to be called with an image.

    Args:
        address: "models:/NAME@champion", "models:/NAME/VERSION", or the folder of a package.

    Returns:
        From a uint8 H x W x 3 RGB image to its label map, uint8 H x W: 0 is the background, i the i-th of `classes`.

    Raises:
        UserError: there is no such model, or it is not one of ours. Nothing that comes with it is executed.
    """
    from wsss.serving.package import load_package

    return load_package(str(address))


def localizer(
    method: str = "cam",
    *,
    preset: str | Path = "demo",
    data: str | Path | Dataset = "shapes",
    rng: int = 0,
    settings: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Localizer:
    """The localizer of a method, trained on a dataset: reused where `wsss.run` trained it, else trained now.

    Args:
        method, preset, data, rng, settings, device: as in `wsss.run`. MLflow is not told.

    Returns:
        From an image (uint8 H x W x 3) and the names of the classes in it to its score maps; see `Localizer`.

    Raises:
        UserError: the method has no localizer, or anything that `wsss.run` refuses.
    """
    from wsss.data import open_dataset
    from wsss.run.method import run_method
    from wsss.run.picture import localizer_of, score_map_step
    from wsss.run.plan import make_plan
    from wsss.run.steps import choose_device

    plan = make_plan(method, str(preset), settings)
    score_map_step(plan)
    outcome = run_method(
        method, str(preset), _address(data), rng=rng, overrides=settings, device=device, until="localize", track=False
    )
    return localizer_of(plan, open_dataset(_address(data)), outcome.steps, rng, choose_device(device))


def _address(data: str | Path | Dataset) -> str:
    """A dataset, its name or its folder as `open_dataset` takes it."""
    return str(getattr(data, "root", data))
