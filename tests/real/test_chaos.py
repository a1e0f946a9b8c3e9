"""Each fault once, with its budget of the design; ``scripts/chaos`` does each twenty times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import ROOT, child

SECONDS = 110.0
SLACK = "150"
"""Milliseconds; what a machine with other things to do adds to a hole."""
QUICK = ("worker", "moves", "drain", "backend-resets")
"""One of each kind of cure; the others take longer and are alike."""


async def run(*arguments: str) -> None:
    """Run the script; its table is the reason that pytest shows when a verdict is FAIL."""
    async with child([str(ROOT / "scripts" / "chaos"), *arguments]) as script:
        code = await script.wait(seconds=SECONDS)
        printed = await script.stdout.wait_for(lambda text: False)
        assert code == 0, f"{printed}\n{script.stderr.text[-4000:]}"


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_every_kind_of_fault_is_within_its_budget() -> None:
    await run(
        "--runs", "1", "--slack", SLACK, *(word for name in QUICK for word in ("--only", name))
    )


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_calls_outlive_a_row_of_kills_and_leave_nothing(tmp_path: Path) -> None:
    await run("--soak", "8", "--calls", "4", "--json", str(tmp_path / "soak.json"))
    assert b'"kills"' in (tmp_path / "soak.json").read_bytes()
