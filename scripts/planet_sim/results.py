"""What came out: one row a call, and the figures of a whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Final

import msgspec

from planet_sim.calls import PlannedCall, Times
from planet_sim.phone import DENSE_SECONDS, Experience

PERCENTILES: Final = (50, 95, 99)
ALIVE_SECONDS: Final = 3.0
"""Who heard an echo so shortly before the end has survived."""


@dataclass(frozen=True, slots=True)
class Row:
    """One call. Times in seconds, NaN for what has not happened."""

    call: PlannedCall
    first_hop: float
    """One way, from the client to the relay that its session began with."""
    setup: float
    """From the POST until packets may flow."""
    region: str
    """Of the relay that answered first; empty when none did."""
    through_peer: bool
    """That relay belongs to another cluster than the session."""
    posted_late: bool
    """The call began after the outage."""
    running: bool
    """The call was connected when the outage came."""
    session_hit: bool
    """It ran, and its transceiver stood in the region that went dark."""
    relay_hit: bool
    """It ran, and only its relay stood there."""
    survived: bool
    """It ran, and was heard to the end."""
    hole: float
    """The longest hole since the outage of a call that ran; NaN for others."""


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds by nearest rank; null when there is no value."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Percentiles:
        """Take the percentiles of what is no NaN."""
        ordered = sorted(value for value in seconds if not isnan(value))
        if not ordered:
            return cls(None, None, None)
        ranks = (max(0, -(-len(ordered) * p // 100) - 1) for p in PERCENTILES)
        return cls(*(round(ordered[rank] * 1000, 1) for rank in ranks))


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment. Shares are of 1."""

    deployment: str
    calls: int
    connected: int
    connected_late_share: float
    """Of the calls that began after the outage."""
    through_peer_share: float
    """Of the connected calls: those whose relay belongs to another cluster than their session."""
    first_hop_ms: Percentiles
    setup_ms: Percentiles
    """Of calls that were connected before the outage came."""
    setup_late_ms: Percentiles
    """Of those that began after it."""
    through_peer_setup_ms: Percentiles
    """Of the calls of ``through_peer_share``."""
    running: int
    """Calls that were connected when the outage came."""
    survived_share: float
    hole_ms: Percentiles
    """The longest hole of each survivor."""
    session_hit: int
    """Of the running ones: those whose transceiver went dark."""
    session_hit_survived_share: float
    relay_hit: int
    """Those whose transceiver stayed and whose relay went dark."""
    relay_hit_survived_share: float
    relay_hit_hole_ms: Percentiles
    datagrams: int
    """What the network carried or lost."""
    drops: Mapping[str, int]
    """Of all relays."""


def make_row(
    call: PlannedCall,
    seen: Experience,
    times: Times,
    *,
    first_hop: float,
    region_of: Callable[[str], str],
    through_peer: bool,
    session_region: str,
    dark: str,
) -> Row:
    """Judge what a call has seen. ``region_of`` gives the region of a relay's host."""
    running = bool(seen.relay_at_outage)
    session_hit = running and session_region == dark
    relay_hit = running and not session_hit and region_of(seen.relay_at_outage) == dark
    # A frame that is missing alone is no hole: of unthinned media it would be 20 ms.
    hole = seen.longest_gap - DENSE_SECONDS if seen.longest_gap > 2.5 * DENSE_SECONDS else 0.0
    return Row(
        call=call,
        first_hop=first_hop,
        setup=seen.connected,
        region=region_of(seen.relay) if seen.relay else "",
        through_peer=through_peer,
        posted_late=call.start >= times.outage,
        running=running,
        session_hit=session_hit,
        relay_hit=relay_hit,
        survived=running and seen.last_echo >= times.end - ALIVE_SECONDS,
        hole=hole if running else nan,
    )


def summarize(
    deployment: str, rows: Sequence[Row], *, datagrams: int, drops: Mapping[str, int]
) -> Summary:
    """Sum up a run."""
    connected = [row for row in rows if not isnan(row.setup)]
    late = [row for row in rows if row.posted_late]
    running = [row for row in rows if row.running]
    through_peer = [row for row in connected if row.through_peer]
    session_hit = [row for row in running if row.session_hit]
    relay_hit = [row for row in running if row.relay_hit]
    return Summary(
        deployment=deployment,
        calls=len(rows),
        connected=len(connected),
        connected_late_share=_share(late, lambda row: not isnan(row.setup)),
        through_peer_share=_share(connected, lambda row: row.through_peer),
        through_peer_setup_ms=Percentiles.of(row.setup for row in through_peer if row.running),
        first_hop_ms=Percentiles.of(row.first_hop for row in rows),
        setup_ms=Percentiles.of(row.setup for row in running),
        setup_late_ms=Percentiles.of(row.setup for row in late),
        running=len(running),
        survived_share=_share(running, _has_survived),
        hole_ms=Percentiles.of(row.hole for row in running if row.survived),
        session_hit=len(session_hit),
        session_hit_survived_share=_share(session_hit, _has_survived),
        relay_hit=len(relay_hit),
        relay_hit_survived_share=_share(relay_hit, _has_survived),
        relay_hit_hole_ms=Percentiles.of(row.hole for row in relay_hit if row.survived),
        datagrams=datagrams,
        drops=drops,
    )


def _has_survived(row: Row) -> bool:
    return row.survived


def _share(rows: Sequence[Row], holds: Callable[[Row], bool]) -> float:
    return round(sum(map(holds, rows)) / len(rows), 4) if rows else nan


def table(summaries: Sequence[Summary]) -> str:
    """All deployments side by side, for a person."""
    lines = [f"{'':<44}" + "".join(f"{each.deployment:>24}" for each in summaries)]
    for label, show in _LINES:
        lines.append(f"{label:<44}" + "".join(f"{show(each):>24}" for each in summaries))
    return "\n".join(lines)


def _triple(percentiles: Percentiles) -> str:
    values = (percentiles.p50, percentiles.p95, percentiles.p99)
    return " / ".join("-" if value is None else f"{value:.0f}" for value in values)


def _percent(share: float) -> str:
    return "-" if isnan(share) else f"{share:.1%}"


_LINES: Final[tuple[tuple[str, Callable[[Summary], str]], ...]] = (
    ("calls", lambda s: str(s.calls)),
    ("first hop, ms p50 / p95 / p99", lambda s: _triple(s.first_hop_ms)),
    ("setup, ms p50 / p95 / p99", lambda s: _triple(s.setup_ms)),
    ("setup after the outage, ms", lambda s: _triple(s.setup_late_ms)),
    ("calls connected after the outage", lambda s: _percent(s.connected_late_share)),
    ("sessions in another cluster than their relay", lambda s: _percent(s.through_peer_share)),
    ("  setup of these, ms", lambda s: _triple(s.through_peer_setup_ms)),
    ("running when the outage came", lambda s: str(s.running)),
    ("  survived", lambda s: _percent(s.survived_share)),
    ("  longest hole of survivors, ms", lambda s: _triple(s.hole_ms)),
    ("running, transceiver went dark", lambda s: str(s.session_hit)),
    ("  survived", lambda s: _percent(s.session_hit_survived_share)),
    ("running, only the relay went dark", lambda s: str(s.relay_hit)),
    ("  survived", lambda s: _percent(s.relay_hit_survived_share)),
    ("  longest hole of survivors, ms", lambda s: _triple(s.relay_hit_hole_ms)),
)
