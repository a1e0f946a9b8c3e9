"""Where clients are, as headers and databases tell it, and the relays that are best for them."""

from __future__ import annotations

import math
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from structlog.testing import capture_logs

from edge.config import Config, GeoConfig, RelayConfig
from edge.errors import ConfigError
from edge.geo import (
    MAX_CANDIDATES,
    NEAR_KILOMETRES,
    GeoSettings,
    HeaderNames,
    Place,
    Point,
    distance,
    pick,
    place_of,
    rank,
)
from edge.geo_data import CLOUDFLARE, open_geography, point_of_relay, read_countries
from edge.registry.protocol import RelayRecord
from tests.support.mmdb import make_database

FRANKFURT, PARIS, NEW_YORK, SYDNEY = (
    Point(50.11, 8.68),
    Point(48.86, 2.35),
    Point(40.71, -74.01),
    Point(-33.87, 151.21),
)
COUNTRIES = {"FR": PARIS, "US": NEW_YORK}
CLIENT = "198.51.100.7"


def relay(
    name: str,
    point: Point | None = None,
    *,
    cluster: int = 0,
    region: str = "",
    flows: int = 0,
    draining: bool = False,
) -> RelayRecord:
    number = sum(name.encode()) + 1_000 * cluster
    return RelayRecord(
        name=name,
        cluster=cluster,
        public=("192.0.2.1", number),
        internal=("10.0.0.1", number),
        region=region,
        latitude=point.latitude if point else None,
        longitude=point.longitude if point else None,
        flows=flows,
        max_flows=1_000,
        draining=draining,
    )


def names(relays: list[RelayRecord]) -> list[str]:
    return [one.name for one in relays]


def at(point: Point | None, region: str = "") -> Place:
    return Place(region, point)


# Distances.


def test_distances_are_those_of_the_globe() -> None:
    assert distance(FRANKFURT, NEW_YORK) == pytest.approx(6_200, rel=0.01)
    assert distance(NEW_YORK, SYDNEY) == pytest.approx(15_990, rel=0.01)
    assert distance(Point(0, 179.9), Point(0, -179.9)) == pytest.approx(22.2, rel=0.01)
    assert distance(Point(90, 0), Point(-90, 0)) == pytest.approx(math.pi * 6_371.0)


points = st.builds(Point, st.floats(-90, 90), st.floats(-180, 180))


@given(points, points)
def test_a_distance_is_the_same_both_ways_and_at_most_half_way_round(a: Point, b: Point) -> None:
    assert distance(a, b) == pytest.approx(distance(b, a))
    assert 0 <= distance(a, b) <= math.pi * 6_371.001
    assert distance(a, a) == 0


# Ranking.


@st.composite
def fleets(draw: st.DrawFn) -> list[RelayRecord]:
    keys = st.tuples(st.integers(0, 2), st.sampled_from("abcdefgh"))
    return [
        relay(
            name,
            draw(st.none() | points | st.sampled_from([FRANKFURT, PARIS, SYDNEY])),
            cluster=cluster,
            region=draw(st.sampled_from(["", "fra", "syd"])),
            flows=draw(st.sampled_from([0, 10, 500, 999, 1_000, 2_000])),
            draining=draw(st.booleans()),
        )
        for cluster, name in draw(st.lists(keys, unique=True, max_size=8))
    ]


places = st.none() | st.builds(Place, st.sampled_from(["", "fra"]), st.none() | points)


@given(fleets(), places, st.randoms(use_true_random=False), st.text(max_size=5))
def test_the_order_of_relays_is_nothing(
    fleet: list[RelayRecord], place: Place | None, random: object, session: str
) -> None:
    shuffled = fleet.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for choose in (rank, pick):
        expected = choose(fleet, place, cluster=0, session=session)
        assert choose(shuffled, place, cluster=0, session=session) == expected


@given(fleets(), points, st.text(max_size=5))
def test_the_first_is_as_near_as_any_healthy_one(
    fleet: list[RelayRecord], client: Point, session: str
) -> None:
    ranked = rank(fleet, at(client), cluster=0, session=session)
    staying = [one for one in fleet if not one.draining]
    healthy = [one for one in staying if one.flows < one.max_flows]
    assert bool(ranked) == bool(fleet)
    if healthy:
        assert set(ranked) == set(healthy)
        assert far(ranked[0], client) <= min(far(one, client) for one in healthy) + NEAR_KILOMETRES
    elif staying:
        assert set(ranked) == set(staying)


