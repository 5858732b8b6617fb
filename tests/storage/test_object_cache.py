"""The cache of objects from a bucket: bounded whoever writes it, and never trusted for what it holds."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsss.errors import UserError
from wsss.storage import ObjectCache


def test_the_cache_never_holds_more_than_its_limit_whoever_writes_it(tmp_path):
    code = (
        "import hashlib, sys; from pathlib import Path; from wsss.storage import ObjectCache\n"
        "cache = ObjectCache(Path('cache'), 100_000, '')\n"
        "for n in range(60):\n"
        "    data = f'{sys.argv[1]} {n} '.encode() * 500\n"
        "    cache.put(hashlib.sha256(data).hexdigest(), data)\n"
        "    assert sum(p.stat().st_size for p in Path('cache').glob('??/*') if p.exists()) <= 100_000\n"
    )
    workers = [subprocess.Popen([sys.executable, "-c", code, str(n)], cwd=tmp_path) for n in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("??/*") if path.is_file()) > 50_000


def test_what_was_used_longest_ago_goes_and_what_is_damaged_is_fetched_again(tmp_path):
    cache = ObjectCache(tmp_path, 300, "")
    data = {name: name.encode() * 100 for name in "abcd"}
    key = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
    for age, name in enumerate("abc"):
        cache.put(key[name], data[name])
        os.utime(tmp_path / key[name][:2] / key[name], (age, age))
    assert cache.get(key["a"]) == data["a"]
    cache.put(key["d"], data["d"])
    assert {name for name in "abcd" if cache.get(key[name])} == {"a", "d"}
    (tmp_path / key["a"][:2] / key["a"]).write_bytes(b"half")
    assert cache.get(key["a"]) is None and not (tmp_path / key["a"][:2] / key["a"]).exists()
    cache.put(key["a"], b"x" * 301)
    assert cache.get(key["a"]) is None


def test_a_cache_on_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="the cache of images in .* is full .* or lower it"):
        ObjectCache(tmp_path, 300, "lower it").put("ab", b"x")
