"""A short run of the attack on a whole edge; ``tests.fuzz.fuzz_edge`` runs a million."""

from __future__ import annotations

from tests.fuzz import fuzz_edge


def test_mutants_harm_no_call_and_get_no_answer() -> None:
    result = fuzz_edge.run(10_000, seed=11)
    assert result.passed, result
