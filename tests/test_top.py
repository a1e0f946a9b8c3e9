"""``edge top``: rates out of real pages, a screen that nothing hangs, and texts that stay texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import StringIO
from math import inf

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from trio.abc import Clock

from edge.datagram import DatagramStatistics
from edge.errors import Drop
from edge.exposition import make_page
from edge.metrics import Metrics
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import RegistryUnavailable, RelayRecord, Slot, TransceiverRecord
from edge.relay import RelayStatistics
from edge.top.figures import KERNEL_DROPS, Part, Process, RelayRow, TransceiverRow
from edge.top.observer import AT_ONCE, GONE_SECONDS, Observer, Snapshot
from edge.top.page import MAX_SAMPLES, BadPage, Change, Page, parse_page
from edge.top.screen import MAX_NAMES, number, render
from edge.top.sources import Given, Registered
from tests.support.full_metrics import Sessions, relay_statistics

RELAY = "http://192.0.2.1:9090"
TRANSCEIVER = "http://192.0.2.2:8080"


def page(at: float, text: str, *, start: int = 1) -> Page:
    """A page in the text format, with the time its process started."""
    head = f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {start}\n"
    return parse_page((head + text).encode(), at=at)


def counter(**values: int) -> str:
    lines = [f'edge_drops_total{{part="relay",reason="{name}"}} {n}' for name, n in values.items()]
    return "\n".join(["# TYPE edge_drops counter", *lines, ""])


def histogram(*counts: int) -> str:
    """Cumulated counts for the bounds 0.1, 0.2 and infinity."""
    bounds = ("0.1", "0.2", "+Inf")
    lines = [
        f'edge_setup_seconds_bucket{{le="{bound}"}} {count}'
        for bound, count in zip(bounds, counts, strict=True)
    ]
    count, total = f"edge_setup_seconds_count {counts[-1]}", "edge_setup_seconds_sum 0"
    return "\n".join(["# TYPE edge_setup_seconds histogram", *lines, count, total, ""])


class TestPages:
    def test_rates_are_of_the_time_between_two_pages(self) -> None:
        change = Change(page(10.0, counter(bug=5, late=7)), page(12.0, counter(bug=9, late=7)))
        assert change.rate("edge_drops_total", reason="bug") == 2.0
        assert change.rate("edge_drops_total") == 2.0
        assert change.rate("edge_drops_total", reason="none") is None
        assert change.rates("edge_drops_total", "reason") == {"bug": 2.0}

    def test_a_counter_that_appears_began_at_0(self) -> None:
        change = Change(page(10.0, ""), page(12.0, counter(bug=9)))
        assert change.rate("edge_drops_total") == 4.5

    @pytest.mark.parametrize(
        "older", [page(10.0, counter(bug=10)), page(10.0, counter(bug=1), start=2)]
    )
    def test_another_process_makes_no_rate(self, older: Page) -> None:
        assert Change(older, page(12.0, counter(bug=9))).rate("edge_drops_total") is None

    def test_one_page_makes_no_rate(self) -> None:
        only = page(10.0, counter(bug=9))
        assert Change(only, only).rate("edge_drops_total") is None

    def test_quantiles_are_those_of_prometheus(self) -> None:
        change = Change(page(0.0, histogram(100, 100, 100)), page(1.0, histogram(105, 109, 110)))
        assert change.quantiles("edge_setup_seconds", 0.25, 0.5, 0.7, 1.0) == pytest.approx(
            (0.05, 0.1, 0.15, 0.2)
        )
        assert change.since_start().quantiles("edge_setup_seconds", 0.5) == pytest.approx(
            (55 / 1050,)
        )

    def test_no_quantiles_of_nothing(self) -> None:
        same = histogram(5, 9, 10)
        change = Change(page(0.0, same), page(1.0, same))
        assert change.quantiles("edge_setup_seconds", 0.5) is None
        assert change.quantiles("edge_round_trip_seconds", 0.5) is None

    @pytest.mark.parametrize(
        "body",
        [b"\xff", b"<html>", b"a{ 1\n", b"a NaN\n", b"a +Inf\n", b"a 1\n" * (MAX_SAMPLES + 1)],
    )
    def test_what_is_no_page(self, body: bytes) -> None:
        with pytest.raises(BadPage):
            parse_page(body, at=0.0)

    @given(st.lists(st.sampled_from([*'a{}"=,#\\ \n1.e+-', "# TYPE ", "\x00", "é"]), max_size=40))
    def test_nothing_else_comes_out(self, pieces: list[str]) -> None:
        body = "".join(pieces).encode()
        with suppress(BadPage):
            parse_page(body, at=0.0)


@dataclass
class Fleet:
    """A relay and a transceiver by their metrics; ``silent`` URLs raise, ``hanging`` ones hang."""

    relay: RelayStatistics = field(default_factory=relay_statistics)
    sessions: Sessions = field(default_factory=Sessions)
    datagrams: DatagramStatistics = field(default_factory=lambda: DatagramStatistics(0, 0, {}))
    registry: MemoryRegistry = field(default_factory=lambda: MemoryRegistry(lease_seconds=inf))
    away: bool = False
    failing: dict[str, Exception] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    metrics: dict[str, Metrics] = field(default_factory=dict)

    def __post_init__(self) -> None:
        relay, transceiver = Metrics(), Metrics()
        relay.add_relay(lambda: self.relay)
        transceiver.add_transceiver(self.sessions)
        transceiver.add_datagrams(lambda: self.datagrams)
        self.metrics = {RELAY: relay, TRANSCEIVER: transceiver}

    async def fetch(self, url: str) -> bytes:
        await trio.sleep(0.01)
        base = url.removesuffix("/metrics")
        if base in self.hanging:
            await trio.sleep_forever()
        if base in self.failing:
            raise self.failing[base]
        return make_page(self.metrics[base])()

    async def register(self, *, relay_url: str = RELAY) -> None:
        await self.registry.put_relay(relay_record(relay_url))
        await self.registry.put_transceiver(
            TransceiverRecord(
                slot=Slot(7), cluster=0, address=("10.0.0.2", 5), http_url=TRANSCEIVER, sessions=2
            )
        )

    def observer(self, *urls: str) -> Observer:
        source = Given(urls) if urls else Unsteady(self)
        return Observer(source, fetch=self.fetch, unix=lambda: 1_800_000_000.0)


def relay_record(url: str = RELAY) -> RelayRecord:
    return RelayRecord(
        name="one", cluster=0, public=("192.0.2.1", 3478), internal=("10.0.0.1", 4),
        region="zürich", flows=6, http_url=url,
    )  # fmt: skip


class Unsteady:
    """The registry as a source, as long as it is not away."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._registered = Registered(fleet.registry)

    async def parts(self) -> Sequence[Part] | None:
        return None if self._fleet.away else await self._registered.parts()


