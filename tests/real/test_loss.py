"""Bad networks between real processes: real Opus through a lossy proxy, and a backend of PCM."""

from __future__ import annotations

import pytest

from tests.support.loss_runs import RECOVERY_SECONDS, Row, Trouble, open_loss_scene

TROUBLES = (
    Trouble(name="20 % loss", seconds=2.0, loss=0.2),
    Trouble(name="20 % loss, RED", seconds=2.0, loss=0.2, red=True),
    Trouble(name="100 ms jitter", seconds=2.0, jitter=0.1),
    Trouble(name="stall of 200 ms", seconds=0.2, stalls=True),
    Trouble(name="blackout", seconds=2.0, loss=1.0),
)


@pytest.mark.alone
async def test_calls_survive_and_recover() -> None:
    async with open_loss_scene() as scene:
        rows = {trouble.name: await scene.suffer(trouble) for trouble in TROUBLES}
    for row in rows.values():
        print(row)
        check(row)
    loss, red = rows["20 % loss"], rows["20 % loss, RED"]
    assert loss.fec > 0.25 * loss.lost
    assert red.red > 0.5 * red.lost
    assert red.concealed_ms < loss.concealed_ms
    assert rows["stall of 200 ms"].delay_max_ms > 100
    assert rows["blackout"].concealed_ms > 1_900


def check(row: Row) -> None:
    """What holds in every trouble."""
    assert row.back_seconds <= 2.0
    assert row.back_seconds < RECOVERY_SECONDS
    assert 0.97 <= row.frames <= 1.03
    assert row.concealed_ms <= 20 * (row.lost - row.fec - row.red) + 250
    assert row.delay_max_ms <= 450
