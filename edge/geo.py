"""Where a client is, and which relays it is told of: pure functions of what they are given.

A client's place comes from the first of these that tells one: headers of a trusted front (region,
coordinates, country), a database of addresses, the configured default. All of it is a hint. Who
lies about his place gets a relay far from himself and nothing else, so what is malformed is passed
over, and no request is ever refused or redirected for its place.

Relays are ranked by (1) the client's region, (2) great-circle distance, (3) where that differs by
less than ``NEAR_KILOMETRES``: our own cluster's before others', which add a hop, then the emptier
by tenths. Relays that are equal in all this take turns by call (rendezvous hashing).
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from operator import itemgetter
from typing import Final, NamedTuple, Protocol

import structlog

from edge.address import Address
from edge.registry.protocol import RelayRecord
from edge.rendezvous import weigh

EARTH_KILOMETRES: Final = 6_371.0
NEAR_KILOMETRES: Final = 150.0
"""Some 2 ms of round trip in a fibre: nobody hears the difference."""
MAX_CANDIDATES: Final = 3

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,32}", re.ASCII)
_DEGREES: Final = re.compile(r"[+-]?\d{1,3}(\.\d{1,20})?", re.ASCII)

log = structlog.get_logger()


class Point(NamedTuple):
    """Degrees north and east."""

    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True)
class Place:
    """A region by its name, a point, or both; never neither."""

    region: str = ""
    point: Point | None = field(default=None, repr=False)


class Headers(Protocol):
    """The headers of a request."""

    def getlist(self, key: str) -> list[str]:
        """All values of a header; names are the same in upper and lower case."""


@dataclass(frozen=True, slots=True)
class HeaderNames:
    """Which headers tell what; an empty name is told by none."""

    region: str = ""
    country: str = ""
    latitude: str = ""
    longitude: str = ""
    address: str = ""


def _nobody(address: str) -> Point | None:
    return None


@dataclass(frozen=True, slots=True)
class GeoSettings:
    """What places are found by; ``geo_data`` makes it of the configuration."""

    names: HeaderNames = HeaderNames()
    fronts: Sequence[IPv4Network | IPv6Network] = ()
    """Whose headers are believed; empty: everybody's."""
    regions: Mapping[str, Point] = field(default_factory=dict)
    countries: Mapping[str, Point] = field(default_factory=dict)
    look_up: Callable[[str], Point | None] = _nobody
    """Finds the point of a numeric address; raises nothing."""
    default_region: str = ""


def place_of(headers: Headers, peer: str | None, settings: GeoSettings) -> Place | None:
    """Find the place of a request; ``peer`` is the numeric host that sent it, None if unknown.

    Never raises for anything that a request holds.
    """
    believed = _Believed(headers, settings) if _is_front(peer, settings.fronts) else None
    region = believed.region() if believed else ""
    point = (believed.point() if believed else None) or settings.regions.get(region)
    if point is None:
        address = _client(believed, peer, settings)
        point = settings.look_up(address) if address else None
    if point is None and not region:
        region = settings.default_region
        point = settings.regions.get(region)
    return Place(region, point) if region or point else None


def client_address(headers: Headers, peer: str | None, settings: GeoSettings) -> str:
    """Find the address to hold a client to; empty where it is not known.

    A front's header counts only where its networks are named (``fronts``): what everybody may
    write limits nobody.
    """
    believed = bool(settings.fronts) and _is_front(peer, settings.fronts)
    address = _Believed(headers, settings).address() if believed else None
    return address or peer or ""


def distance(one: Point, other: Point) -> float:
    """Measure the great circle between two points, in kilometres (haversine)."""
    phi_1, phi_2 = math.radians(one.latitude), math.radians(other.latitude)
    half_phi = (phi_2 - phi_1) / 2
    half_lambda = math.radians(other.longitude - one.longitude) / 2
    chord = math.sin(half_phi) ** 2
    chord += math.cos(phi_1) * math.cos(phi_2) * math.sin(half_lambda) ** 2
    return 2 * EARTH_KILOMETRES * math.asin(math.sqrt(min(chord, 1.0)))


def rank(
    relays: Sequence[RelayRecord], place: Place | None, *, cluster: int, session: str
) -> list[RelayRecord]:
    """Sort the relays that can take a new client, best first, one for each public address.

    Full ones come in only where there are no others, and draining ones as the last resort.
    ``cluster`` is our own; ``session`` lets calls take turns. The order of ``relays`` is nothing.
    """
    measured = ((_remoteness(relay, place), relay) for relay in _healthiest(relays))
    waiting = deque(sorted(measured, key=itemgetter(0)))
    ranked: dict[Address, RelayRecord] = {}
    while waiting:
        elsewhere, kilometres = waiting[0][0]
        near = []
        while waiting and waiting[0][0] <= (elsewhere, kilometres + NEAR_KILOMETRES):
            near.append(waiting.popleft()[1])
        for relay in sorted(near, key=lambda relay: _burden(relay, cluster, session)):
            ranked.setdefault(relay.public, relay)
    return list(ranked.values())