def far(one: RelayRecord, client: Point) -> float:
    if one.latitude is None or one.longitude is None:
        return math.inf
    return distance(client, Point(one.latitude, one.longitude))


@given(fleets(), places, st.text(max_size=5))
def test_a_pick_is_bounded_and_names_no_relay_twice(
    fleet: list[RelayRecord], place: Place | None, session: str
) -> None:
    picked = pick(fleet, place, cluster=0, session=session)
    ranked = rank(fleet, place, cluster=0, session=session)
    assert len(picked) == min(len(ranked), MAX_CANDIDATES)
    assert len({one.public for one in picked}) == len(picked)
    assert picked[:2] == ranked[:2]
    assert set(picked) <= set(ranked)


def test_nearest_first_whatever_the_cluster() -> None:
    fleet = [relay("f", FRANKFURT), relay("n", NEW_YORK), relay("s", SYDNEY, cluster=1)]
    for client, order in ((PARIS, "fns"), (NEW_YORK, "nfs"), (SYDNEY, "sfn")):
        ranked = rank([*fleet, relay("x")], at(client), cluster=0, session="a")
        assert sorted(ranked[1:3], key=lambda one: far(one, client)) == ranked[1:3]
        assert ranked[0].name == order[0]
        assert ranked[-1].name == "x", "whose place is not known comes last"


def test_a_region_goes_before_distance() -> None:
    fleet = [relay("p", PARIS, region="par"), relay("s", SYDNEY, region="syd")]
    assert names(rank(fleet, at(PARIS, "syd"), cluster=0, session="a")) == ["s", "p"]
    assert names(rank(fleet, at(None, "syd"), cluster=0, session="a")) == ["s", "p"]
    assert names(rank(fleet, at(PARIS, "elsewhere"), cluster=0, session="a")) == ["p", "s"]


def test_of_near_ones_our_own_then_the_emptier() -> None:
    suburb = Point(FRANKFURT.latitude + 0.5, FRANKFURT.longitude)
    fleet = [
        relay("busy", FRANKFURT, flows=800),
        relay("idle", suburb, flows=20),
        relay("other", FRANKFURT, cluster=1),
        relay("far", PARIS),
    ]
    ranked = rank(fleet, at(FRANKFURT), cluster=0, session="a")
    assert names(ranked) == ["idle", "busy", "other", "far"]


def test_full_and_draining_ones_only_where_there_are_no_others() -> None:
    full, leaving, fine = (
        relay("full", PARIS, flows=1_000),
        relay("leaving", PARIS, draining=True),
        relay("fine", SYDNEY),
    )
    assert rank([full, leaving, fine], at(PARIS), cluster=0, session="a") == [fine]
    assert rank([full, leaving], at(PARIS), cluster=0, session="a") == [full]
    assert rank([leaving], at(PARIS), cluster=0, session="a") == [leaving]


def test_without_a_place_our_own_relays_come_first() -> None:
    fleet = [relay("b", SYDNEY, cluster=1), relay("a", PARIS), relay("c", cluster=2)]
    assert names(rank(fleet, None, cluster=0, session="a"))[0] == "a"
    assert names(rank(fleet, None, cluster=2, session="a"))[0] == "c"


def test_equal_relays_share_the_calls() -> None:
    fleet = [relay(name, PARIS) for name in "abcd"]
    first = [rank(fleet, at(PARIS), cluster=0, session=f"{n}")[0].name for n in range(400)]
    assert all(70 <= first.count(name) <= 130 for name in "abcd")


def test_a_gone_relay_moves_only_its_own_calls() -> None:
    fleet = [relay(name) for name in "abcd"]
    for n in range(50):
        before = rank(fleet, None, cluster=0, session=f"{n}")
        after = rank(fleet[:3], None, cluster=0, session=f"{n}")
        assert after == [one for one in before if one.name != "d"]


def test_one_public_address_is_named_once() -> None:
    old = relay("old", PARIS, flows=500)
    new = msgspec.structs.replace(relay("new", PARIS), public=old.public)
    assert rank([old, new], at(PARIS), cluster=0, session="a") == [new]