async def two_looks(
    fleet: Fleet, observer: Observer, change: Callable[[], None] = lambda: None
) -> Snapshot:
    await observer.look()
    await trio.sleep(2.0 - 0.01)
    change()
    return await observer.look()


def text(snapshot: Snapshot, width: int = 170) -> str:
    console = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(render(snapshot, width=width))
    return capture.get()


async def test_a_fleet_at_a_glance(autojump_clock: Clock) -> None:
    fleet = Fleet()
    await fleet.register()

    def busy() -> None:
        drops = {Drop.BAD_TOKEN: 28, Drop.LATE: 0}
        fleet.relay = replace(
            fleet.relay,
            packets_to_transceivers=20_010,
            packets_to_clients=10_020,
            bytes_to_clients=2_002_000,
            wakes=1_006,
            drops=drops,
        )
        fleet.datagrams = DatagramStatistics(received=4_000, sent=2_000, drops={})
        fleet.metrics[TRANSCEIVER].observe_setup(0.04)

    snapshot = await two_looks(fleet, fleet.observer(), busy)
    (relay,), (transceiver,) = snapshot.relays, snapshot.transceivers
    assert (relay.part.name, relay.part.region, relay.state) == ("192.0.2.1:3478", "zürich", "up")
    assert (relay.flows, relay.provisional_flows) == (7, 2)
    rates = relay.packets_in, relay.packets_out, relay.bytes_out, relay.packets_per_wake
    assert rates == pytest.approx((10_000, 5_000, 1_000_000, 30), rel=0.02)
    assert relay.process.drops_per_second == pytest.approx({"bad_token": 10.0}, rel=0.02)
    assert relay.process.memory_bytes
    assert (transceiver.part.name, transceiver.sessions, transceiver.opened) == ("7", 3, 0)
    assert (transceiver.packets_in, transceiver.packets_out) == pytest.approx((2e3, 1e3), rel=0.02)
    assert transceiver.setup_seconds == pytest.approx((0.04, 0.05), abs=0.01)
    assert transceiver.round_trip_seconds is None
    shown = text(snapshot)
    for words in ("192.0.2.1:3478", "0 zürich", "bad_token 10", "10 k / 5 k", "/ 8 Mbit"):
        assert words.removesuffix("bit") in shown
    assert "3 sessions" in shown
    assert "registry up" in shown


