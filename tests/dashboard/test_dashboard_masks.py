"""The page Masks: what the server chooses and orders, the files that it gives, addresses, the list, what is missing."""

from __future__ import annotations

import io
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
import pytest
from dashboard_examples import standing_in
from masks_examples import HEIGHT, VAL, WIDTH, dashboard, opened, photos, runs, said_of, tile, truth_of, until_image
from PIL import Image

from wsss.dashboard.masks.shown_maps import Wanted, shown
from wsss.dashboard.reading import Reading
from wsss.data import open_dataset

_FIXTURES = (dashboard, photos, runs)
pytest_plugins = ("dashboard_examples",)


@pytest.fixture
def here(photos):
    with standing_in(photos[0]):
        yield


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
