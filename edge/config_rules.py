"""What a value of the configuration may be: one rule a key, and the rules between keys.

A rule raises ValueError with a sentence for a person; it never repeats a secret.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, NewType

from edge.address import parse_address, parse_addresses
from edge.config import Config
from edge.config_texts import (
    LATITUDES,
    LONGITUDES,
    MIN_SECRET_CHARS,
    check_advertises,
    check_api_key,
    check_bind,
    check_binds,
    check_header_name,
    check_http_url,
    check_ice_server,
    check_network,
    check_number,
    check_origin,
    check_peer_url,
    check_region,
    check_region_name,
    check_registry_url,
    check_secret,
    check_stream_address,
    check_websocket_url,
    one_of,
)
from edge.ready import Role

Key = NewType("Key", str)
"""``section.key``."""


CUSTOM_HEADERS: Final = ("region", "country", "latitude", "longitude", "address")
"""What a front's header may tell; ``geo.NAME_header`` says which."""

_MAX_NUMBER: Final = 2**31 - 1


def check_value(key: Key, value: object) -> None:
    """Apply the rule of one key."""
    rule = _RULES.get(key)
    match value:
        case str() if rule is not None and (value or key not in _MAY_BE_EMPTY):
            rule(value)
        case tuple():
            for item in value:
                check_item(key, item)
        case bool():
            pass
        case int() | float():
            low, high = _RANGES.get(key, (None, _MAX_NUMBER))
            check_number(value, low, high)
        case _:
            pass


def check_item(key: Key, item: object) -> None:
    """Apply the rule of a list's key to one of its items."""
    rule = _RULES.get(key)
    match item:
        case str() if rule is not None:
            rule(item)
        case int():
            check_number(item, *_RANGES[key])
        case _:
            pass


def broken_rule(config: Config, role: Role) -> tuple[Key, str] | None:
    """Return the first broken rule between keys, as (key to change, sentence)."""
    for key, broken, sentence in _between_keys(config, role):
        if broken:
            return Key(key), sentence
    return None


def _between_keys(config: Config, role: Role) -> list[tuple[str, bool, str]]:
    http, relay, registry, geo = config.http, config.relay, config.registry, config.geo
    with_relay, with_http = role != "transceiver", role != "relay"
    has_files = bool(http.certificate_file and http.key_file)
    is_open = not http.api_keys and not http.allow_anonymous
    is_fleet = registry.url != "memory:"
    custom = [getattr(geo, f"{name}_header") for name in CUSTOM_HEADERS]
    return [
        ("http.certificate_file", http.tls == "files" and not has_files,
         'tls = "files" needs certificate_file and key_file'),
        ("http.api_keys", with_http and is_open and not _is_loopback(http.bind),
         f"{http.bind} can be reached from outside: "
         "set api_keys, or allow_anonymous to serve anyone"),
        ("relay.advertise", with_relay and not relay.advertise and _is_wildcard(relay.bind),
         f"{relay.bind} is a wildcard: name the address that clients shall send to"),
        ("relay.advertise", bool(relay.advertise) and not _match(relay.advertise, relay.bind),
         "names one address for each of bind, in the same order"),
        ("relay.tcp_advertise",
         bool(relay.tcp_advertise) and not _match(relay.tcp_advertise, relay.tcp_bind),
         "names one address for each of tcp_bind, in the same order"),
        ("relay.tcp_advertise",
         with_relay and bool(relay.tcp_bind) and _is_wildcard(relay.tcp_bind)
         and not relay.tcp_advertise
         and not (relay.advertise and _match(relay.advertise, relay.tcp_bind)),
         f"{relay.tcp_bind} is a wildcard: name the address that clients shall connect to"),
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
        ("registry.peer_urls", bool(registry.peer_urls) and not is_fleet,
         "peers need a shared registry of our own in registry.url"),
        ("relay.longitude", (relay.latitude is None) != (relay.longitude is None),
         "latitude and longitude belong together"),
        ("relay.cpus", bool(relay.cpus) and len(relay.cpus) != relay.workers,
         f"name one processor for each of the {relay.workers} workers"),
        ("geo.headers", geo.headers == "custom" and not any(custom),
         'headers = "custom" needs the name of at least one header'),
        ("geo.headers", geo.headers != "custom" and any(custom),
         'names of headers are for headers = "custom"'),
        ("geo.longitude_header", bool(geo.latitude_header) != bool(geo.longitude_header),
         "latitude_header and longitude_header belong together"),
        ("audio.min_delay_seconds", config.audio.min_delay_seconds > config.audio.max_delay_seconds,
         "must not be longer than max_delay_seconds"),
        ("backend.address", config.backend.kind == "frames" and not config.backend.address,
         "a frames backend listens somewhere: unix:/PATH or HOST:PORT"),
        ("geo.regions", len({one.partition("=")[0] for one in geo.regions}) != len(geo.regions),
         "a region is named twice"),
    ]  # fmt: skip


