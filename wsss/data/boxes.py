"""The classes in annotations of boxes, as XML files of PASCAL VOC's form."""

from __future__ import annotations

import codecs
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from wsss.errors import UserError

_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._:-]+)["']""")
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs"}
"""What annotation tools write under the name of the smaller set."""


def read_boxes(path: Path) -> set[str]:
    """The names of the objects in an annotation, difficult and truncated ones included, their parts not.

    The encoding is the declared one, any that Python knows. Declarations of entities are refused, whatever they expand
    to.

    Raises:
        UserError: the file is missing, damaged, or in an encoding that is not what it declares.
    """
    try:
        text = _decode(path.read_bytes())
        if "<!ENTITY" in text:
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(text.encode(), ElementTree.XMLParser(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing") from None
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise UserError(f"{path.name} can't be read ({error})") from None
    return {unicodedata.normalize("NFC", (box.findtext("name") or "").strip()) for box in root.findall("object")}


def _decode(data: bytes) -> str:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(encoding)
    declared = _DECLARED.match(data)
    encoding = codecs.lookup(declared[1].decode()).name if declared else "utf-8"
    if encoding.startswith(("utf-16", "utf-32")):  # of more than a byte a letter, and declared in bytes
        encoding = "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        if encoding not in _WIDER:
            raise
        return data.decode(_WIDER[encoding])
