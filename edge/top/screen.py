"""How a look at a fleet is shown: two tables and some lines, by rich.

Text of others, such as a region's name or an error, is shown as it is: never as markup, and with
control characters escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.logs import escape
from edge.top.figures import KERNEL_DROPS, Process, RelayRow, State, TransceiverRow
from edge.top.observer import Snapshot

UNKNOWN: Final = "-"
MAX_NAMES: Final = 5
"""Drops shown of one process."""
_STYLES: Final[Mapping[State, str]] = {
    "up": "green",
    "draining": "yellow",
    "registry away": "yellow",
    "no answer": "bold red",
    "no URL": "yellow",
    "gone": "dim",
}
_SIZES: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))

GAP: Final = 3
"""Between two columns."""

Cells = Sequence[str | Text]
R = TypeVar("R")
Columns = Mapping[str, Callable[[R], str | Text]]


def render(snapshot: Snapshot, *, width: int) -> RenderableType:
    """Make the whole picture, for a screen of ``width`` characters."""
    parts: list[RenderableType] = [_headline(snapshot)]
    if snapshot.relays:
        parts.append(_table("relays", _RELAY, snapshot.relays, width))
    if snapshot.transceivers:
        parts.append(_table("transceivers", _TRANSCEIVER, snapshot.transceivers, width))
    if not (snapshot.relays or snapshot.transceivers or snapshot.silent):
        parts.append(Text("no relay and no transceiver is registered", "yellow"))
    if snapshot.silent:
        lines = (f"{escape(each.url)}: {escape(each.reason)}" for each in snapshot.silent)
        parts += ["", Text("\n".join(lines), "red")]
    return Group(*parts)


def _headline(snapshot: Snapshot) -> Text:
    relays = [row for row in snapshot.relays if row.state == "up"]
    calls = sum(row.sessions or 0 for row in snapshot.transceivers)
    packets = sum((row.packets_in or 0) + (row.packets_out or 0) for row in relays)
    text = Text("edge top", "bold")
    text.append(f"  {snapshot.at[11:19]} UTC", "dim")
    text.append(f"   {_count(calls, 'session')}", "not bold")
    text.append(f"   {number(packets)} packets/s through relays", "not bold")
    if snapshot.registry != "not asked":
        style = "green" if snapshot.registry == "up" else "bold red"
        text.append("   registry ", "not bold").append(snapshot.registry, style)
    return text


def _table(title: str, columns: Columns[R], rows: Sequence[R], width: int) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    cells = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    shown = _fitting(cells, width)
    for name in shown:
        left = name in _LEFT
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in zip(*(cells[name] for name in shown), strict=True):
        table.add_row(*row)
    return Group("", Text(title, "bold"), table)


def _fitting(cells: Mapping[str, Cells], width: int) -> list[str]:
    """Leave out columns that have nothing to say, and then the least important ones."""
    widths = {
        name: max(_width(each) for each in (name, *column))
        for name, column in cells.items()
        if name not in _OPTIONAL or any(map(_is_known, column))
    }
    for name in _SPARE:
        if sum(widths.values()) + GAP * (len(widths) - 1) <= width:
            break
        widths.pop(name, None)
    return list(widths)


def _width(cell: str | Text) -> int:
    return max((cell_len(line) for line in str(cell).split("\n")), default=0)


def _is_known(cell: str | Text) -> bool:
    return str(cell) not in ("", UNKNOWN)


def number(value: float | None, unit: str = "") -> str:
    """Write a number in three digits, with k, M or G."""
    if value is None:
        return UNKNOWN
    for size, letter in _SIZES:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {letter}{unit}"
    digits = 0 if value >= 99.95 or value == int(value) else 1
    return f"{value:.{digits}f}{' ' + unit if unit else ''}"


def _pair(first: float | None, second: float | None, scale: float = 1.0) -> str:
    if first is None or second is None:
        return UNKNOWN
    return f"{number(first * scale)} / {number(second * scale)}"


def _count(number: float, noun: str) -> str:
    return f"{number:.0f} {noun}{'' if number == 1 else 's'}"


def _times(values: tuple[float, ...] | None) -> str:
    return " / ".join(f"{value * 1000:.0f}" for value in values) if values else UNKNOWN


def _state(state: State) -> Text:
    return Text(state, _STYLES[state])


def _place(row: RelayRow | TransceiverRow) -> Text:
    cluster = UNKNOWN if row.part.cluster is None else str(row.part.cluster)
    return Text(escape(f"{cluster} {row.part.region}".strip()))


def _by_name(rates: Mapping[str, float]) -> Text:
    """The highest first, one a line."""
    ordered = sorted(rates.items(), key=lambda item: -item[1])
    lines = [f"{escape(name)} {number(rate)}" for name, rate in ordered[:MAX_NAMES]]
    if len(ordered) > MAX_NAMES:
        lines.append(f"and {len(ordered) - MAX_NAMES} more")
    return Text("\n".join(lines))


def _drops(process: Process) -> Text:
    rates = process.drops_per_second
    return _by_name({name: rate for name, rate in rates.items() if name != KERNEL_DROPS})


def _kernel(process: Process) -> Text:
    rate = process.kernel_drops_per_second
    return Text(number(rate), "bold red") if rate else Text()


def _cpu(process: Process) -> str:
    return UNKNOWN if process.cpu_percent is None else f"{process.cpu_percent:.0f} %"


_LEFT: Final = frozenset({"relay", "slot", "cluster", "state", "drops/s", "ended/s"})
_OPTIONAL: Final = frozenset({"cluster", "RTT ms\np50 / p95", "kernel\ndrops/s", "ended/s"})
"""Left out where there is nothing to say."""
_SPARE: Final = (
    "memory", "not yet\nproven", "new/s", "cluster", "bit/s\nin / out", "packets\na wake",
    "ended/s", "RTT ms\np50 / p95", "CPU",
)  # fmt: skip
"""Left out, in this order, where the screen is narrow."""

_RELAY: Final[Columns[RelayRow]] = {
    "relay": lambda row: Text(escape(row.part.name)),
    "cluster": _place,
    "state": lambda row: _state(row.state),
    "flows": lambda row: number(row.flows),
    "not yet\nproven": lambda row: number(row.provisional_flows),
    "packets/s\nin / out": lambda row: _pair(row.packets_in, row.packets_out),
    "bit/s\nin / out": lambda row: _pair(row.bytes_in, row.bytes_out, 8),
    "packets\na wake": lambda row: number(row.packets_per_wake),
    "kernel\ndrops/s": lambda row: _kernel(row.process),
    "CPU": lambda row: _cpu(row.process),
    "memory": lambda row: number(row.process.memory_bytes, "B"),
    "drops/s": lambda row: _drops(row.process),
}
_TRANSCEIVER: Final[Columns[TransceiverRow]] = {
    "slot": lambda row: Text(escape(row.part.name)),
    "cluster": _place,
    "state": lambda row: _state(row.state),
    "sessions": lambda row: number(row.sessions),
    "new/s": lambda row: number(row.opened),
    "packets/s\nin / out": lambda row: _pair(row.packets_in, row.packets_out),
    "setup ms\np50 / p95": lambda row: _times(row.setup_seconds),
    "RTT ms\np50 / p95": lambda row: _times(row.round_trip_seconds),
    "kernel\ndrops/s": lambda row: _kernel(row.process),
    "CPU": lambda row: _cpu(row.process),
    "memory": lambda row: number(row.process.memory_bytes, "B"),
    "ended/s": lambda row: _by_name(row.ended),
    "drops/s": lambda row: _drops(row.process),
}
