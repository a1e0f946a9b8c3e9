"""What Prometheus reads at ``/metrics``; the names are listed in docs/metrics.md.

Nothing is pushed but times: every part counts for itself, and a scrape asks the parts.
A part is plugged in with one line where it is made:

    metrics = Metrics()
    metrics.add_relay(relay.statistics)
    metrics.add_gate(gate.statistics)
    metrics.add_tcp(tcp_socket.statistics)
    metrics.add_transceiver(transceiver)  # with observe_setup and observe_quality of these
    metrics.add_backend(frames_backend.statistics)
    metrics.add_datagrams(datagrams.statistics)      # a transceiver's socket
    metrics.add_registry(registry.statistics)
    metrics.add_directory(directory.statistics)
    metrics.add_http(http_server)
    metrics.add_refusals(refusals)                   # of signaling
    metrics.add_drops("socket", lambda: sockets.statistics().drops)

``exposition`` makes the page of it. Parts of the same kind add up. Labels take their values from
enums only, so no client can make one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from edge import __version__
from edge.errors import Drop, EndReason
from edge.metric_names import HISTOGRAMS

if TYPE_CHECKING:  # a relay counts little of this, and must start quickly
    from edge.backends.frames.backend import FramesStatistics
    from edge.backends.protocol import CallQuality
    from edge.datagram import DatagramStatistics
    from edge.forwarder.gatekeeper import GateStatistics
    from edge.http.problem import Cause
    from edge.http.server import HttpEvent
    from edge.registry.directory import DirectoryStatistics
    from edge.registry.protocol import RegistryStatistics
    from edge.relay import RelayStatistics
    from edge.tcp_connections import TcpStatistics
    from edge.transceiver.admission import Admission
    from edge.transceiver.client_channels import ChannelCounts
    from edge.transceiver.custody import CustodyCounts
    from edge.transceiver.losses import Losses
    from edge.webrtc.nack import Repair

Labels: TypeAlias = tuple[str, ...]
Part: TypeAlias = Literal["relay", "transceiver", "registry", "socket", "backend"]


class SessionTotals(Protocol):
    """What a transceiver's sessions did."""

    opened: int
    ended: Counter[EndReason]

    def drops(self) -> Mapping[Drop, int]:
        """What it and its sessions discarded."""

    def losses(self) -> Losses:
        """What clients said and was not heard."""

    def repairs(self) -> Mapping[Repair, int]:
        """What was asked for again and sent again."""

    def channels(self) -> ChannelCounts:
        """What went over clients' data channels."""

    def longest_delay(self) -> tuple[float, float]:
        """What the fullest jitter buffer holds back, and its target, in seconds."""


class SessionCounts(Protocol):
    """What is read of a transceiver."""

    draining: bool
    admission: Admission

    @property
    def sessions(self) -> int:
        """Sessions that are open now."""

    @property
    def totals(self) -> SessionTotals:
        """What they and those before them did."""

    def custody_counts(self) -> CustodyCounts:
        """What became of sessions that move, and of their checkpoints."""


class HttpCounts(Protocol):
    """What is read of an HTTP server."""

    events: Counter[HttpEvent]

    @property
    def connections(self) -> int:
        """Connections that are open now."""


