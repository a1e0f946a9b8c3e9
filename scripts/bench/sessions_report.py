"""What ``bench_sessions`` found: figures, a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

PACKETS_PER_SECOND: Final = 50

QUOTED: Final = {
    "Pion": {100: 66.0, 400: 36.0},
    "rtpengine": {100: 44.0, 400: 30.0},
    "Janus": {100: 73.0, 400: 48.0},
    "aiortc, raw packets": {100: 74.0},
    "aiortc, its own tracks": {100: 1_800.0},
}
"""Microseconds an echoed packet, measured elsewhere on such a machine (2 cores, VM)."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """So many echo sessions; CPU and memory are the transceiver's alone."""

    sessions: int
    packets_per_second: float
    """Of each session, each way."""
    packets: int
    """Echoed: one in and one out."""
    lost: int
    cpu_microseconds_per_packet: float
    cpu_percent: float
    added_p50_ms: float
    added_p99_ms: float
    kib_per_session: float
    relay_microseconds_per_packet: float
    load_cpu_percent: float
    others_cpu_percent: float
    """What the rest of the machine used, of one core."""

    @property
    def sessions_a_core(self) -> float:
        """How many sessions with 50 packets/s a core carries at this cost."""
        return 1e6 / (self.cpu_microseconds_per_packet * PACKETS_PER_SECOND)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is printed."""

    rows: list[Row]
    setups_a_second_a_core: float
    setup_p50_ms: float
    setup_p99_ms: float
    quoted: dict[str, dict[int, float]] = msgspec.field(default_factory=lambda: QUOTED)


def table(result: Result) -> str:
    """The result for a person."""
    lines = [
        f"{'sessions':>8}{'echoed/s':>10}{'CPU us':>9}{'sessions':>10}{'CPU':>6}"
        f"{'added delay ms':>17}{'KiB a':>9}{'lost':>7}{'relay':>8}{'load':>7}{'others':>8}",
        f"{'':>8}{'':>10}{'a packet':>9}{'a core':>10}{'%':>6}{'p50':>9}{'p99':>8}"
        f"{'session':>9}{'':>7}{'us':>8}{'CPU %':>7}{'CPU %':>8}",
    ]
    for row in result.rows:
        lines.append(
            f"{row.sessions:>8}{row.sessions * row.packets_per_second:>10.0f}"
            f"{row.cpu_microseconds_per_packet:>9.1f}{row.sessions_a_core:>10.0f}"
            f"{row.cpu_percent:>6.0f}{row.added_p50_ms:>9.2f}{row.added_p99_ms:>8.2f}"
            f"{row.kib_per_session:>9.0f}{row.lost:>7}{row.relay_microseconds_per_packet:>8.1f}"
            f"{row.load_cpu_percent:>7.0f}{row.others_cpu_percent:>8.0f}"
        )
    lines += [
        "",
        f"setups a second a core: {result.setups_a_second_a_core:.0f}"
        f" (p50 {result.setup_p50_ms:.1f} ms, p99 {result.setup_p99_ms:.1f} ms)",
        "",
        "quoted, measured elsewhere on such a machine; CPU us an echoed packet:",
    ]
    for name, figures in result.quoted.items():
        texts = (f"{value:,.0f} at {sessions}" for sessions, value in figures.items())
        lines.append(f"  {name:<24}{', '.join(texts)}")
    return "\n".join(lines)


def plot(results: dict[str, Sequence[Row]], file: Path) -> None:
    """Draw cost and delay by sessions, a line for each named run; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    figure, (cost, delay) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for name, rows in results.items():
        sessions = [row.sessions for row in rows]
        cost.plot(sessions, [r.cpu_microseconds_per_packet for r in rows], "o-", label=name)
        delay.plot(sessions, [r.added_p50_ms for r in rows], "o-", label=f"{name}, p50")
        delay.plot(sessions, [r.added_p99_ms for r in rows], "o--", label=f"{name}, p99")
    for name, figures in QUOTED.items():
        if max(figures.values()) < 100:
            cost.plot(
                list(figures), list(figures.values()), "x:", alpha=0.6, label=f"{name} (quoted)"
            )
    cost.set_ylabel("CPU µs an echoed packet")
    delay.set_ylabel("added delay, ms")
    for axes in (cost, delay):
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("echo sessions, 50 packets/s each way (1,000: 17)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
