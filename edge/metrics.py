"""What Prometheus reads at ``/metrics``; the names are listed in docs/metrics.md.

Nothing is pushed but times: every part counts for itself, and a scrape asks the parts.
A part is plugged in with one line where it is made:

    metrics = Metrics()
    metrics.add_relay(relay.statistics)
    metrics.add_transceiver(transceiver)  # with observe_setup and observe_round_trip of these
    metrics.add_datagrams(datagrams.statistics)      # a transceiver's socket
    metrics.add_registry(registry.statistics)
    metrics.add_directory(directory.statistics)
    metrics.add_http(http_server)
    metrics.add_drops("socket", lambda: sockets.statistics().drops)
    metrics.render()                                 # text format 0.0.4

Parts of the same kind add up. Labels take their values from enums only, so no client can make one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge import __version__
from edge.datagram import DatagramStatistics
from edge.errors import Drop, EndReason
from edge.http.server import HttpEvent
from edge.registry.directory import DirectoryStatistics
from edge.registry.protocol import RegistryStatistics
from edge.relay import RelayStatistics

SETUP_BUCKETS: Final = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
"""Seconds; fine around the target of 30 to 45 ms, and up to the setup time-out."""
ROUND_TRIP_BUCKETS: Final = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 5.0)
"""Seconds; a region is 10 to 50 ms wide, an ocean 100; beyond 300 people interrupt each other."""

Part: TypeAlias = Literal["relay", "transceiver", "registry", "socket"]


class SessionCounts(Protocol):
    """What is read of a transceiver."""

    opened: int
    ended: Counter[EndReason]
    draining: bool

    @property
    def sessions(self) -> int:
        """Sessions that are open now."""

    def all_drops(self) -> Mapping[Drop, int]:
        """What it and its sessions discarded."""


class HttpCounts(Protocol):
    """What is read of an HTTP server."""

    events: Counter[HttpEvent]

    @property
    def connections(self) -> int:
        """Connections that are open now."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its kind, its labels, and a sentence."""

    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: Final[Mapping[str, Family]] = {
    "edge_build_info": Family("gauge", "Always 1; the version is the label.", ("version",)),
    "edge_relay_packets_total": Family("counter", "Datagrams forwarded.", ("direction",)),
    "edge_relay_bytes_total": Family("counter", "Bytes of datagrams forwarded.", ("direction",)),
    "edge_relay_wakes_total": Family("counter", "Wakes of the forwarder that found something."),
    "edge_relay_flows": Family("gauge", "Flows in the table.", ("state",)),
    "edge_relay_waiting_lookups": Family("gauge", "Sources being looked up in the registry."),
    "edge_sessions": Family("gauge", "Sessions that are open."),
    "edge_sessions_opened_total": Family("counter", "Sessions opened."),
    "edge_sessions_ended_total": Family("counter", "Sessions ended, by why.", ("reason",)),
    "edge_transceiver_draining": Family("gauge", "1 while it takes no new sessions."),
    "edge_transceiver_packets_total": Family(
        "counter", "Datagrams exchanged with relays.", ("direction",)
    ),
    "edge_drops_total": Family(
        "counter", "Datagrams, frames or records discarded, by why.", ("part", "reason")
    ),
    "edge_registry_up": Family("gauge", "1 if the registry answered the last time."),
    "edge_registry_operations_total": Family("counter", "Registry commands answered."),
    "edge_registry_failures_total": Family("counter", "Registry round trips that failed."),
    "edge_registry_waiting_writes": Family("gauge", "Flow writes not answered yet."),
    "edge_directory_transceivers": Family("gauge", "Transceivers known to be alive."),
    "edge_directory_relays": Family("gauge", "Relays known to be alive."),
    "edge_directory_stale": Family("gauge", "1 while the view of the fleet is an old one."),
    "edge_http_connections": Family("gauge", "HTTP connections that are open."),
    "edge_http_events_total": Family("counter", "What happened to HTTP connections.", ("event",)),
}
"""Every metric that is read at a scrape; process metrics come on top."""

