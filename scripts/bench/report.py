"""What the runs say: medians, ratios, targets, a table and a plot."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from bench.processes import Sample

REFERENCE: Final = "reference"
QUOTED_GO: Final = {20_000: 24_600 / 6_700, 100_000: 8_700 / 4_000}
"""Go's cost over C's, measured elsewhere on such a machine; for where there is no Go here."""
LEAST_OF_RATE: Final = 0.97
"""A run with less traffic than this part of what was asked for says nothing, and is left out."""
NAMES: Final = {
    REFERENCE: "C, batches",
    "one-by-one": "C, one by one",
    "go": "Go",
    "native": "Edge, native",
    "pure": "Edge, pure",
}
MANY: Final = 10_000
"""Flows from which on memory a flow can be told from what a forwarder needs anyhow."""
EDGE: Final = ("native", "pure")


class Run(msgspec.Struct, frozen=True):
    """One competitor driven once."""

    engine: str
    """Empty for a run without a forwarder."""
    rate: int
    flows: int
    repeat: int
    sample: Sample
    batch: float
    """Packets a wake; 0 when not known."""
    others_percent: float
    """Of one core, used meanwhile by the rest of the machine."""

    @property
    def as_asked(self) -> bool:
        """Whether the traffic kept its rate; other work on the machine may hold it back."""
        sent = self.sample.sent_in + self.sample.sent_out
        return sent >= LEAST_OF_RATE * self.rate * self.sample.seconds

    @property
    def forwarded(self) -> int:
        """Packets that arrived in the right place."""
        return self.sample.received_in + self.sample.received_out

    @property
    def cost_ns(self) -> float:
        """CPU time of the forwarder a packet, user and system."""
        return self.sample.cpu_ns / max(1, self.forwarded)


class Cell(msgspec.Struct, frozen=True):
    """A competitor at a rate with a number of flows: medians of its runs."""

    engine: str
    rate: int
    flows: int
    reached: float
    forwarded_in: int
    forwarded_out: int
    cost_ns: float
    ratio: float
    """To the reference, each run to the reference's of the same round; 0 without one."""
    batch: float
    loss_percent: float
    wrong: int
    added_p50_us: float
    added_p99_us: float
    bytes_per_flow: float


class Target(msgspec.Struct, frozen=True):
    """Something to be reached: at most ``limit``."""

    name: str
    value: float
    limit: float

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.value <= self.limit


class Result(msgspec.Struct, frozen=True):
    """Everything that is printed, and the runs that it comes from."""

    cells: list[Cell]
    targets: list[Target]
    direct_p50_us: dict[int, float]
    """By rate: the traffic's own delay, which is taken off."""
    others_percent: float
    left_out: int
    """Runs whose traffic did not keep its rate."""
    runs: list[Run]


def summarize(runs: Sequence[Run], memory: dict[tuple[str, int], float]) -> Result:
    """Make cells and targets of the runs; ``memory`` is bytes a flow by engine and flows."""
    everything, runs = runs, _usable(runs)
    forwarders = [run for run in runs if run.engine]
    rates = sorted({run.rate for run in runs})
    direct = {
        rate: median(r.sample.p50_ns for r in runs if not r.engine and r.rate == rate) / 1000
        for rate in rates
    }
    keys = dict.fromkeys((run.rate, run.flows, run.engine) for run in forwarders)
    cells = [
        _cell([r for r in forwarders if (r.rate, r.flows, r.engine) == key], forwarders, direct)
        for key in sorted(keys, key=lambda key: (key[0], key[1], list(NAMES).index(key[2])))
    ]
    cells = [
        msgspec.structs.replace(cell, bytes_per_flow=memory[cell.engine, cell.flows])
        for cell in cells
    ]
    others = median(run.others_percent for run in runs)
    left_out = len(everything) - len(runs)
    return Result(cells, list(targets(cells)), direct, others, left_out, list(everything))


def _usable(runs: Sequence[Run]) -> list[Run]:
    """The runs whose traffic kept its rate; where none of a kind did, all of that kind."""
    kinds = {(run.engine, run.rate, run.flows) for run in runs if run.as_asked}
    return [r for r in runs if r.as_asked or (r.engine, r.rate, r.flows) not in kinds]


def _cell(runs: Sequence[Run], everything: Sequence[Run], direct: dict[int, float]) -> Cell:
    first = runs[0]
    references = {
        run.repeat: run.cost_ns
        for run in everything
        if (run.engine, run.rate, run.flows) == (REFERENCE, first.rate, first.flows)
    }
    ratios = [run.cost_ns / references[run.repeat] for run in runs if run.repeat in references]
    sent = sum(run.sample.sent_in + run.sample.sent_out for run in runs)

    def middle(figure: Callable[[Run], float]) -> float:
        return median(map(figure, runs))

    return Cell(
        engine=first.engine,
        rate=first.rate,
        flows=first.flows,
        reached=middle(lambda run: run.forwarded / run.sample.seconds),
        forwarded_in=sum(run.sample.received_in for run in runs),
        forwarded_out=sum(run.sample.received_out for run in runs),
        cost_ns=middle(lambda run: run.cost_ns),
        ratio=median(ratios) if ratios else 0.0,
        batch=middle(lambda run: run.batch),
        loss_percent=100 * (1 - sum(run.forwarded for run in runs) / sent),
        wrong=sum(run.sample.wrong for run in runs),
        added_p50_us=middle(lambda run: run.sample.p50_ns / 1000) - direct[first.rate],
        added_p99_us=middle(lambda run: run.sample.p99_ns / 1000) - direct[first.rate],
        bytes_per_flow=0.0,
    )


