"""The files of a form: `curl -F image=@a.jpg -F image=@b.jpg`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import HTTPException
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

MOST = 32
"""Files of a form."""


@dataclass
class File:
    """A file that was sent.

    Attributes:
        name: as the client calls it; empty where it does not.
        data: its bytes.
    """

    name: str
    data: bytes


class _Parts:
    """What the parser finds, as far as it has come."""

    def __init__(self) -> None:
        self.files: list[File] = []
        self.ended = False
        self._field, self._value, self._disposition = b"", b"", b""
        self._pieces: list[bytes] = []

    def begin(self) -> None:
        if len(self.files) >= MOST:
            raise HTTPException(422, f"the form holds more than {MOST} files; send the others in another request")
        self._field = self._value = self._disposition = b""
        self._pieces = []

    def field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if b"filename" not in options:
            field = options.get(b"name", b"").decode(errors="replace")[:100]
            raise HTTPException(
                422, f"the form's field {field!r} holds no file; send images alone: -F image=@photo.jpg"
            )
        self.files.append(File(options[b"filename"].decode(errors="replace")[:1000], b"".join(self._pieces)))
        self._pieces = []

    def finish(self) -> None:
        self.ended = True


def is_form(content_type: str) -> bool:
    """Whether a request's body is a form with files."""
    return content_type.strip().lower().startswith("multipart/form-data")


def files_of(content_type: str, body: bytes) -> list[File]:
    """The files of a form, in its order; at least one and at most `MOST`.

    Args:
        content_type: of the request, with the boundary.
        body: the whole form.

    Raises:
        HTTPException: 422 for a form that is damaged, holds no file, too many, or a field that is no file.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    parts = _Parts()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.field,
                "on_header_value": parts.value,
                "on_header_end": parts.header,
                "on_part_data": parts.data,
                "on_part_end": parts.end,
                "on_end": parts.finish,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise _damaged() from None
    if not parts.ended:
        raise _damaged()
    if not parts.files:
        raise HTTPException(422, "the form holds no file; send at least one: -F image=@photo.jpg")
    return parts.files


def _damaged() -> HTTPException:
    return HTTPException(422, "the body is no readable multipart/form-data, or is cut short; send it as curl -F does")
