"""The pictures kept with a run: an image beside its maps at one height, scores as heat, panels in a column."""

import io

import numpy as np
from PIL import Image

from wsss.classes import palette
from wsss.run import pictures


def test_a_panel_shows_each_part_at_one_height_in_order():
    image = np.full((10, 20, 3), 200, np.uint8)
    labels = np.zeros((10, 20), np.uint8)
    labels[:, 10:] = 2
    labels[0] = 255
    parts = {"mask": labels, "cam": np.ones((2, 5), np.float32), "pred": labels}
    strip = pictures.panel(image, parts, height=40)
    gap, caption = 4, 16
    assert strip.shape == (40 + caption, 4 * 80 + 3 * gap, 3)
    mask = strip[caption:, 80 + gap : 2 * 80 + gap]
    np.testing.assert_array_equal(mask, palette()[labels].repeat(4, 0).repeat(4, 1))
    np.testing.assert_array_equal(mask, strip[caption:, -80:])


def test_heat_rises_with_the_score_and_no_map_is_cold():
    image = np.zeros((4, 8, 3), np.uint8)
    scores = np.tile(np.linspace(0, 1, 8, dtype=np.float16), (4, 1))
    brightness = pictures.heat(scores, image).sum(-1)
    assert (np.diff(brightness.astype(int), axis=1) >= 0).all() and brightness[0, 0] < brightness[0, -1]
    np.testing.assert_array_equal(pictures.heat(np.stack([scores, 0 * scores]), image), pictures.heat(scores, image))
    np.testing.assert_array_equal(
        pictures.heat(np.zeros((0, 4, 8), np.float16), image), pictures.heat(np.zeros((4, 8)), image)
    )


def test_panels_stack_to_the_width_of_the_widest():
    wide, narrow = np.zeros((5, 30, 3), np.uint8), np.zeros((6, 10, 3), np.uint8)
    sheet = pictures.stacked([wide, narrow])
    assert sheet.shape == (5 + 4 + 6, 30, 3) and (sheet[9:, 10:] == 255).all()
    assert Image.open(io.BytesIO(pictures.png(sheet))).size == (30, 15)