def _is_wildcard(address: str) -> bool:
    return any(ip_address(host).is_unspecified for host, _ in parse_addresses(address))


def _match(advertise: str, bind: str) -> bool:
    """Whether there is one address for each."""
    return len(advertise.split(",")) == len(bind.split(",") if bind else [])


def _is_loopback(address: str) -> bool:
    return ip_address(parse_address(address)[0]).is_loopback


_RULES: Final[dict[str, Callable[[str], None]]] = {
    "http.bind": check_bind,
    "http.tls": one_of("off", "self-signed", "files"),
    "http.api_keys": check_api_key,
    "http.cors_origins": check_origin,
    "http.ice_servers": check_ice_server,
    "relay.bind": check_binds,
    "relay.advertise": check_advertises,
    "relay.tcp_bind": check_binds,
    "relay.tcp_advertise": check_advertises,
    "relay.internal_bind": check_bind,
    "relay.engine": one_of("auto", "native", "pure"),
    "transceiver.engine": one_of("auto", "native", "pure"),
    "relay.region": check_region_name,
    "transceiver.bind": check_bind,
    "relay.http_url": check_http_url,
    "transceiver.http_url": check_http_url,
    "registry.url": check_registry_url,
    "registry.peer_urls": check_peer_url,
    "registry.secret": check_secret,
    "registry.previous_secret": check_secret,
    "geo.headers": one_of("off", "cloudflare", "custom"),
    "geo.fronts": check_network,
    **{f"geo.{name}_header": check_header_name for name in CUSTOM_HEADERS},
    "geo.default_region": check_region_name,
    "geo.regions": check_region,
    "backend.kind": one_of("echo", "frames", "realtime", "demo-voice"),
    "backend.address": check_stream_address,
    "backend.audio": one_of(
        "opus", "pcmu", "pcma", *(f"pcm16/{rate}" for rate in (8_000, 16_000, 24_000, 48_000))
    ),
    "backend.url": check_websocket_url,
    "log.level": one_of("debug", "info", "warning", "error"),
    "log.format": one_of("json", "console"),
}

_MAY_BE_EMPTY: Final = frozenset(
    {
        "relay.advertise",
        "relay.tcp_bind",
        "relay.tcp_advertise",
        "relay.region",
        "relay.http_url",
        "transceiver.http_url",
        "registry.secret",
        "registry.previous_secret",
        "geo.default_region",
        "backend.address",
        "backend.url",
        *(f"geo.{name}_header" for name in CUSTOM_HEADERS),
    }
)

_RANGES: Final[dict[str, tuple[float, float]]] = {
    "relay.workers": (1, 64),
    "relay.cpus": (0, 4_095),
    "relay.latitude": LATITUDES,
    "relay.longitude": LONGITUDES,
    "registry.cluster": (0, 65_535),
    "transceiver.max_load": (0.05, 1),
    "transceiver.max_lag_seconds": (0.001, 10),
    "transceiver.playout_queue_seconds": (1, 3_600),
    "audio.min_delay_seconds": (0, 1),
    "audio.max_delay_seconds": (0, 2),
    "audio.passthrough_delay_seconds": (0, 2),
    "audio.fade_seconds": (0, 0.1),
    "backend.echo_delay_seconds": (0, 30),
    "backend.reopen_seconds": (0, 3_600),
}
"""Inclusive; every other number is above 0."""
