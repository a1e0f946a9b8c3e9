"""Owners, heirs, delays and lost answers at random: no epoch and no index is ever used twice."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest
import trio

from edge.registry.memory import MemoryRegistry
from edge.transceiver.checkpoint_writer import CONSENT_SECONDS, CheckpointWriter
from edge.webrtc.reserve import RENEW_AFTER, Reserve
from tests.support.handover_world import World


async def run_worlds(seeds: range, steps: int, *, outages: bool = False) -> Counter[str]:
    happened: Counter[str] = Counter()
    for seed in seeds:
        world = World(MemoryRegistry(clock=lambda: 0.0).sessions, seed, outages=outages)
        await world.run(steps)
        happened += world.happened
    return happened


def test_no_epoch_and_no_index_is_used_twice_whatever_comes_between() -> None:
    happened = trio.run(run_worlds, range(40), 1_200)
    for event in (
        *("opened", "taken over", "taken over exactly", "stored", "fenced", "given up", "lost"),
        *("stopped", "stood still", "fenced by a store", "packets"),
    ):
        assert happened[event] > 0, f"nothing tested: {event}"


async def run_outages(seeds: range) -> Counter[str]:
    return await run_worlds(seeds, 1_200, outages=True)


def test_nor_where_the_registry_is_away_for_minutes_and_nobody_stops() -> None:
    happened = trio.run(run_outages, range(25))
    for event in (
        *("away for all", "away for one", "without consent", "too old", "beyond its reserve"),
        *("taken over", "fenced", "stood still"),
    ):
        assert happened[event] > 0, f"nothing tested: {event}"


# Each rule is needed: without it, the same worlds go wrong.


def test_a_registry_that_does_not_compare_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.registry.memory_sessions.grants", lambda *_, anew: True)
    with pytest.raises(AssertionError):
        trio.run(run_worlds, range(40), 1_200)


def test_a_zombie_that_stores_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.registry.memory_sessions.refusal", lambda held, claim: None)
    with pytest.raises(AssertionError):
        trio.run(run_worlds, range(40), 1_200)


def test_an_heir_that_skips_too_little_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.handover_world.HEIR_SKIPS", RENEW_AFTER)
    with pytest.raises(AssertionError, match="used twice"):
        trio.run(run_worlds, range(40), 1_200)


def test_an_heir_that_speaks_before_it_has_stored_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hasty(used: Reserve, *, now: float) -> CheckpointWriter:
        writer = CheckpointWriter(now=now)
        writer.change(now=now)
        return writer

    monkeypatch.setattr(CheckpointWriter, "for_heir", hasty)
    with pytest.raises(AssertionError, match="used twice"):
        trio.run(run_worlds, range(40), 1_200)


def test_an_heir_that_opens_what_is_too_old_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.handover_world.MAX_AGE", inf)
    with pytest.raises(AssertionError, match="used twice"):
        trio.run(run_outages, range(30, 40))


def test_an_owner_that_forgets_a_checkpoint_as_soon_as_it_opens_nowhere_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has opened it before may speak, and for a while nothing tells us: consent must end."""
    monkeypatch.setattr("edge.transceiver.checkpoint_writer.AGE_MARGIN", -CONSENT_SECONDS)
    with pytest.raises(AssertionError, match="used twice"):
        trio.run(run_outages, range(20, 40))
