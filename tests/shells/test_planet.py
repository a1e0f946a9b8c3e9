"""The planet simulation in small: who enters where, and who outlives an outage."""

from __future__ import annotations

import sys
from math import isnan
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from planet_sim.calls import PlannedCall, Times, plan_calls
from planet_sim.cities import CITIES
from planet_sim.deployment import MANY_REGIONS, ONE_REGION, Deployment
from planet_sim.geography import REGIONS, WIRED, backbone, internet
from planet_sim.results import Percentiles, table
from planet_sim.simulation import Outcome, simulate

TIMES = Times(last_arrival=3.0, outage=2.5, end=9.0)
US = 0
"""Index of a cluster, as a call's home."""


def call(number: int, city: str, start: float = 0.1, *, home: int | None = None) -> PlannedCall:
    [place] = [each for each in CITIES if each.name == city]
    return PlannedCall(number, place, WIRED, start, home)


def run(deployment: Deployment, *calls: PlannedCall, dark: str) -> Outcome:
    return simulate(deployment, calls=calls, times=TIMES, dark=dark, seed=1)


def test_calls_enter_nearby_and_move_when_their_relay_goes_dark() -> None:
    outcome = run(
        MANY_REGIONS,
        call(1, "New York"),
        call(2, "Mumbai"),
        call(3, "Sydney", home=US),
        call(4, "Bengaluru", 3.0),
        dark="ap-south",
    )
    new_york, mumbai, sydney, late = outcome.rows
    assert [row.region for row in outcome.rows[:3]] == ["us-east", "ap-south", "ap-sydney"]
    assert [row.through_peer for row in outcome.rows] == [False, False, True, False]
    assert new_york.survived
    assert new_york.hole == 0.0
    assert mumbai.survived
    assert mumbai.relay_hit
    assert 2.0 < mumbai.hole < 4.0  # Chromium's 2.5 s and a few checks
    assert sydney.survived
    assert sydney.setup > 3 * new_york.setup
    assert late.region not in {"", "ap-south"}
    assert late.setup < 1.0
    assert "bug" not in outcome.summary.drops
    assert "ap-south" not in {row.region for row in outcome.rows[3:]}


def test_with_one_region_nobody_outlives_it() -> None:
    calls = call(1, "London"), call(2, "Tokyo", 3.0)
    outcome = run(ONE_REGION, *calls, dark="us-east")
    london, tokyo = outcome.rows
    assert london.session_hit
    assert not london.survived
    assert not london.relay_hit
    assert london.first_hop == pytest.approx(
        internet(london.call.city.point, WIRED, REGIONS["us-east"]).latency, rel=0.1
    )
    assert isnan(tokyo.setup)
    assert outcome.summary.survived_share == 0.0
    assert "0.0%" in table([outcome.summary])


def test_the_same_seed_gives_the_same_rows() -> None:
    calls = plan_calls(3, seed=7, times=TIMES)
    assert calls == plan_calls(3, seed=7, times=TIMES)
    assert calls != plan_calls(3, seed=8, times=TIMES)
    first, second = (run(MANY_REGIONS, *calls, dark="us-east").rows for _ in range(2))
    assert repr(first) == repr(second)  # NaN is not equal to itself


def test_the_internet_between_two_places_is_worse_than_our_lines() -> None:
    here, there = REGIONS["us-east"], REGIONS["ap-southeast"]
    public, ours = internet(here, WIRED, there), backbone(here, there)
    assert 0.100 < ours.latency < public.latency < 0.130
    assert ours.loss < public.loss < 0.02


def test_percentiles_are_nearest_ranks() -> None:
    seconds = [number / 1000 for number in range(1, 201)]
    assert Percentiles.of([*seconds, float("nan")]) == Percentiles(100.0, 190.0, 198.0)
    assert Percentiles.of([]) == Percentiles(None, None, None)
