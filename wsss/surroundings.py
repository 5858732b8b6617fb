"""What a program may find around it: a user without a name, a home that can't be used, streams of another encoding."""

from __future__ import annotations

import os
import pwd
import sys
import tempfile
from pathlib import Path

_OF_CACHES = {
    "DVC_SITE_CACHE_DIR": "dvc",
    "MPLCONFIGDIR": "matplotlib",
    "TORCH_HOME": "torch",
    "TRITON_HOME": "triton",
    "XDG_CACHE_HOME": "cache",
}
"""The variables by which libraries are told where to write what they would write into HOME."""


def settle_user() -> None:
    """Give the process a user name and a place for caches where the system has none, as in a container.

    Libraries ask for the name of a user id, which may have none, and write into HOME, which may be missing or closed. A
    HOME that can be read stays: it may hold the keys of a bucket.
    """
    number = os.getuid()
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        try:
            pwd.getpwuid(number)
        except KeyError:
            os.environ["USER"] = str(number)
    home = os.path.expanduser("~")
    if os.path.isabs(home) and os.access(home, os.W_OK | os.X_OK):
        return
    try:
        caches = _private(Path(tempfile.gettempdir(), f"wsss-{number}"))
    except OSError:  # nor is there a temporary folder: whoever needs one says so
        return
    if not os.path.isabs(home) or not os.path.isdir(home):
        os.environ["HOME"] = str(caches)
    for name, place in _OF_CACHES.items():
        os.environ.setdefault(name, str(caches / place))


def settle_streams() -> None:
    """Make the standard streams take every name: what the terminal can't show is shown by its number.

    A file and a pipe get UTF-8, whatever the locale says.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", encoding=None if stream.isatty() else "utf-8")


def _private(folder: Path) -> Path:
    """A folder that is this user's own; another's of that name is left alone.

    Raises:
        OSError: there is none and none can be made.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        state = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o022:
            return Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
    return folder
