"""Listening sockets and TLS for HTTP: certificate files, or a certificate made up at start.

A page may use the microphone only over HTTPS or on localhost, so a phone on the same network
needs some certificate: the made-up one names this machine's addresses and lives in memory, but
for the moment in which OpenSSL reads it.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import trio

from edge.address import Address, format_address, parse_address
from edge.config import HttpConfig
from edge.errors import ConfigError
from edge.ready import StartupError

BACKLOG: Final = 1_024


@dataclass(frozen=True, slots=True)
class HttpListener:
    """A listening socket and its TLS, None for plain HTTP."""

    listener: trio.SocketListener
    tls: ssl.SSLContext | None

    @property
    def address(self) -> Address:
        """The bound address."""
        host, port = self.listener.socket.getsockname()[:2]
        return host, port

    @property
    def url(self) -> str:
        """``http://HOST:PORT`` or ``https://HOST:PORT``."""
        return f"{'https' if self.tls else 'http'}://{format_address(self.address)}"


def bind_http(http: HttpConfig) -> list[socket.socket]:
    """Listen at ``http.bind`` (port 0 takes a free one). Raises ConfigError, StartupError."""
    try:
        host, port = parse_address(http.bind)
    except ValueError as error:
        raise ConfigError(f"http.bind {error}") from None
    with ExitStack() as stack:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            sockets = [
                stack.enter_context(_listen(family, address)) for family, _, _, _, address in found
            ]
        except OSError as error:
            raise StartupError(f"http.bind {http.bind}: {error.strerror}") from None
        stack.pop_all()
    return sockets


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def make_listeners(http: HttpConfig, sockets: Sequence[socket.socket]) -> list[HttpListener]:
    """Prepare to serve on listening sockets. Raises ConfigError."""
    tls = make_tls(http)
    return [
        HttpListener(trio.SocketListener(trio.socket.from_stdlib_socket(sock)), tls)
        for sock in sockets
    ]


def make_tls(http: HttpConfig) -> ssl.SSLContext | None:
    """Make the TLS context, HTTP/1.1 only, TLS 1.2 or later. Raises ConfigError."""
    if http.tls == "off":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    match http.tls:
        case "files":
            try:
                context.load_cert_chain(http.certificate_file, http.key_file)
            except OSError as error:  # ssl.SSLError is one
                raise ConfigError(
                    f"http.certificate_file, http.key_file: can not be loaded ({error.strerror})"
                ) from None
        case "self-signed":
            from edge.http.self_signed import certificate_hosts, make_certificate  # loads for long

            with tempfile.NamedTemporaryFile(prefix="edge-") as file:  # readable by us alone
                file.write(make_certificate(certificate_hosts(http.bind)))
                file.flush()
                context.load_cert_chain(file.name)
        case _:
            raise ConfigError("http.tls must be off, self-signed or files")
    return context
