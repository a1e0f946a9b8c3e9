"""Every process of a fleet is replaced under live calls; ``scripts/rollout`` does it with 100."""

from __future__ import annotations

import pytest

from tests.support.processes import ROOT, child

SECONDS = 110.0
SLACK = "150"
"""Milliseconds; what a machine with other things to do adds to a hole."""


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_a_rolling_update_loses_no_call_and_no_packet() -> None:
    sizes = ("--calls", "10", "--transceivers", "2", "--relays", "1", "--slack", SLACK)
    async with child([str(ROOT / "scripts" / "rollout"), *sizes]) as script:
        code = await script.wait(seconds=SECONDS)
        printed = await script.stdout.wait_for(lambda text: False)
        assert code == 0, f"{printed}\n{script.stderr.text[-4000:]}"
