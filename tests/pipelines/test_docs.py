"""The documentation: a site built offline with sound links, a README whose figures are those of the results page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipelines import leaderboard, pictures
from wsss import methods
from wsss.errors import UserError
from wsss.run.plan import stands_alone

PROJECT = Path(leaderboard.__file__).parents[1]
RESULTS = (PROJECT / leaderboard.RESULTS).read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it; a broken link, anchor or reference fails."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=PROJECT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_every_page_and_the_guide_is_the_readme(site: Path) -> None:
    pages = {path.relative_to(PROJECT / "docs").with_suffix(".html") for path in (PROJECT / "docs").rglob("*.md")}
    assert all((site / page).exists() for page in pages)
    guide = (site / "index.html").read_text()
    for text in ("make demo", "Every day", "For a team", 'href="methods/affinity.html"', 'href="CITATION.cff"'):
        assert text in guide
    assert "wsss.ops.walk.random_walk" in (site / "reference.html").read_text()
    for method in methods.names():
        assert f'href="{method}.html"' in (site / "methods" / "index.html").read_text()


def test_reading_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link\b(?=[^>]*rel=\"?(?:stylesheet|icon|preconnect))[^>]*href=\"?([^\" >]+)", text)
        assert loaded and not [address for address in loaded if re.match(r"(https?:)?//", address)], page
        assert 'class="mermaid"' not in text, "its program comes from a CDN"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import) *[\"']?(https?:)?//", sheet.read_text()), sheet


def test_the_readmes_leaderboard_is_what_the_results_page_says() -> None:
    """Read by hand from docs/results.md, so that neither can drift."""
    (table,) = re.findall(
        r"<!-- table: leaderboard -->\n(.*?)<!-- end of table -->", (PROJECT / "README.md").read_text(), re.DOTALL
    )
    rows = table.splitlines()[2:]
    assert table == leaderboard.leaderboard(RESULTS) and len(rows) == sum(map(stands_alone, methods.names()))
    for method in filter(stands_alone, methods.names()):
        (row,) = (row for row in rows if f"(docs/methods/{method}.md)" in row)
        figures = re.findall(r"\| (\d+\.\d)( ± \d+\.\d)? (?=\|)", row)
        assert len(figures) == (2 if method == "bound" else 4)
        of_method = [line for line in RESULTS.splitlines() if line.startswith(f"| {method} |")]
        for number, deviation in figures:
            assert any(f" {number}{deviation} [" in line for line in of_method)
        for commit in re.findall(r"`\w{8}`", row):
            assert any(line.endswith(f"| {commit} |") for line in of_method)


def test_a_figure_that_changes_on_the_page_changes_the_leaderboard() -> None:
    assert "| 60.0 ± 0.5 |" in leaderboard.leaderboard(RESULTS)
    changed = leaderboard.leaderboard(RESULTS.replace("60.0 ± 0.5 [", "61.0 ± 0.5 ["))
    assert "| 61.0 ± 0.5 |" in changed and "| 60.0 ± 0.5 |" not in changed


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("The runs:", "Some runs:", "no table 'The runs:' in its section 'The built-in shapes'"),
        ("pred_crf (val)", "prediction", "has no column pred_crf"),
    ],
)
def test_a_page_that_lacks_a_part_says_which(old: str, new: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        leaderboard.leaderboard(RESULTS.replace(old, new))


def test_every_method_has_a_page_and_those_with_results_a_small_picture_on_it() -> None:
    for method in methods.names():
        page = PROJECT / "docs" / "methods" / f"{method}.md"
        text = page.read_text()
        if f"| {method} |" in RESULTS:
            assert f"]({method}.png)" in text, f"{page.name} shows no picture; run: python -m pipelines.pictures"
        for name in re.findall(r"\]\((\w+\.png)\)", text):
            picture = page.with_name(name)
            assert picture.stat().st_size <= pictures.LARGEST and Image.open(picture).width <= pictures.WIDTH


def test_the_architecture_names_every_room_and_files_that_are_there() -> None:
    page = (PROJECT / "docs" / "architecture.md").read_text()
    table = page.partition("## Rooms")[2].partition("## A tag")[0]
    for path in (PROJECT / "wsss").iterdir():
        if path.name[0] not in "_." and (path.suffix == ".py" or any(path.glob("*.py"))):
            assert f"`wsss/{path.name}`" in table, f"docs/architecture.md says nothing of wsss/{path.name}"
    named = sorted(set(re.findall(r"`((?:wsss|tune|pipelines|benchmarks)/[\w/]+\.py)`", page)))
    defined = set(re.findall(r"^ *(?:def|class) (\w+)", "".join((PROJECT / n).read_text() for n in named), re.M))
    for name in re.findall(r"\((?:`[\w/.]+`: )?`(?:\w+\.)?(\w+)`[^)]*\)", page):
        assert name in defined, f"docs/architecture.md speaks of {name}, which no file it names defines"
