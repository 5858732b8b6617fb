"""A space file that leaves the preset's values out: they are the first trial all the same."""

from __future__ import annotations

import json
from pathlib import Path

from tune.search import plan_search
from tune.space import Narrowing
from tune.study import Study
from wsss.data import Dataset


def test_the_presets_values_are_the_first_trial(tiny_shapes: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "space.json"
    file.write_text(json.dumps({"refine.walk.beta": [2, 4], "refine.crf.bilateral_srgb": {"low": 20, "high": 30}}))
    search = plan_search("affinity", "demo", str(tiny_shapes.root), narrowing=Narrowing.read(file), sampler="random")
    study = Study(search, tmp_path, trials=8)
    first, *others = [study.take()[1].settings for _ in range(8)]
    assert first == {"refine.walk.beta": 32.0, "refine.crf.bilateral_srgb": 8.0}
    assert {each["refine.walk.beta"] for each in others} <= {2.0, 4.0, 32.0}
    assert all(20 <= each["refine.crf.bilateral_srgb"] <= 30 for each in others)
