"""Text files that people and their tools write: UTF-8, or UTF-16 that says so; all else is refused with a way out."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from wsss.commands import command
from wsss.errors import UserError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LINE_END = re.compile("\r\n|\r|\n")


def read_text(path: Path) -> str:
    """The content of a text file, its line ends as they are.

    The encoding is that of the byte order mark, else UTF-8. Encodings of one byte a letter are not guessed: any file
    can be read as any of them.

    Raises:
        UserError: the file can't be read, is no text, or is of another encoding (says how to convert it).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read ({(error.strerror or str(error)).lower()})") from None
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise UserError(f"{path} is not {encoding[:6].upper()} text (line {line}); {_way_out(path, data)}") from None
    if "\0" in text:
        line = 1 + text.count("\n", 0, text.index("\0"))
        raise UserError(f"{path} is not UTF-8 text (line {line} holds the byte 0); {_way_out(path, data)}")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends: CR LF, LF or CR, no other character ends a line.

    Raises:
        UserError: see `read_text`.
    """
    return _LINE_END.split(read_text(path))


def _way_out(path: Path, data: bytes) -> str:
    low, high = data[::2].count(0), data[1::2].count(0)
    if 4 * max(low, high) > len(data):
        likely, name = ("UTF-16BE" if low > high else "UTF-16LE"), "UTF-16 without a byte order mark"
    elif re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", data):
        return "it seems to be no text file at all"
    else:
        likely, name = "WINDOWS-1252", "a western Windows encoding"
    convert = command("iconv", "-f", likely, "-t", "UTF-8", str(path))
    return f"if it is in {name}, convert it with `{convert} > NEW`, else put its own encoding for {likely}"