def test_the_last_of_three_stands_elsewhere() -> None:
    fleet = [relay(name, PARIS, region="par") for name in "abc"]
    far_one = relay("s", SYDNEY, region="syd")
    picked = pick([*fleet, far_one], at(PARIS), cluster=0, session="a")
    assert picked[2] is far_one
    assert {one.region for one in picked[:2]} == {"par"}
    assert len(pick(fleet, at(PARIS), cluster=0, session="a")) == 3
    mixed = [relay("a", PARIS, region="par"), relay("b", FRANKFURT, region="fra")]
    picked = pick([*mixed, relay("n", NEW_YORK), far_one], at(PARIS), cluster=0, session="a")
    assert names(picked) == ["a", "b", "n"]


# Places of requests.

CUSTOM = HeaderNames("x-region", "x-country", "x-lat", "x-lon", "x-address")
SETTINGS = GeoSettings(names=CUSTOM, regions={"syd": SYDNEY}, countries=COUNTRIES)


def found(headers: dict[str, str], settings: GeoSettings = SETTINGS) -> Place | None:
    return place_of(Headers(headers), CLIENT, settings)


def test_what_headers_tell_and_in_which_order() -> None:
    coordinates = {"x-lat": "50.11", "x-lon": "+8.68"}
    assert found({}) is None
    assert found({"X-Country": "fr"}) == at(PARIS)
    assert found({"x-country": "FR", **coordinates}) == at(FRANKFURT)
    assert found({"x-region": "syd", "x-country": "FR"}) == at(PARIS, "syd")
    assert found({"x-region": "syd"}) == at(SYDNEY, "syd")
    assert found({"x-region": "moon"}) == at(None, "moon")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-lat": "91", "x-lon": "0"},
        {"x-lat": "0", "x-lon": "180.1"},
        {"x-lat": "nan", "x-lon": "0"},
        {"x-lat": "1e1", "x-lon": "0"},
        {"x-lat": "٣", "x-lon": "0"},
        {"x-lat": "", "x-lon": "0"},
        {"x-lat": "1"},
        {"x-lon": "1"},
        {"x-country": "XX"},
        {"x-country": "FR,US"},
        {"x-region": "a b"},
        {"x-region": "r" * 33},
    ],
)
def test_malformed_headers_are_as_if_they_were_not_there(headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("utf-8")) for name, value in headers.items()]
    assert place_of(Headers(raw=raw), CLIENT, SETTINGS) is None


def test_a_malformed_header_is_told_without_its_value() -> None:
    with capture_logs() as lines:
        assert found({"x-lat": "hush", "x-address": CLIENT + "x"}) is None
    assert [(line["what"], line["log_level"]) for line in lines] == [
        ("coordinate", "debug"),
        ("address", "debug"),
    ]
    assert "hush" not in str(lines)
    assert CLIENT not in str(lines)


def test_of_a_header_given_twice_none_counts() -> None:
    raw = [(b"x-country", b"FR"), (b"x-country", b"US")]
    assert place_of(Headers(raw=raw), CLIENT, SETTINGS) is None


def test_headers_count_only_when_configured_and_from_a_front() -> None:
    cloudflare = {"cf-ipcountry": "FR", "cf-iplatitude": "50.11", "cf-iplongitude": "8.68"}
    assert found(cloudflare) is None
    believing = GeoSettings(names=CLOUDFLARE, countries=COUNTRIES)
    assert found(cloudflare, believing) == at(FRANKFURT)
    fronts = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")]
    guarded = GeoSettings(names=CLOUDFLARE, countries=COUNTRIES, fronts=fronts)
    for peer, place in (
        ("10.1.2.3", at(FRANKFURT)),
        ("::ffff:10.1.2.3", at(FRANKFURT)),
        ("2001:db8::1", at(FRANKFURT)),
        (CLIENT, None),
        ("localhost", None),
        (None, None),
    ):
        assert place_of(Headers(cloudflare), peer, guarded) == place


def test_whose_address_is_looked_up() -> None:
    asked: list[str] = []

    def look_up(address: str) -> Point | None:
        asked.append(address)
        return PARIS

    fronts = [ip_network("10.0.0.0/8")]
    settings = GeoSettings(names=CUSTOM, look_up=look_up, fronts=fronts)
    listed = Headers({"x-address": "6.6.6.6, ::ffff:198.51.100.9"})
    assert place_of(listed, "10.0.0.1", settings) == at(PARIS)
    assert place_of(listed, CLIENT, settings) == at(PARIS)
    assert asked == ["198.51.100.9", CLIENT], "the last of a list, and only from a front"
    asked.clear()
    assert place_of(Headers(), "10.0.0.1", settings) is None, "a front's place is not its client's"
    assert asked == []


