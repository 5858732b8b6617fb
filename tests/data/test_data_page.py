"""The examples of the page on data are commands that do what it says."""

import re
import shlex
from pathlib import Path

import layouts
import pytest

from wsss.cli import main
from wsss.data import open_dataset

PAGES = Path(__file__).parents[2].glob("docs/data*.md")
EXAMPLES = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
EXAMPLES = [block for block in EXAMPLES if re.search(r"add folder (\w+)", block)[1] in vars(layouts)["EXAMPLES"]]


def words(block):
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", block, flags=re.MULTILINE))
    return shlex.split(text)


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: words(block)[4])
def test_an_example_makes_the_dataset_that_it_shows(block, tmp_path, monkeypatch, capsys):
    assert len(block.splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    name = words(block)[4]
    layouts.EXAMPLES[name](tmp_path / name)
    for path in re.findall(rf"^# ({name}[^\s,]*)", block, re.MULTILINE):
        assert (tmp_path / path.removesuffix(":")).exists() or "[" in path, f"{path} is not in the layout"
    monkeypatch.setattr("sys.argv", [*words(block), "--no-dvc"])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert not ended.value.code, told.err
    assert told.err.startswith(f"wsss: recognised in {name}: ")
    dataset = open_dataset(name)
    assert dataset.splits["train"] and any(dataset.tag_names(id) for id in dataset.splits["train"])


def test_every_format_has_its_example():
    assert len(EXAMPLES) == len(layouts.EXAMPLES)
