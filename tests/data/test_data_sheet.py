"""`wsss data show NAME --html FILE`: one page, which needs nothing else: what a dataset holds and what is wrong."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import command
from PIL import Image

from wsss.dashboard.data.sheet import MOST_EXAMPLES, example_ids, sheet
from wsss.data import open_dataset
from wsss.data.folder import add_folder

STRANGE = "<b>cat</b> & \"dog\" 'n'"
LONG = "x" * 200


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Four-band pictures in groups with mask values, a strange and a long class, a test split, and one copy."""
    root = tmp_path_factory.mktemp("sheet")
    draw = np.random.default_rng(0)
    rows = ["image,labels,patient,split"]
    for number in range(24):
        split = ("train", "train", "val", "test")[number % 4]
        pixels = draw.integers(0, 4000, (40, 60, 4), dtype=np.uint16)
        # One whole image in train and val: what the page has to find.
        pixels = pixels if number not in (1, 2) else np.full((40, 60, 4), np.arange(60)[None, :, None] * 60, np.uint16)
        (root / "photos").mkdir(exist_ok=True)
        tifffile.imwrite(root / "photos" / f"p {number}.tif", pixels)
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 60), number % 2 + 7, np.uint8)).save(root / "masks" / f"p {number}.png")
        rows.append(f'p {number},"{(STRANGE, LONG)[number % 2]}",g{number},{split}'.replace('"dog"', '""dog""'))
    (root / "tags.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        add_folder(
            Path("photos"), "photos", tags="tags.csv", masks="masks", bands="4,3,2", stretch="2,98",
            groups="column:patient", splits="column:split", mask_values=f"7={STRANGE},8={LONG}",
        )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def page(root) -> str:
    done = command(root, "data", "show", "photos", "--html", "out/photos.html")
    assert "out/photos.html: " in done.stdout and "problem" in done.stdout
    return (root / "out" / "photos.html").read_text(encoding="utf-8")


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f"{data} "


def test_it_needs_nothing_else_and_runs_no_script(page):
    found = Elements(page).tags
    assert not [tag for tag, _ in found if tag in ("script", "link", "iframe", "object", "form")]
    addresses = [its[name] for _, its in found for name in ("src", "href") if name in its]
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert not re.search(r"@import|url\(|\bon\w+=", page.split("<body>")[0])
    policies = [its["content"] for tag, its in found if tag == "meta" and its.get("http-equiv")]
    assert len(policies) == 1 and "default-src 'none'" in policies[0] and "script-src" not in policies[0]
    assert "color-scheme: light dark" in page


def test_it_counts_by_class_and_split_and_says_what_was_read_how(page):
    text = " ".join(Elements(page).text.split())
    assert "train dev val test all" in text
    assert "12 groups" in text or "24 groups" in text
    for said in ("bands 4, 3, 2", "percentiles 2 to 98", "60 x 40", "Values of the masks", "7 ", "8 "):
        assert said in text, said
    assert re.search(rf"{LONG} \d+ \d+ \d+ \d+", text)


def test_names_are_text_and_never_markup(page):
    assert "<b>cat</b>" not in page and "&lt;b&gt;cat&lt;/b&gt;" in page


def test_it_names_the_problems_that_a_check_finds(page):
    text = " ".join(Elements(page).text.split())
    assert "look the same" in text and "p 1 (train)" in text and "p 2 (val)" in text


def test_examples_are_what_the_networks_see_with_tags_and_masks(root, page):
    dataset = open_dataset(root / "data" / "photos")
    images = [its for tag, its in Elements(page).tags if tag == "img"]
    of_image = {its["alt"].partition(":")[0]: its["src"] for its in images if its["src"].startswith("data:image/jpeg")}
    assert set(of_image) == set(example_ids(dataset)) and len(images) == 2 * len(of_image) <= 2 * MOST_EXAMPLES
    id = "p 1" if "p 1" in of_image else "p 2"
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(of_image[id].partition(",")[2]))), float)
    assert np.abs(drawn - dataset.image(id)).mean() < 12


def test_a_damaged_dataset_is_shown_with_its_problem(root, tmp_path):
    import shutil

    shutil.copytree(root / "data" / "photos", tmp_path / "photos")
    dataset = open_dataset(tmp_path / "photos")
    broken = dataset.image_path(dataset.splits["val"][0])
    broken.unlink()
    broken.write_bytes(b"")
    page, problems = sheet(dataset)
    assert any(broken.name in problem for problem in problems) and broken.name in page


def test_a_folder_can_not_be_the_page(root):
    done = command(root, "data", "show", "photos", "--html", "data", check=False)
    assert done.returncode and "Traceback" not in done.stderr and "data" in done.stderr
