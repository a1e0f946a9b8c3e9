"""What geography is read from: the configuration, the tz database, and a database of addresses.

A country's point is that of its first time zone in the tz database's ``zone.tab``, which lists
countries by ISO 3166 code and places by ISO 6709. The database of addresses is a MaxMind DB file
in the form of GeoLite2 City or Country. Both packages come with ``edge[geo]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

import structlog

from edge.config import Config, GeoConfig
from edge.config_texts import parse_region
from edge.errors import ConfigError
from edge.geo import GeoSettings, HeaderNames, Point

if TYPE_CHECKING:
    from maxminddb import Reader

CLOUDFLARE: Final = HeaderNames(
    country="cf-ipcountry",
    latitude="cf-iplatitude",
    longitude="cf-iplongitude",
    address="cf-connecting-ip",
)
"""The last of them always comes, the others with the transform "Add visitor location headers"."""

_ZONE: Final = re.compile(r"([A-Z]{2})\t([+-]\d{4,6})([+-]\d{5,7})\t")

log = structlog.get_logger()


@contextmanager
def open_geography(config: GeoConfig) -> Iterator[GeoSettings]:
    """Hold what places are found by, for as long as the block.

    Raises ConfigError for a database that can not be read or a package that is missing.
    """
    names = _header_names(config)
    countries = read_countries() if names.country or config.database else {}
    with ExitStack() as stack:
        look_up = GeoSettings().look_up
        if config.database:
            look_up = stack.enter_context(_open_database(config.database, countries))
        yield GeoSettings(
            names=names,
            fronts=[ip_network(each) for each in config.fronts],
            regions=region_points(config),
            countries=countries,
            look_up=look_up,
            default_region=config.default_region,
        )


def region_points(config: GeoConfig) -> dict[str, Point]:
    """Read the configured places of regions."""
    regions = (parse_region(each) for each in config.regions)
    return {name: Point(latitude, longitude) for name, latitude, longitude in regions}


def point_of_relay(config: Config) -> Point | None:
    """Say where this process's relay stands: by its coordinates, else by its region's."""
    relay = config.relay
    if relay.latitude is not None and relay.longitude is not None:
        return Point(relay.latitude, relay.longitude)
    return region_points(config.geo).get(relay.region)


def read_countries() -> dict[str, Point]:
    """Read the countries' points from the tz database. Raises ConfigError without tzdata."""
    try:
        text = (files("tzdata") / "zoneinfo" / "zone.tab").read_text(encoding="utf-8")
    except (ModuleNotFoundError, OSError):
        raise ConfigError("geo: countries need the package tzdata: install edge[geo]") from None
    countries: dict[str, Point] = {}
    for code, latitude, longitude in _ZONE.findall(text):
        countries.setdefault(code, Point(_degrees(latitude, 2), _degrees(longitude, 3)))
    return countries


def _degrees(text: str, width: int) -> float:
    """Read ISO 6709: a sign, degrees of so many digits, minutes, and perhaps seconds."""
    digits = text[1:]
    minutes = int(digits[width : width + 2]) + int(digits[width + 2 :] or 0) / 60
    value = int(digits[:width]) + minutes / 60
    return -value if text[0] == "-" else value


def _header_names(config: GeoConfig) -> HeaderNames:
    match config.headers:
        case "off":
            return HeaderNames()
        case "cloudflare":
            return CLOUDFLARE
        case _:
            return HeaderNames(
                region=config.region_header,
                country=config.country_header,
                latitude=config.latitude_header,
                longitude=config.longitude_header,
                address=config.address_header,
            )


@contextmanager
def _open_database(
    path: str, countries: Mapping[str, Point]
) -> Iterator[Callable[[str], Point | None]]:
    try:
        import maxminddb
    except ModuleNotFoundError:
        raise ConfigError("geo.database needs the package maxminddb: install edge[geo]") from None
    try:
        reader = maxminddb.open_database(path)
    except OSError as error:
        reason = (error.strerror or "not readable").lower()
        raise ConfigError(f"geo.database: {path}: {reason}") from None
    except maxminddb.InvalidDatabaseError:
        raise ConfigError(f"geo.database: {path}: not a MaxMind DB file") from None
    with reader:
        yield lambda address: _look_up(reader, address, countries)


def _look_up(reader: Reader, address: str, countries: Mapping[str, Point]) -> Point | None:
    try:
        record = reader.get(address)
    except Exception as error:  # an address of the other family, or whatever a broken file does
        log.debug("geo database failed", error=type(error).__name__)
        return None
    match record:
        case {"location": {"latitude": float(latitude), "longitude": float(longitude)}} if (
            abs(latitude) <= 90 and abs(longitude) <= 180
        ):
            return Point(latitude, longitude)
        case {"country": {"iso_code": str(code)}}:
            return countries.get(code)
        case _:
            return None
