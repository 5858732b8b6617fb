"""Users without a name, homes that can't be used, clusters that do not answer, names that look like markup."""

from __future__ import annotations

import getpass
import io
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss import surroundings
from wsss.errors import UserError

NOBODY = 54321
"""A user id without a name."""


@pytest.mark.parametrize("home", [None, "/", "/nonexistent", "", "relative"])
def test_a_user_without_a_name_and_a_home(home, tmp_path, monkeypatch):
    """As in a container that was started with `--user 54321`."""
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", *surroundings._OF_CACHES):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    may = os.access
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/" and may(path, mode))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyError):
        getpass.getuser()
    surroundings.settle_user()
    assert getpass.getuser() == str(NOBODY)
    assert Path.home() == (Path("/") if home in ("", "/") else tmp_path / f"wsss-{NOBODY}")
    for name in surroundings._OF_CACHES:
        assert Path(os.environ[name]).is_relative_to(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_of_somebody_else_is_not_taken_for_caches(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "wsss-1").symlink_to(tmp_path / "elsewhere")
    own = surroundings._private(tmp_path / "wsss-1")
    assert own.name != "wsss-1" and own.is_dir() and not own.is_symlink()
    (tmp_path / "wsss-2").mkdir()
    (tmp_path / "wsss-2").chmod(0o777)
    assert surroundings._private(tmp_path / "wsss-2").name != "wsss-2"


def test_a_user_with_a_name_and_a_home_is_left_alone(tmp_path):
    program = "import os; before = dict(os.environ); import wsss; print(before == dict(os.environ))"
    environment = {**os.environ, "HOME": str(tmp_path), "USER": "somebody"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


# Ray


@contextmanager
def listener():
    """The address of something that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        held = []

        def accept():
            try:
                while True:
                    held.append(server.accept())
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("from_environment", [True, False])
def test_an_address_at_which_no_ray_answers_is_one_sentence_at_once(from_environment, monkeypatch):
    from wsss.run import cluster

    monkeypatch.setattr(cluster, "_ANSWER_S", 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with listener() as silent:
        for address, reason in (("127.0.0.1:1", "refused"), (silent, "not Ray")):
            if from_environment:
                monkeypatch.setenv("RAY_ADDRESS", address)
            started = time.monotonic()
            with pytest.raises(UserError, match=reason) as told, cluster.connected(address):
                pass
            assert time.monotonic() - started < 8
            assert ("unset RAY_ADDRESS" if from_environment else "leave --ray-address away") in str(told.value)


def test_doctor_says_that_the_cluster_does_not_answer(monkeypatch):
    from wsss.cli import doctor

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    state, advice = doctor._ray()
    assert state == "nothing answers at 127.0.0.1:1" and "unset RAY_ADDRESS" in advice


# Names that look like markup

WORDS = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=30)
MARKUP = st.sampled_from(
    ["[/b]", "[b]", "[red]x[/red]", ":smile:", "[link=x]", "[", "]", "\\[", "[/]", "{x}", "%s", "50% #1"]
)
NAMES = (
    st.lists(st.one_of(WORDS, MARKUP), min_size=1, max_size=4).map("".join).filter(lambda name: name.strip() == name)
)


def shown(show) -> str:
    """What is printed on a wide terminal, without the blanks, in which a table may break a name."""
    out = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="600"), redirect_stdout(out):
        show()
    return "".join(out.getvalue().split())


@given(names=st.lists(NAMES, min_size=2, max_size=4, unique=True))
@settings(max_examples=60, deadline=None)
def test_names_are_printed_as_they_are_by_every_table(names):
    import numpy as np
    from rich.table import Table

    from wsss.classes import Classes
    from wsss.console import show
    from wsss.registry.promotion import FORCED, PromotionRecord
    from wsss.registry.table import as_table as ledger_table
    from wsss.scores import Evaluation
    from wsss.serving.evaluate import as_table
    from wsss.tables.render import Column, as_text
    from wsss.tables.render import Table as Rows

    class Data:
        name = names[0]
        classes = Classes(tuple(names))

    matrices = np.ones((1, len(names), len(names)), np.int32)
    evaluation = Evaluation("val", names[0], ("a",), tuple(names), matrices, "", "")
    record = PromotionRecord(names[0], FORCED, "1", "", "1", names[1], when="2026-01-01T00:00:00+00:00")
    table = Table(*names, title=names[0], caption=names[0])
    table.add_row(*names)
    for text in (
        shown(lambda: show(as_table(evaluation, Data))),
        shown(lambda: show(table, soft_wrap=True)),
        "".join(as_text([Rows(names[0], tuple(map(Column, names)), [names])], wide=True).split()),
    ):
        assert all("".join(name.split()) in text for name in names)
    assert shown(lambda: show(ledger_table([record])))


def test_nothing_but_our_console_prints_tables():
    """`wsss.console` reads no markup; another console would."""
    project = Path(__file__).parent.parent
    for room in ("wsss", "tune", "pipelines", "benchmarks"):
        for path in (project / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert path.name == "console.py" or ("rich.console" not in text and "rich import print" not in text), path
