"""The viewer of the page Masks in a browser: exact indices, one transform for all tiles, switches, errors, scores."""

from __future__ import annotations

import io
from base64 import b64decode

import numpy as np
import pytest
from masks_examples import (
    CLASSES,
    HEIGHT,
    WIDTH,
    dashboard,
    opened,
    photos,
    runs,
    said_of,
    scores_of,
    tile,
    truth_of,
    until_image,
)
from PIL import Image

from wsss.classes import palette

_FIXTURES = (dashboard, photos, runs)
pytest_plugins = ("dashboard_examples",)


def painted(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


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
