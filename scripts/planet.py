#!/usr/bin/env python3
"""What one region and what many regions are to callers all over the world, outage included.

Real relays, transceivers and callers on a virtual network and a virtual clock: see docs/planet.md.

    scripts/planet --sessions 2000 --json planet.json
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import click
import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planet_sim.calls import Times, plan_calls
from planet_sim.deployment import MANY_REGIONS, ONE_REGION
from planet_sim.results import table
from planet_sim.simulation import Outcome, simulate
from reporting import json_option, write_json

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "img" / "planet.png"


def compare(sessions: int, seed: int, outage: str) -> Sequence[Outcome]:
    """Make the same calls to both deployments, each in a process of its own."""
    times = Times()
    calls = plan_calls(sessions, seed=seed, times=times)
    run = partial(simulate, calls=calls, times=times, dark=outage, seed=seed)
    with ProcessPoolExecutor(2, initializer=be_quiet) as processes:
        return list(processes.map(run, (ONE_REGION, MANY_REGIONS)))


def be_quiet() -> None:
    """Log no session's end."""
    quiet = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=quiet)


@click.command()
@click.option("--sessions", default=2_000, show_default=True, help="Calls to each deployment.")
@click.option("--seed", default=1, show_default=True, help="Draws calls, losses and delays.")
@click.option(
    "--outage",
    default="us-east",
    show_default=True,
    type=click.Choice(MANY_REGIONS.regions),
    help="The region that goes dark.",
)
@json_option
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path),
    default=PICTURE,
    help="Draw them here.  [default: docs/img/planet.png]",
)
@click.option("--no-plot", is_flag=True, help="Draw nothing; then matplotlib is not needed.")
def main(
    sessions: int, seed: int, outage: str, json_file: Path | None, plot_file: Path, no_plot: bool
) -> None:
    """Compare one region with many."""
    if not no_plot and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("the plot needs matplotlib: pip install matplotlib, or --no-plot")
    outcomes = compare(sessions, seed, outage)
    summaries = [outcome.summary for outcome in outcomes]
    click.echo(f"{sessions} calls, seed {seed}, {outage} goes dark in the middle\n")
    click.echo(table(summaries))
    write_json(json_file, summaries)
    if not no_plot:
        from planet_sim.plot import draw

        plot_file.parent.mkdir(parents=True, exist_ok=True)
        draw(outcomes, plot_file)


if __name__ == "__main__":
    main()
