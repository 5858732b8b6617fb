import csv
import io
import json
import statistics
from dataclasses import replace

import pytest
from compare_examples import record

from wsss.classes import BACKGROUND, VOC
from wsss.tables.compare import (
    COLUMNS,
    Figure,
    published,
    render_csv,
    render_json,
    render_markdown,
    render_text,
    table,
)
from wsss.tracking import names


def test_runs_that_differ_in_the_rng_make_a_row_with_mean_and_deviation():
    values = [0.50, 0.54, 0.61]
    (row,) = table([record(f"r{rng}", rng, val__pred_crf=value) for rng, value in enumerate(values)])
    assert row.rngs == (0, 1, 2) and row.runs == ("r0", "r1", "r2")
    mean = sum(values) / 3
    deviation = (sum((v - mean) ** 2 for v in values) / 2) ** 0.5
    assert row.figures["val/pred_crf"].mean == pytest.approx(mean)
    assert row.figures["val/pred_crf"].deviation == pytest.approx(deviation)
    assert f"{100 * mean:.1f} ± {100 * deviation:.1f}" in render_markdown([row])


def test_repeated_rng_counts_once_and_newest():
    rows = table([record("new", minutes=5, train__cam=0.4), record("old", train__cam=0.2)])
    assert rows[0].runs == ("new",) and rows[0].figures["train/cam"] == Figure(0.4, None, 1)


def test_other_settings_are_another_row_and_trials_of_a_search_are_none():
    rows = table([record("a"), record("b", group="h"), record("c", tags={names.MLFLOW_PARENT: "search"})])
    assert [row.runs for row in rows] == [("a",), ("b",)]


def test_a_figure_that_only_some_runs_have_says_so_and_a_missing_one_is_absent():
    (row,) = table([record("a", 0, val__pred=0.5), record("b", 1)])
    assert row.figures == {"val/pred": Figure(0.5, None, 1)}
    assert "| - | - | - | 50.0 (of 1) | - |" in render_markdown([row])


def test_supervision_and_backbone_are_told():
    text = render_markdown(
        table([record("a", method="bound", supervision=["masks"]), record("b", method="cam", group="h")])
    )
    assert "| bound | demo | shapes | masks | tiny | 1 |" in text
    assert "| cam | demo | shapes | tags | tiny | 1 |" in text


def test_published_numbers_stand_beside_with_their_source():
    (row,) = table([record("a")])
    assert [(p.title, p.miou) for p in row.published] == [("AffinityNet-DeepLab", 58.4), ("AffinityNet-ResNet38", 61.7)]
    assert "58.4 AffinityNet-DeepLab (Ahn & Kwak, CVPR 2018)" in render_markdown([row])
    assert table([record("a", method="cam")])[0].published == ()


def test_published_figures_are_percent_and_means_of_their_classes():
    """Where all 21 IoUs are known, the mIoU is their mean to the rounding of the source."""
    assert len(published()) > 50
    whole = [p for p in published() if len(p.iou) == 21]
    assert whole and all(set(p.iou) == {BACKGROUND, *VOC} for p in whole)
    for result in whole:
        assert result.miou == pytest.approx(statistics.fmean(result.iou.values()), abs=0.1)
    assert all(20 < p.miou < 100 and p.read_from and p.split in ("val", "test", "") for p in published())


def test_renderings_hold_every_row():
    rows = table([record("a", train__cam=0.4), record("b", method="cam", group="h")])
    text = render_text(rows, width=250)
    assert "affinity" in text and "40.0" in text and "(train)" in text
    assert [row["method"] for row in json.loads(render_json(rows))] == ["affinity", "cam"]
    assert len({line.count("|") for line in render_markdown(rows).splitlines()}) == 1


TEN = ("fcn_mil", "cam", "dcsm", "wildcat", "affinity", "bound", "imported", "deep_clustering", "ial", "mcis")
LONG = "street_scenes_of_the_northern_suburbs_2026_second_delivery"


def ten_methods():
    return table(
        replace(
            record(f"{number:02d}{rng}" + "e" * 29, rng, f"g{number}", method, minutes=rng, supervision=sees, **scores),
            dataset=dataset,
        )
        for dataset in ("shapes", LONG)
        for number, method in enumerate(TEN)
        for rng in range(3)
        for sees in [["extra single-label images", "saliency model"] if method == "mcis" else []]
        for scores in [{f"{split}__{what}": 0.5 + rng / 30 for split, what in COLUMNS}]
    )


@pytest.mark.parametrize("width", [80, 200])
def test_ten_methods_are_readable_at_any_width(width):
    text = render_text(ten_methods(), width=width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width and "…" not in text
    for name in (*TEN, LONG, "labels_crf", "pred_crf", "rngs", "supervision"):
        assert name in text.replace("\n", " "), name
    for method in TEN:
        rows = [line for line in lines if line.split()[:1] == [method] and "53.3" in line]
        assert len(rows) == 2 and all(row.count("53.3 ± 3.3") >= 2 for row in rows)
    assert ("Left out for want of room: " in text) == (width == 80)
    assert "--wide" in text


@pytest.mark.parametrize("width", [1, 40, 80, 300])
def test_every_rendering_gives_an_id_to_copy(width):
    rows = ten_methods()
    for text in (render_text(rows, width=width), render_markdown(rows)):
        assert all(row.newest in text for row in rows)


def test_wide_leaves_nothing_out_and_gives_whole_ids():
    rows = ten_methods()
    text = render_text(rows, width=80, wide=True)
    assert all(id in text for row in rows for id in row.runs)
    assert "58.4 AffinityNet-DeepLab (Ahn & Kwak, CVPR 2018); 61.7" in text
    assert all(f"{what} ({split})" in text for split, what in COLUMNS)


def test_csv_has_every_number_and_id():
    rows = ten_methods()
    lines = list(csv.DictReader(io.StringIO(render_csv(rows))))
    assert [line["method"] for line in lines] == [row.method for row in rows]
    assert lines[0]["runs"].split() == list(rows[0].runs) and lines[0]["rngs"] == "0 1 2"
    assert float(lines[0]["val/pred_crf/miou"]) == pytest.approx(0.5 + 1 / 30)
    assert float(lines[0]["val/pred_crf/miou/deviation"]) == pytest.approx(1 / 30)
    (line,) = csv.DictReader(io.StringIO(render_csv(table([record("a")]))))
    assert line["val/pred/miou"] == ""
