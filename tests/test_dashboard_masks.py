"""The page Masks in a browser: exact indices, one transform, switches, addresses; and what the server chooses."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import replace
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
import pytest
from conftest import empty_store
from dashboard_examples import served, standing_in
from PIL import Image
from tracking_examples import INFO

from wsss.classes import palette
from wsss.dashboard.masks.shown_maps import Wanted, shown
from wsss.dashboard.reading import Reading
from wsss.data import open_dataset
from wsss.data.folder import add_folder
from wsss.data.palette_png import write_palette_png
from wsss.scores.evaluation import Evaluation
from wsss.tracking.info import DatasetInfo
from wsss.tracking.maps import LABELS, SCORES, MapsWriter
from wsss.tracking.runs import method_run

pytest_plugins = ("dashboard_examples",)

VAL = ["50%", "a b", "no#1", "ümläut <b>"]
TRAIN = ["t1", "t2", "t3", "t4"]
CLASSES = ("background", "cat", "dog")
HEIGHT, WIDTH = 30, 40


def truth_of(image_id):
    draw = np.random.default_rng([*image_id.encode()])
    return draw.choice(np.array([0, 1, 2, 255], np.uint8), (HEIGHT, WIDTH), p=[0.4, 0.3, 0.2, 0.1])


def said_of(method, image_id):
    """What a run says: affinity is right but in the first rows, where cats are dogs; cam knows no dog at all."""
    labels = truth_of(image_id).copy()
    labels[labels == 255] = 0
    rows = slice(0, 2 + 3 * VAL.index(image_id)) if method == "affinity" else slice(0, 0)
    labels[rows][labels[rows] == 1] = 2
    if method == "cam":
        labels[labels == 2] = 0
    return labels


def scores_of(image_id):
    return np.random.default_rng([*image_id.encode(), 1]).random((2, 3, 4)).astype(np.float16)


def matrices_of(method):
    pairs = [(truth_of(i), said_of(method, i)) for i in VAL]
    known = [(truth[truth != 255], said[truth != 255]) for truth, said in pairs]
    return np.stack([np.bincount(3 * t.astype(int) + s, minlength=9).reshape(3, 3) for t, s in known]).astype(np.int32)


def log_run(method, dataset="photos", maps=True):
    of = {"train": 3, "dev": 1, "val": 9}
    info = replace(
        INFO,
        method=method,
        dataset=DatasetInfo(dataset, f"data/{dataset}", "d" * 64, of),
        fingerprint=method * 8,
        group=method,
        settings={},
    )
    with method_run(info) as run:
        if maps:
            for place, what in enumerate(("cam", "labels_crf", "pred", "pred_crf")):
                writer = MapsWriter(SCORES if what == "cam" else LABELS, place, CLASSES, of)
                for image_id in TRAIN if place < 2 else VAL:
                    split = "train" if place < 2 else "val"
                    if what == "cam":
                        writer.add(image_id, split, scores_of(image_id), (HEIGHT, WIDTH), (1, 2))
                    elif what == "pred" and image_id == "no#1":
                        writer.add(image_id, split, np.ones((15, 15), np.uint8), (15, 15))
                    else:
                        labels = truth_of(image_id) if place < 3 else said_of(method, image_id)
                        writer.add(image_id, split, labels, labels.shape)
                run.maps(what, writer.content())
            run.evaluation(Evaluation("val", "pred_crf", tuple(VAL), CLASSES, matrices_of(method)))
    return run.id


@pytest.fixture(scope="module")
def photos(template, tmp_path_factory):
    """A workspace with photographs of odd names, and runs on them: method to id."""
    root = tmp_path_factory.mktemp("photos")
    empty_store(template, root / "mlflow.db")
    for image_id in VAL + TRAIN:
        (root / "files").mkdir(exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        picture = np.random.default_rng([*image_id.encode(), 2]).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / "files" / f"{image_id}.png")
        write_palette_png(root / "masks" / f"{image_id}.png", truth_of(image_id))
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("\n".join(TRAIN))
    (root / "lists" / "val.txt").write_text("\n".join(VAL))
    (root / "classes.txt").write_text("cat\ndog\n")
    with standing_in(root):
        options = {"class_list": root / "classes.txt", "masks": root / "masks", "lists": root / "lists"}
        add_folder(root / "files", "photos", tags="masks", **options)
        runs = {"bare": log_run("bare", maps=False), "away": log_run("away", "elsewhere")}
        runs |= {method: log_run(method) for method in ("cam", "affinity")}
    return root, runs


@pytest.fixture(scope="module")
def runs(photos):
    return photos[1]


@pytest.fixture(scope="module")
def dashboard(photos):
    with served(photos[0]) as it:
        yield it


@pytest.fixture
def here(photos):
    with standing_in(photos[0]):
        yield


def opened(page, dashboard, **state):
    query = "&".join(f"{key}={quote(str(value), safe=',')}" for key, value in state.items())
    page.goto(f"{dashboard.url}/masks?{query}")
    page.wait_for_selector("#masks-view[data-image]")


def until_image(page, image_id):
    page.wait_for_function("id => document.querySelector('#masks-view')?.dataset.image === id", arg=image_id)


def painted(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def tile(page, title):
    return page.locator(f'.tile[data-tile="{title}"]')


def pixels(page, title):
    """The canvas of a tile, uint8 H x W x 3."""
    data = tile(page, title).locator("canvas").evaluate("canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(b64decode(data.partition(",")[2]))).convert("RGB"))


def colours(page, title):
    return {colour for _, colour in Image.fromarray(pixels(page, title)).getcolors(1 << 18)}


def voc(index):
    return tuple(palette()[index].tolist())


def readings(page):
    return page.locator(".tile-reading").all_text_contents()


@pytest.mark.parametrize("scale", [1, 1.25, 2])
def test_the_index_under_the_cursor_is_the_pngs_and_tiles_stay_aligned(window, dashboard, runs, scale):
    page = window(scale=scale)
    opened(
        page,
        dashboard,
        runs=runs["affinity"],
        split="val",
        what="pred,pred_crf",
        image="ümläut <b>",
        opacity=1,
        off="none",
    )
    truth, said = truth_of("ümläut <b>"), said_of("affinity", "ümläut <b>")
    canvas = tile(page, "pred_crf").locator("canvas")
    box = canvas.bounding_box()
    for turn in range(3):
        for column, row in ((12, 18), (31, 5), (20, 15)):
            spot = {"x": (column + 0.5) * box["width"] / WIDTH, "y": (row + 0.5) * box["height"] / HEIGHT}
            canvas.hover(position=spot)
            at, *rest = readings(page)
            x, y = (int(part.strip("xy ")) for part in at.split(","))
            if turn == 0:
                assert (x, y) == (column, row)
            name = [*CLASSES, *[""] * 252, "ignored"]
            words = [f"{name[labels[y, x]]} ({labels[y, x]})" for labels in (truth, truth, said)]
            assert rest == words
            down, across = (int(spot[axis] * scale) for axis in ("y", "x"))
            assert tuple(pixels(page, "pred_crf")[down, across].tolist()) == voc(said[y, x])
        # pred is the truth itself: what is drawn of both is the same to the last pixel.
        np.testing.assert_array_equal(pixels(page, "truth"), pixels(page, "pred"))
        page.mouse.wheel(0, -300)
        painted(page)
    page.wait_for_url("**&at=*")


def test_zoom_keeps_what_is_under_the_pointer_and_pans_by_drag_and_keys(page, dashboard, runs):
    opened(page, dashboard, runs=runs["affinity"], split="val", what="pred_crf", image="a b")
    canvas = tile(page, "image").locator("canvas")
    canvas.hover(position={"x": 60, "y": 40})
    before = readings(page)
    page.mouse.wheel(0, -400)
    painted(page)
    canvas.hover(position={"x": 60, "y": 40})
    assert readings(page) == before
    page.mouse.down()
    page.mouse.move(*(canvas.bounding_box()[a] + d for a, d in (("x", 100), ("y", 60))))
    page.mouse.up()
    assert readings(page) == before
    zoomed = pixels(page, "pred_crf")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    painted(page)
    assert (pixels(page, "pred_crf") != zoomed).any()
    page.keyboard.press("0")
    page.wait_for_timeout(300)
    assert "&at=" not in page.url


def test_a_class_switched_off_disappears_and_stays_off(page, dashboard, runs):
    opened(page, dashboard, runs=runs["affinity"], split="val", what="pred_crf", image="50%", sort="name", opacity=1)
    assert {voc(1), voc(2)} <= colours(page, "truth")
    page.keyboard.press("1")
    for image_id in ("50%", "a b"):
        until_image(page, image_id)
        for title in ("truth", "pred_crf"):
            assert voc(1) not in colours(page, title) and voc(2) in colours(page, title)
        page.keyboard.press("n")
    page.get_by_role("button", name="cat").click()
    assert voc(1) in colours(page, "truth")
    page.get_by_role("button", name="dog").click(modifiers=["Shift"])
    assert voc(1) not in colours(page, "truth") and voc(2) in colours(page, "truth")


def test_errors_are_coloured_and_said(page, dashboard, runs):
    opened(
        page, dashboard, runs=f"{runs['affinity']},{runs['cam']}", split="val", what="pred_crf", image="a b", opacity=1
    )
    page.keyboard.press("e")
    truth, said = truth_of("a b"), said_of("affinity", "a b")
    painted(page)
    right, missed, false = (0, 114, 178), (30, 30, 30), (255, 176, 0)
    assert {right, false} <= colours(page, "A affinity: pred_crf") and missed not in colours(
        page, "A affinity: pred_crf"
    )
    assert {right, missed} <= colours(page, "B cam: pred_crf") and false not in colours(page, "B cam: pred_crf")
    y, x = np.argwhere((truth == 1) & (said == 2))[0]
    canvas = tile(page, "image").locator("canvas")
    box = canvas.bounding_box()
    canvas.hover(position={"x": (x + 0.5) * box["width"] / WIDTH, "y": (y + 0.5) * box["height"] / HEIGHT})
    assert readings(page)[2] == "dog (2): false, is cat"
    page.get_by_role("button", name="false").click()
    assert false not in colours(page, "A affinity: pred_crf")


def test_the_address_reproduces_the_view(window, dashboard, runs):
    page = window()
    opened(page, dashboard, runs=f"{runs['affinity']},{runs['cam']}", split="val", what="pred,pred_crf", sort="name")
    page.keyboard.press("n")
    until_image(page, "a b")
    page.keyboard.press("2")
    page.keyboard.press("e")
    page.get_by_role("combobox", name="colours").select_option("distinct")
    tile(page, "image").locator("canvas").hover(position={"x": 70, "y": 50})
    page.mouse.wheel(0, -350)
    page.wait_for_timeout(400)
    other = window()
    other.goto(page.url)
    until_image(other, "a b")
    for title in ("image", "truth", "A affinity: pred_crf", "B cam: pred"):
        np.testing.assert_array_equal(pixels(other, title), pixels(page, title))
    other.wait_for_timeout(300)
    assert other.url == page.url


def test_the_next_image_is_there_before_it_is_asked_for(page, dashboard, runs):
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/files/" in request.url else None)
    opened(page, dashboard, runs=f"{runs['affinity']},{runs['cam']}", split="val", what="pred,pred_crf", sort="name")
    page.wait_for_load_state("networkidle")
    assert sum(quote("a b") in url for url in asked) == 6
    asked.clear()
    page.keyboard.press("ArrowRight")
    until_image(page, "a b")
    page.wait_for_load_state("networkidle")
    assert {url.rpartition("/")[2] for url in asked} == {quote("no#1", safe="")}
    asked.clear()
    page.keyboard.press("p")
    until_image(page, "50%")
    assert not asked


def test_a_map_of_another_size_is_said_and_keeps_its_shape(page, dashboard, runs):
    opened(page, dashboard, runs=runs["cam"], split="val", what="pred,pred_crf", image="no#1", opacity=1)
    odd = tile(page, "pred")
    assert odd.locator(".tile-note").text_content() == "made for 15 × 15, the image has 40 × 30: not resized"
    drawn = (pixels(page, "pred")[..., :3] == voc(1)).all(-1)
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    assert rows.size == columns.size == drawn.shape[0]
    page.keyboard.press("e")
    assert "no error map: the truth has another size" in odd.locator(".tile-note").text_content()


def test_figure_5_is_one_click_and_scores_are_read_to_the_cell(page, dashboard, runs):
    opened(page, dashboard, runs=runs["cam"], split="val", what="pred_crf")
    page.get_by_role("button", name="figure 5").click()
    tile(page, "cam").wait_for()
    assert [figure.get_attribute("data-tile") for figure in page.locator(".tile").all()] == [
        "image",
        "truth",
        "cam",
        "labels_crf",
    ]
    page.wait_for_function("() => document.querySelector('#masks-view').dataset.image.startsWith('t')")
    scores = scores_of(page.locator("#masks-view").get_attribute("data-image")).astype(float)
    canvas = tile(page, "cam").locator("canvas")
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * 0.6, "y": box["height"] * 0.5})
    cell = scores[:, 1, 2]
    name = ("cat", "dog")[int(cell.argmax())]
    assert readings(page)[2] == f"{name} {round(cell.max() * 255) / 255:.2f}"
    page.get_by_role("combobox", name="scores of").select_option("dog")
    canvas.hover(position={"x": box["width"] * 0.6, "y": box["height"] * 0.5 + 1})
    assert readings(page)[2] == f"dog {round(cell[1] * 255) / 255:.2f}"
    assert "split=train" in page.url and "what=cam,labels_crf" in page.url


def test_what_is_missing_is_said(page, dashboard, runs):
    page.goto(f"{dashboard.url}/masks?runs={runs['bare']}&split=val")
    note = page.locator("#masks-note")
    note.get_by_text("logged no maps; run it again with this version").wait_for()
    opened(page, dashboard, runs=runs["away"], split="val", what="pred_crf")
    assert "The maps stand on grey" in note.text_content() and "wsss data add" in note.text_content()
    assert tile(page, "truth").count() == 0 and tile(page, "image").locator(".tile-note").text_content()


def test_the_list_says_names_as_text_and_keys_help(page, dashboard, runs):
    opened(page, dashboard, runs=runs["cam"], split="val", what="pred_crf", sort="name")
    assert page.locator("#masks-list tbody button").all_text_contents() == VAL
    page.locator("#masks-list button", has_text="no#1").click()
    until_image(page, "no#1")
    assert page.locator("#masks-list [aria-current=true]").text_content().startswith("no#1")
    page.keyboard.press("?")
    page.get_by_role("dialog").get_by_text("crosshair").wait_for()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    assert "truth, instead of" in tile(page, "pred_crf").text_content()


def test_on_a_phone_pictures_stand_below_each_other(window, dashboard, runs):
    page = window(width=390, height=844, scale=2)
    opened(page, dashboard, runs=runs["cam"], split="val", what="pred,pred_crf")
    lefts = [figure.bounding_box()["x"] for figure in page.locator(".tile").all()]
    assert len(set(lefts)) == 1
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_files_are_given_by_name_alone(dashboard, runs, photos):
    def get(path, **headers):
        with urlopen(Request(dashboard.url + path, headers=headers)) as answer:
            return answer.read(), answer.headers

    for image_id in VAL:
        content, headers = get(f"/files/data/photos/mask/{quote(image_id, safe='')}")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), truth_of(image_id))
        content, headers = get(f"/files/data/photos/image/{quote(image_id, safe='')}")
        with Image.open(io.BytesIO(content)) as photo:
            assert (photo.format, photo.size) == ("JPEG", (WIDTH, HEIGHT))
        content, headers = get(f"/files/runs/{runs['cam']}/maps/pred_crf/{quote(image_id, safe='')}")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), said_of("cam", image_id))
        with pytest.raises(HTTPError, match="304"):
            get(
                f"/files/runs/{runs['cam']}/maps/pred_crf/{quote(image_id, safe='')}",
                **{"If-None-Match": headers["ETag"]},
            )
    for path in (
        "/files/data/photos/image/..%2F..%2Fmlflow.db",
        "/files/data/photos/image/%2e%2e%2f%2e%2e%2fdataset",
        "/files/data/..%2F..%2Fphotos/image/t1",
        "/files/data/%2Fetc/image/passwd",
        "/files/data/other/mask/t1",
        f"/files/runs/{runs['cam']}/maps/..%2F..%2Fmetrics/t1",
        f"/files/runs/{runs['cam']}/maps/pred/..%2Findex.json",
        f"/files/runs/{runs['cam']}/maps/depth/t1",
        "/files/runs/..%2F0/maps/pred/t1",
        f"/files/runs/{'0' * 32}/maps/pred/t1",
    ):
        with pytest.raises(HTTPError) as refused:
            get(path)
        assert refused.value.code == 404 and refused.value.read()


def order(**wanted):
    return shown(Reading(), Wanted(dataset="photos", split="val", **wanted))


def test_images_are_listed_by_worst_disagreement_class_and_confusion(here, runs):
    two = (runs["affinity"], runs["cam"])
    worst = order(runs=two, what=("pred_crf",))
    means = [np.mean([float(cell) for cell in cells]) for _, cells in worst.ordered.images]
    assert means == sorted(means) and worst.ordered.columns == ("A", "B") and worst.wanted.sort == "worst"
    differ = order(runs=two, what=("pred_crf",), sort="disagree").ordered.images
    share = {i: 100 * (said_of("affinity", i) != said_of("cam", i)).mean() for i in VAL}
    assert [i for i, _ in differ] == sorted(VAL, key=lambda i: -share[i])
    assert [cells for _, cells in differ] == [(f"{share[i]:.1f}",) for i, _ in differ]
    dog = order(runs=(runs["affinity"],), what=("pred_crf",), sort="dog").ordered
    assert [i for i, _ in dog.images] == sorted(VAL, key=lambda i: -VAL.index(i))
    confused = order(runs=two, what=("pred_crf",), confused="cat:dog")
    count = {i: int(((truth_of(i) == 1) & (said_of("affinity", i) == 2)).sum()) for i in VAL}
    assert confused.ordered.images == tuple((i, (str(count[i]), "0")) for i in sorted(VAL, key=lambda i: -count[i]))
    assert "cat:dog" in confused.confusions and confused.splits["val"] == "val (4 of 9)"
    alone = order(runs=(runs["cam"],), what=("pred_crf",), sort="disagree")
    assert any("can't disagree" in note for note in alone.notes)
    assert any("cow" in note for note in order(runs=two, what=("pred_crf",), confused="cow:dog").notes)


def test_what_an_address_lacks_is_chosen_and_what_is_wrong_in_it_is_said(here, runs):
    found = shown(Reading(), Wanted(dataset="photos"))
    assert set(found.wanted.runs) == {runs["cam"], runs["affinity"]}
    assert (found.wanted.split, found.wanted.what) == ("val", ("pred_crf",))
    wrong = order(runs=("0" * 32, runs["away"], runs["bare"], runs["cam"]), what=("labels_crf", "depth"))
    assert wrong.wanted.runs == (runs["bare"], runs["cam"]) and wrong.wanted.what == ("pred_crf",)
    said = " ".join(wrong.notes)
    for part in (
        "there is no run 000",
        "of dataset elsewhere",
        "logged no maps",
        "No maps of labels_crf, depth on val",
    ):
        assert part in said
    assert found.viewer["tiles"][0]["maps"]["a b"] == {"size": (HEIGHT, WIDTH), "classes": ()}
    assert open_dataset("photos").size("a b") == (HEIGHT, WIDTH)