def targets(cells: Sequence[Cell]) -> Iterable[Target]:
    """What of the goals can be judged by these cells."""
    few = min(cell.flows for cell in cells)
    by_key = {(cell.engine, cell.rate, cell.flows): cell for cell in cells}
    for cell in (cell for cell in cells if cell.engine in EDGE):
        where = f"at {cell.rate:,}/s"
        if cell.flows == few and cell.ratio and cell.rate in QUOTED_GO:
            yield from _cost_targets(cell, by_key.get(("go", cell.rate, few)), where)
        base = by_key.get((cell.engine, cell.rate, few))
        if cell.flows != few and base and cell.rate in QUOTED_GO:
            name = f"{cell.engine} with {cell.flows:,} flows over {few:,} {where}"
            yield Target(name, cell.cost_ns / base.cost_ns, 1.2)
        delay_limit = {1_000: 150.0, 100_000: 1_500.0}.get(cell.rate)
        if delay_limit:
            name = f"{cell.engine}, {cell.flows:,} flows: p99 of the added delay {where}, us"
            yield Target(name, cell.added_p99_us, delay_limit)
    for cell in {c.engine: c for c in cells if c.engine in EDGE and c.flows >= MANY}.values():
        yield Target(f"{cell.engine}: bytes a flow", cell.bytes_per_flow, 250.0)


def _cost_targets(cell: Cell, go: Cell | None, where: str) -> Iterable[Target]:
    if cell.engine == "pure":
        yield Target(f"pure over C {where}", cell.ratio, 1.6)
        return
    yield Target(f"native over C {where}", cell.ratio, 1.15)
    if go:
        yield Target(f"native over Go {where}", cell.cost_ns / go.cost_ns, 0.5)
    else:
        name = f"native over Go {where} (Go's cost over C's is quoted, not measured)"
        yield Target(name, cell.ratio / QUOTED_GO[cell.rate], 0.5)


def table(result: Result) -> str:
    """The result for a person."""
    head = (
        f"{'rate/s':>8} {'flows':>8}  {'engine':<14}{'reached/s':>10}{'in':>9}{'out':>9}"
        f"{'ns/packet':>11}{'x C':>6}{'batch':>7}{'loss %':>8}"
        f"{'p50 us':>8}{'p99 us':>8}{'B/flow':>8}"
    )
    lines = [head]
    for cell in result.cells:
        memory = f"{cell.bytes_per_flow:.0f}" if cell.flows >= MANY else "-"
        batch = f"{cell.batch:.1f}" if cell.batch else "-"
        ratio = f"{cell.ratio:.2f}" if cell.ratio else "-"
        lines.append(
            f"{cell.rate:>8,} {cell.flows:>8,}  {NAMES[cell.engine]:<14}{cell.reached:>10,.0f}"
            f"{cell.forwarded_in:>9,}{cell.forwarded_out:>9,}{cell.cost_ns:>11,.0f}{ratio:>6}"
            f"{batch:>7}{cell.loss_percent:>8.3f}{cell.added_p50_us:>8.0f}"
            f"{cell.added_p99_us:>8.0f}{memory:>8}"
        )
    delays = ", ".join(f"{us:.0f} us at {rate:,}/s" for rate, us in result.direct_p50_us.items())
    lines += [
        "",
        f"delays: less the direct path's median ({delays})",
        f"the rest of the machine used {result.others_percent:.0f} % of a core (median)",
    ]
    if result.left_out:
        lines.append(f"{result.left_out} runs are left out: the traffic did not keep its rate")
    if wrong := sum(cell.wrong for cell in result.cells):
        lines.append(f"{wrong} packets came to the wrong place")
    lines.append("")
    for target in result.targets:
        verdict = "reached" if target.reached else "MISSED "
        lines.append(f"{verdict}  {target.name}: {target.value:.2f} (at most {target.limit:g})")
    return "\n".join(lines)


def plot(result: Result, file: Path) -> None:
    """Draw cost and delay by rate. Raises ModuleNotFoundError without matplotlib."""
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, (cost, delay) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    few, many = (side(cell.flows for cell in result.cells) for side in (min, max))
    for engine, flows in dict.fromkeys((cell.engine, cell.flows) for cell in result.cells):
        line = [c for c in result.cells if (c.engine, c.flows) == (engine, flows)]
        style = {"color": f"C{list(NAMES).index(engine)}", "marker": "o"}
        style |= {"label": NAMES[engine]} if flows == few else {"linestyle": "--"}
        rates = [c.rate for c in line]
        cost.plot(rates, [c.cost_ns / 1000 for c in line], **style)
        delay.plot(rates, [c.added_p99_us for c in line], **style)
    for axes, title in (
        (cost, "CPU a forwarded packet, microseconds"),
        (delay, "added delay, 99th percentile, microseconds"),
    ):
        axes.set(xscale="log", yscale="log", xlabel="packets a second", title=title)
        axes.grid(visible=True, which="both", alpha=0.25)
    cost.legend(title=f"{few:,} flows; dashed: {many:,}")
    figure.savefig(file, dpi=130)
