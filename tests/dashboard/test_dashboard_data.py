"""The page of datasets: counts as a plain recount gives them, examples, sizes, and what a check finds."""

from __future__ import annotations

import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dashboard_examples import Dashboard, served, standing_in
from PIL import Image
from plotly.utils import PlotlyJSONEncoder

from wsss.classes import Classes
from wsss.dashboard.data import page as data
from wsss.dashboard.data.figures import MOST, class_figures, shown
from wsss.dashboard.page import Context
from wsss.dashboard.reading import Reading
from wsss.data import open_dataset
from wsss.data.dataset import Dataset
from wsss.data.folder import add_folder
from wsss.data.palette_png import decode_palette_png
from wsss.data.shapes import make_shapes
from wsss.data.summary import Summary, sizes, summary, with_class
from wsss.data.thumbnails import image_thumbnail, mask_thumbnail
from wsss.errors import UserError
from wsss.scores import Masks

pytest_plugins = ("dashboard_examples",)

MARKUP = "<b>cat</b> & dog"


def said(component) -> str:
    return json.dumps(component, cls=PlotlyJSONEncoder, ensure_ascii=False)


@pytest.fixture(scope="module")
def root(tiny_shapes: Dataset, tmp_path_factory) -> Path:
    """A workspace with the built-in shapes, a folder of images of two sizes with a strange class, and a damaged one."""
    root = tmp_path_factory.mktemp("datasets")
    with standing_in(root):
        make_shapes(root / "data" / "shapes", images=36, val_images=12, size=64, classes=3, rng=0)
        photos = root / "photos"
        photos.mkdir()
        rows = ["image,labels"]
        for number in range(30):
            size = (60, 40) if number % 3 else (40, 60)
            Image.new("RGB", size, (8 * number, 90, 90)).save(photos / f"p{number}.png")
            rows.append(f"p{number},{MARKUP if number % 2 else 'bird'}")
        (root / "tags.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        add_folder(photos, "photos", tags=root / "tags.csv")
        (root / "data" / "broken").mkdir()
        (root / "data" / "broken" / "dataset.json").write_text("{", encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def pages(root) -> Dashboard:
    with served(root) as dashboard:
        yield dashboard


def test_counts_are_those_of_a_plain_recount(tiny_shapes: Dataset) -> None:
    counted = summary(tiny_shapes)
    for row, split in enumerate(counted.splits):
        ids = tiny_shapes.splits[split]
        tags = [set(tiny_shapes.tag_names(id)) for id in ids]
        assert counted.images[row] == len(ids) and counted.masked[row] == len(Masks(tiny_shapes).ids(split))
        assert counted.untagged[row] == sum(not names for names in tags)
        for column, name in enumerate(counted.classes):
            assert counted.tagged[row, column] == sum(name in names for names in tags)
            assert with_class(tiny_shapes, split, column + 1) == [
                i for i, t in zip(ids, tags, strict=True) if name in t
            ]
        assert with_class(tiny_shapes, split, 0) == [i for i, t in zip(ids, tags, strict=True) if not t]
        assert with_class(tiny_shapes, split, None) == list(ids)
    every = [set(tiny_shapes.tag_names(id)) for split in counted.splits for id in tiny_shapes.splits[split]]
    for one, first in enumerate(counted.classes):
        for other, second in enumerate(counted.classes):
            assert counted.together[one, other] == sum({first, second} <= names for names in every)


def test_254_classes_and_10_000_images_show_the_most_frequent_and_the_rest_by_choice(tiny_shapes: Dataset) -> None:
    rng, C, N = np.random.default_rng(0), 254, 10_000
    tags = {f"i{n}": row for n, row in enumerate(rng.random((N, C)) < np.linspace(0.001, 0.05, C))}
    ids = tuple(tags)
    classes = Classes(tuple(f"class {c}" for c in range(C)))
    splits = {"train": ids[:8000], "dev": ids[8000:9000], "val": ids[9000:]}
    many = replace(tiny_shapes, classes=classes, splits=splits, _tags=tags, _images={id: id for id in ids})
    start = time.perf_counter()
    counted = summary(many)
    frequent = shown(counted, [])
    figures = said(class_figures(counted, frequent))
    assert time.perf_counter() - start < 2  # 0.2 s on an idle core
    totals = np.sum([tags[id] for id in ids], 0)
    assert len(frequent) == MOST and min(totals[frequent]) >= np.delete(totals, frequent).max()
    assert len(figures) < 400_000
    assert shown(counted, [3, 1, 999]) == [0, 2]
    assert "class 0" in said(class_figures(counted, [0, 2])) and '"class 0"' not in figures


def test_sizes_are_those_of_the_headers_and_an_image_that_is_gone_is_told(root) -> None:
    with standing_in(root):
        dataset = open_dataset("photos")
        found = sizes(dataset)
        assert found.counts == {(40, 60): 20, (60, 40): 10} and not found.unread
        gone = replace(dataset, _images={**dataset._images, "p3": "JPEGImages/none.png"})
        assert sizes(gone).unread == ("p3",)
    page = said(data.sizes_figure(sizes(gone)))
    assert "2 sizes: 40 to 60 px wide, 40 to 60 px high" in page and "p3" in page


def test_small_pictures_show_the_image_and_no_class_that_is_not_there(tiny_shapes: Dataset, tmp_path) -> None:
    id = tiny_shapes.splits["val"][0]
    with Image.open(io.BytesIO(image_thumbnail(tiny_shapes, id, side=32))) as small:
        assert small.format == "JPEG" and small.size == (32, 32)
    mask = Masks(tiny_shapes).read(id)
    small = decode_palette_png(mask_thumbnail(mask, side=32), "thumbnail")
    assert small.shape == (32, 32) and set(np.unique(small)) <= set(np.unique(mask))
    damaged = replace(tiny_shapes, root=tmp_path)
    with pytest.raises(UserError, match="can't be read"):
        image_thumbnail(damaged, id)


def test_a_dataset_that_does_not_open_is_a_sentence_beside_the_others(root) -> None:
    with standing_in(root):
        page = said(data.layout(Context(Reading()), {"dataset": "broken"}))
        assert "is damaged" in page and "/data?dataset=shapes" in page
        for name in ("none", "../photos", "/etc"):
            with pytest.raises(UserError, match="unknown dataset .*; choose from broken, photos, shapes"):
                data.layout(Context(Reading()), {"dataset": name})


def test_without_a_dataset_the_page_says_what_makes_one(tmp_path) -> None:
    with standing_in(tmp_path):
        assert "wsss data make shapes" in said(data.layout(Context(Reading()), {}))


def test_a_dataset_that_changes_is_read_again(root) -> None:
    with standing_in(root):
        first = data.opened("photos")
        assert data.opened("photos") is first
        listed = root / "data" / "photos" / "ImageSets" / "Segmentation" / "val.txt"
        text = listed.read_text(encoding="utf-8")
        listed.write_text(text.rsplit("\n", 2)[0] + "\n", encoding="utf-8")
        assert len(data.opened("photos").splits["val"]) == len(first.splits["val"]) - 1
        listed.write_text(text, encoding="utf-8")


def test_figures_show_foreign_names_to_the_letter() -> None:
    counts = np.ones((3, 1), np.int64)
    counted = Summary(("train", "dev", "val"), (MARKUP,), (1, 1, 1), (0, 0, 0), counts, (0, 0, 0), np.full((1, 1), 3))
    figures = said(class_figures(counted, [0]))
    assert "&lt;b&gt;cat&lt;/b&gt; &amp; dog" in figures


def test_the_page_in_a_browser(pages: Dashboard, window) -> None:
    page = window()
    page.goto(f"{pages.url}/data?dataset=photos&split=train&only=1")
    page.locator(".examples li").first.wait_for()
    page.locator(".figure .bars").first.wait_for()
    assert page.locator("h2").all_inner_texts() == ["Images", "Classes", "Sizes", "Examples"]
    # Class 1 is the one with markup, which stands as text wherever it is.
    with standing_in(pages.root):
        dataset = open_dataset("photos")
        wanted = with_class(dataset, "train", 1)
    assert page.locator(".examples .id").all_inner_texts() == wanted[:24]
    assert set(page.locator(".examples .tags").all_inner_texts()) == {dataset.classes.names[0]} == {MARKUP}
    assert MARKUP in page.locator(".figure").first.text_content() and page.locator("main b").count() == 0
    assert page.evaluate("[...document.querySelectorAll('.examples img')].every(i => i.naturalWidth > 0)")

    page.get_by_role("radio", name="val").check()
    page.wait_for_url(re.compile("split=val"))
    with standing_in(pages.root):
        wanted = with_class(dataset, "val", 1)
    page.locator(".examples .id", has_text=re.compile(f"^{wanted[0]}$")).wait_for()
    again = window(390, 800)
    again.goto(page.url)
    again.locator(".examples .id", has_text=re.compile(f"^{wanted[0]}$")).wait_for()
    assert again.locator(".examples .id").all_inner_texts() == page.locator(".examples .id").all_inner_texts()
    assert again.evaluate("document.documentElement.scrollWidth <= innerWidth")
    href = page.locator(".examples a").first.get_attribute("href")
    assert href == f"/masks?dataset=photos&split=val&image={wanted[0]}"


def test_a_check_tells_what_is_wrong_with_the_files(pages: Dashboard, window) -> None:
    page = window()
    page.goto(f"{pages.url}/data?dataset=shapes")
    page.get_by_role("button", name="Check the files").click()
    page.get_by_text("images, tags and masks are sound").wait_for()
    mask = next((pages.root / "data" / "shapes" / "SegmentationClass").glob("*.png"))
    content = mask.read_bytes()
    mask.write_bytes(content[:-20])
    page.get_by_role("button", name="Check the files").click()
    page.locator("#data-checked", has_text=f"SegmentationClass/{mask.name}").wait_for()
    mask.write_bytes(content)
