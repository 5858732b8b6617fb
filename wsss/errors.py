"""The exceptions that are no faults of the program: what a user can mend, and the end of the time that was given."""

from __future__ import annotations

import re


class UserError(Exception):
    """Bad input, a missing part or a full disk: one sentence that says what is wrong, where, and how to mend it.

    The command line prints the sentence without a traceback and exits with status 2.
    """


class OutOfTimeError(Exception):
    """The time that was given is over; what was done so far stays, and the same call goes on from there."""


class StoppedError(Exception):
    """A person interrupted it; the sentence says how it goes on. The command line exits with status 130."""


def unknown(kind: str, name: str, known: object) -> UserError:
    """The error for a name that does not exist; `known` are the names that do."""
    return UserError(f"unknown {kind} {name!r}; choose from {', '.join(sorted(map(str, known)))}")  # type: ignore[call-overload]


def one_line(error: BaseException) -> str:
    """What an error says, on one line, the passwords of addresses left out."""
    return masked(" ".join(str(error).split()))


def masked(text: str) -> str:
    """The text without the passwords of the addresses in it."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)
