"""What the system and the libraries refuse, and what nobody foresaw: one line, never a traceback."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image, UnidentifiedImageError

from wsss.cli import main
from wsss.errors import StoppedError, UserError
from wsss.failures import ADVICE, ended, sentence
from wsss.storage import disk_errors, temporary_folder, write_bytes


def raised(error: BaseException) -> object:
    raise error


def test_an_interrupt_says_how_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command()(lambda: raised(KeyboardInterrupt()))
    for action in (lambda: app([]), lambda: raised(KeyboardInterrupt())):
        assert ended("wsss", action) == 130
        assert capsys.readouterr().err == "wsss: interrupted; the same command continues where it stopped\n"
    assert ended("tune", lambda: raised(StoppedError("interrupted; this goes on: x"))) == 130
    assert capsys.readouterr().err == "tune: interrupted; this goes on: x\n"


@pytest.mark.parametrize("number", [*ADVICE, errno.ENOSPC, errno.EDQUOT, errno.ECONNRESET, errno.EBUSY])
def test_what_the_system_refuses_is_a_sentence_with_the_place(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["wsss", "compare"])
    assert ended("wsss", lambda: raised(OSError(number, "words", "some/place"))) == 2
    line = capsys.readouterr().err
    assert line.startswith("wsss: ") and line.count("\n") == 1 and "some/place" in line
    assert os.strerror(number).lower() in line and "Errno" not in line


def errors_of_libraries() -> list[tuple[BaseException, str]]:
    import mlflow.exceptions
    import ray.exceptions
    import sqlalchemy.exc
    from botocore.exceptions import NoCredentialsError
    from dvc.exceptions import DvcException

    refused = UserError("no such thing; name another")
    return [
        (mlflow.exceptions.MlflowException("No such artifact: ''"), "MLflow refuses: No such artifact: ''"),
        (sqlalchemy.exc.OperationalError("SELECT", {}, Exception("locked")), "the tracking store can't be used: "),
        (ray.exceptions.RaySystemError("gone"), "Ray ended the work: "),
        (ray.exceptions.RayTaskError("f", "Traceback ...", refused).as_instanceof_cause(), str(refused)),
        (DvcException("bad\nconfig"), "DVC refuses: bad config"),
        (UnidentifiedImageError("cannot identify image file 'x.png'"), "an image can't be read or written: cannot"),
        (Image.DecompressionBombError("too large"), "an image can't be read or written: too large"),
        (NoCredentialsError(), "the bucket can't be used: "),
        (MemoryError(), "the memory is full; "),
        (DeprecationWarning("old"), "a library warns (old), and PYTHONWARNINGS makes an error of that; "),
    ]


def test_what_libraries_refuse_is_told_on_one_line_without_passwords() -> None:
    for error, words in errors_of_libraries():
        told = sentence(error)
        assert told is not None and told.startswith(words) and "\n" not in told and "Traceback" not in told
    from mlflow.exceptions import MlflowException

    told = sentence(MlflowException("can't reach postgresql://me:secret@host/db")) or ""
    assert "secret" not in told and "me:***@host" in told
    assert sentence(ValueError("nobody foresaw this")) is None


@pytest.mark.parametrize(
    "damage", [lambda png: png[:-30], lambda png: png[:40] + b"x" * 20 + png[60:], lambda png: b""]
)
def test_images_that_pillow_refuses_are_a_sentence(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(file, "png")
    with pytest.raises(Exception) as error:  # noqa: PT011
        Image.open(io.BytesIO(damage(file.getvalue()))).load()
    assert (sentence(error.value) or "").startswith("an image can't be read or written: ")
    with pytest.raises(FileNotFoundError) as missing:
        Image.open(tmp_path / "none.png")
    assert (sentence(missing.value) or "").startswith(f"{tmp_path}/none.png can't be used")


@pytest.mark.parametrize(
    "error", [ValueError("a\nb\nhttp://me:secret@host"), KeyError("getpwuid(): uid"), OSError("?")]
)
def test_what_nobody_foresaw_names_a_log_that_has_the_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["wsss", "run"])
    assert ended("wsss", lambda: raised(error)) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "Traceback" not in line and type(error).__name__ in line
    (log,) = tmp_path.iterdir()
    assert str(log) in line and "in raised" in log.read_text() and log.stat().st_mode & 0o077 == 0
    assert "secret" not in line + log.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert ended("wsss", lambda: raised(error)) == 1
    assert "--debug shows where" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("--debug", "run", "--data", "nowhere"), ("run", "--data", "nowhere", "--debug")]
)
def test_debug_shows_the_traceback_wherever_it_stands(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wsss", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    err = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" in err
    assert err.splitlines()[-1].startswith("wsss: unknown dataset 'nowhere'")


def test_a_full_disk_behind_the_output_and_closed_streams_are_no_crash() -> None:
    program = [sys.executable, "-c", "from wsss.cli import main; main()", "data", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in done.stderr
    shell = " ".join(f"'{word}'" for word in program)
    done = subprocess.run(["sh", "-c", f"{shell} >&- <&-"], stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in done.stderr


def test_a_write_that_is_refused_names_what_the_user_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for place, words in (
        (tmp_path / "folder", "a folder is where a file is meant"),
        (tmp_path / "file" / "page.md", "something else is there|a file is where a folder"),
        (tmp_path / ("x" * 300), "choose a shorter name"),
    ):
        with pytest.raises(UserError, match=words) as told:
            write_bytes(place, b"page")
        assert ".part" not in str(told.value) and str(tmp_path) in str(told.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_temporary_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(UserError, match=f"the disk that holds {tmp_path}/.* is full .*; make room"), temporary_folder():
        pass
    none = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    assert "name another in TMPDIR" in (sentence(none) or "")


def test_a_current_folder_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as error:
        Path.cwd()
    assert sentence(error.value) == "the folder that this was called in is gone or closed; go into another"


def test_that_something_is_not_there_stays_for_the_caller_to_tell(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path):
        (tmp_path / "nothing").read_bytes()


def test_text_is_utf8_wherever_the_package_writes_or_reads_it() -> None:
    """Whatever the locale: each call that reads or writes text says its encoding."""
    project = Path(__file__).parent.parent
    calls = re.compile(r"\.(?:read_text\(\)|write_text\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))")
    for room in ("wsss", "tune", "pipelines", "benchmarks"):
        for path in (project / room).rglob("*.py"):
            for call in calls.findall(path.read_text(encoding="utf-8")):
                assert "encoding=" in call, f"{path.relative_to(project)}: {call}"


@pytest.mark.parametrize("terminal", [True, False])
def test_names_that_the_locale_lacks_are_printed(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in the C locale gets escapes, a file and a pipe get UTF-8."""
    from wsss.surroundings import settle_streams

    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stdout", stream)
    settle_streams()
    print("Kätzchen")
    stream.flush()
    assert raw.getvalue() == (b"K\\xe4tzchen\n" if terminal else "Kätzchen\n".encode())
