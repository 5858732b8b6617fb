"""The `search` entry point of MLproject: `python -m tune`, where an empty parameter stands for the default."""

from __future__ import annotations

import sys

from tune.__main__ import main as search
from wsss.errors import UserError
from wsss.failures import ended


def main(arguments: list[str] | None = None) -> int:
    """Search; exit status 2 is the user's to mend."""

    def begin() -> None:
        sys.argv = ["tune", *words(sys.argv[1:] if arguments is None else arguments)]

    return ended("tune", begin) or search()


def words(arguments: list[str]) -> list[str]:
    """The options that have a value; of `-P refine.walk.beta=8`, which MLflow makes `--refine.walk.beta 8`, a `--fix`.

    Raises:
        UserError: what is not a list of options with values.
    """
    if len(arguments) % 2 or any(not key.startswith("--") for key in arguments[::2]):
        raise UserError(f"{' '.join(arguments)!r} is not a list of parameters; give them as -P trials=8")
    pairs = [(key, value) for key, value in zip(arguments[::2], arguments[1::2], strict=True) if value]
    fixed = [word for key, value in pairs if "." in key for word in ("--fix", f"{key[2:]}={value}")]
    return [word for pair in pairs if "." not in pair[0] for word in pair] + fixed


if __name__ == "__main__":
    sys.exit(main())
