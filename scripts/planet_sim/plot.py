"""The picture: a map of each deployment with its first hops, and what callers felt as curves.

Coastlines are those of Natural Earth (1:110 million, public domain), rounded to half a degree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import asin, atan2, cos, degrees, isnan, radians, sin
from pathlib import Path
from statistics import median
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from edge.geo import Point
from planet_sim.cities import CITIES, City
from planet_sim.geography import REGIONS
from planet_sim.results import Row
from planet_sim.simulation import Outcome

LAND: Final = Path(__file__).with_name("land.json")
SEA, GROUND, GRID, INK = "#eef3f7", "#d5dbd6", "#dde5eb", "#22303c"
COLOURS: Final = ("#c8553d", "#2a6f97")
"""Of the deployments' curves."""
HOP_RANGE_MS: Final = (5.0, 200.0)
STEPS: Final = 40
"""Pieces of a great circle."""
LABELS: Final = {"eu-west": (-42, 7), "ap-sydney": (-50, -12), "ap-south": (-52, -4)}
"""Where names do not stand at the lower right, in points."""


def draw(outcomes: Sequence[Outcome], file: Path) -> None:
    """Draw two outcomes into a PNG."""
    figure = Figure(figsize=(15, 7.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 1, height_ratios=(1.15, 1))
    maps, curves = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    worlds = [maps.add_subplot(1, 2, column) for column in (1, 2)]
    for axes, outcome in zip(worlds, outcomes, strict=True):
        dots = _draw_map(axes, outcome)
    bar = maps.colorbar(dots, ax=worlds, shrink=0.8, pad=0.01, ticks=[5, 10, 20, 50, 100, 200])
    bar.ax.set_yticklabels(["5", "10", "20", "50", "100", "200"])
    bar.set_label("first hop, one way, ms (median of a city)")
    _draw_curves([curves.add_subplot(1, 3, column) for column in (1, 2, 3)], outcomes)
    figure.savefig(file, metadata={"Software": None})


# Maps.


def _draw_map(axes: Axes, outcome: Outcome) -> LineCollection:
    _draw_ground(axes)
    hops = _hops(outcome.rows)
    cities = [city for city in CITIES if city.name in hops]
    norm = LogNorm(*HOP_RANGE_MS)
    delays = [hops[city.name][1] for city in cities]
    lines, values = _first_hop_lines(cities, hops)
    ways = LineCollection(lines, array=values, norm=norm, cmap="plasma", lw=0.7, alpha=0.6)
    axes.add_collection(ways)
    axes.scatter(
        [city.point.longitude for city in cities],
        [city.point.latitude for city in cities],
        s=[6 + 2.2 * city.millions for city in cities],
        c=delays, norm=norm, cmap="plasma", edgecolors="white", linewidths=0.4, zorder=3,
    )  # fmt: skip
    _draw_regions(axes, outcome)
    axes.set_title(f"{outcome.deployment.name}: where calls enter", color=INK, fontsize=11)
    return ways


def _draw_ground(axes: Axes) -> None:
    axes.set(xlim=(-170, 180), ylim=(-56, 75), xticks=[], yticks=[], facecolor=SEA, aspect=1.25)
    for longitude in range(-150, 180, 30):
        axes.axvline(longitude, color=GRID, lw=0.6, zorder=0)
    for latitude in range(-30, 75, 30):
        axes.axhline(latitude, color=GRID, lw=0.6, zorder=0)
    rings = [
        [(x / 2, y / 2) for x, y in zip(ring[::2], ring[1::2], strict=True)]
        for ring in json.loads(LAND.read_text())
    ]
    axes.add_collection(PolyCollection(rings, facecolor=GROUND, edgecolor="none", zorder=0.5))


def _draw_regions(axes: Axes, outcome: Outcome) -> None:
    for name in outcome.deployment.regions:
        place, dark = REGIONS[name], name == outcome.dark
        axes.plot(
            place.longitude, place.latitude, marker="X" if dark else "*", zorder=4, lw=0,
            ms=11 if dark else 13, mfc="black" if dark else "#ffd60a", mec=INK, mew=0.8,
        )  # fmt: skip
        axes.annotate(
            f"{name} (goes dark)" if dark else name, (place.longitude, place.latitude),
            LABELS.get(name, (6, -11)), textcoords="offset points",
            fontsize=7.5, color=INK, zorder=5,
        )  # fmt: skip


def _hops(rows: Iterable[Row]) -> dict[str, tuple[list[str], float]]:
    """By city: the regions where its calls before the outage entered, and the median first hop."""
    by_city: dict[str, list[Row]] = {}
    for row in rows:
        if row.region and not row.posted_late:
            by_city.setdefault(row.call.city.name, []).append(row)
    return {
        city: (sorted({row.region for row in some}), median(row.first_hop for row in some) * 1000)
        for city, some in by_city.items()
    }


def _first_hop_lines(
    cities: Sequence[City], hops: dict[str, tuple[list[str], float]]
) -> tuple[list[list[tuple[float, float]]], list[float]]:
    lines, values = [], []
    for city in cities:
        regions, delay = hops[city.name]
        for region in regions:
            for piece in _great_circle(city.point, REGIONS[region]):
                lines.append(piece)
                values.append(delay)
    return lines, values


def _great_circle(a: Point, b: Point) -> list[list[tuple[float, float]]]:
    """The shortest way between two points, cut where it leaves the map's edge."""
    start, end = _vector(a), _vector(b)
    points = []
    for step in range(STEPS + 1):
        share = step / STEPS
        x, y, z = (p + (q - p) * share for p, q in zip(start, end, strict=True))
        points.append((degrees(atan2(y, x)), degrees(asin(z / (x * x + y * y + z * z) ** 0.5))))
    return [[p, q] for p, q in pairwise(points) if abs(p[0] - q[0]) < 180]


def _vector(point: Point) -> tuple[float, float, float]:
    latitude, longitude = radians(point.latitude), radians(point.longitude)
    return cos(latitude) * cos(longitude), cos(latitude) * sin(longitude), sin(latitude)


# Curves.


def _draw_curves(axes: Sequence[Axes], outcomes: Sequence[Outcome]) -> None:
    first_hop, setup, hole = axes
    for outcome, colour in zip(outcomes, COLOURS, strict=True):
        rows, name = outcome.rows, outcome.deployment.name
        early = [row for row in rows if not row.posted_late]
        _curve(first_hop, [row.first_hop * 1000 for row in early], len(early), name, colour)
        ran = [row for row in rows if row.running]
        _curve(setup, [row.setup * 1000 for row in ran], len(ran), name, colour)
        survived = [row.hole for row in ran if row.survived]
        label = f"{name}: {len(survived) / max(len(ran), 1):.0%} survive"
        _curve(hole, survived, len(ran), label, colour)
    _dress(first_hop, "First hop, client to relay", "ms, one way")
    _dress(setup, "Setup, POST to connected", "ms")
    _dress(hole, "Longest hole of calls that ran at the outage", "s")


def _curve(axes: Axes, values: Iterable[float], of: int, label: str, colour: str) -> None:
    """Draw the share of ``of`` calls that have at most a value; those without one never do."""
    ordered = sorted(value for value in values if not isnan(value))
    shares = [(index + 1) / of for index in range(len(ordered))]
    axes.step([0.0, *ordered], [0.0, *shares], where="post", color=colour, lw=2, label=label)


def _dress(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, color=INK, fontsize=11)
    axes.set(xlabel=unit, ylabel="share of calls", ylim=(0, 1.02))
    axes.set_xlim(left=0)
    axes.grid(color=GRID, lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