HISTOGRAMS: Final[Mapping[str, tuple[str, tuple[float, ...]]]] = {
    "edge_setup_seconds": ("From the offer to a connected session.", SETUP_BUCKETS),
    "edge_round_trip_seconds": (
        "From us to a client and back, as its reports tell.",
        ROUND_TRIP_BUCKETS,
    ),
}
"""What is pushed: a sentence and the buckets, in seconds."""


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self, *, version: str = __version__) -> None:
        self._sources: list[Callable[[_Scrape], None]] = []
        self._registry = CollectorRegistry()
        self._registry.register(_PartsCollector(self._sources))
        self._times = {
            name: Histogram(name, text, buckets=buckets, registry=self._registry)
            for name, (text, buckets) in HISTOGRAMS.items()
        }
        ProcessCollector(registry=self._registry)
        self._sources.append(lambda scrape: scrape.add("edge_build_info", 1, version))

    def render(self) -> bytes:
        """Read every part and write the Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)

    def observe_setup(self, seconds: float) -> None:
        """Note how long a session took from its offer until it was connected."""
        self._times["edge_setup_seconds"].observe(seconds)

    def observe_round_trip(self, seconds: float) -> None:
        """Note a round-trip time that a client's report measured."""
        self._times["edge_round_trip_seconds"].observe(seconds)

    def add_relay(self, read: Callable[[], RelayStatistics]) -> None:
        """Read a relay."""

        def collect(scrape: _Scrape) -> None:
            now = read()
            scrape.add("edge_relay_packets_total", now.packets_to_transceivers, "to_transceiver")
            scrape.add("edge_relay_packets_total", now.packets_to_clients, "to_client")
            scrape.add("edge_relay_bytes_total", now.bytes_to_transceivers, "to_transceiver")
            scrape.add("edge_relay_bytes_total", now.bytes_to_clients, "to_client")
            scrape.add("edge_relay_wakes_total", now.wakes)
            scrape.add("edge_relay_flows", now.flows, "confirmed")
            scrape.add("edge_relay_flows", now.provisional_flows, "provisional")
            scrape.add("edge_relay_waiting_lookups", now.waiting_lookups)
            scrape.add_drops("relay", now.drops)

        self._sources.append(collect)

    def add_transceiver(self, transceiver: SessionCounts) -> None:
        """Read a transceiver."""

        def collect(scrape: _Scrape) -> None:
            scrape.add("edge_sessions", transceiver.sessions)
            scrape.add("edge_sessions_opened_total", transceiver.opened)
            scrape.add("edge_transceiver_draining", transceiver.draining)
            for reason in EndReason:
                scrape.add("edge_sessions_ended_total", transceiver.ended[reason], reason)
            scrape.add_drops("transceiver", transceiver.all_drops())

        self._sources.append(collect)

    def add_datagrams(self, read: Callable[[], DatagramStatistics]) -> None:
        """Read the socket between a transceiver and its relays."""

        def collect(scrape: _Scrape) -> None:
            now = read()
            scrape.add("edge_transceiver_packets_total", now.received, "received")
            scrape.add("edge_transceiver_packets_total", now.sent, "sent")
            scrape.add_drops("socket", now.drops)

        self._sources.append(collect)

    def add_registry(self, read: Callable[[], RegistryStatistics]) -> None:
        """Read a registry."""

        def collect(scrape: _Scrape) -> None:
            now = read()
            scrape.add("edge_registry_up", now.up)
            scrape.add("edge_registry_operations_total", now.operations)
            scrape.add("edge_registry_failures_total", now.failures)
            scrape.add("edge_registry_waiting_writes", now.waiting_writes)
            scrape.add_drops("registry", now.drops)

        self._sources.append(collect)

    def add_directory(self, read: Callable[[], DirectoryStatistics]) -> None:
        """Read a directory."""

        def collect(scrape: _Scrape) -> None:
            now = read()
            scrape.add("edge_directory_transceivers", now.transceivers)
            scrape.add("edge_directory_relays", now.relays)
            scrape.add("edge_directory_stale", now.stale)

        self._sources.append(collect)

    def add_http(self, server: HttpCounts) -> None:
        """Read an HTTP server."""

        def collect(scrape: _Scrape) -> None:
            scrape.add("edge_http_connections", server.connections)
            for event in HttpEvent:
                scrape.add("edge_http_events_total", server.events[event], event)

        self._sources.append(collect)

    def add_drops(self, part: Part, read: Callable[[], Mapping[Drop, int]]) -> None:
        """Read the drops of whatever else counts them."""
        self._sources.append(lambda scrape: scrape.add_drops(part, read()))


class _Scrape:
    """The samples of one scrape; equal names and labels add up."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[tuple[str, ...], float]] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        family = self.samples.setdefault(name, {})
        family[labels] = family.get(labels, 0.0) + value

    def add_drops(self, part: Part, drops: Mapping[Drop, int]) -> None:
        for reason, count in drops.items():
            self.add("edge_drops_total", count, part, reason.value)


class _PartsCollector(Collector):
    def __init__(self, sources: list[Callable[[_Scrape], None]]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        scrape = _Scrape()
        for source in self._sources:
            source(scrape)
        for name, samples in scrape.samples.items():
            yield _metric(name, samples)


def _metric(name: str, samples: Mapping[tuple[str, ...], float]) -> Metric:
    family = FAMILIES[name]
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = make(name, family.help, labels=family.labels)
    for labels, value in samples.items():
        metric.add_metric(labels, value)
    return metric
