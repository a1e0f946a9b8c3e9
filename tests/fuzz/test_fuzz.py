"""What the fuzz scripts do, for as long as CI can wait; by hand they run a million."""

from __future__ import annotations

import pytest

from tests.fuzz import fuzz_edge, fuzz_forwarder, fuzz_offload, fuzz_wire


@pytest.mark.timeout(300)
def test_mutants_harm_no_call_and_get_no_answer() -> None:
    result = fuzz_edge.run(200_000, seed=3)
    assert result.passed, result


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", fuzz_wire.DECODERS)
def test_every_mutant_is_a_value_or_a_remote_error(name: str) -> None:
    result = fuzz_wire.run(name, fuzz_wire.DECODERS[name], runs=20_000, seed=3)
    assert result.runs >= 20_000
    assert not result.crashes


@pytest.mark.timeout(300)
def test_both_forwarders_drop_or_forward_a_mutant_alike() -> None:
    results = [fuzz_forwarder.run(engine, 50_000, seed=3) for engine in ("native", "pure")]
    assert all(result.passed for result in results), results
    assert fuzz_forwarder.first_difference(*results) is None


@pytest.mark.timeout(300)
def test_no_mutant_is_heard_or_moves_a_stream_that_is_lent() -> None:
    result = fuzz_offload.run(50_000, seed=3)
    assert result.runs >= 50_000
    assert result.passed, result


@pytest.mark.timeout(300)
def test_the_offload_is_sound_under_the_sanitizers() -> None:
    assert fuzz_offload.sanitized(100_000, seed=3) == 0
