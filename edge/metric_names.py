"""Every metric that a process may tell of, but for those of the process itself: docs/metrics.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

SETUP_BUCKETS: Final = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
"""Seconds; fine around the target of 30 to 45 ms, and up to the setup time-out."""
ROUND_TRIP_BUCKETS: Final = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 5.0)
"""Seconds; a region is 10 to 50 ms wide, an ocean 100; beyond 300 people interrupt each other."""
JITTER_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
"""Seconds; a frame is 20 ms, and a jitter buffer of 200 ms is a conversation's limit."""
LOSS_BUCKETS: Final = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""A part; concealment and FEC hide some 5 %, beyond 20 % words are missing."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its kind, its labels, and a sentence."""

    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


FAMILIES: Final[Mapping[str, Family]] = {
    "edge_build_info": Family("gauge", "Always 1; the version is the label.", ("version",)),
    "edge_relay_worker_restarts_total": Family(
        "counter", "Workers of `edge relay` that died and were replaced."
    ),
    "edge_relay_packets_total": Family("counter", "Datagrams forwarded.", ("direction",)),
    "edge_relay_bytes_total": Family("counter", "Bytes of datagrams forwarded.", ("direction",)),
    "edge_relay_wakes_total": Family("counter", "Wakes of the forwarder that found something."),
    "edge_relay_flows": Family("gauge", "Flows in the table.", ("state",)),
    "edge_relay_waiting_lookups": Family("gauge", "Sources being looked up in the registry."),
    "edge_relay_tcp_connections": Family("gauge", "TCP connections of clients.", ("state",)),
    "edge_relay_tcp_accepted_total": Family("counter", "TCP connections that were taken."),
    "edge_gate_closed": Family("gauge", "1 while a filter holds strangers off."),
    "edge_gate_closings_total": Family("counter", "Floods that made a relay close its gate."),
    "edge_gate_filters_total": Family("counter", "Filters made for a gate that is closed."),
    "edge_sessions": Family("gauge", "Sessions that are open."),
    "edge_capacity": Family("gauge", "Sessions that it takes in all; 0 while it drains."),
    "edge_load": Family("gauge", "How much of what it takes is in use; at 1 calls are refused."),
    "edge_loop_lag_seconds": Family("gauge", "How late the loop runs, a mean over some 2 s."),
    "edge_sessions_opened_total": Family("counter", "Sessions opened."),
    "edge_sessions_ended_total": Family("counter", "Sessions ended, by why.", ("reason",)),
    "edge_sessions_taken_over_total": Family(
        "counter", "Sessions that came here from another transceiver."
    ),
    "edge_sessions_lost_total": Family(
        "counter", "Sessions without an owner that could not be restored."
    ),
    "edge_checkpoints_total": Family("counter", "Checkpoints of sessions, by result.", ("result",)),
    "edge_lost_packets_total": Family("counter", "Packets of clients' audio that never came."),
    "edge_concealed_seconds_total": Family("counter", "Audio made up in the place of lost audio."),
    "edge_recovered_packets_total": Family(
        "counter", "Those of them whose audio came in another packet.", ("by",)
    ),
    "edge_nack_packets_total": Family(
        "counter", "Packets asked for again, and what became of that.", ("event",)
    ),
    "edge_longest_delay_seconds": Family(
        "gauge", "What the jitter buffer that holds back the most holds, and its target.", ("kind",)
    ),
    "edge_channels": Family("gauge", "Data channels of clients that are open."),
    "edge_channels_opened_total": Family("counter", "Data channels opened."),
    "edge_channel_messages_total": Family("counter", "Messages on data channels.", ("direction",)),
    "edge_channel_bytes_total": Family("counter", "Bytes of those messages.", ("direction",)),
    "edge_transceiver_draining": Family("gauge", "1 while it takes no new sessions."),
    "edge_transceiver_packets_total": Family(
        "counter", "Datagrams exchanged with relays.", ("direction",)
    ),
    "edge_backend_up": Family("gauge", "1 while there is a connection that takes sessions."),
    "edge_backend_sessions": Family("gauge", "Sessions that are open at the backend."),
    "edge_backend_connections_total": Family("counter", "Connections made to the backend."),
    "edge_backend_losses_total": Family("counter", "Connections to the backend that broke."),
    "edge_backend_failures_total": Family("counter", "Attempts to connect that failed."),
    "edge_drops_total": Family(
        "counter", "Datagrams, frames or records discarded, by why.", ("part", "reason")
    ),
    "edge_registry_up": Family("gauge", "1 if the registry answered the last time."),
    "edge_registry_operations_total": Family("counter", "Registry commands answered."),
    "edge_registry_failures_total": Family("counter", "Registry round trips that failed."),
    "edge_registry_waiting_writes": Family("gauge", "Flow writes not answered yet."),
    "edge_registry_peers": Family("gauge", "Other clusters' registries that are read."),
    "edge_registry_peers_up": Family("gauge", "Those of them that answered the last time."),
    "edge_directory_transceivers": Family("gauge", "Transceivers known to be alive."),
    "edge_directory_relays": Family("gauge", "Relays known to be alive."),
    "edge_directory_stale": Family("gauge", "1 while the view of the fleet is an old one."),
    "edge_http_connections": Family("gauge", "HTTP connections that are open."),
    "edge_http_events_total": Family("counter", "What happened to HTTP connections.", ("event",)),
    "edge_http_refusals_total": Family("counter", "Requests refused, by why.", ("cause",)),
}
"""Every metric that is read at a scrape; process metrics come on top."""

HISTOGRAMS: Final[Mapping[str, tuple[str, tuple[float, ...]]]] = {
    "edge_setup_seconds": ("From the offer to a connected session.", SETUP_BUCKETS),
    "edge_round_trip_seconds": (
        "From us to a client and back, as its reports tell.",
        ROUND_TRIP_BUCKETS,
    ),
    "edge_received_jitter_seconds": (
        "Jitter of what a client sends, as it comes in; noted with each round trip.",
        JITTER_BUCKETS,
    ),
    "edge_sent_jitter_seconds": (
        "Jitter of what we send, as a client's reports tell.",
        JITTER_BUCKETS,
    ),
    "edge_sent_loss_ratio": (
        "Part of what we sent that was lost between two reports of a client, 0 to 1.",
        LOSS_BUCKETS,
    ),
}
"""What is pushed: a sentence and the buckets."""
