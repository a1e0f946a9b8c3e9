"""Metrics with a part of every kind, as no single process has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from edge.datagram import DatagramStatistics
from edge.errors import Drop, EndReason
from edge.http.server import HttpEvent
from edge.metrics import Metrics
from edge.registry.directory import Directory
from edge.registry.memory import MemoryRegistry
from edge.relay import RelayStatistics


class Sessions:
    def __init__(self) -> None:
        self.opened = 5
        self.ended = Counter({EndReason.HANGUP: 2})
        self.sessions = 3
        self.draining = False

    def all_drops(self) -> Mapping[Drop, int]:
        return {Drop.REPLAY: 4}


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


def full_metrics() -> Metrics:
    registry = MemoryRegistry()
    metrics = Metrics(version="1.2.3")
    metrics.add_relay(relay_statistics)
    metrics.add_transceiver(Sessions())
    metrics.add_datagrams(
        lambda: DatagramStatistics(received=12, sent=11, drops={Drop.SEND_BLOCKED: 9})
    )
    metrics.add_registry(registry.statistics)
    metrics.add_directory(Directory(registry).statistics)
    metrics.add_http(Http())
    metrics.add_drops("socket", lambda: Counter({Drop.RECEIVE_ERROR: 1}))
    return metrics
