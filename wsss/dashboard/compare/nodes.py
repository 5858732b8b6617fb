"""Elements of a page as a small tree: drawn by the browser on a page, or written as text into a file.

A table of 900 coloured cells takes a Dash page seconds as components and a browser milliseconds as elements; Dash has
no SVG at all; and `wsss report` writes the same tables without Dash. Text and attributes are never markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

_VOID = frozenset({"br", "col", "hr", "img", "input", "meta", "line", "circle", "rect"})


@dataclass(frozen=True)
class Node:
    """An element.

    Attributes:
        tag: its name.
        attributes: name to text.
        children: elements and texts.
    """

    tag: str
    attributes: Mapping[str, str]
    children: tuple[Node | str, ...]

    @property
    def json(self) -> list[Any]:
        """What `draw` in assets/compare.js takes: [tag, attributes, children]."""
        return [self.tag, self.attributes, [c if isinstance(c, str) else c.json for c in self.children]]


Child = Node | str | None


def el(tag: str, *children: Child | Iterable[Child], **attributes: object) -> Node:
    """An element; children that are None, and attributes that are None or False, are left out.

    Args:
        tag: its name.
        children: elements, texts, or lists of them.
        attributes: "class_" is class and "data_value" data-value; True is an attribute without a value.
    """
    flat: list[Node | str] = []
    for child in children:
        if isinstance(child, str | Node):
            flat.append(child)
        elif child is not None:
            flat += [each for each in child if each is not None]
    said = {
        name.rstrip("_").replace("_", "-"): "" if value is True else str(value)
        for name, value in attributes.items()
        if value is not None and value is not False
    }
    return Node(tag, said, tuple(flat))


def markup(node: Node | str) -> str:
    """The element as HTML."""
    if isinstance(node, str):
        return escape(node, quote=False)
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in node.attributes.items())
    opened = f"<{node.tag}{attributes}>"
    if node.tag in _VOID and not node.children:
        # SVG asks for an end, HTML passes over it.
        return f"{opened[:-1]} />"
    return f"{opened}{''.join(map(markup, node.children))}</{node.tag}>"
