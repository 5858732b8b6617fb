"""From data as it comes to a served mask: LUAD-HistoSeg, MVTec, COCO, by preset demo; and names of any kind."""

import asyncio
import csv
import io
from pathlib import Path
from urllib.parse import quote

import httpx
import layouts
import numpy as np
import pytest
from conftest import SMALL
from PIL import Image

import wsss
from wsss.classes import Classes
from wsss.cli import main
from wsss.dashboard.app import make_app as make_dashboard
from wsss.dashboard.page import Context
from wsss.dashboard.reading import Reading
from wsss.data import open_dataset
from wsss.data.folder import add_folder
from wsss.data.palette_png import read_palette_png
from wsss.scores.metric_names import class_of_key
from wsss.serving.server import make_app
from wsss.tracking import names
from wsss.tracking.artifacts import read_artifact

TINY = {key: value for key, value in SMALL.items() if not key.startswith("refine")} | {
    "localize.train.epochs": "1",
    "segment.train.epochs": "1",
}


def ask(model, picture):
    """The mask that the server answers with."""

    async def send():
        app = make_app(model)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await client.post("/segment", content=picture, headers={"content-type": "image/png"})

    answer = asyncio.run(send())
    assert answer.status_code == 200, answer.text
    return np.array(Image.open(io.BytesIO(answer.content)))


