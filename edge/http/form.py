"""Decode a ``multipart/form-data`` body that is wholly in memory (RFC 7578)."""

from __future__ import annotations

import logging

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from edge.errors import RemoteProtocolError

# It logs a line for every malformed body, and who sends those decides how often.
logging.getLogger("python_multipart.multipart").disabled = True


def decode_form(content_type: str, body: bytes) -> dict[str, bytes]:
    """Return the parts by name; each name may occur once. Raises RemoteProtocolError."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise RemoteProtocolError("the content type names no multipart boundary")
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin_part,
                "on_header_field": form.header_name,
                "on_header_value": form.header_value,
                "on_header_end": form.end_header,
                "on_part_data": form.data,
                "on_part_end": form.end_part,
                "on_end": form.end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise RemoteProtocolError("the multipart body is malformed") from None
    if not form.complete:
        raise RemoteProtocolError("the multipart body is cut off")
    return form.parts


class _Form:
    """Collects what the parser calls out."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}
        self.complete = False
        self.begin_part()

    def begin_part(self) -> None:
        self._name = ""
        self._data = bytearray()
        self._header_name = bytearray()
        self._header_value = bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            options = parse_options_header(bytes(self._header_value))[1]
            self._name = options.get(b"name", b"").decode("latin-1")
        self._header_name.clear()
        self._header_value.clear()

    def data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def end_part(self) -> None:
        if not self._name:
            raise RemoteProtocolError("a part of the multipart body has no name")
        if self._name in self.parts:
            raise RemoteProtocolError("two parts of the multipart body have the same name")
        self.parts[self._name] = bytes(self._data)

    def end(self) -> None:
        self.complete = True
