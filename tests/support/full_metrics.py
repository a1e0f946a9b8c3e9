"""Metrics with a part of every kind, as no single process has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from edge.backends.frames.backend import FramesStatistics
from edge.datagram import DatagramStatistics
from edge.errors import Drop, EndReason
from edge.forwarder.gatekeeper import GateStatistics
from edge.http.problem import Cause
from edge.http.server import HttpEvent
from edge.metrics import Metrics
from edge.registry.directory import Directory
from edge.registry.memory import MemoryRegistry
from edge.relay import RelayStatistics
from edge.tcp_connections import TcpStatistics
from edge.transceiver.admission import Admission
from edge.transceiver.client_channels import ChannelCounts
from edge.transceiver.custody import CustodyCounts
from edge.transceiver.losses import Losses
from edge.webrtc.nack import Repair


class Totals:
    def __init__(self) -> None:
        self.opened = 5
        self.ended = Counter({EndReason.HANGUP: 2})

    def drops(self) -> Mapping[Drop, int]:
        return {Drop.REPLAY: 4}

    def losses(self) -> Losses:
        return Losses(packets=13, concealed_seconds=0.26, recovered_red=7, recovered_fec=5)

    def repairs(self) -> Mapping[Repair, int]:
        return {Repair.ASKED: 11, Repair.RECOVERED: 9}

    def channels(self) -> ChannelCounts:
        return ChannelCounts(
            opened=8,
            closed=6,
            messages_received=15,
            bytes_received=1500,
            messages_sent=16,
            bytes_sent=1600,
        )

    def longest_delay(self) -> tuple[float, float]:
        return 0.08, 0.06


class Sessions:
    def __init__(self) -> None:
        self.sessions = 3
        self.draining = False
        self.admission = Admission(max_sessions=4, max_load=0.8, max_lag_seconds=0.05)
        self.totals = Totals()

    def custody_counts(self) -> CustodyCounts:
        return CustodyCounts(stored=71, failed=2, taken_over=3, lost=1)


class Http:
    def __init__(self) -> None:
        self.events = Counter({HttpEvent.ACCEPTED: 6})
        self.connections = 1


def relay_statistics() -> RelayStatistics:
    return RelayStatistics(
        packets_to_transceivers=10,
        bytes_to_transceivers=1000,
        packets_to_clients=20,
        bytes_to_clients=2000,
        wakes=6,
        flows=7,
        provisional_flows=2,
        waiting_lookups=1,
        drops={Drop.BAD_TOKEN: 8},
    )


def backend_statistics() -> FramesStatistics:
    return FramesStatistics(
        connected=True,
        sessions=3,
        connections=4,
        lost=1,
        failed_attempts=5,
        drops=Counter({Drop.UNKNOWN_SESSION: 6}),
    )


def full_metrics() -> Metrics:
    registry = MemoryRegistry()
    metrics = Metrics(version="1.2.3")
    metrics.add_relay(relay_statistics)
    metrics.add_restarts(1)
    metrics.add_tcp(lambda: TcpStatistics(connections=9, strangers=4, accepted=31))
    metrics.add_gate(lambda: GateStatistics(closed=True, closings=2, filters=14))
    metrics.add_transceiver(Sessions())
    metrics.add_backend(backend_statistics)
    metrics.add_datagrams(
        lambda: DatagramStatistics(received=12, sent=11, drops={Drop.SEND_BLOCKED: 9})
    )
    metrics.add_registry(registry.statistics)
    metrics.add_directory(Directory(registry).statistics)
    metrics.add_http(Http())
    metrics.add_refusals(Counter({Cause.RATE_LIMIT_EXCEEDED: 14}))
    metrics.add_drops("socket", lambda: Counter({Drop.RECEIVE_ERROR: 1}))
    return metrics
