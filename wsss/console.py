"""Tables on a terminal: names and paths of users are shown as they are, never read as markup, emoji or links."""

from __future__ import annotations

from typing import Any

import rich.console


class Console(rich.console.Console):  # noqa: TID251
    """The one kind of console that everything is printed with.

    Attributes:
        width: in columns; the terminal's by default, 80 where there is none.
    """

    def __init__(self, width: int | None = None, soft_wrap: bool = False, stderr: bool = False) -> None:
        super().__init__(width=width, soft_wrap=soft_wrap, stderr=stderr, markup=False, emoji=False, highlight=False)


def show(renderable: Any, soft_wrap: bool = False) -> None:
    """Print a table, or a text, on the standard output; with `soft_wrap` lines may be longer than the terminal's."""
    Console(soft_wrap=soft_wrap).print(renderable)
