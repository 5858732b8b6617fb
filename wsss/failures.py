"""Errors that nobody foresaw, as sentences: those of the operating system and of the libraries; the rest goes to a log.

Where an error can be told better, with what was being done, a room makes a `UserError` of it. What is left comes here.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from wsss.errors import StoppedError, UserError, masked, one_line
from wsss.surroundings import settle_streams

DEBUG = "--debug"
INTERRUPTED = 130
"""The exit status after an interrupt."""
_GOES_ON = "interrupted; the same command continues where it stopped"
_PILLOW = "PIL"
_LIBRARIES = {
    "mlflow": "MLflow refuses",
    "sqlalchemy": "the tracking store can't be used",
    "alembic": "the tracking store can't be used",
    "ray": "Ray ended the work",
    "dvc": "DVC refuses",
    "dvc_data": "DVC refuses",
    "dvc_objects": "DVC refuses",
    "scmrepo": "git refuses",
    _PILLOW: "an image can't be read or written",
    "boto3": "the bucket can't be used",
    "botocore": "the bucket can't be used",
    "filelock": "a lock can't be had",
    "safetensors": "a file of tensors can't be read",
}
"""The package of an error's class to what its message is the reason of."""
ADVICE = {
    errno.EACCES: "change its permissions, or work in a folder that you may write to",
    errno.EPERM: "change its permissions, or work in a folder that you may write to",
    errno.EROFS: "it lies on a disk that can't be written; work in a folder that can",
    errno.ENOTDIR: "a file is where a folder is meant; name another place",
    errno.EISDIR: "a folder is where a file is meant; name a file",
    errno.EEXIST: "something else is there already; name another place",
    errno.ENOTEMPTY: "something else is there already; name another place",
    errno.ENOENT: "check the name",
    errno.ENAMETOOLONG: "choose a shorter name, or a folder with a shorter path",
    errno.ELOOP: "its links point to each other; mend them",
    errno.EMFILE: "allow this process more open files: ulimit -n 4096",
    errno.ENFILE: "the machine has too many open files; end what holds them",
    errno.ENOMEM: "end what else fills the memory, or choose smaller settings",
    errno.EIO: "check the disk",
    errno.ESTALE: "mount the network disk anew",
}
"""The refusals of a disk, by their number, and how to mend them."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST = 500


def os_sentence(error: OSError, path: object = None) -> str | None:
    """What the operating system refused, where, and how to mend it; None for an error that is not the system's.

    Args:
        error: with a number of `errno`.
        path: where it happened, for an error that does not say.
    """
    if error.errno is None or error.errno not in errno.errorcode:
        return None
    reason = os.strerror(error.errno).lower()
    places = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    # A file is written under a name of its own and then renamed: the second name is the one that people know.
    place = places[-1] if places and not (path and places[-1].endswith(".part")) else str(path or "")
    if error.errno in _FULL:
        disk = f"the disk that holds {place}" if place else "a disk"
        return f"{disk} is full ({reason}); make room, then run the same command again"
    if not place and "temporary" in (error.strerror or ""):  # Python's own words
        return "there is no temporary folder that can be written; make room in one, or name another in TMPDIR"
    if not place and not _stands():
        return "the folder that this was called in is gone or closed; go into another"
    if not place:
        return f"the system refuses ({reason}); {ADVICE.get(error.errno, 'try again')}"
    return f"{place} can't be used ({reason}); {ADVICE.get(error.errno, 'check it, or name another place')}"


def _stands() -> bool:
    """Whether the current folder is there."""
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def sentence(error: BaseException) -> str | None:
    """A known error as one sentence; None for one that nobody foresaw."""
    package = _package(error)
    cause = getattr(error, "cause", None)
    if package == "ray" and isinstance(cause, Exception):  # what happened in a worker, beneath Ray's own words
        return sentence(cause)
    if isinstance(error, UserError):
        return str(error)
    if package:
        return f"{_LIBRARIES[package]}: {one_line(error)[:_LONGEST] or type(error).__name__}"
    if isinstance(error, OSError):
        return os_sentence(error)
    if isinstance(error, Warning):
        return f"a library warns ({one_line(error)[:_LONGEST]}), and PYTHONWARNINGS makes an error of that; unset it"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "the memory is full; end what else fills it, or choose smaller settings (crop, batch)"
    return None


def ended(program: str, action: Callable[[], object]) -> int:
    """Do something as a program does: what goes wrong is a line on the standard error, never a traceback.

    Args:
        program: its name, which the line begins with.
        action: what it does; gives the exit status, or None for 0.

    Returns:
        The exit status: 2 for what the user can mend, 1 for what nobody foresaw, whose traceback is in a log that the
        line names; 130 after an interrupt. With `--debug` among the arguments the traceback is shown as well.
    """
    debug = _taken_debug()
    settle_streams()
    try:
        return _status(action())
    except SystemExit as end:
        if end.code != INTERRUPTED:  # what typer makes of a keyboard's interrupt
            return _status(end.code)
        line, status = _GOES_ON, INTERRUPTED
    except KeyboardInterrupt:
        line, status = _GOES_ON, INTERRUPTED
    except StoppedError as stop:
        line, status = str(stop), INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        trace = masked("".join(traceback.format_exception(error)))
        if debug:
            print(trace, file=sys.stderr)
        known = sentence(error)
        line, status = (known, 2) if known is not None else (_unforeseen(error, program, trace), 1)
    with suppress(OSError, AttributeError):  # a full disk behind it; a stream that is closed
        sys.stdout.flush()
    print(f"{program}: {line}", file=sys.stderr)
    return status


def _taken_debug() -> bool:
    """Whether `--debug` is among the arguments; it may stand anywhere, and is taken out."""
    words = sys.argv[1:]
    own = words[: words.index("--")] if "--" in words else words
    if DEBUG not in own:
        return False
    sys.argv.remove(DEBUG)
    return True


def _status(code: object) -> int:
    if code is None:
        return 0
    return code if isinstance(code, int) else 1


def _unforeseen(error: Exception, program: str, trace: str) -> str:
    what = f"an error that nobody foresaw, {type(error).__name__}: {one_line(error)[:_LONGEST]}"
    try:
        number, path = tempfile.mkstemp(prefix=f"{program}-{time.strftime('%Y%m%d-%H%M%S')}-", suffix=".log", text=True)
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"{masked(' '.join(sys.argv))}\n{trace}")
    except OSError:
        return f"{what}; {DEBUG} shows where"
    return f"{what}; where it happened is in {path}, and {DEBUG} shows it"


def _package(error: BaseException) -> str:
    """The package of the library that an error's class, or the nearest base that has a known one, is defined in.

    Pillow tells of damaged images by Python's own errors: what it raises itself is its.
    """
    packages = [base.__module__.partition(".")[0] for base in type(error).__mro__]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames and str(frames[-1].f_globals.get("__name__")).partition(".")[0] == _PILLOW:
        packages.append(_PILLOW if not getattr(error, "errno", None) else "")
    return next((package for package in packages if package in _LIBRARIES), "")