def pick(
    relays: Sequence[RelayRecord], place: Place | None, *, cluster: int, session: str
) -> list[RelayRecord]:
    """Take at most three relays for an answer, best first.

    Where the best stand in one region, the last of three is the best of another: clients try all
    three, so a call can begin and go on when a whole region is cut off.
    """
    ranked = rank(relays, place, cluster=cluster, session=session)
    picked, rest = ranked[: MAX_CANDIDATES - 1], ranked[MAX_CANDIDATES - 1 :]
    regions = {relay.region for relay in picked}
    elsewhere = [relay for relay in rest if relay.region not in regions]
    return picked + (elsewhere if len(regions) == 1 and elsewhere else rest)[:1]


class Candidates(NamedTuple):
    """What a client is told of relays, best first."""

    udp: list[Address]
    tcp: list[Address]


def candidates(relays: Sequence[RelayRecord]) -> Candidates:
    """List the addresses of relays; of each first IPv6, then IPv4 (RFC 8421, section 4)."""
    listeners = [
        listener
        for relay in relays
        for listener in sorted(relay.listeners, key=lambda each: ":" not in each.public[0])
    ]
    udp = [listener.public for listener in listeners if listener.transport == "udp"]
    tcp = [listener.public for listener in listeners if listener.transport == "tcp"]
    return Candidates(udp, tcp)


def _healthiest(relays: Sequence[RelayRecord]) -> Sequence[RelayRecord]:
    staying = [relay for relay in relays if not relay.draining]
    return [relay for relay in staying if _load(relay) < 1.0] or staying or relays


def _remoteness(relay: RelayRecord, place: Place | None) -> tuple[bool, float]:
    """Tell whether it is in another region, and the kilometres; infinite where not known."""
    if place is None:
        return False, 0.0
    elsewhere = not place.region or relay.region != place.region
    if place.point is None or relay.latitude is None or relay.longitude is None:
        return elsewhere, math.inf
    return elsewhere, distance(place.point, Point(relay.latitude, relay.longitude))


def _burden(relay: RelayRecord, cluster: int, session: str) -> tuple[bool, int, bytes, int, str]:
    turn = weigh(f"{relay.cluster}|{relay.name}", session.encode())
    return relay.cluster != cluster, int(10 * _load(relay)), turn, relay.cluster, relay.name


def _load(relay: RelayRecord) -> float:
    return relay.flows / relay.max_flows if relay.max_flows > 0 else 0.0


def _is_front(peer: str | None, fronts: Sequence[IPv4Network | IPv6Network]) -> bool:
    if not fronts:
        return True
    address = _address(peer or "")
    return address is not None and any(address in network for network in fronts)


def _client(believed: _Believed | None, peer: str | None, settings: GeoSettings) -> str | None:
    """The client's address: the peer's, unless that is known to be a front."""
    address = believed.address() if believed else None
    return address or (None if believed and settings.fronts else peer)


class _Believed:
    """What the headers of a front tell; what is malformed is as if it were not there."""

    def __init__(self, headers: Headers, settings: GeoSettings) -> None:
        self._headers = headers
        self._settings = settings

    def region(self) -> str:
        name = self._read(self._settings.names.region)
        return name if _NAME.fullmatch(name) else self._malformed("region", name)

    def point(self) -> Point | None:
        names = self._settings.names
        latitude = self._degrees(self._read(names.latitude), 90.0)
        longitude = self._degrees(self._read(names.longitude), 180.0)
        if latitude is not None and longitude is not None:
            return Point(latitude, longitude)
        # Fronts say XX or T1 for what is no country, so an unknown one is nothing to tell of.
        return self._settings.countries.get(self._read(names.country).upper())

    def address(self) -> str | None:
        """The client's address: of a list the last, which is what the front itself has seen."""
        text = self._read(self._settings.names.address).rpartition(",")[2].strip()
        address = _address(text)
        return str(address) if address else self._malformed("address", text) or None

    def _degrees(self, text: str, limit: float) -> float | None:
        if _DEGREES.fullmatch(text) and abs(float(text)) <= limit:
            return float(text)
        self._malformed("coordinate", text)
        return None

    def _read(self, name: str) -> str:
        """The one value of a header; of two, one is not the front's, so neither counts."""
        values = self._headers.getlist(name) if name else []
        return values[0].strip() if len(values) == 1 else ""

    def _malformed(self, what: str, text: str) -> str:
        if text:
            log.debug("geo header ignored", what=what)
        return ""


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
