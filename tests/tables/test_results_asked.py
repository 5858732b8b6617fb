"""What `wsss results`, `wsss compare` and a grid are asked: settled and refused before anything runs."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tune.combine import plan_combinations
from tune.grid import plan_grid
from wsss.cli import app
from wsss.data import Dataset, open_dataset
from wsss.data.folder import add_folder
from wsss.data.shapes import make_shapes
from wsss.errors import UserError
from wsss.run.plan import make_plan
from wsss.tables import measure, results
from wsss.tables.compare import check_known
from wsss.tables.rows import entries, planned_rows, rngs_of

pytestmark = pytest.mark.usefixtures("surroundings")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("asked") / "little"
    folder.mkdir()
    make_shapes(folder, images=12, val_images=2, size=40, classes=2, rng=0)
    return open_dataset(folder)


@pytest.fixture(scope="module")
def bare(masked: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same images and tags without a mask, so without images in dev, which are some of those with masks."""
    folder = tmp_path_factory.mktemp("bare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        add_folder(masked.root / "JPEGImages", "bare", tags=masked.root / "tags.csv")
    return open_dataset(folder / "data" / "bare")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods that would run, in an empty workspace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    runs: list[str] = []
    monkeypatch.setattr(measure, "run_method", lambda method, *_, **__: runs.append(method))
    monkeypatch.setattr(measure, "runs", lambda *_: [])
    return runs


def refused(*words: str) -> str:
    """The sentence with which a command ends that does nothing."""
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, UserError), error
    return str(error)


def test_a_setting_of_all_rows_holds_for_those_that_have_it(masked: Dataset) -> None:
    rows = planned_rows(entries(["all"], []), "demo", {"localize.train.epochs": "1", "refine.walk.beta": "4"}, masked)
    settings = {row.entry.method: row.settings for row in rows}
    assert set(settings["cam"]) == {"localize.train.epochs"} and not settings["bound"]
    assert set(settings["affinity"]) == {"localize.train.epochs", "refine.walk.beta"}
    assert {row.plan.settings["localize.train.epochs"] for row in rows if row.entry.method != "bound"} == {1}
    chosen = planned_rows(entries(["cam", "bound"], []), "demo", {"localize.name": "wildcat"}, masked)
    assert [dict(row.settings) for row in chosen] == [{"localize.name": "wildcat"}, {}]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"localize.train.epoch": "1"}, "unknown setting in localize.train: 'epoch'; choose from .*epochs"),
        ({"": "1"}, "unknown step in setting ''"),
        ({"localize.nme": "cam"}, "unknown step in setting"),
        ({"localize.train.attention": "cosine", "localize.train.temperature": "none"}, "cosine needs a temperature"),
    ],
)
def test_what_no_row_has_and_what_contradicts_itself_is_refused_before_the_first_row(
    masked: Dataset, overrides: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        planned_rows(entries(["all"], []), "demo", overrides, masked)


def test_a_rows_own_settings_are_words_as_in_a_shell() -> None:
    [row] = entries([], ["imported refine.read.folder='my labels' refine.read.name=mine"])
    assert row.overrides == {"refine.read.folder": "my labels", "refine.read.name": "mine"}
    with pytest.raises(UserError, match="close what is quoted"):
        entries([], ["imported refine.read.folder='my labels"])


def test_without_masks_all_rows_run_but_the_bound(
    bare: Dataset, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert not bare.splits["dev"]
    measure.measure(bare, "demo", [0, 1], entries(["cam", "bound"], []), {})
    assert made == ["cam", "cam"]
    assert capsys.readouterr().err.count("bound is left out: bare has no masks for its training images") == 1
    with pytest.raises(UserError, match="bound is left out"):
        measure.measure(bare, "demo", [0], entries(["bound"], []), {})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--run", "cam", "--rngs", "-1"], "rng = -1 is no seed; allowed: whole numbers from 0"),
        (["--run", "cam", "--rngs", ","], "rng = '' is no seed"),
        (["--run", "cam", "--rngs", ""], "rng = '' is no seed"),
        (["--run", "cam", "--classes", "unicorn"], "unknown class 'unicorn'; choose from"),
        (["--run", "cam", "--to", "."], "--to . is a folder; name the file"),
        (["--combine", "--hours", "3"], "--hours belongs to --offline"),
        (["--set", "localize.train.epochs=1"], "finished runs are shown and none is made, so --set can't stand beside"),
        (["--rngs", "0,1"], "finished runs are shown and none is made, so --rngs can't stand beside"),
        (
            ["--offline", "out", "--csv", "--classes", "x"],
            "makes no table, .*so --classes, --csv can't stand beside it",
        ),
        (["--run", "cam,nonsense"], "unknown method 'nonsense'; choose from"),
    ],
)
def test_what_would_be_refused_in_the_end_is_refused_before_anything_runs(
    masked: Dataset, made: list[str], words: list[str], sentence: str
) -> None:
    assert re.search(sentence, refused("results", "--data", str(masked.root), "--preset", "demo", *words))
    assert not made


