"""What the text or number of one configuration key may be.

Each raises ValueError with a sentence for a person; none repeats a secret.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from edge.address import parse_address, parse_addresses, parse_stream_address

MIN_SECRET_CHARS: Final = 32
MIN_API_KEY_CHARS: Final = 8
LATITUDES: Final = (-90, 90)
LONGITUDES: Final = (-180, 180)

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)
_DEGREES: Final = re.compile(r"[+-]?\d{1,3}(\.\d{1,12})?", re.ASCII)
_ICE_SERVER: Final = re.compile(
    r"[a-z]{4,5}:([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(\?transport=(udp|tcp))?", re.ASCII
)
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", re.ASCII)  # RFC 9110, 5.1


def check_number(value: float, low: float | None, high: float) -> None:
    """Refuse a number out of its range; without ``low`` it must be above 0."""
    if low is None and not (math.isfinite(value) and 0 < value <= high):
        raise ValueError(f"must be above 0 and at most {high}, not {value:g}")
    if low is not None and not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"must be from {low:g} to {high:g}, not {value:g}")


def check_bind(text: str) -> None:
    """HOST:PORT to listen on."""
    parse_address(text)


def check_advertise(text: str) -> None:
    """HOST[:PORT] that clients are told."""
    host, port = parse_address(text, default_port=1)
    if ip_address(host).is_unspecified:
        raise ValueError(f"{text!r}: a wildcard can not be told to clients")
    if port == 0:
        raise ValueError(f"{text!r}: port 0 can not be told to clients")


def check_binds(text: str) -> None:
    """One HOST:PORT to listen on, or one of each IP version, with a comma."""
    families = [":" in host for host, _ in parse_addresses(text)]
    if len(set(families)) != len(families):
        raise ValueError(f"{text[:120]!r}: one address of IPv4 and one of IPv6 at most")


def check_advertises(text: str) -> None:
    """What clients are told of each bind."""
    for one in text.split(","):
        check_advertise(one.strip())


def one_of(*choices: str) -> Callable[[str], None]:
    """Make the rule of a choice."""

    def check(text: str) -> None:
        if text not in choices:
            raise ValueError(f"must be {' or '.join(choices)}, not {text[:60]!r}")

    return check


def check_registry_url(text: str) -> None:
    """``memory:`` or a Redis URL."""
    if text == "memory:":
        return
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("redis", "rediss") and bool(parts.hostname)
        valid = valid and parts.port != 0 and (parts.path.strip("/") or "0").isdecimal()
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("must be memory: or redis://HOST:PORT/DB (rediss:// for TLS)")


def check_stream_address(text: str) -> None:
    """Whether a text is ``unix:/PATH`` or HOST:PORT."""
    parse_stream_address(text)


def check_websocket_url(text: str) -> None:
    """Whether a text is a ws: or wss: URL with a host; it is not part of the error."""
    parts = urlsplit(text)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError("must be a URL as in wss://HOST/PATH")


def check_http_url(text: str) -> None:
    """A URL without user, query or fragment."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must be a plain URL, as in https://10.0.0.5:8080")


def check_origin(text: str) -> None:
    """An origin, exactly as browsers say it."""
    scheme, _, rest = text.partition("://")
    if scheme not in ("http", "https") or not rest or set(rest) & set("/*?#@ "):
        raise ValueError(
            f"{text[:80]!r}: an origin looks like https://example.org or https://example.org:8443"
        )


def parse_region(text: str) -> tuple[str, float, float]:
    """Read NAME=LATITUDE/LONGITUDE. Raises ValueError with a sentence."""
    name, _, place = text.partition("=")
    latitude, _, longitude = place.partition("/")
    if not (
        _NAME.fullmatch(name) and _DEGREES.fullmatch(latitude) and _DEGREES.fullmatch(longitude)
    ):
        raise ValueError(f"{text[:60]!r}: a region looks like fra=50.11/8.68")
    check_number(float(latitude), *LATITUDES)
    check_number(float(longitude), *LONGITUDES)
    return name, float(latitude), float(longitude)


def check_region(text: str) -> None:
    """A region's name and place."""
    parse_region(text)


def check_region_name(text: str) -> None:
    """The name of a region."""
    if not _NAME.fullmatch(text):
        raise ValueError("a name of letters, digits, dots, dashes and underlines, 32 at most")


def check_header_name(text: str) -> None:
    """The name of an HTTP header."""
    if not _HEADER.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is no name of a header")


def check_network(text: str) -> None:
    """A network of IP addresses."""
    try:
        ip_network(text)
    except ValueError:
        raise ValueError(f"{text[:60]!r}: a network looks like 10.0.0.0/8 or fd00::/8") from None


def check_peer_url(text: str) -> None:
    """Another cluster's Redis."""
    if text == "memory:":
        raise ValueError("a peer is another cluster's redis://HOST:PORT/DB")
    check_registry_url(text)


def check_secret(text: str) -> None:
    """The fleet secret."""
    if len(text) < MIN_SECRET_CHARS:
        raise ValueError(f"must have at least {MIN_SECRET_CHARS} characters, has {len(text)}")


def check_ice_server(text: str) -> None:
    """A STUN or TURN server; what comes after its URL is a secret."""
    url, *credentials = text.split(" ")
    scheme = url.partition(":")[0]
    if scheme not in ("stun", "stuns", "turn", "turns") or not _ICE_SERVER.fullmatch(url):
        raise ValueError("an ICE server looks like stun:HOST:PORT or turn:HOST:PORT NAME PASSWORD")
    if len(credentials) != (2 if scheme.startswith("turn") else 0) or not all(
        one.isascii() and one.isprintable() and '"' not in one and "\\" not in one and one
        for one in credentials
    ):
        raise ValueError("a TURN server needs a name and a password after its URL, a STUN none")


def check_api_key(text: str) -> None:
    """An API key."""
    if len(text) < MIN_API_KEY_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"each key must have at least {MIN_API_KEY_CHARS} visible ASCII characters"
        )
