"""UDP and TCP addresses as ``(host, port)`` with a numeric host, and their text forms."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

Address = tuple[str, int]
"""Numeric host (IPv4 or IPv6, never v4-mapped, no zone) and port, as ``socket`` gives them."""

MAX_UNIX_PATH: Final = 107
"""Bytes of the path of a unix socket; Linux, unix(7)."""

_HOST_AND_PORT: Final = re.compile(r"(?:\[(?P<v6>[^][]*)\]|(?P<v4>[^][:]*))(?::(?P<port>[^:]*))?")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]")
_PORT: Final = re.compile(r"[0-9]{1,5}")


def parse_address(text: str, *, default_port: int | None = None) -> Address:
    """Read ``HOST:PORT``, ``[V6]:PORT`` or, with ``default_port``, a bare host.

    The host must be numeric, or ``localhost``. Raises ValueError with a sentence for a person.
    """
    port_text: str | None
    if match := _HOST_AND_PORT.fullmatch(text):
        v6, v4, port_text = match["v6"], match["v4"], match["port"]
    else:
        v6, v4, port_text = text, None, None  # more than one colon: IPv6 without brackets
    try:
        host = str(_parse_ipv6(v6) if v4 is None else _parse_ipv4(v4))
    except ValueError:
        raise ValueError(f"{text!r}: the host must be an IP address or localhost") from None
    if port_text is None:
        if default_port is None:
            raise ValueError(f"{text!r}: a port is missing, as in {format_address((host, 3478))}")
        return host, default_port
    if not _PORT.fullmatch(port_text) or int(port_text) > 65_535:
        raise ValueError(f"{text!r}: the port must be a number from 0 to 65535")
    return host, int(port_text)


def parse_addresses(text: str, *, default_port: int | None = None) -> list[Address]:
    """Read addresses as ``parse_address`` does, with commas in between."""
    return [parse_address(one.strip(), default_port=default_port) for one in text.split(",")]


def parse_stream_address(text: str) -> str | tuple[str, int]:
    """Read ``unix:/PATH`` (gives the path) or ``HOST:PORT`` with a host that may be a name.

    Raises ValueError with a sentence for a person.
    """
    scheme, _, path = text.partition(":")
    if scheme == "unix":
        if not path.startswith("/") or len(path.encode()) > MAX_UNIX_PATH:
            raise ValueError(f"{text[:120]!r}: an absolute path of {MAX_UNIX_PATH} bytes at most")
        return path
    host, _, port = text.rpartition(":")
    if not (_HOST_NAME.fullmatch(host) and _PORT.fullmatch(port) and int(port) <= 65_535):
        raise ValueError(f"{text[:120]!r}: an address looks like unix:/PATH or HOST:PORT")
    return host.strip("[]"), int(port)


def format_address(address: Address) -> str:
    """Write ``HOST:PORT``, an IPv6 host in brackets."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def mask_address(address: Address) -> str:
    """Write what a log may hold of a client's address: its /24 or /48, no port."""
    ip = ip_address(address[0])
    match ip:
        case IPv4Address():
            return str(IPv4Address(int(ip) & ~0xFF)) + "/24"
        case IPv6Address():
            return str(IPv6Address(int(ip) >> 80 << 80)) + "/48"


def _parse_ipv4(host: str) -> IPv4Address:
    return IPv4Address("127.0.0.1" if host == "localhost" else host)


def _parse_ipv6(host: str) -> IPv4Address | IPv6Address:
    ip = IPv6Address(host)
    if ip.scope_id is not None:
        raise ValueError("a zone has no place in an Address")
    return ip.ipv4_mapped or ip
