"""Score maps on disk: what is written is read, equal maps are equal bytes, halves are never read."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from wsss.data.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from wsss.errors import UserError


def score_map(rng: np.random.Generator, classes: int = 2) -> ScoreMap:
    scores = rng.random((classes, 6, 8)).astype(np.float16)
    return ScoreMap(scores, np.arange(classes, dtype=np.uint8) * 3, (48, 64))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class TestScoreMap:
    @pytest.mark.parametrize(
        ("scores", "classes", "message"),
        [
            (np.zeros((1, 2, 2), np.float32), [1], "float16"),
            (np.zeros((2, 2), np.float16), [1, 2], "K x h x w"),
            (np.zeros((2, 2, 2), np.float16), [1], "one entry for each of the 2"),
            (np.zeros((2, 2, 2), np.float16), [3, 3], "every class has one map"),
            (np.full((1, 2, 2), 1.01, np.float16), [1], r"lie in \[0, 1\]"),
            (np.full((1, 2, 2), -0.01, np.float16), [1], r"lie in \[0, 1\]"),
            (np.full((1, 2, 2), np.nan, np.float16), [1], r"lie in \[0, 1\]"),
        ],
    )
    def test_what_is_not_a_score_map(self, scores: np.ndarray, classes: list[int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ScoreMap(scores, np.array(classes, np.uint8), (8, 8))

    def test_an_image_without_candidates(self) -> None:
        assert len(ScoreMap(np.zeros((0, 2, 2), np.float16), np.zeros(0, np.uint8), (8, 8)).classes) == 0


class TestScoreMaps:
    def test_what_is_written_is_read_from_any_thread(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        written = {f"image-{i}": score_map(rng, classes=i % 4) for i in range(20)}
        with ScoreMapWriter(tmp_path, shard_bytes=500) as writer:
            for id, one in written.items():
                writer.add(id, one)
        maps = ScoreMaps(tmp_path)
        assert maps.ids == tuple(sorted(written)) and "image-3" in maps and "image-20" not in maps
        with ThreadPoolExecutor(8) as pool:
            for id, read in zip(written, pool.map(maps.read, written), strict=True):
                np.testing.assert_array_equal(read.scores, written[id].scores)
                np.testing.assert_array_equal(read.classes, written[id].classes)
                assert read.size == written[id].size and read.scores.dtype == np.float16

    def test_shards_are_bounded(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        with ScoreMapWriter(tmp_path, shard_bytes=1000) as writer:
            for i in range(10):
                writer.add(str(i), score_map(rng))  # 192 bytes of scores
        assert len(list(tmp_path.glob("*.safetensors"))) == 2

    def test_the_same_maps_are_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            rng = np.random.default_rng(0)
            with ScoreMapWriter(tmp_path / name) as writer:
                for i in range(5):
                    writer.add(str(i), score_map(rng))
        assert files(tmp_path / "a") == files(tmp_path / "b")

    def test_the_writer_keeps_its_own_copy(self, tmp_path: Path) -> None:
        scores = np.zeros((1, 2, 2), np.float16)
        with ScoreMapWriter(tmp_path) as writer:
            writer.add("a", ScoreMap(scores, np.ones(1, np.uint8), (8, 8)))
            scores[:] = 1
        assert ScoreMaps(tmp_path).read("a").scores.max() == 0

    def test_an_error_leaves_nothing_to_read(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        with pytest.raises(RuntimeError), ScoreMapWriter(tmp_path, shard_bytes=100) as writer:
            for i in range(5):
                writer.add(str(i), score_map(rng))
            raise RuntimeError
        assert files(tmp_path) == {}
        with pytest.raises(UserError, match="no complete set of score maps"):
            ScoreMaps(tmp_path)

    def test_a_folder_can_be_written_again(self, tmp_path: Path) -> None:
        for count in (6, 2):
            rng = np.random.default_rng(0)
            with ScoreMapWriter(tmp_path, shard_bytes=200) as writer:
                for i in range(count):
                    writer.add(str(i), score_map(rng))
        assert ScoreMaps(tmp_path).ids == ("0", "1") and len(list(tmp_path.glob("*.safetensors"))) == 2

    def test_an_interrupted_writer_continues_to_the_same_bytes(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        written = {f"image-{9 - i}": score_map(rng, classes=i % 3) for i in range(10)}
        with ScoreMapWriter(tmp_path / "whole", shard_bytes=500) as writer:
            for id, one in written.items():
                writer.add(id, one)
        for stop in (4, 7, 10):
            try:
                with ScoreMapWriter(tmp_path / "cut", shard_bytes=500, resume=True) as writer:
                    for id, one in list(written.items())[len(writer.kept) : stop]:
                        writer.add(id, one)
                    if stop < 10:
                        raise KeyboardInterrupt
            except KeyboardInterrupt:
                with pytest.raises(UserError, match="no complete set"):
                    ScoreMaps(tmp_path / "cut")
        assert files(tmp_path / "cut") == files(tmp_path / "whole")

    def test_it_travels_to_another_process(self, tmp_path: Path) -> None:
        with ScoreMapWriter(tmp_path) as writer:
            writer.add("a", score_map(np.random.default_rng(0)))
        maps = ScoreMaps(tmp_path)
        maps.read("a")
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(maps)).read("a").scores, maps.read("a").scores)

    def test_missing_ids_and_damage_are_named(self, tmp_path: Path) -> None:
        with ScoreMapWriter(tmp_path) as writer:
            writer.add("a", score_map(np.random.default_rng(0)))
        with pytest.raises(UserError, match="no score map of 'b'"):
            ScoreMaps(tmp_path).read("b")
        os.truncate(tmp_path / "scores-00000.safetensors", 20)
        with pytest.raises(UserError, match="'a' can't be read"):
            ScoreMaps(tmp_path).read("a")