def served(dataset, method="cam"):
    """A run over a dataset, and the mask that its model serves of the first train image."""
    run = wsss.run(method, data=dataset.name, settings=TINY)
    image = dataset.image(dataset.splits["train"][0])
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    mask = ask(wsss.load(run.model), file.getvalue())
    assert mask.shape == image.shape[:2] and mask.max() <= len(dataset.classes)
    return run


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["wsss", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    out = capsys.readouterr()
    return ended.value.code or 0, out.out + out.err


def test_luad_from_names_to_a_served_mask_and_predictions_of_test(store, tmp_path, monkeypatch, capsys):
    layouts.luad_histoseg(tmp_path / "luad", train=12, other=3)
    for mask in (tmp_path / "luad" / "test" / "mask").iterdir():
        mask.unlink()
    added = command(
        monkeypatch, capsys, "data", "add", "folder", "luad", "--no-dvc", "--classes", "tissues.txt",
        "--groups", r"name:(?P<group>\d+)-.*", "--tags", r"name:.*\[(?P<classes>[01 ]+)\]\.png",
        "--max-disagreement", "1",
    )  # fmt: skip
    assert added[0] == 0, added[1]
    run = served(open_dataset("luad"))
    assert run.evaluations["val/pred"].groups == ("5000", "5000", "5000")
    assert not any(key.startswith("test/") for key in run.metrics)
    code, told = command(monkeypatch, capsys, "predict", "--data", "luad", "--model", run.model, "--out", "out")
    assert code == 0 and "out: 3 label maps" in told
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    code, told = command(monkeypatch, capsys, "evaluate", run.model, "--data", "luad", "--split", "test")
    assert code != 0 and "has no masks for its split test; there is nothing to compare with" in told
    code, told = command(monkeypatch, capsys, "evaluate", run.model, "--data", "luad")
    assert code == 0 and "interval over groups" in told
    alone = ["data", "add", "folder", "luad/val", "--name", "alone", "--no-dvc", "--tags", "masks", "--splits", "val"]
    code, told = command(monkeypatch, capsys, *alone, "--classes", "tissues.txt")
    assert code == 0, told
    code, told = command(monkeypatch, capsys, "evaluate", run.model, "--data", "alone")
    assert code == 0 and "3 images" in told
    code, told = command(monkeypatch, capsys, "run", "--data", "alone", "--method", "cam")
    assert code != 0 and "dataset alone holds no image to train on" in told


def test_mvtec_from_class_folders_to_a_served_mask(store, tmp_path):
    layouts.mvtec(tmp_path / "bottle", good=10, defect=8)
    dataset = add_folder(
        tmp_path / "bottle", "bottle", tags="folders:defect", negative=["good"], splits="none", value_255="object"
    )
    run = served(dataset)
    labels = wsss.LabelMaps(run.labels)
    assert "test/broken_large/000" in labels.ids or "test/broken_large/000" in dataset.splits["val"]


def test_mvtecs_kinds_of_defects_as_classes_to_a_served_mask(store, tmp_path, monkeypatch, capsys):
    layouts.mvtec(tmp_path / "bottle", good=8, defect=8)
    words = [
        "data",
        "add",
        "folder",
        "bottle",
        "--negative",
        "good",
        "--splits",
        "none",
        "--no-dvc",
        "--tags",
        "folders",
    ]
    code, told = command(monkeypatch, capsys, *words, "--value-255", "object")
    assert code == 0, told
    dataset = open_dataset("bottle")
    assert dataset.classes.names == ("broken_large", "contamination")
    masks = {
        path.parent.name: read_palette_png(path) for path in sorted(dataset.root.rglob("000.png")) if is_mask(path)
    }
    assert {kind: set(np.unique(mask)) for kind, mask in masks.items()} == {
        "broken_large": {0, 1},
        "contamination": {0, 2},
    }
    served(dataset)
    (tmp_path / "bottle" / "ground_truth" / "good").mkdir()
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(tmp_path / "bottle/ground_truth/good/005_mask.png")
    code, told = command(monkeypatch, capsys, *words, "--value-255", "object", "--name", "other")
    assert code != 0 and "shows an object (255), but its image has no class" in told
    assert not (tmp_path / "data" / "other").exists()


def is_mask(path):
    return "SegmentationClass" in path.parts


def test_coco_from_its_json_to_a_served_mask(store, tmp_path):
    layouts.coco(tmp_path / "coco", train=12, val=3)
    dataset = add_folder(
        tmp_path / "coco",
        "coco",
        tags="coco",
        masks="coco",
        groups=r"name:0+(?P<group>\d+?)\d\.jpg",
        max_disagreement=1,
    )
    run = served(dataset)
    assert run.evaluations["val/pred"].ids == dataset.splits["val"]


async def shown_by_the_dashboard(dataset, run):
    """Every image, its mask and its prediction come from the dashboard under its id."""
    reading = Reading()
    transport = httpx.ASGITransport(make_dashboard(Context(reading)))
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
        for id in (*dataset.splits["train"], *dataset.splits["val"]):
            name = quote(id, safe="")
            picture = await client.get(f"/files/data/{dataset.name}/image/{name}")
            mask = await client.get(f"/files/data/{dataset.name}/mask/{name}")
            assert picture.status_code == mask.status_code == 200, id
            assert Image.open(io.BytesIO(mask.content)).size == dataset.image(id).shape[1::-1]
        for id in dataset.splits["val"]:
            answer = await client.get(f"/files/runs/{run.run_id}/maps/pred/{quote(id, safe='')}")
            assert answer.status_code == 200, id
    reading.close()


NAMES = (
    "Ångström 50%/a b#1.JPG",
    "con.png",
    "..hidden.png",
    "Ångström 50%/con.png",
    "日本/%2e%2e?&=.jpg",
    "<b>&'\"$(x)`.png",
)
CLASSES = ("cat/dog", "<script>alert(1)</script>", "a b  c", "x" * 200, "val/miou")


def test_any_name_goes_from_csv_to_png_to_metric_to_page_and_back(store, tmp_path, monkeypatch, capsys):
    rows = [("image", "labels")]
    for number, name in enumerate((*NAMES, *(f"龍 {n}.png" for n in range(8)))):
        path = tmp_path / "odd" / name
        drawn = layouts.scene(number, 5, main=number % 5)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(path, "JPEG" if path.suffix.lower() == ".jpg" else "PNG")
        layouts.save_mask((tmp_path / "masks" / name).with_suffix(".png"), drawn.labels)
        rows.append((name, ";".join(cls for cls, there in zip(CLASSES, layouts.shown(drawn, 5), strict=True) if there)))
    with (tmp_path / "tags.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    code, told = command(
        monkeypatch, capsys, "data", "add", "folder", "odd", "--tags", "tags.csv", "--masks", "masks", "--no-dvc",
        "--classes", "classes.txt", "--max-disagreement", "1",
    )  # fmt: skip
    assert code == 0, told
    dataset = open_dataset("odd")
    ids = {str(Path(name).with_suffix("")) for name in NAMES}
    everything = {id for split in ("train", "dev", "val") for id in dataset.splits[split]}
    assert ids <= everything and dataset.classes == Classes(CLASSES)
    assert dataset.tag_names("Ångström 50%/con") == tuple(rows[4][1].split(";"))
    run = served(dataset)
    shown_ids = [id for split in ("train", "val") for id in dataset.splits[split][:6]]
    assert len(ids & set(shown_ids)) >= 5
    for id in shown_ids:
        assert Image.open(io.BytesIO(read_artifact(run.run_id, names.panel_file(id)))).size[1] > 0
    asyncio.run(shown_by_the_dashboard(dataset, run))
    code, told = command(monkeypatch, capsys, "data", "show", "odd", "--html", "odd.html")
    assert code == 0, told
    page = (tmp_path / "odd.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page and "Ångström 50%/a b#1" in page
    evaluation = run.evaluations["val/pred"]
    keys = [key for key in store.get_run(run.run_id).data.metrics if key.startswith("val/pred/iou/")]
    assert {class_of_key(key.rpartition("/")[2]) for key in keys} <= set(Classes(CLASSES).with_background)
    assert evaluation.ids == dataset.splits["val"] and len(keys) >= 4
    code, told = command(monkeypatch, capsys, "labels", "export", "--run", run.run_id, "--to", "labels_out")
    assert code == 0, told
    labels = wsss.LabelMaps(run.labels)
    for id in labels.ids:
        assert np.array_equal(np.array(Image.open(tmp_path / "labels_out" / f"{id}.png")), labels.read(id))
    out = tmp_path / "predicted"
    code, told = command(
        monkeypatch, capsys, "predict", "--data", "odd", "--split", "val", "--model", run.model, "--out", out
    )
    assert code == 0, told
    code, told = command(monkeypatch, capsys, "evaluate", out, "--data", "odd")
    assert code == 0, told
    code, told = command(monkeypatch, capsys, "results", "--data", "odd", "--preset", "demo", "--to", "page.md")
    assert code == 0, told
