"""Commands as the program prints them: so that they work as printed, in the folder and in a new shell of the reader.

And the words of a text that it is given.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sysconfig
from pathlib import Path

from wsss.errors import UserError

READER_PATH = "WSSS_READER_PATH"
"""The environment variable with the PATH of the reader's shell, where it is not this process's: `make` sets it."""


def command(program: str, *arguments: str) -> str:
    """A command line of this environment.

    Args:
        program: such as "wsss" or "python".
        arguments: its words; quoted where a shell asks for it.

    Returns:
        The program by its name where the shell of whoever reads it finds it so, else by its path: relative below the
        current folder, such as ".venv/bin/wsss". A program that the environment does not have keeps its name.
    """
    return shlex.join([_as_called(program), *arguments])


def words(text: str) -> list[str]:
    """The words of a text, some of them quoted as in a shell.

    Raises:
        UserError: a quotation mark has no end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{text!r} can't be split into words ({str(error).lower()}); close what is quoted") from None


def _as_called(program: str) -> str:
    own = Path(sysconfig.get_path("scripts"), program)
    known = shutil.which(program, path=os.environ.get(READER_PATH))
    if not own.exists() or (known and _is(Path(known), own)):
        return program
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)


def _is(known: Path, own: Path) -> bool:
    """Whether both start the same program; two environments share an interpreter that both link to."""
    return known.parent.samefile(own.parent) or (not own.is_symlink() and known.samefile(own))
