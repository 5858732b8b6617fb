"""The file behind the writers of maps: whole records survive a kill, torn and changed ones are dropped."""

from pathlib import Path

import pytest

from wsss.data.record_file import RecordFile


class TestSpool:
    """The file behind both writers."""

    def records(self, path: Path, count: int) -> RecordFile:
        records = RecordFile(path, resume=False)
        for i in range(count):
            records.add(f"{i}", bytes([i, 10, 13]) * i, number=i)
        records.close()
        return records

    def test_records_survive_with_their_facts(self, tmp_path: Path) -> None:
        self.records(tmp_path / "spool", 5)
        records = RecordFile(tmp_path / "spool", resume=True)
        assert records.facts == {f"{i}": {"number": i} for i in range(5)}
        assert [records.read(id) for id in records.facts] == [bytes([i, 10, 13]) * i for i in range(5)]
        records.add("5", b"more")
        assert records.read("5") == b"more" and records.read("3") == bytes([3, 10, 13]) * 3
        with pytest.raises(ValueError, match="twice"):
            records.add("5", b"more")
        records.remove()
        assert not (tmp_path / "spool").exists()

    def test_cut_anywhere_the_whole_records_are_kept(self, tmp_path: Path) -> None:
        self.records(tmp_path / "whole", 4)
        data = (tmp_path / "whole").read_bytes()
        ends = [0]
        for i in range(4):
            ends.append(data.index(b"\n", ends[-1]) + 1 + 3 * i)
        for length in range(len(data) + 1):
            (tmp_path / "cut").write_bytes(data[:length])
            records = RecordFile(tmp_path / "cut", resume=True)
            assert len(records.facts) == sum(end <= length for end in ends[1:])
            records.add("new", b"data")
            records.close()
            assert list(RecordFile(tmp_path / "cut", resume=True).facts)[-1] == "new"

    def test_bytes_that_changed_are_not_kept(self, tmp_path: Path) -> None:
        self.records(tmp_path / "spool", 5)
        data = bytearray((tmp_path / "spool").read_bytes())
        data[-20] ^= 1 if data[-20] != 10 else 3
        (tmp_path / "spool").write_bytes(data)
        assert len(RecordFile(tmp_path / "spool", resume=True).facts) < 5

    def test_without_resume_it_begins_empty(self, tmp_path: Path) -> None:
        self.records(tmp_path / "spool", 3)
        assert not RecordFile(tmp_path / "spool", resume=False).facts
        assert (tmp_path / "spool").stat().st_size == 0
