"""What the console shows of a step's progress: a line now and then in a log, one line rewritten on a terminal."""

import io
import time

import pytest

from wsss.progress import ConsoleReporter


def test_progress_in_a_log_is_a_line_every_ten_seconds_and_the_end():
    stream = io.StringIO()
    console = ConsoleReporter("refine.walk", stream)
    for done in range(1, 101):
        console.progress(done, 100, "images", "loss 0.5")
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("refine.walk: 100/100 images, ") and "images/s" in line and line.endswith("loss 0.5")


def test_progress_on_a_terminal_writes_over_its_line(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("wsss.progress.TERMINAL_S", 0.0)
    console = ConsoleReporter("refine.walk", stream)
    for done in range(1, 4):
        console.progress(done, 3, "images")
        time.sleep(0.01)
    assert stream.getvalue().count("\r") == 3
    assert stream.getvalue().count("\n") == 1
    assert "left" in stream.getvalue()


def test_a_continued_step_is_not_faster_than_it_is():
    stream = io.StringIO()
    console = ConsoleReporter("segment.train", stream)
    console.progress(1000, 1002, "images")
    time.sleep(0.2)
    console.progress(1002, 1002, "images")
    rate = float(stream.getvalue().split(", ")[1].split()[0])
    assert rate == pytest.approx(10, rel=0.5)
