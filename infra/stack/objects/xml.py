"""S3's answers and questions in XML."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from urllib.parse import quote
from xml.etree import ElementTree

from infra.stack.objects.keys import RefusedError

SPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
Tree = Iterable[tuple[str, object]]


def document(root: str, tree: Tree) -> bytes:
    """A document; a value is a text, a number, or pairs of its own."""
    # Clients know an error by its plain name.
    top = ElementTree.Element(root, {} if root == "Error" else {"xmlns": SPACE})
    _fill(top, tree)
    return ElementTree.tostring(top, encoding="utf-8", xml_declaration=True)


def _fill(element: ElementTree.Element, tree: Tree) -> None:
    for name, value in tree:
        child = ElementTree.SubElement(element, name)
        if isinstance(value, str | int):
            child.text = str(value).lower() if isinstance(value, bool) else str(value)
        else:
            _fill(child, value)  # type: ignore[arg-type]


def parsed(body: bytes) -> ElementTree.Element:
    """What a client sent; no document type, by which XML names files and grows without end.

    Raises:
        RefusedError: it is no XML, or more than that.
    """
    if b"<!" in body:
        raise RefusedError(400, "MalformedXML", "a document type is not read")
    try:
        return ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise RefusedError(400, "MalformedXML", str(error)) from None


def texts(element: ElementTree.Element, name: str) -> Iterator[str]:
    """The texts of all elements of a name."""
    for each in element.iterfind(f".//{{*}}{name}"):
        yield each.text or ""


def text(element: ElementTree.Element, name: str) -> str:
    """The text of the first element of a name; empty without one."""
    return next(texts(element, name), "")


def when(seconds: float) -> str:
    """A time as S3's documents have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def quoted(key: str, encoding: str) -> str:
    """A key as it was asked for: XML has no control characters, so clients ask for `url`."""
    return quote(key, safe="/") if encoding == "url" else key