async def test_the_dead_are_shown_and_hang_nothing(autojump_clock: Clock) -> None:
    fleet = Fleet(hanging={RELAY})
    await fleet.register()
    observer = fleet.observer()
    started = trio.current_time()
    snapshot = await observer.look()
    assert trio.current_time() - started < 2.0
    assert [row.state for row in snapshot.relays] == ["no answer"]
    assert snapshot.relays[0].flows == 6  # as the registry says
    assert [row.state for row in snapshot.transceivers] == ["up"]
    assert [(each.url, each.reason) for each in snapshot.silent] == [(RELAY, "no answer in time")]
    assert f"{RELAY}: no answer in time" in text(snapshot)


async def test_hundreds_that_hang_take_no_longer_and_starve_nobody(
    autojump_clock: Clock,
) -> None:
    urls = [f"http://192.0.2.3:{port}" for port in range(1, 2 * AT_ONCE + 11)]
    fleet = Fleet(hanging=set(urls))
    observer = fleet.observer(*urls, RELAY)
    started = trio.current_time()
    assert len((await observer.look()).silent) == len(urls) + 1  # its turn did not come
    assert trio.current_time() - started <= 3.0
    for _ in range(3):
        snapshot = await observer.look()
        assert [row.state for row in snapshot.relays] == ["up"]
        assert len(snapshot.silent) == len(urls)


def _all_failed(cause: Exception) -> OSError:
    """What ``trio.open_tcp_stream`` raises."""
    error = OSError("all attempts to connect failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(111, "Connection refused"), "Connection refused"),
        (OSError(), "no connection"),
        (_all_failed(OSError(113, "No route to host")), "No route to host"),
        (_all_failed(ExceptionGroup("", [OSError(111, "Refused"), OSError()])), "Refused"),
        (BadPage("HTTP status 404"), "HTTP status 404"),
    ],
)
async def test_why_one_does_not_answer(
    autojump_clock: Clock, error: Exception, reason: str
) -> None:
    snapshot = await Fleet(failing={RELAY: error}).observer(RELAY, TRANSCEIVER).look()
    assert [each.reason for each in snapshot.silent] == [reason]
    assert (snapshot.registry, snapshot.relays) == ("not asked", [])
    assert len(snapshot.transceivers) == 1


