"""Nothing from outside names a path: what an index, a manifest, a list or an archive names stays in its folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import boto3
import numpy as np
import pytest

from wsss import storage, versions
from wsss.data.label_maps import LabelMaps, LabelMapWriter
from wsss.data.layout import read_list
from wsss.data.manifest import read_manifest
from wsss.data.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from wsss.errors import UserError
from wsss.labels import exchange
from wsss.labels.exchange import export_labels, label_path
from wsss.storage import inside

OUTSIDE = ("../x", "../../x", "/x", "a/../../x", "..", "", ".", "x\0y", None, 3)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_its_folder_is_refused(name: object) -> None:
    with pytest.raises(UserError, match="does not stay inside root"):
        inside("root", name)


@pytest.mark.parametrize("name", ["x", "a/b", "...", "a..b/c", ".hidden", "a/./b"])
def test_a_name_that_stays_is_a_path(name: str) -> None:
    assert inside("root", name) == Path("root", name)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """A folder of label maps whose index names a file far away."""
    folder = tmp_path / "deep" / "labels"
    with LabelMapWriter(folder) as writer:
        writer.add("../../x", np.zeros((2, 3), np.uint8))
    return folder


def test_ids_of_label_maps(labels: Path) -> None:
    with pytest.raises(UserError, match=r"'\.\./\.\./x' does not stay inside"):
        LabelMaps(labels)


def test_ids_of_score_maps(tmp_path: Path) -> None:
    with ScoreMapWriter(tmp_path / "cam") as writer:
        writer.add("../x", ScoreMap(np.zeros((0, 1, 1), np.float16), np.zeros(0, np.uint8), (2, 3)))
    with pytest.raises(UserError, match=r"'\.\./x' does not stay inside"):
        ScoreMaps(tmp_path / "cam")


def test_a_shard_that_is_no_number(labels: Path) -> None:
    index = {"format": "label-maps-1", "maps": {"a": {"shard": "../../secret", "offset": 0, "size": 1}}}
    (labels / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="damaged: it does not say in which shard"):
        LabelMaps(labels)


def test_exported_labels(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "pull_labels", lambda run, to: (labels, "md5"))
    with pytest.raises(UserError, match="does not stay inside"):
        export_labels("run", tmp_path / "out" / "pngs")
    assert not list(tmp_path.rglob("x.png"))


def test_where_labels_are_laid_out() -> None:
    assert label_path("shapes", "cam", "demo", 0) == Path("labels/shapes/cam-demo-0")
    with pytest.raises(UserError, match="does not stay inside labels"):
        label_path("../..", "cam", "demo", 0)


def test_paths_of_a_dvc_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workspace" / "labels").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "workspace")
    Path("labels", "a").write_text("1")
    versions.store("labels")
    manifest = [{"md5": hashlib.md5(b"1").hexdigest(), "relpath": "../../x"}]
    md5 = hashlib.md5(json.dumps(manifest, sort_keys=True).encode()).hexdigest() + ".dir"
    with pytest.raises(UserError, match=r"'\.\./\.\./x' does not stay inside"):
        versions.fetch(md5, manifest)
        versions.checkout(md5, "deep/out")
    assert not list(tmp_path.rglob("x"))


def test_hashes_of_a_dvc_manifest_and_of_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (versions.fetch, versions.manifest, versions.push, lambda md5: versions.checkout(md5, "out")):
        with pytest.raises(UserError, match="is not a version of DVC's"):
            call("../../../etc/passwd")
    with pytest.raises(UserError, match="is not a version of DVC's"):
        versions.fetch("0" * 32 + ".dir", [{"md5": "/etc/passwd", "relpath": "a"}])


def test_keys_of_a_bucket(s3: str, tmp_path: Path) -> None:
    boto3.client("s3").put_object(Bucket="bucket", Key="archive/../../x", Body=b"1")
    with pytest.raises(UserError, match=r"'\.\./\.\./x' does not stay inside"):
        storage.download_folder(f"{s3}/archive", tmp_path / "deep" / "got")
    assert not list(tmp_path.rglob("x"))


def test_lists_and_manifests_of_datasets(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\n../x\n")
    with pytest.raises(UserError, match="does not stay inside"):
        read_list(tmp_path / "train.txt")
    entry = {"sha256": "0" * 64, "size": 1}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"JPEGImages/../../x.jpg": entry}}))
    with pytest.raises(UserError, match="does not stay inside"):
        read_manifest(tmp_path)
