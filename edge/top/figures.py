"""What ``edge top`` shows: one row a relay and a transceiver, as plain values.

None stands for what is not known: a process that does not answer, a rate after one page only.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from edge.errors import Drop
from edge.top.page import Change

State = Literal["up", "draining", "registry away", "no answer", "no URL", "gone"]

KERNEL_DROPS: Final = Drop.KERNEL_QUEUE.value
"""The drop that says that the kernel's receive queue was full."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A relay or a transceiver, before anybody has asked it."""

    kind: Literal["relay", "transceiver", "process"]
    """``process``: a URL that was given; what is in it, its page tells."""
    name: str
    """A relay's public address, a transceiver's slot, or the URL."""
    url: str = ""
    cluster: int | None = None
    region: str = ""
    address: str = ""
    """Where its datagrams go."""
    load: int | None = None
    """Flows or sessions, as the registry has them."""
    draining: bool = False


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """What the two kinds of rows share; of a process that runs both, both rows have it."""

    cpu_percent: float | None = None
    memory_bytes: float | None = None
    drops_per_second: dict[str, float] = {}
    kernel_drops_per_second: float | None = None


class RelayRow(msgspec.Struct, frozen=True, kw_only=True):
    """A relay; ``in`` is from clients, ``out`` is to clients."""

    part: Part
    state: State
    flows: float | None = None
    provisional_flows: float | None = None
    packets_in: float | None = None
    packets_out: float | None = None
    bytes_in: float | None = None
    bytes_out: float | None = None
    packets_per_wake: float | None = None
    process: Process = Process()


class TransceiverRow(msgspec.Struct, frozen=True, kw_only=True):
    """A transceiver; times are (median, 95th percentile) in seconds."""

    part: Part
    state: State
    sessions: float | None = None
    opened: float | None = None
    """Sessions a second."""
    ended: dict[str, float] = {}
    """Sessions a second, by why."""
    packets_in: float | None = None
    packets_out: float | None = None
    setup_seconds: tuple[float, ...] | None = None
    round_trip_seconds: tuple[float, ...] | None = None
    process: Process = Process()


def relay_row(part: Part, state: State, change: Change | None) -> RelayRow:
    """Fill a relay's row in."""
    if change is None:
        return RelayRow(part=part, state=state, flows=part.load)
    packets, octets = "edge_relay_packets_total", "edge_relay_bytes_total"
    return RelayRow(
        part=part,
        state=state,
        flows=change.new.value("edge_relay_flows", state="confirmed"),
        provisional_flows=change.new.value("edge_relay_flows", state="provisional"),
        packets_in=change.rate(packets, direction="to_transceiver"),
        packets_out=change.rate(packets, direction="to_client"),
        bytes_in=change.rate(octets, direction="to_transceiver"),
        bytes_out=change.rate(octets, direction="to_client"),
        packets_per_wake=_ratio(change.rate(packets), change.rate("edge_relay_wakes_total")),
        process=_process(change),
    )


def transceiver_row(
    part: Part, state: State, change: Change | None, minute: Change | None
) -> TransceiverRow:
    """Fill a transceiver's row in; percentiles are over ``minute``, a longer time.

    Where nothing was measured in it they are over all since the process started.
    """
    if change is None or minute is None:
        return TransceiverRow(part=part, state=state, sessions=part.load)
    packets = "edge_transceiver_packets_total"
    return TransceiverRow(
        part=part,
        state=state,
        sessions=change.new.value("edge_sessions"),
        opened=change.rate("edge_sessions_opened_total"),
        ended=change.rates("edge_sessions_ended_total", "reason"),
        packets_in=change.rate(packets, direction="received"),
        packets_out=change.rate(packets, direction="sent"),
        setup_seconds=_times(minute, "edge_setup_seconds"),
        round_trip_seconds=_times(minute, "edge_round_trip_seconds"),
        process=_process(change),
    )


def state_of(part: Part, change: Change) -> State:
    """Tell the state of a process that answers."""
    if part.draining or change.new.value("edge_transceiver_draining"):
        return "draining"
    return "registry away" if change.new.value("edge_registry_up") == 0 else "up"


def _process(change: Change) -> Process:
    cpu = change.rate("process_cpu_seconds_total")
    return Process(
        cpu_percent=None if cpu is None else cpu * 100,
        memory_bytes=change.new.value("process_resident_memory_bytes"),
        drops_per_second=change.rates("edge_drops_total", "reason"),
        kernel_drops_per_second=change.rate("edge_drops_total", reason=KERNEL_DROPS) or 0.0
        if change.seconds > 0
        else None,
    )


def _times(minute: Change, name: str) -> tuple[float, ...] | None:
    quantiles = 0.5, 0.95
    return minute.quantiles(name, *quantiles) or minute.since_start().quantiles(name, *quantiles)


def _ratio(number: float | None, of: float | None) -> float | None:
    return number / of if number is not None and of else None