class Times:
    """A histogram: how many values there were up to each bound, the last beyond all, and a sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._bounds = bounds

    def observe(self, value: float) -> None:
        """Count a value; a bound belongs to what is below."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Metrics:
    """The metrics of one process."""

    def __init__(self, *, version: str = __version__) -> None:
        self._sources: list[Callable[[_Scrape], None]] = []
        self.times = {name: Times(bounds) for name, (_, bounds) in HISTOGRAMS.items()}
        """What was observed, by metric."""
        self._sources.append(lambda scrape: scrape.add("edge_build_info", 1, version))

    def read(self) -> Mapping[str, Mapping[Labels, float]]:
        """Read every part: values by metric and labels."""
        scrape = _Scrape()
        for source in self._sources:
            source(scrape)
        return scrape.samples

    def observe_setup(self, seconds: float) -> None:
        """Note how long a session took from its offer until it was connected."""
        self._observe("edge_setup_seconds", seconds)

    def observe_quality(self, quality: CallQuality) -> None:
        """Note how a call goes, as is known when a client's report has come."""
        self._observe("edge_round_trip_seconds", quality.round_trip)
        self._observe("edge_received_jitter_seconds", quality.jitter)
        self._observe("edge_sent_jitter_seconds", quality.remote_jitter)
        self._observe("edge_sent_loss_ratio", quality.remote_fraction_lost)

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

    def add_restarts(self, count: int) -> None:
        """Tell how often the supervisor has replaced its worker."""
        self._sources.append(lambda scrape: scrape.add("edge_relay_worker_restarts_total", count))

    def add_tcp(self, read: Callable[[], TcpStatistics]) -> None:
        """Read a relay's TCP socket."""

        def collect(scrape: _Scrape) -> None:
            now = read()
            scrape.add("edge_relay_tcp_connections", now.connections - now.strangers, "answered")
            scrape.add("edge_relay_tcp_connections", now.strangers, "waiting")
            scrape.add("edge_relay_tcp_accepted_total", now.accepted)

        self._sources.append(collect)

    def add_gate(self, read: Callable[[], GateStatistics]) -> None:
        """Read the gate of a relay's public sockets."""

        def collect(scrape: _Scrape) -> None:
            now = read()
            scrape.add("edge_gate_closed", now.closed)
            scrape.add("edge_gate_closings_total", now.closings)
            scrape.add("edge_gate_filters_total", now.filters)

        self._sources.append(collect)

    def add_transceiver(self, transceiver: SessionCounts) -> None:
        """Read a transceiver."""

        from edge.webrtc.nack import Repair

        def collect(scrape: _Scrape) -> None:
            scrape.add("edge_sessions", transceiver.sessions)
            totals = transceiver.totals
            admission, taking = transceiver.admission, not transceiver.draining
            scrape.add("edge_capacity", admission.max_sessions if taking else 0)
            scrape.add("edge_load", admission.load(transceiver.sessions))
            scrape.add("edge_loop_lag_seconds", admission.lag_seconds)
            scrape.add("edge_sessions_opened_total", totals.opened)
            scrape.add("edge_transceiver_draining", transceiver.draining)
            for reason in EndReason:
                scrape.add("edge_sessions_ended_total", totals.ended[reason], reason)
            losses = totals.losses()
            scrape.add("edge_lost_packets_total", losses.packets)
            scrape.add("edge_concealed_seconds_total", losses.concealed_seconds)
            scrape.add("edge_recovered_packets_total", losses.recovered_red, "red")
            scrape.add("edge_recovered_packets_total", losses.recovered_fec, "fec")
            repairs = totals.repairs()
            for event in Repair:
                scrape.add("edge_nack_packets_total", repairs.get(event, 0), event)
            channels = totals.channels()
            scrape.add("edge_channels", channels.opened - channels.closed)
            scrape.add("edge_channels_opened_total", channels.opened)
            scrape.add("edge_channel_messages_total", channels.messages_received, "received")
            scrape.add("edge_channel_messages_total", channels.messages_sent, "sent")
            scrape.add("edge_channel_bytes_total", channels.bytes_received, "received")
            scrape.add("edge_channel_bytes_total", channels.bytes_sent, "sent")
            delay, target = totals.longest_delay()
            scrape.add("edge_longest_delay_seconds", delay, "held")
            scrape.add("edge_longest_delay_seconds", target, "target")
            custody = transceiver.custody_counts()
            scrape.add("edge_checkpoints_total", custody.stored, "stored")
            scrape.add("edge_checkpoints_total", custody.failed, "failed")
            scrape.add("edge_sessions_taken_over_total", custody.taken_over)
            scrape.add("edge_sessions_lost_total", custody.lost)
            scrape.add_drops("transceiver", totals.drops())

        self._sources.append(collect)

    def add_backend(self, read: Callable[[], FramesStatistics]) -> None:
        """Read a backend that is reached by one connection for all sessions."""

        def collect(scrape: _Scrape) -> None:
            now = read()
            scrape.add("edge_backend_up", now.connected)
            scrape.add("edge_backend_sessions", now.sessions)
            scrape.add("edge_backend_connections_total", now.connections)
            scrape.add("edge_backend_losses_total", now.lost)
            scrape.add("edge_backend_failures_total", now.failed_attempts)
            scrape.add_drops("backend", now.drops)

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
            scrape.add("edge_registry_peers", now.peers)
            scrape.add("edge_registry_peers_up", now.peers_up)
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

        from edge.http.server import HttpEvent

        def collect(scrape: _Scrape) -> None:
            scrape.add("edge_http_connections", server.connections)
            for event in HttpEvent:
                scrape.add("edge_http_events_total", server.events[event], event)

        self._sources.append(collect)

    def add_refusals(self, refusals: Mapping[Cause, int]) -> None:
        """Read what signaling has refused."""

        def collect(scrape: _Scrape) -> None:
            for cause, count in refusals.items():
                scrape.add("edge_http_refusals_total", count, cause.value)

        self._sources.append(collect)

    def _observe(self, name: str, value: float | None) -> None:
        if value is not None:
            self.times[name].observe(value)

    def add_drops(self, part: Part, read: Callable[[], Mapping[Drop, int]]) -> None:
        """Read the drops of whatever else counts them."""
        self._sources.append(lambda scrape: scrape.add_drops(part, read()))


class _Scrape:
    """The samples of one scrape; equal names and labels add up."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[Labels, float]] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        family = self.samples.setdefault(name, {})
        family[labels] = family.get(labels, 0.0) + value

    def add_drops(self, part: Part, drops: Mapping[Drop, int]) -> None:
        for reason, count in drops.items():
            self.add("edge_drops_total", count, part, reason.value)
