"""Label maps on disk, palette PNGs in shards: what is written is read, equal maps are equal bytes, no half is read."""

import json
import os
import signal
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss.classes import palette
from wsss.data.label_maps import SHARDS, LabelMaps, LabelMapWriter, encode_label_map
from wsss.data.palette_png import encode_palette_png, read_palette_png, write_palette_png
from wsss.data.score_maps import ScoreMaps
from wsss.errors import UserError


def label_maps(count: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        f"2007_{i:06d}": rng.choice(np.array([0, 1, 7, 20, 255], np.uint8), size=(5 + i % 3, 4 + i % 5))
        for i in range(count)
    }


def write_labels(folder: Path, maps: dict[str, np.ndarray], order: list[str] | None = None) -> LabelMaps:
    with LabelMapWriter(folder) as writer:
        for id in order or list(maps):
            writer.add(id, maps[id])
    return LabelMaps(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class TestPalettePng:
    def test_indices_survive(self, tmp_path: Path) -> None:
        labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
        write_palette_png(tmp_path / "a.png", labels)
        np.testing.assert_array_equal(read_palette_png(tmp_path / "a.png"), labels)
        assert [p.name for p in tmp_path.iterdir()] == ["a.png"]

    @pytest.mark.parametrize("value", [0, 1, 20, 255])
    def test_the_colours_are_the_vocs(self, value: int) -> None:
        with Image.open(BytesIO(encode_palette_png(np.full((3, 3), value, np.uint8)))) as image:
            assert image.mode == "P"
            assert image.convert("RGB").getpixel((1, 1)) == tuple(palette()[value])

    def test_grey_values_are_indices_too(self, tmp_path: Path) -> None:
        labels = np.array([[0, 3], [255, 20]], np.uint8)
        Image.fromarray(labels).save(tmp_path / "grey.png")
        np.testing.assert_array_equal(read_palette_png(tmp_path / "grey.png"), labels)

    def test_colours_are_refused(self, tmp_path: Path) -> None:
        Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
        with pytest.raises(UserError, match=r"rgb\.png is a label map in mode RGB"):
            read_palette_png(tmp_path / "rgb.png")

    def test_broken_files_are_named(self, tmp_path: Path) -> None:
        png = encode_palette_png(np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8))
        (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
        (tmp_path / "text.png").write_text("not an image")
        for name in ("cut.png", "text.png", "missing.png"):
            with pytest.raises(UserError, match=name.replace(".", r"\.")):
                read_palette_png(tmp_path / name)

    @pytest.mark.parametrize("labels", [np.zeros((2, 2)), np.zeros((2, 2, 1), np.uint8), np.zeros((0, 2), np.uint8)])
    def test_only_uint8_maps(self, labels: np.ndarray) -> None:
        with pytest.raises(ValueError, match="uint8 H x W"):
            encode_palette_png(labels)


class TestLabelMaps:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        written = label_maps()
        maps = write_labels(tmp_path, written)
        assert maps.ids == tuple(sorted(written)) and len(maps) == len(written)
        assert "2007_000001" in maps and "2008_000001" not in maps
        for id, labels in written.items():
            np.testing.assert_array_equal(maps.read(id), labels)

    def test_shards_are_sorted_plain_tars_without_times_and_owners(self, tmp_path: Path) -> None:
        written = label_maps()
        write_labels(tmp_path, written)
        found = []
        for shard in range(SHARDS):
            with tarfile.open(tmp_path / f"labels-{shard:02d}.tar", "r:") as tar:
                members = tar.getmembers()
                assert [m.name for m in members] == sorted(m.name for m in members)
                assert all(m.mtime == m.uid == m.gid == 0 and not m.uname and not m.gname for m in members)
                for member in members:
                    content = tar.extractfile(member)
                    assert content is not None
                    found.append(member.name)
                    assert content.read() == encode_palette_png(written[member.name.removesuffix(".png")])
        assert sorted(found) == sorted(f"{id}.png" for id in written)
        assert sorted(files(tmp_path)) == ["index.json", *(f"labels-{s:02d}.tar" for s in range(SHARDS))]

    def test_order_and_threads_leave_the_bytes_alone(self, tmp_path: Path) -> None:
        written = label_maps()
        write_labels(tmp_path / "forward", written)
        write_labels(tmp_path / "backward", written, order=sorted(written, reverse=True))
        with LabelMapWriter(tmp_path / "threads") as writer, ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda id: writer.add(id, written[id]), written))
        assert files(tmp_path / "forward") == files(tmp_path / "backward") == files(tmp_path / "threads")

    def test_one_pixel_changes_the_digest_and_one_shard(self, tmp_path: Path) -> None:
        written = label_maps()
        before = write_labels(tmp_path / "before", written)
        written["2007_000004"] = written["2007_000004"] ^ 1
        after = write_labels(tmp_path / "after", written)
        assert before.digest != after.digest
        old, new = files(tmp_path / "before"), files(tmp_path / "after")
        assert sum(old[name] != new[name] for name in old if name != "index.json") == 1

    def test_the_digest_sees_the_shape(self, tmp_path: Path) -> None:
        wide = write_labels(tmp_path / "wide", {"a": np.zeros((2, 8), np.uint8)})
        high = write_labels(tmp_path / "high", {"a": np.zeros((8, 2), np.uint8)})
        assert wide.digest != high.digest

    def test_a_folder_can_be_written_again(self, tmp_path: Path) -> None:
        write_labels(tmp_path / "again", label_maps(30))
        write_labels(tmp_path / "again", label_maps(5))
        write_labels(tmp_path / "once", label_maps(5))
        assert files(tmp_path / "again") == files(tmp_path / "once")

    def test_odd_ids_and_no_maps(self, tmp_path: Path) -> None:
        odd = {"cats/a b": np.ones((2, 2), np.uint8), "ünïcode" + "x" * 150: np.zeros((1, 1), np.uint8)}
        maps = write_labels(tmp_path / "odd", odd)
        for id, labels in odd.items():
            np.testing.assert_array_equal(maps.read(id), labels)
        assert write_labels(tmp_path / "empty", {}).ids == ()

    def test_an_id_comes_once(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="twice"), LabelMapWriter(tmp_path) as writer:
            writer.add("a", np.zeros((2, 2), np.uint8))
            writer.add("a", np.zeros((2, 2), np.uint8))

    def test_an_error_leaves_nothing_to_read(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError), LabelMapWriter(tmp_path) as writer:
            writer.add("a", np.zeros((2, 2), np.uint8))
            raise RuntimeError
        assert files(tmp_path) == {}
        with pytest.raises(UserError, match=r"index\.json is missing"):
            LabelMaps(tmp_path)

    def test_a_kill_leaves_nothing_to_read_and_a_new_start(self, tmp_path: Path) -> None:
        script = (
            "import sys, numpy as np\nfrom pathlib import Path\nfrom wsss.data.label_maps import LabelMapWriter\n"
            "with LabelMapWriter(Path(sys.argv[1])) as w:\n"
            "    w.add('stale', np.zeros((200, 200), np.uint8)); print('ready', flush=True); input()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
        with pytest.raises(UserError, match="no complete set"):
            LabelMaps(tmp_path / "a")
        write_labels(tmp_path / "a", label_maps(5))
        write_labels(tmp_path / "b", label_maps(5))
        assert files(tmp_path / "a") == files(tmp_path / "b")

    def test_an_interrupted_writer_continues_to_the_same_bytes(self, tmp_path: Path) -> None:
        written = label_maps()
        whole = write_labels(tmp_path / "whole", written)
        folder, ids = tmp_path / "cut", list(written)
        for start, stop in ((0, 15), (15, 30)):
            with pytest.raises(KeyboardInterrupt), LabelMapWriter(folder, resume=True) as writer:
                assert writer.kept == set(ids[:start])
                for id in ids[start:stop]:
                    writer.add(id, written[id])
                raise KeyboardInterrupt
            with pytest.raises(UserError, match="no complete set"):
                LabelMaps(folder)
        with LabelMapWriter(folder, resume=True) as writer:
            for id in ids:
                writer.add(id, written[id] if id not in writer.kept else np.zeros((1, 1), np.uint8))
        assert files(folder) == files(whole.folder)

    def test_encoded_elsewhere_is_the_same(self, tmp_path: Path) -> None:
        written = label_maps(6)
        with LabelMapWriter(tmp_path / "encoded") as writer:
            for id, labels in written.items():
                writer.add(id, encode_label_map(labels))
        assert files(tmp_path / "encoded") == files(write_labels(tmp_path / "plain", written).folder)

    def test_reading_from_threads(self, tmp_path: Path) -> None:
        written = label_maps()
        maps = write_labels(tmp_path, written)
        with ThreadPoolExecutor(8) as pool:
            for id, labels in zip(written, pool.map(maps.read, written), strict=True):
                np.testing.assert_array_equal(labels, written[id])

    def test_missing_ids_and_damage_are_named(self, tmp_path: Path) -> None:
        maps = write_labels(tmp_path, {"a": np.zeros((4, 4), np.uint8), "b": np.ones((4, 4), np.uint8)})
        with pytest.raises(UserError, match="no label map of 'c'"):
            maps.read("c")
        index = json.loads((tmp_path / "index.json").read_text())
        index["maps"]["a"]["sha256"] = index["maps"]["b"]["sha256"]
        (tmp_path / "index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match="'a' in .* is damaged"):
            LabelMaps(tmp_path).read("a")
        for shard in tmp_path.glob("*.tar"):
            os.truncate(shard, 0)
        with pytest.raises(UserError, match="'b' in .* can't be read"):
            maps.read("b")

    def test_label_maps_are_not_score_maps(self, tmp_path: Path) -> None:
        write_labels(tmp_path, label_maps(2))
        with pytest.raises(UserError, match="not an index of score maps"):
            ScoreMaps(tmp_path)
