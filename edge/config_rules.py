"""What a value of the configuration may be: one rule a key, and the rules between keys.

A rule raises ValueError with a sentence for a person; it never repeats a secret.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, NewType
from urllib.parse import urlsplit

from edge.address import parse_address
from edge.config import Config
from edge.ready import Role

Key = NewType("Key", str)
"""``section.key``."""

MIN_SECRET_CHARS: Final = 32
MIN_API_KEY_CHARS: Final = 8
_MAX_NUMBER: Final = 2**31 - 1


def check_value(key: Key, value: object) -> None:
    """Apply the rule of one key."""
    rule = _RULES.get(key)
    match value:
        case str() if rule is not None and (value or key not in _MAY_BE_EMPTY):
            rule(value)
        case tuple() if rule is not None:
            for item in value:
                rule(item)
        case bool():
            pass
        case int() | float():
            low, high = _RANGES.get(key, (None, _MAX_NUMBER))
            _check_number(value, low, high)
        case _:
            pass


def broken_rule(config: Config, role: Role) -> tuple[Key, str] | None:
    """Return the first broken rule between keys, as (key to change, sentence)."""
    for key, broken, sentence in _between_keys(config, role):
        if broken:
            return Key(key), sentence
    return None


def _between_keys(config: Config, role: Role) -> list[tuple[str, bool, str]]:
    http, relay, registry = config.http, config.relay, config.registry
    with_relay, with_http = role != "transceiver", role != "relay"
    has_files = bool(http.certificate_file and http.key_file)
    is_open = not http.api_keys and not http.allow_anonymous
    is_fleet = registry.url != "memory:"
    return [
        ("http.certificate_file", http.tls == "files" and not has_files,
         'tls = "files" needs certificate_file and key_file'),
        ("http.api_keys", with_http and is_open and not _is_loopback(http.bind),
         f"{http.bind} can be reached from outside: "
         "set api_keys, or allow_anonymous to serve anyone"),
        ("relay.advertise", with_relay and not relay.advertise and _is_wildcard(relay.bind),
         f"{relay.bind} is a wildcard: name the address that clients shall send to"),
        ("relay.internal_bind", with_relay and _is_wildcard(relay.internal_bind),
         "a wildcard can not be told to transceivers: name one address"),
        ("transceiver.bind", with_http and _is_wildcard(config.transceiver.bind),
         "a wildcard can not be told to relays: name one address"),
        ("registry.url", role != "serve" and not is_fleet,
         "a relay or transceiver of its own needs a shared registry, as in redis://HOST:6379/0"),
        ("registry.secret", is_fleet and not registry.secret,
         f"a shared registry needs a secret of at least {MIN_SECRET_CHARS} characters"),
        ("registry.previous_secret", bool(registry.previous_secret) and not registry.secret,
         "needs secret as well"),
        ("registry.heartbeat_seconds", registry.heartbeat_seconds >= registry.lease_seconds,
         "must be shorter than lease_seconds"),
    ]  # fmt: skip


def _is_wildcard(address: str) -> bool:
    return ip_address(parse_address(address)[0]).is_unspecified


def _is_loopback(address: str) -> bool:
    return ip_address(parse_address(address)[0]).is_loopback


def _check_number(value: float, low: float | None, high: float) -> None:
    if low is None and not (math.isfinite(value) and 0 < value <= high):
        raise ValueError(f"must be above 0 and at most {high}, not {value:g}")
    if low is not None and not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"must be from {low:g} to {high:g}, not {value:g}")


def _bind(text: str) -> None:
    parse_address(text)


def _advertise(text: str) -> None:
    host, port = parse_address(text, default_port=1)
    if ip_address(host).is_unspecified:
        raise ValueError(f"{text!r}: a wildcard can not be told to clients")
    if port == 0:
        raise ValueError(f"{text!r}: port 0 can not be told to clients")


def _one_of(*choices: str) -> Callable[[str], None]:
    def check(text: str) -> None:
        if text not in choices:
            raise ValueError(f"must be {' or '.join(choices)}, not {text[:60]!r}")

    return check


def _registry_url(text: str) -> None:
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


def _http_url(text: str) -> None:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must be a plain URL, as in https://10.0.0.5:8080")


def _origin(text: str) -> None:
    scheme, _, rest = text.partition("://")
    if scheme not in ("http", "https") or not rest or set(rest) & set("/*?#@ "):
        raise ValueError(
            f"{text[:80]!r}: an origin looks like https://example.org or https://example.org:8443"
        )


def _secret(text: str) -> None:
    if len(text) < MIN_SECRET_CHARS:
        raise ValueError(f"must have at least {MIN_SECRET_CHARS} characters, has {len(text)}")


def _api_key(text: str) -> None:
    if len(text) < MIN_API_KEY_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"each key must have at least {MIN_API_KEY_CHARS} visible ASCII characters"
        )


_RULES: Final[dict[str, Callable[[str], None]]] = {
    "http.bind": _bind,
    "http.tls": _one_of("off", "self-signed", "files"),
    "http.api_keys": _api_key,
    "http.cors_origins": _origin,
    "relay.bind": _bind,
    "relay.advertise": _advertise,
    "relay.internal_bind": _bind,
    "transceiver.bind": _bind,
    "transceiver.http_url": _http_url,
    "registry.url": _registry_url,
    "registry.secret": _secret,
    "registry.previous_secret": _secret,
    "backend.kind": _one_of("echo"),
    "log.level": _one_of("debug", "info", "warning", "error"),
    "log.format": _one_of("json", "console"),
}

_MAY_BE_EMPTY: Final = frozenset(
    {"relay.advertise", "transceiver.http_url", "registry.secret", "registry.previous_secret"}
)

_RANGES: Final[dict[str, tuple[float, float]]] = {
    "registry.cluster": (0, 65_535),
    "backend.echo_delay_seconds": (0, 30),
}
"""Inclusive; every other number is above 0."""