def test_the_default_region_is_for_unknown_places() -> None:
    settings = GeoSettings(
        names=CUSTOM, regions={"syd": SYDNEY}, default_region="syd", countries=COUNTRIES
    )
    assert found({}, settings) == at(SYDNEY, "syd")
    assert found({"x-country": "FR"}, settings) == at(PARIS)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"x-region", b"x-country", b"x-lat", b"x-lon", b"x-address"]),
            st.binary(max_size=40) | st.floats().map(lambda one: str(one).encode()),
        ),
        max_size=8,
    ),
    st.none() | st.text(max_size=20) | st.ip_addresses().map(str),
)
def test_any_request_has_a_place_or_none(raw: list[tuple[bytes, bytes]], peer: str | None) -> None:
    settings = GeoSettings(
        names=CUSTOM, countries=COUNTRIES, fronts=[ip_network("0.0.0.0/1"), ip_network("::/1")]
    )
    place = place_of(Headers(raw=raw), peer, settings)
    if place is None:
        return
    assert place.region or place.point
    assert len(place.region) <= 32
    if place.point is not None:
        assert abs(place.point.latitude) <= 90
        assert abs(place.point.longitude) <= 180


# What it is made of.


def test_countries_are_where_they_are() -> None:
    countries = read_countries()
    assert len(countries) > 240
    assert distance(countries["US"], NEW_YORK) < 20
    assert distance(countries["FR"], PARIS) < 20
    assert countries["AQ"].latitude < -60
    assert all(abs(one.latitude) <= 90 and abs(one.longitude) <= 180 for one in countries.values())


def test_a_database_gives_places(tmp_path: Path) -> None:
    file = tmp_path / "places.mmdb"
    file.write_bytes(
        make_database(
            {
                "198.51.100.0/24": {"location": {"latitude": -33.87, "longitude": 151.21}},
                "203.0.113.0/25": {"country": {"iso_code": "FR"}},
                "203.0.113.128/25": {"country": {"iso_code": "FR"}, "location": {"latitude": 99.0}},
                "192.0.2.0/24": {"location": {"latitude": 99.0, "longitude": 0.0}},
            }
        )
    )
    with open_geography(GeoConfig(database=str(file))) as geography:
        for peer, place in (
            (CLIENT, at(SYDNEY)),
            ("203.0.113.1", at(geography.countries["FR"])),
            ("203.0.113.200", at(geography.countries["FR"])),
            ("192.0.2.1", None),
            ("10.0.0.1", None),
            ("2001:db8::1", None),
            ("not an address", None),
            (None, None),
        ):
            assert place_of(Headers(), peer, geography) == place, peer


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_bad_database_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "places.mmdb"
    if content is not None:
        file.write_bytes(content)
    with (
        pytest.raises(ConfigError, match=r"geo\.database"),
        open_geography(GeoConfig(database=str(file))),
    ):
        pass


def test_settings_come_from_the_configuration() -> None:
    config = GeoConfig(
        headers="custom",
        region_header="x-region",
        fronts=("10.0.0.0/8",),
        regions=("fra=50.11/8.68",),
        default_region="fra",
    )
    with open_geography(config) as geography:
        assert geography.names == HeaderNames(region="x-region")
        assert geography.countries == {}
        assert place_of(Headers(), None, geography) == at(FRANKFURT, "fra")
    with open_geography(GeoConfig(headers="cloudflare")) as geography:
        assert place_of(Headers({"CF-IPCountry": "US"}), None, geography) is not None
    with open_geography(GeoConfig()) as geography:
        assert place_of(Headers({"CF-IPCountry": "US"}), CLIENT, geography) is None


def test_a_relay_stands_where_it_says_or_in_its_region() -> None:
    geo = GeoConfig(regions=("fra=50.11/8.68",))
    for config, point in (
        (RelayConfig(), None),
        (RelayConfig(region="fra"), FRANKFURT),
        (RelayConfig(region="elsewhere"), None),
        (RelayConfig(region="fra", latitude=48.86, longitude=2.35), PARIS),
    ):
        assert point_of_relay(Config(relay=config, geo=geo)) == point