async def test_one_that_restarts_has_no_rates_until_the_next_look(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet()
    observer = fleet.observer(RELAY)
    await two_looks(fleet, observer)
    pages = [counter(bug=3) + "# TYPE edge_relay_flows gauge\nedge_relay_flows 1\n"] * 2
    restarted = [f"process_start_time_seconds {n}\n{body}" for n, body in enumerate(pages)]

    async def fetch(url: str) -> bytes:
        await trio.sleep(0)
        return restarted.pop().encode()

    monkeypatch.setattr(observer, "_fetch", fetch)
    for _ in pages:
        (row,) = (await observer.look()).relays
        assert row.process.drops_per_second == {}
        assert row.process.kernel_drops_per_second is None
        await trio.sleep(1.0)


async def test_who_leaves_is_gone_for_a_while(autojump_clock: Clock) -> None:
    fleet = Fleet()
    await fleet.register()
    observer = fleet.observer()
    await observer.look()
    await fleet.registry.remove_relay("one")
    snapshot = await observer.look()
    assert [row.state for row in snapshot.relays] == ["gone"]
    assert snapshot.silent == []
    await trio.sleep(GONE_SECONDS)
    assert (await observer.look()).relays == []


async def test_without_a_registry_the_last_known_are_asked(autojump_clock: Clock) -> None:
    fleet = Fleet()
    await fleet.register()
    observer = fleet.observer()
    await observer.look()
    fleet.away = True
    for _ in range(3):
        await trio.sleep(GONE_SECONDS)
        snapshot = await observer.look()
        assert snapshot.registry == "no answer"
        assert [row.state for row in snapshot.relays] == ["up"]
    assert "registry no answer" in text(snapshot)


async def test_a_source_that_fails_knows_nobody(autojump_clock: Clock) -> None:
    class Away(MemoryRegistry):
        async def relays(self) -> Sequence[RelayRecord]:
            raise RegistryUnavailable

    assert await Registered(Away()).parts() is None


async def test_states(autojump_clock: Clock) -> None:
    fleet = Fleet()
    fleet.sessions.draining = True
    await fleet.register(relay_url="")
    snapshot = await fleet.observer().look()
    assert [row.state for row in snapshot.relays] == ["no URL"]
    assert [row.state for row in snapshot.transceivers] == ["draining"]


def test_nobody_is_said_to_be_nobody() -> None:
    empty = Snapshot(
        at="2027-01-15T08:00:00+00:00", registry="up", relays=[], transceivers=[], silent=[]
    )
    assert "no relay and no transceiver is registered" in text(empty)


@pytest.mark.parametrize(
    ("width", "shown", "hidden"),
    [
        (200, {"memory", "bit/s", "a wake", "CPU"}, set[str]()),
        (100, {"bit/s", "a wake", "CPU"}, {"memory"}),
        (70, {"packets/s", "drops/s"}, {"memory", "bit/s"}),
    ],
)
def test_a_narrow_screen_shows_less_but_whole_columns(
    width: int, shown: set[str], hidden: set[str]
) -> None:
    row = RelayRow(
        part=Part(kind="relay", name="203.0.113.200:3478", cluster=1, region="eu-central"),
        state="up", flows=12_345, packets_in=4e6, packets_out=4e6, bytes_in=4e6, bytes_out=4e6,
        process=Process(memory_bytes=1e8, drops_per_second={"unknown_flow": 1234.0}),
    )  # fmt: skip
    snapshot = Snapshot(at="", registry="up", relays=[row], transceivers=[], silent=[])
    picture = text(snapshot, width)
    assert {name for name in shown | hidden if name in picture} == shown
    assert "\u2026" not in picture  # an ellipsis
    for cell in ("203.0.113.200:3478", "12.3 k", "4 M / 4 M", "unknown_flow 1.23 k"):
        assert cell in picture


def test_texts_of_others_are_no_markup() -> None:
    part = Part(kind="relay", name="[bold]x[/nope]", region="a\x1b[2Jb\nc")
    row = RelayRow(part=part, state="up")
    other = TransceiverRow(part=part, state="gone", ended={"[red]": 1.0})
    shown = text(Snapshot(at="", registry="up", relays=[row], transceivers=[other], silent=[]), 200)
    assert "[bold]x[/nope]" in shown
    assert r"a\x1b[2Jb\nc" in shown
    assert "[red] 1" in shown


def test_of_many_drops_the_highest_are_shown() -> None:
    names = [str(drop) for drop in Drop if drop != KERNEL_DROPS]  # which has its own column
    rates = {name: float(number) for number, name in enumerate(names, 1)}
    row = RelayRow(
        part=Part(kind="relay", name="x"), state="up",
        process=Process(drops_per_second={**rates, KERNEL_DROPS: 1e6}),
    )  # fmt: skip
    shown = text(Snapshot(at="", registry="up", relays=[row], transceivers=[], silent=[]))
    for name in names[-MAX_NAMES:]:
        assert f"{name} {rates[name]:.0f}" in shown
    assert f"and {len(names) - MAX_NAMES} more" in shown
    assert names[0] not in shown
    assert KERNEL_DROPS not in shown
    assert "kernel" not in shown


def test_what_the_kernel_drops_has_a_column_when_there_is_any() -> None:
    row = RelayRow(
        part=Part(kind="relay", name="x"), state="up", process=Process(kernel_drops_per_second=77.0)
    )
    shown = text(Snapshot(at="", registry="up", relays=[row], transceivers=[], silent=[]))
    assert "kernel" in shown
    assert "77" in shown


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "", "-"), (0.0, "", "0"), (0.25, "", "0.2"), (99.9, "", "99.9"), (99.97, "", "100"),
        (999.0, "", "999"), (999.7, "", "1 k"), (1234.0, "", "1.23 k"), (56.7e6, "B", "56.7 MB"),
        (12.0, "B", "12 B"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float | None, unit: str, shown: str) -> None:
    assert number(value, unit) == shown
