"""A registry that forgets everything now and then: still no index is ever used twice."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from edge.transceiver.mark import Mark
from tests.support.forgetful_world import ForgetfulWorld


async def run_worlds(seeds: range, steps: int = 1_200) -> Counter[str]:
    happened: Counter[str] = Counter()
    for seed in seeds:
        world = ForgetfulWorld(seed)
        await world.run(steps)
        happened += world.happened
    return happened


def test_a_registry_that_forgets_has_no_index_used_twice() -> None:
    happened = trio.run(run_worlds, range(16))
    for event in (
        *("emptied", "cut off", "written back", "taken over", "not taken over yet", "fenced"),
        *("stored", "unsure", "stopped at its reserve"),
    ):
        assert happened[event] > 0, f"nothing tested: {event}"


# Each part of the rule is needed: without it, the same worlds go wrong.


def test_who_relies_at_once_on_what_it_wrote_back_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Mark, "follows", lambda self, written_back: True)
    with pytest.raises(AssertionError, match="used twice"):
        trio.run(run_worlds, range(40))


def test_who_takes_over_from_a_registry_that_forgot_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.support.forgetful_world.is_settled", lambda held: True)
    with pytest.raises(AssertionError, match="used twice"):
        trio.run(run_worlds, range(20, 40))


def test_a_mark_that_is_claimed_too_soon_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.transceiver.mark.SETTLE_SECONDS", 0.0)
    with pytest.raises(AssertionError, match="used twice"):
        trio.run(run_worlds, range(40))
