"""The Python API: `import wsss` is quick, and every example of docs/api.md does what the page says."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import wsss
from wsss import api
from wsss.data import Dataset
from wsss.data.score_maps import ScoreMaps
from wsss.data.shapes import make_shapes
from wsss.tracking.connection import mlflow_client

PROJECT = Path(__file__).parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "api.md").read_text(), re.DOTALL)
HEAVY = ("torch", "mlflow", "ray", "dvc", "numpy", "pandas", "PIL", "scipy", "typer")


def fresh(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PROJECT
    ).stdout.strip()


@pytest.fixture(scope="module")
def page(tiny_shapes: Dataset, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the page's examples define, run in a folder that holds the data they speak of; the folder is current."""
    root = tmp_path_factory.mktemp("api")
    shutil.copytree(tiny_shapes.root, root / "data" / "shapes")
    shutil.copy(template, root / "mlflow.db")
    (root / "photos").mkdir()
    rows = ["image,labels"]
    for number, image_id in enumerate(tiny_shapes.splits["train"][:12]):
        shutil.copy(tiny_shapes.image_path(image_id), root / "photos" / f"{number}.jpg")
        rows.append(f"{number}.jpg,{';'.join(tiny_shapes.tag_names(image_id))}")
    (root / "tags.csv").write_text("\n".join(rows) + "\n")
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
            patch.delenv(variable, raising=False)
        for example in EXAMPLES:
            exec(example, names)
        yield names


def test_import_is_quick_and_imports_nothing_heavy() -> None:
    """The processor's time, so that what else the machine does has no part in it."""
    program = (
        "import sys, time; begin = time.process_time(); import wsss; seconds = time.process_time() - begin; "
        f"print(seconds, *sorted(set({HEAVY}) & set(sys.modules)))"
    )
    runs = [fresh(program).split() for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in runs) < 0.1
    assert [heavy for _, *heavy in runs] == [[], [], []]


def test_the_methods_are_listed_without_anything_heavy() -> None:
    program = (
        "import sys, wsss; print(len(wsss.methods())); "
        "print(*sorted({'torch', 'mlflow', 'ray', 'dvc', 'pandas'} & set(sys.modules)))"
    )
    assert fresh(program) == str(len(wsss.methods()))


def test_every_name_is_there_and_says_what_it_does() -> None:
    assert set(wsss.__all__) <= set(dir(wsss))
    for name in wsss.__all__:
        assert getattr(wsss, name).__doc__, name
    with pytest.raises(AttributeError, match="module 'wsss' has no attribute 'nothing'"):
        wsss.nothing  # noqa: B018


def test_a_package_that_can_be_called_stays_a_package() -> None:
    """`wsss.run(...)` works whether `wsss.run.plan` was imported before or not, and travels to Ray's processes."""
    import wsss.run.plan as plan

    assert callable(wsss.run) and wsss.run.plan is plan
    assert pickle.loads(pickle.dumps(wsss.run)) is wsss.run
    with pytest.raises(wsss.UserError, match="unknown method 'no such'; choose from affinity, bound, cam"):
        wsss.run("no such")
    assert fresh("import wsss; print(callable(wsss.run), wsss.methods()[0]['method'])") == "True affinity"
    assert fresh("from wsss import methods; print(methods.names()[0], methods()[0]['method'])") == "affinity affinity"


def test_a_folder_with_tags_becomes_a_dataset(page: dict[str, Any]) -> None:
    assert wsss.datasets() == ["photos", "shapes"]
    assert wsss.open_dataset("photos").digest == page["photos"].digest
    assert Path("data/photos.dvc").is_file()
    with pytest.raises(wsss.UserError, match="data/photos exists"):
        wsss.add_folder("photos", tags="tags.csv")


def test_a_run_leaves_objects_and_frames(page: dict[str, Any]) -> None:
    result, shapes = page["result"], page["shapes"]
    assert mlflow_client().get_run(result.run_id).info.status == "FINISHED"
    assert result.model == "models:/wsss-shapes-candidates/1"
    frame = result.to_frame().set_index(["split", "what"])
    assert frame.loc[("val", "pred_crf"), "miou"] == pytest.approx(result.metrics["val/pred_crf/miou"])
    assert frame.loc[("val", "pred_crf"), "images"] == len(shapes.splits["val"])
    assert {f"iou/{name}" for name in shapes.classes.with_background} <= set(frame.columns)
    assert set(result.evaluations) == {"/".join(place) for place in frame.index}
    assert page["labels"].read(page["first"]).shape == shapes.size(page["first"])


def test_the_same_run_again_does_nothing_again(page: dict[str, Any]) -> None:
    again = wsss.run(method="cam", data=page["shapes"], settings=page["quick"], until="refine")
    assert all(step.reused for step in again.steps.values())
    assert again.labels == page["result"].labels and again.model == ""
    assert wsss.run(method="cam", settings=page["quick"], until="localize").labels is None


