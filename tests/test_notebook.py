"""The notebook goes from a folder of pictures to a served mask; its cells are run here, in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NOTEBOOK = json.loads((Path(__file__).parents[1] / "docs" / "from-pictures-to-masks.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_no_output_is_stored() -> None:
    assert NOTEBOOK["nbformat"] == 4
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_it_ends_with_a_served_mask(store: Any) -> None:
    names: dict[str, Any] = {}
    try:
        for cell in CODE:
            exec(cell, names)
    finally:
        if "server" in names:
            names["server"].kill()
            names["server"].stdout.close()
    assert names["served"].shape == names["image"].shape[:2]
    assert (names["served"] == names["mask"]).all()
    assert names["result"].model == "models:/wsss-pictures-candidates/1"
    assert not any("miou" in name for name in names["result"].metrics), "nothing was scored, there is no mask"
