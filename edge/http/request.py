"""One HTTP/1.1 request on one connection: to open and to end a call, and inside the fleet."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import h11
import trio

RemoteProtocolError = h11.RemoteProtocolError

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

MAX_BODY_BYTES: Final = 1_000_000
TIMEOUT_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Response:
    """Status, headers in lower case, and the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


async def request(
    method: str,
    url: str,
    body: bytes = b"",
    *,
    headers: tuple[tuple[str, str], ...] = (),
    verify: bool = False,
) -> Response:
    """Send a request and read the response.

    Raises OSError, trio.TooSlowError, trio.BrokenResourceError or h11.RemoteProtocolError. A
    server's certificate is verified on demand only: the fingerprint that matters for a test is the
    one in the SDP.
    """
    parts = urlsplit(url)
    all_headers = (("Host", parts.netloc), ("Content-Length", str(len(body))), *headers)
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    with trio.fail_after(TIMEOUT_SECONDS):
        stream = await connect(url, verify=verify)
        async with stream:
            connection = h11.Connection(h11.CLIENT)
            events = (
                h11.Request(method=method, target=target, headers=list(all_headers)),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            # One write: apart, they would wait for each other (Nagle and delayed ACK).
            await stream.send_all(b"".join(connection.send(event) or b"" for event in events))
            return await _read(connection, stream)


async def connect(url: str, *, verify: bool = True) -> Stream:
    """Connect to the server of an http: or https: URL; raises OSError."""
    parts = urlsplit(url)
    secure, host = parts.scheme == "https", parts.hostname or ""
    stream = await trio.open_tcp_stream(host, parts.port or (443 if secure else 80))
    if not secure:
        return stream
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)


async def _read(connection: h11.Connection, stream: trio.abc.Stream) -> Response:
    head: h11.Response | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        match event:
            case h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(65_536)))
            case h11.Response():
                head = event
            case h11.Data():
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    raise h11.RemoteProtocolError("response body too long")
            case h11.EndOfMessage():
                break
    assert head is not None
    headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    return Response(head.status_code, headers, bytes(body))