def test_runs_and_results_are_rows_and_frames(page: dict[str, Any]) -> None:
    runs = wsss.runs(data="shapes", method="cam")
    assert page["result"].run_id in [run.id for run in runs]
    frame = runs.to_frame().set_index("id")
    metric = "val/pred_crf/miou"
    assert frame.loc[page["result"].run_id, f"metrics.{metric}"] == pytest.approx(page["result"].metrics[metric])
    assert wsss.runs(data="photos") == [] and wsss.runs(data="photos").to_frame().empty
    assert [row.method for row in wsss.results()] == list(wsss.results().to_frame()["method"]) == ["cam"]
    assert list(wsss.methods().to_frame()["method"]) == [row["method"] for row in wsss.methods()]


def test_the_champion_labels_an_image(page: dict[str, Any]) -> None:
    assert page["mask"].dtype == np.uint8 and page["mask"].shape == page["image"].shape[:2]
    assert page["mask"].max() <= len(page["shapes"].classes)
    name = "wsss-shapes-candidates"
    mlflow_client().set_registered_model_alias(name, "champion", "1")
    assert np.array_equal(wsss.load(f"models:/{name}@champion")(page["image"]), page["mask"])
    with pytest.raises(wsss.UserError, match="models:/none/1"):
        wsss.load("models:/none/1")


def test_a_picture_is_localized_as_the_dataset_was(page: dict[str, Any]) -> None:
    shapes, first = page["shapes"], page["first"]
    stored = ScoreMaps(page["result"].steps["localize.infer"].folder / "cam").read(first)
    own = page["locate"](shapes.image(first), shapes.tag_names(first))
    assert own.scores.dtype == np.float16 and own.size == stored.size
    assert np.array_equal(own.classes, stored.classes)
    assert np.allclose(own.scores, stored.scores, atol=0.05)
    assert not len(page["locate"](shapes.image(first), []).classes)


LOCALIZERS = {row["stages"]["localize"]: row["method"] for row in wsss.methods() if "localize" in row["stages"]}


@pytest.mark.parametrize("method", LOCALIZERS.values(), ids=LOCALIZERS)
def test_every_localizer_sees_a_picture_from_anywhere(
    method: str, small_shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    locate = wsss.localizer(method=method, data=small_shapes, settings={"localize.train.epochs": 1})
    image = small_shapes.image(small_shapes.splits["train"][0])[:40, :56].copy()
    maps = locate(image, small_shapes.classes.names[:1])
    assert maps.size == (40, 56) and maps.classes[-1] == 1
    assert wsss.upsampled(maps).shape == (len(maps.classes), 40, 56)


@pytest.fixture(scope="module")
def small_shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("small") / "small"
    root.mkdir()
    make_shapes(root, images=8, val_images=2, size=64, classes=2, rng=0)
    return Dataset.open(root)


def test_what_is_no_picture_is_refused(page: dict[str, Any]) -> None:
    with pytest.raises(wsss.UserError, match=r"uint8 H x W x 3 array in RGB, this is float64 \(4, 4\)"):
        page["locate"](np.zeros((4, 4)), [])
    with pytest.raises(wsss.UserError, match="unknown class 'unicorn'"):
        page["locate"](page["image"], ["unicorn"])
    with pytest.raises(wsss.UserError, match="method bound has no localizer"):
        wsss.localizer(method="bound")


def test_crf_and_walk_take_arrays(page: dict[str, Any]) -> None:
    assert np.allclose(page["marginals"].sum(0), 1, atol=1e-4)
    assert page["pseudo"].shape == page["image"].shape[:2]
    scores = np.zeros((1, 9, 9), np.float32)
    scores[0, 4, 2] = 1
    sides = np.zeros((1, 9, 9))
    sides[:, :, 5:] = 10
    spread = wsss.walk(scores, sides, radius=3, steps=50)
    assert spread.dtype == np.float32 and spread.shape == scores.shape
    assert spread[0, :, 5:].max() < 1e-6 < 1e-3 < spread[0, :, :5].min(), "it stays where the features are alike"
    assert np.array_equal(wsss.walk(scores, sides, steps=0), scores)
    with pytest.raises(wsss.UserError, match="of the same cells"):
        wsss.walk(scores, sides[:, 1:])


def test_the_readme_calls_what_is_there() -> None:
    """Its example takes hours; the calls in it are compared with the functions that they call."""
    (example,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    calls = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func).partition("wsss.")[2] for call in calls]
    assert len(list(filter(None, names))) > 5
    for call, name in zip(calls, names, strict=True):
        if name.isidentifier():
            function = getattr(api, name, None) or getattr(wsss, name)
            inspect.signature(function).bind(*call.args, **{word.arg: word.value for word in call.keywords if word.arg})


def test_a_file_is_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (1, 2, 3)).save(tmp_path / "a.png")
    assert wsss.read_image(tmp_path / "a.png").tolist() == [[[1, 2, 3]] * 5] * 4
    with pytest.raises(wsss.UserError, match="is missing"):
        wsss.read_image(tmp_path / "b.png")
