"""Many images: each is read once, files that nobody touched are not read again, digests are what they were."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import adding
from benchmarks import data as benchmark
from wsss.data import examined, open_dataset
from wsss.data.changes import _COARSEST_NS
from wsss.data.folder import add_folder
from wsss.data.ids import fit, refuse_alike
from wsss.data.manifest import Entry, file_entry, open_manifest
from wsss.data.parallel import each
from wsss.errors import UserError

COUNT = 300


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scale")
    adding.write_images(root / "photos", COUNT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        add_folder(Path("photos"), "photos", tags="photos.csv")
    return root


def test_a_digest_is_the_one_of_before(root):
    # sha256 of one JSON object with all of its rows, as datasets have had it from the beginning.
    dataset = open_dataset(root / "data" / "photos")
    entries = open_manifest(dataset.root).files
    rows = {
        split: [
            [id, entries[f"JPEGImages/{id}.jpg"].sha256, "".join(map(str, dataset.tags(id).astype(int)))]
            for id in dataset.splits[split]
        ]
        for split in ("train", "dev", "val")
    }
    content = {"classes": dataset.classes.names, **rows}
    text = json.dumps(content, separators=(",", ":"))
    assert dataset.digest == hashlib.sha256(text.encode()).hexdigest()


def test_a_manifest_is_byte_for_byte_what_json_writes(root):
    path = root / "data" / "photos" / "manifest.json"
    content = json.loads(path.read_text("utf-8"))
    assert path.read_text("utf-8") == json.dumps(content, indent=0) + "\n"
    assert all(file_entry(path.parent / name).sha256 == its["sha256"] for name, its in content["files"].items())


def test_a_manifest_with_what_is_no_hash_or_size_is_damaged(tmp_path):
    for entry in ({"sha256": "ab", "size": 1}, {"sha256": "ab" * 32, "size": -1}, {"sha256": "x" * 64, "size": 1}):
        (tmp_path / "manifest.json").write_text(json.dumps({"files": {"a.jpg": entry}}), encoding="utf-8")
        with pytest.raises(UserError, match=r"manifest\.json is damaged"):
            open_manifest(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"an image")
    entry = file_entry(tmp_path / "a.jpg")
    assert (entry.sha256, entry.size) == (hashlib.sha256(b"an image").hexdigest(), 8)
    assert pickle.loads(pickle.dumps(entry)) == entry == Entry(entry.sha256, entry.size)


def test_an_image_is_decoded_once_while_it_is_added(root, tmp_path, monkeypatch):
    seen = []
    stored = examined.stored
    monkeypatch.setattr(examined, "stored", lambda path, **how: seen.append(path) or stored(path, **how))
    monkeypatch.setattr("wsss.data.checking.image_problem", lambda *_, **__: pytest.fail("decoded again"))
    monkeypatch.chdir(tmp_path)
    add_folder(root / "photos", "photos", tags=str(root / "photos.csv"))
    assert len(seen) == len(set(seen)) == COUNT


def test_a_check_before_a_run_reads_no_file_that_nobody_touched(root, monkeypatch):
    dataset = open_dataset(root / "data" / "photos")
    time.sleep(_COARSEST_NS / 1e9)
    dataset.check()
    for part in ("wsss.data.checking.image_problem", "wsss.data.changes.file_entry"):
        monkeypatch.setattr(part, lambda *_, **__: pytest.fail("a file was read"))
    dataset.check()


def test_a_broken_image_among_many_is_named_and_nothing_is_written(root, tmp_path, monkeypatch):
    adding.write_images(tmp_path / "photos", 20)
    broken = tmp_path / "photos" / "000" / "000007.jpg"
    broken.write_bytes(broken.read_bytes()[:-300])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"000007\.jpg can't be read"):
        add_folder(Path("photos"), "photos", tags="photos.csv")
    assert not list((tmp_path / "data").iterdir())


def test_jobs_in_batches_keep_their_order_and_name_every_problem():
    def work(number: int) -> int:
        if number % 400 == 7:
            raise UserError(f"bad {number:04}")
        return 2 * number

    assert each(work, [n for n in range(1000) if n % 400 != 7], "x") == [2 * n for n in range(1000) if n % 400 != 7]
    with pytest.raises(UserError, match="bad 0007, bad 0407, bad 0807"):
        each(work, range(1000), "x")


def test_names_are_found_as_before_whichever_way_they_are_written():
    images = {"a/b": Path("a/b.jpg"), "c.png": Path("c.png.jpg"), "c": Path("c.png"), "Å": Path("Å.jpg")}
    found = fit(["b", "c.png.jpg", "A\u030a.jpg"], images, "x", ["1", "2", "3"])
    assert found.positions == {"a/b": 0, "c.png": 1, "Å": 2} and not found.strangers
    with pytest.raises(UserError, match="more than one"):
        fit(["c.png"], images, "x", ["1"])
    with pytest.raises(UserError, match="beside a there are folders"):
        refuse_alike(["a", "a.jpg/b"])
    with pytest.raises(UserError, match="a and A|A and a"):
        refuse_alike(["a", "A", "b"])


def test_the_benchmark_measures_what_it_says(monkeypatch):
    for name, count in {"ADDED": 60, "OPENED": 80, "FEW": 40, "ROUNDS": 1}.items():
        monkeypatch.setattr(benchmark, name, count)
    rows = {row.key: row for row in benchmark.rows()}
    assert set(rows) == {"add", "add-pixels", "add-read", "add-link", "open-first", "open", "memory"}
    assert rows["add"].aim == 0.7 and rows["open"].peer == 3 and rows["memory"].peer == 100
    assert all(row.ours is not None and np.isfinite(row.ours) for row in rows.values())
