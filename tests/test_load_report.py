"""The load test's report: what it adds up, and when it says that limits were missed."""

from math import nan
from pathlib import Path

import msgspec
import pytest

from edge import cli
from edge.client.journal import CallStatistics, Journal
from edge.client.load_report import Limits, LoadReport, percentiles, summarize, table


def call(
    lost: set[int], *, skipped: frozenset[int] = frozenset(), secured: float = 0.02
) -> CallStatistics:
    journal = Journal()
    journal.setup.answered, journal.setup.secured = 0.01, secured
    journal.trips.secured = 2
    for number in range(10):
        payload = journal.next_payload(number * 0.02)
        if number not in lost | skipped:
            journal.check_off(payload, number * 0.02 + 0.005)
    journal.note_report(9, lost=len(lost))
    return journal.statistics(now=100.0)


def report(*calls: CallStatistics, failed: dict[str, int] | None = None) -> LoadReport:
    return summarize(
        calls, sessions=9, failed=failed or {}, ended_early=0, seconds=1.0, send_errors=0
    )


def test_calls_add_up() -> None:
    found = report(call(set()), call({1, 2, 5}, secured=0.5))
    assert (found.sent, found.received, found.lost, found.holes) == (20, 17, 3, 2)
    assert found.loss_percent == pytest.approx(15.0)
    assert found.longest_hole_ms == pytest.approx(40.0)
    assert found.setup_ms == pytest.approx({"p50": 20.0, "p95": 500.0, "p99": 500.0, "max": 500.0})
    assert found.round_trip_ms["p50"] == pytest.approx(5.0)
    assert "3 lost (15.000 %)" in table(found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=LoadReport) == found


def test_what_an_echo_leaves_out_is_no_loss() -> None:
    found = report(call({1}, skipped=frozenset({5, 6})))
    assert (found.received, found.lost, found.skipped, found.holes) == (7, 1, 2, 2)
    assert found.loss_percent == pytest.approx(10.0)
    assert "1 lost (10.000 %), 2 left out by the echo" in table(found)


def test_steps_count_from_the_first_datagram_and_from_calls_that_reached_them() -> None:
    late = Journal()
    late.setup.answered, late.setup.checked, late.setup.secured = 0.01, 0.2, 0.51
    late.trips.checked, late.trips.secured = 1, 3
    found = report(call(set()), late.statistics(now=1.0), Journal().statistics(now=1.0))
    checked, secured = found.steps
    assert (checked.step, checked.round_trips["max"]) == ("check answered", 1)
    assert checked.ms == pytest.approx(dict.fromkeys(("p50", "p95", "p99", "max"), 190.0))
    assert (secured.round_trips["p50"], secured.round_trips["max"]) == (2, 3)
    assert (secured.ms["p50"], secured.ms["max"]) == pytest.approx((10.0, 500.0))
    assert "DTLS done, audio sent                2     3      10.0   500.0" in table(found)


def test_nothing_measured_is_no_percentile() -> None:
    found = report()
    assert (found.setup_ms, found.round_trip_ms, found.loss_percent) == ({}, {}, 0.0)
    assert "0 of 9 calls" in table(found)
    assert percentiles([nan, nan]) == {}


@pytest.mark.parametrize(
    ("limits", "missed"),
    [
        (Limits(max_loss_percent=20.0, max_setup_ms=None), 0),
        (Limits(max_loss_percent=1.0, max_setup_ms=None), 1),
        (Limits(max_loss_percent=20.0, max_setup_ms=400.0), 1),
        (Limits(max_loss_percent=1.0, max_setup_ms=400.0), 2),
        (Limits(max_loss_percent=20.0, max_setup_ms=600.0), 0),
    ],
)
def test_limits(limits: Limits, missed: int) -> None:
    assert len(limits.missed(report(call(set()), call({1, 2, 5}, secured=0.5)))) == missed


def test_a_call_that_failed_misses_every_limit() -> None:
    limits = Limits(max_loss_percent=100.0, max_setup_ms=None)
    found = report(call(set()), failed={"the server answered 503": 2})
    assert limits.missed(found) == ["2 calls failed: the server answered 503"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--http", "ftp://example.com"),
        ("--http", "http://"),
        ("--sessions", "0"),
        ("--ramp", "0"),
        ("--frame-ms", "30"),
        ("--api-key-file", "no/such/file"),
    ],
)
def test_bad_input_is_exit_code_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(["load-test", *arguments])
    assert error.value.code == 2
    assert capsys.readouterr().err.startswith("edge: ")


def test_an_empty_key_file_is_bad_input(tmp_path: Path) -> None:
    empty = tmp_path / "key"
    empty.write_text("\n")
    with pytest.raises(SystemExit) as error:
        cli.main(["load-test", "--api-key-file", str(empty)])
    assert error.value.code == 2
