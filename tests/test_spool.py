"""The file behind the writers of maps: whole records survive a kill, torn and changed ones are dropped."""

from pathlib import Path

import pytest

from wsss.data.spool import Spool


class TestSpool:
    """The file behind both writers."""

    def records(self, path: Path, count: int) -> Spool:
        spool = Spool(path, resume=False)
        for i in range(count):
            spool.add(f"{i}", bytes([i, 10, 13]) * i, number=i)
        spool.close()
        return spool

    def test_records_survive_with_their_facts(self, tmp_path: Path) -> None:
        self.records(tmp_path / "spool", 5)
        spool = Spool(tmp_path / "spool", resume=True)
        assert spool.facts == {f"{i}": {"number": i} for i in range(5)}
        assert [spool.read(id) for id in spool.facts] == [bytes([i, 10, 13]) * i for i in range(5)]
        spool.add("5", b"more")
        assert spool.read("5") == b"more" and spool.read("3") == bytes([3, 10, 13]) * 3
        with pytest.raises(ValueError, match="twice"):
            spool.add("5", b"more")
        spool.remove()
        assert not (tmp_path / "spool").exists()

    def test_cut_anywhere_the_whole_records_are_kept(self, tmp_path: Path) -> None:
        self.records(tmp_path / "whole", 4)
        data = (tmp_path / "whole").read_bytes()
        ends = [0]
        for i in range(4):
            ends.append(data.index(b"\n", ends[-1]) + 1 + 3 * i)
        for length in range(len(data) + 1):
            (tmp_path / "cut").write_bytes(data[:length])
            spool = Spool(tmp_path / "cut", resume=True)
            assert len(spool.facts) == sum(end <= length for end in ends[1:])
            spool.add("new", b"data")
            spool.close()
            assert list(Spool(tmp_path / "cut", resume=True).facts)[-1] == "new"

    def test_bytes_that_changed_are_not_kept(self, tmp_path: Path) -> None:
        self.records(tmp_path / "spool", 5)
        data = bytearray((tmp_path / "spool").read_bytes())
        data[-20] ^= 1 if data[-20] != 10 else 3
        (tmp_path / "spool").write_bytes(data)
        assert len(Spool(tmp_path / "spool", resume=True).facts) < 5

    def test_without_resume_it_begins_empty(self, tmp_path: Path) -> None:
        self.records(tmp_path / "spool", 3)
        assert not Spool(tmp_path / "spool", resume=False).facts
        assert (tmp_path / "spool").stat().st_size == 0