def test_a_method_named_twice_or_beside_all_is_one_row() -> None:
    everything = [entry.name for entry in entries(["all"], [])]
    assert [entry.name for entry in entries(["cam", "cam"], [])] == ["cam"]
    assert [entry.name for entry in entries(["all", "cam"], [])] == everything


def test_each_seed_counts_once() -> None:
    assert rngs_of(["0", "1", "0"]) == (0, 1)


def test_a_program_that_asks_for_csv_gets_nothing_else(
    masked: Dataset, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Page:
        def csv(self) -> str:
            return "method,miou\ncam,0.5"

    monkeypatch.setattr(results, "results_of", lambda *_: Page())
    words = ["results", "--data", str(masked.root), "--preset", "demo", "--run", "cam", "--csv"]
    done = CliRunner().invoke(app, words)
    assert made == ["cam"] and "1 of 1: cam, rng 0" in done.stderr
    assert list(csv.reader(io.StringIO(done.stdout))) == [["method", "miou"], ["cam", "0.5"]]


def test_combinations_and_grids_say_what_they_lack_without_masks(bare: Dataset) -> None:
    with pytest.raises(
        UserError, match=r"combinations are compared by the masks of dev, .*--masks.*results .*--run all"
    ):
        plan_combinations(["all"], "demo", str(bare.root))
    with pytest.raises(UserError, match=r"runs of a grid are compared on dev, and dataset bare has no images there"):
        plan_grid({"refine.crf.iterations": ["0", "1"]}, method="cam", data=str(bare.root))


def test_methods_without_a_part_of_a_combination_are_named(masked: Dataset) -> None:
    grid = plan_combinations(["cam", "bound"], "demo", str(masked.root))
    assert len(grid.cells) == 1 and "bound, which has neither a localizer nor a refiner" in grid.left_out[0]
    with pytest.raises(UserError, match="no combination can be: bound, which has neither"):
        plan_combinations(["bound"], "demo", str(masked.root))
    assert not plan_combinations(["all"], "demo", str(masked.root)).left_out


class Run:
    method, dataset = "cam", "little"


def test_a_comparison_of_what_there_is_not_names_what_there_is() -> None:
    runs = [Run()]
    with pytest.raises(UserError, match="no finished run of method 'cham'; there are of cam"):
        check_known(runs, "cham", None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no finished run of dataset 'lttle'; there are of little"):
        check_known(runs, "cam", "lttle")  # type: ignore[arg-type]
    check_known([], "cham", None)
    check_known(runs, "cam", "little")  # type: ignore[arg-type]


def test_a_table_has_one_form() -> None:
    assert "--json and --csv are several forms of one table" in refused("compare", "--csv", "--json")


def test_a_setting_that_may_be_none_says_so() -> None:
    with pytest.raises(UserError, match="temperature = '' is not a valid float; allowed: .*, or none"):
        make_plan("mcis", "demo", {"localize.train.temperature": ""})
