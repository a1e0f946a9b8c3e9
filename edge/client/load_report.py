"""What a load test found: figures for machines, a table for people, and limits to hold it to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from edge.client.journal import CallStatistics
from edge.client.load_steps import (
    PERCENTILES,
    Percentiles,
    SetupStep,
    by_percentile,
    percentile_name,
    setup_steps,
    steps_table,
)


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """One load test; times in milliseconds."""

    sessions: int
    """Calls that were asked for."""
    connected: int
    failed: dict[str, int]
    """Calls that never connected, by cause."""
    ended_early: int
    """Calls that the server has ended."""
    seconds: float
    """From the first offer to the last packet."""
    sent: int
    received: int
    """Different packets that came back."""
    lost: int
    """By the network, as far as is known."""
    loss_percent: float
    skipped: int
    """Packets that the echo left out, as it does under overload; see ``CallStatistics``."""
    duplicates: int
    reordered: int
    foreign: int
    """Echoes of what another call has said."""
    rejected: int
    """Datagrams that could not be read or authenticated."""
    send_errors: int
    holes: int
    """Runs of packets that did not come back, whatever became of them."""
    longest_hole_ms: float
    answer_ms: Percentiles
    """From the POST to the SDP answer."""
    setup_ms: Percentiles
    """From the POST to the end of the DTLS handshake."""
    first_echo_ms: Percentiles
    channel_ms: Percentiles
    """From the POST to an open data channel, where there is one."""
    round_trip_ms: Percentiles
    steps: tuple[SetupStep, ...] = ()
    """Of the setup, from a call's first datagram on."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a load test must keep to."""

    max_loss_percent: float
    max_setup_ms: float | None
    """For 95 % of the calls; None is no limit."""

    def missed(self, report: LoadReport) -> list[str]:
        """Say what was not kept, a sentence each."""
        found = [f"{count} calls failed: {cause}" for cause, count in report.failed.items()]
        if report.ended_early:
            found.append(f"{report.ended_early} calls were ended by the server")
        if report.loss_percent > self.max_loss_percent:
            found.append(f"loss {report.loss_percent:.3f} % is over {self.max_loss_percent:g} %")
        setup = report.setup_ms.get("p95", 0.0)
        if self.max_setup_ms is not None and setup > self.max_setup_ms:
            found.append(f"setup p95 {setup:.0f} ms is over {self.max_setup_ms:g} ms")
        return found


def summarize(
    calls: Sequence[CallStatistics],
    *,
    sessions: int,
    failed: Mapping[str, int],
    ended_early: int,
    seconds: float,
    send_errors: int,
) -> LoadReport:
    """Put the calls of a test together."""
    sent = sum(call.sent for call in calls)
    lost = sum(call.missing - call.skipped for call in calls)
    return LoadReport(
        sessions=sessions,
        connected=len(calls),
        failed=dict(failed),
        ended_early=ended_early,
        seconds=seconds,
        sent=sent,
        received=sum(call.received for call in calls),
        lost=lost,
        loss_percent=100 * lost / sent if sent else 0.0,
        skipped=sum(call.skipped for call in calls),
        duplicates=sum(call.duplicates for call in calls),
        reordered=sum(call.reordered for call in calls),
        foreign=sum(call.foreign for call in calls),
        rejected=sum(call.rejected for call in calls),
        send_errors=send_errors,
        holes=sum(call.holes for call in calls),
        longest_hole_ms=max((call.longest_hole for call in calls), default=0.0) * 1000,
        answer_ms=percentiles(call.setup.answered for call in calls),
        setup_ms=percentiles(call.setup.secured for call in calls),
        first_echo_ms=percentiles(call.setup.first_echo for call in calls),
        channel_ms=percentiles(call.setup.opened for call in calls),
        round_trip_ms=percentiles(trip for call in calls for trip in call.round_trips),
        steps=setup_steps(calls),
    )


def percentiles(seconds: Iterable[float]) -> Percentiles:
    """Nearest-rank percentiles; what has not happened (NaN) is left out."""
    return by_percentile([value * 1000 for value in seconds if value == value])


def table(report: LoadReport) -> str:
    """The report for a person."""
    rows = (
        ("SDP answer", report.answer_ms),
        ("setup (DTLS done)", report.setup_ms),
        *([("channel open", report.channel_ms)] if report.channel_ms else []),
        ("first echo", report.first_echo_ms),
        ("round trip", report.round_trip_ms),
    )
    names = [percentile_name(p) for p in PERCENTILES]
    lines = [
        f"{report.connected} of {report.sessions} calls, {report.seconds:.1f} s, "
        f"{report.ended_early} ended early",
        f"{report.sent} packets sent, {report.lost} lost ({report.loss_percent:.3f} %), "
        f"{report.skipped} left out by the echo, {report.duplicates} twice, "
        f"{report.reordered} out of order, {report.rejected} rejected",
        f"{report.holes} holes, the longest {report.longest_hole_ms:.0f} ms",
        "",
        f"{'ms':<18}" + "".join(f"{name:>10}" for name in names),
    ]
    for title, values in rows:
        figures = (f"{values[name]:>10.1f}" if values else f"{'-':>10}" for name in names)
        lines.append(f"{title:<18}" + "".join(figures))
    if report.steps:
        lines += ["", *steps_table(report.steps)]
    return "\n".join(lines)
