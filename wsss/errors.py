"""The one exception that is a user's to mend."""


class UserError(Exception):
    """Bad input, a missing part or a full disk: one sentence that says what is wrong, where, and how to mend it.

    The command line prints the sentence without a traceback and exits with status 2.
    """


def unknown(kind: str, name: str, known: object) -> UserError:
    """The error for a name that does not exist; `known` are the names that do."""
    return UserError(f"unknown {kind} {name!r}; choose from {', '.join(sorted(map(str, known)))}")  # type: ignore[call-overload]
