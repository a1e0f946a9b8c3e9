"""The metrics page: real names and values, and a table that tells the truth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.metrics import FAMILIES, HISTOGRAMS, SETUP_BUCKETS, Metrics
from tests.support.full_metrics import full_metrics, relay_statistics

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(edge_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", re.MULTILINE)


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[str]], float]:
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
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
        ("edge_sessions_opened_total", set(), 5),
        ("edge_sessions_ended_total", {"hangup"}, 2),
        ("edge_sessions_ended_total", {"internal_error"}, 0),
        ("edge_transceiver_draining", set(), 0),
        ("edge_transceiver_packets_total", {"sent"}, 11),
        ("edge_drops_total", {"relay", "bad_token"}, 8),
        ("edge_drops_total", {"transceiver", "replay"}, 4),
        ("edge_drops_total", {"socket", "send_blocked"}, 9),
        ("edge_registry_up", set(), 1),
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


def test_round_trips_fall_into_buckets() -> None:
    metrics = Metrics()
    metrics.observe_round_trip(0.04)
    read = samples(metrics)
    assert read["edge_round_trip_seconds_bucket", frozenset({"0.035"})] == 0
    assert read["edge_round_trip_seconds_bucket", frozenset({"0.05"})] == 1


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
    page = full_metrics().render().decode()
    typed = dict(re.findall(r"^# TYPE (edge_\w+) (\w+)$", page, re.MULTILINE))
    created = {name for name in typed if name.endswith("_created")}
    assert {typed.pop(name) for name in HISTOGRAMS} == {"histogram"}
    for name in created:
        del typed[name]
    assert typed == {name: family.kind for name, family in FAMILIES.items()}
