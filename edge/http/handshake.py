"""What of a request's head is checked before hypercorn reads it.

hypercorn's ways to another protocol raise on malformed requests, so only a correct handshake of a
WebSocket (RFC 6455, section 4.2.1) goes there. Any other upgrade is ignored, as a server may
(RFC 9110, section 7.8). Extensions are not offered: a compressed message has no bound.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Final

import h11

_KEY_BYTES: Final = 16
_EXTENSIONS: Final = b"sec-websocket-extensions"


def has_two_lengths(request: h11.Request) -> bool:
    """Whether a proxy before us may see another request than we do (RFC 9112, section 6.1)."""
    return {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}


def without_surprises(request: h11.Request) -> h11.Request:
    """Give the request without an upgrade that is none, or without a WebSocket's extensions."""
    headers = dict(request.headers)
    if b"upgrade" not in headers:
        return request
    unwanted = _EXTENSIONS if is_handshake(request) else b"upgrade"
    return h11.Request(
        method=request.method,
        target=request.target,
        headers=[pair for pair in request.headers if pair[0] != unwanted],
        http_version=request.http_version,
    )


def is_handshake(request: h11.Request) -> bool:
    """Whether a request asks for a WebSocket, and correctly so."""
    headers = dict(request.headers)
    connection = headers.get(b"connection", b"")
    return (
        (request.method, request.http_version) == (b"GET", b"1.1")
        and b"upgrade" in map(bytes.strip, connection.lower().split(b","))
        and headers.get(b"upgrade", b"").lower() == b"websocket"
        and headers.get(b"sec-websocket-version") == b"13"
        and _is_key(headers.get(b"sec-websocket-key", b""))
        and (connection + headers.get(b"sec-websocket-protocol", b"")).isascii()
        and not {b"content-length", b"transfer-encoding"} & headers.keys()
    )


def _is_key(text: bytes) -> bool:
    try:
        return len(b64decode(text, validate=True)) == _KEY_BYTES
    except ValueError:
        return False
