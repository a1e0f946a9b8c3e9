"""The metrics page: real names and values, and a table that tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.backends.protocol import CallQuality
from edge.exposition import make_page
from edge.metric_names import FAMILIES, HISTOGRAMS, SETUP_BUCKETS
from edge.metrics import Metrics
from edge.transceiver.losses import LossTally
from tests.support.full_metrics import full_metrics, relay_statistics

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(edge_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", re.MULTILINE)


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[str]], float]:
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(make_page(metrics)().decode())
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("edge_build_info", {"1.2.3"}, 1),
        ("edge_relay_packets_total", {"to_transceiver"}, 10),
        ("edge_relay_bytes_total", {"to_client"}, 2000),
        ("edge_relay_wakes_total", set(), 6),
        ("edge_relay_flows", {"provisional"}, 2),
        ("edge_relay_flows", {"confirmed"}, 7),
        ("edge_sessions", set(), 3),
        ("edge_capacity", set(), 4),
        ("edge_load", set(), 0.75),
        ("edge_loop_lag_seconds", set(), 0),
        ("edge_sessions_opened_total", set(), 5),
        ("edge_sessions_ended_total", {"hangup"}, 2),
        ("edge_sessions_ended_total", {"internal_error"}, 0),
        ("edge_relay_tcp_connections", {"answered"}, 5),
        ("edge_relay_tcp_connections", {"waiting"}, 4),
        ("edge_relay_tcp_accepted_total", set(), 31),
        ("edge_gate_closed", set(), 1),
        ("edge_gate_closings_total", set(), 2),
        ("edge_gate_filters_total", set(), 14),
        ("edge_lost_packets_total", set(), 13),
        ("edge_concealed_seconds_total", set(), 0.26),
        ("edge_recovered_packets_total", {"red"}, 7),
        ("edge_recovered_packets_total", {"fec"}, 5),
        ("edge_nack_packets_total", {"asked"}, 11),
        ("edge_nack_packets_total", {"recovered"}, 9),
        ("edge_nack_packets_total", {"resent"}, 0),
        ("edge_channels", set(), 2),
        ("edge_channels_opened_total", set(), 8),
        ("edge_channel_messages_total", {"received"}, 15),
        ("edge_channel_messages_total", {"sent"}, 16),
        ("edge_channel_bytes_total", {"received"}, 1500),
        ("edge_channel_bytes_total", {"sent"}, 1600),
        ("edge_checkpoints_total", {"stored"}, 71),
        ("edge_checkpoints_total", {"failed"}, 2),
        ("edge_sessions_taken_over_total", set(), 3),
        ("edge_sessions_lost_total", set(), 1),
        ("edge_longest_delay_seconds", {"held"}, 0.08),
        ("edge_longest_delay_seconds", {"target"}, 0.06),
        ("edge_backend_up", set(), 1),
        ("edge_backend_sessions", set(), 3),
        ("edge_backend_connections_total", set(), 4),
        ("edge_backend_losses_total", set(), 1),
        ("edge_backend_failures_total", set(), 5),
        ("edge_drops_total", {"backend", "unknown_session"}, 6),
        ("edge_transceiver_draining", set(), 0),
        ("edge_transceiver_packets_total", {"sent"}, 11),
        ("edge_drops_total", {"relay", "bad_token"}, 8),
        ("edge_drops_total", {"transceiver", "replay"}, 4),
        ("edge_drops_total", {"socket", "send_blocked"}, 9),
        ("edge_registry_up", set(), 1),
        ("edge_registry_peers", set(), 0),
        ("edge_registry_peers_up", set(), 0),
        ("edge_directory_stale", set(), 0),
        ("edge_http_events_total", {"accepted"}, 6),
        ("edge_http_connections", set(), 1),
    ],
)
def test_a_scrape_reads_the_parts(name: str, labels: set[str], value: float) -> None:
    assert samples(full_metrics())[name, frozenset(labels)] == value


def test_parts_of_a_kind_add_up() -> None:
    metrics = full_metrics()
    metrics.add_relay(relay_statistics)
    read = samples(metrics)
    assert read["edge_relay_packets_total", frozenset({"to_client"})] == 40
    assert read["edge_drops_total", frozenset({"relay", "bad_token"})] == 16


def test_setup_times_fall_into_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.04, 0.04, 3.0):
        metrics.observe_setup(seconds)
    read = samples(metrics)
    assert read["edge_setup_seconds_count", frozenset()] == 3
    assert read["edge_setup_seconds_bucket", frozenset({"0.05"})] == 2
    assert read["edge_setup_seconds_bucket", frozenset({str(SETUP_BUCKETS[-1])})] == 3


def quality(**known: float) -> CallQuality:
    round_trip, remote_jitter = known.get("round_trip"), known.get("remote_jitter")
    return CallQuality(round_trip, 0.003, 2, 0.04, 0.06, remote_jitter, known.get("remote_lost"))


def test_a_report_falls_into_buckets() -> None:
    metrics = Metrics()
    metrics.observe_quality(quality(round_trip=0.04, remote_jitter=0.015, remote_lost=0.03))
    metrics.observe_quality(quality(round_trip=0.04))
    read = samples(metrics)
    assert read["edge_received_jitter_seconds_bucket", frozenset({"0.002"})] == 0
    assert read["edge_received_jitter_seconds_bucket", frozenset({"0.005"})] == 2
    assert read["edge_sent_jitter_seconds_bucket", frozenset({"0.01"})] == 0
    assert read["edge_sent_jitter_seconds_bucket", frozenset({"0.02"})] == 1
    assert read["edge_sent_loss_ratio_bucket", frozenset({"0.02"})] == 0
    assert read["edge_sent_loss_ratio_bucket", frozenset({"0.05"})] == 1
    assert read["edge_round_trip_seconds_bucket", frozenset({"0.035"})] == 0
    assert read["edge_round_trip_seconds_bucket", frozenset({"0.05"})] == 2


def test_losses_add_up_and_never_fall() -> None:
    tally = LossTally()
    ended = CallQuality(None, 0.0, 5, 0.1, 0.0, None, None, recovered_red=3, recovered_fec=1)
    tally.end(ended)
    both = tally.read([quality(), quality()])
    assert both.packets == 9
    assert both.concealed_seconds == pytest.approx(0.18)
    assert (both.recovered_red, both.recovered_fec) == (3, 1)
    again = tally.read([ended])
    assert (again.recovered_red, again.recovered_fec) == (6, 2)
    assert tally.read([]) == again
    tally.end(CallQuality(None, 0.0, -3, 0.0, 0.0, None, None))  # two came twice
    assert tally.read([quality(), quality(), quality()]).packets == 11


def test_two_processes_worth_of_metrics_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    one.observe_setup(1.0)
    assert samples(other)["edge_setup_seconds_count", frozenset()] == 0
    assert ("process_resident_memory_bytes", frozenset[str]()) in samples(other)


def test_the_document_lists_every_metric_as_it_is() -> None:
    table = {
        name: (kind, labels, text) for name, kind, labels, text in ROW.findall(DOCUMENT.read_text())
    }
    for name, (text, _) in HISTOGRAMS.items():
        assert table.pop(name) == ("histogram", "", text)
    assert table == {
        name: (family.kind, ", ".join(f"`{label}`" for label in family.labels), family.help)
        for name, family in FAMILIES.items()
    }


def test_every_listed_metric_is_real() -> None:
    page = make_page(full_metrics())().decode()
    typed = dict(re.findall(r"^# TYPE (edge_\w+) (\w+)$", page, re.MULTILINE))
    created = {name for name in typed if name.endswith("_created")}
    assert {typed.pop(name) for name in HISTOGRAMS} == {"histogram"}
    for name in created:
        del typed[name]
    assert typed == {name: family.kind for name, family in FAMILIES.items()}
