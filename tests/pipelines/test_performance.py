"""The page of measured speed says what the benchmarks' JSON says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.performance import main, page

MACHINE = {"cpu": "A processor", "cores": 2, "gpu": None, "python": "3.11.9", "torch": "2.15.0", "pydensecrf2": None}
ROW = {
    "key": "crf-native-irn",
    "what": "native | irn",
    "ours": 66.04,
    "peer": 310.4,
    "unit": "ms",
    "ratio": 4.7,
    "spread": [4.61, 4.81],
    "aim": 4.5,
}


def report(name: str = "crf", **changes: Any) -> dict[str, Any]:
    made = {"name": name, "machine": MACHINE, "commit": "0123456789abcdef", "dirty": False, "rows": [ROW]}
    return made | changes


def cells(text: str, key: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{key}` ")]
    return line.replace(r"\|", "/").strip("| ").split(" | ")


def test_a_row_stands_with_its_peer_ratio_quartiles_and_aim() -> None:
    found = cells(page([report()]), "crf-native-irn")
    assert found == ["`crf-native-irn`", "native / irn", "66", "310", "ms", "4.7", "4.61 – 4.81", "4.5"]


def test_the_machine_its_libraries_and_the_commit_are_named() -> None:
    text = page([report(), report("walk", dirty=True)])
    assert text.count("## A processor, 2 cores, no GPU\n") == 1
    assert "python 3.11.9, torch 2.15.0, pydensecrf2 not installed." in text
    assert "Commit 012345678.\n" in text and "Commit 012345678, with changes that are not committed.\n" in text
    assert text.index("### crf\n") < text.index("### walk\n")


def test_a_machine_without_a_gpu_is_said_to_have_none_and_one_with_a_gpu_has_a_part_of_its_own() -> None:
    assert "No GPU was at hand" in page([report()])
    with_gpu = report(machine=MACHINE | {"gpu": "H200"})
    assert "No GPU was at hand" not in page([with_gpu])
    assert page([report(), with_gpu]).count("\n## ") == 2


def test_a_missing_peer_leaves_its_cells_empty() -> None:
    alone = ROW | {"peer": None, "ratio": None, "spread": None}
    assert cells(page([report(rows=[alone])]), "crf-native-irn")[3:7] == ["", "ms", "", ""]


def test_a_row_that_could_not_be_measured_is_empty() -> None:
    nothing = ROW | dict.fromkeys(("ours", "peer", "ratio", "spread", "aim"))
    text = page([report("cuda", rows=[nothing])])
    assert "| `crf-native-irn` | native \\| irn |  |  | ms |  |  |  |\n" in text


def test_growth_is_drawn_and_listed_beside_the_expected_power() -> None:
    points = [[10.0, 100.0], [100.0, 2000.0]]
    grown = ROW | {"key": "scaling-pixels", "ours": 1.3, "peer": 1.0, "unit": "exponent", "points": points}
    text = page([report("scaling", rows=[grown, ROW | {"points": []}])])
    assert '    x-axis ["10", "100"]\n' in text and text.count("```mermaid") == 1
    assert "    line [2.00, 3.30]\n    line [2.00, 3.00]\n" in text
    assert "| 10 | 100 | 100 |\n| 100 | 2,000 | 1,000 |\n" in text


def test_files_become_a_page_and_another_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good, bad = tmp_path / "crf.json", tmp_path / "other.json"
    good.write_text(json.dumps(report()))
    assert main([str(good)]) == 0 and capsys.readouterr().out == page([report()])
    for text in ("[]", "{", '{"name": "crf"}'):
        bad.write_text(text)
        assert main([str(good), str(bad)]) == 2
        assert f"{bad} is not the JSON of a benchmark" in capsys.readouterr().err
