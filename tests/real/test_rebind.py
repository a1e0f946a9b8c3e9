"""A client that changes its source port in mid-call: Wi-Fi to LTE, or a NAT that rebinds."""

import trio

from edge.client import open_load
from edge.client.caller import CHECK_SECONDS
from tests.support.edges import SERVE, wait_sessions
from tests.support.processes import edge

SLACK = 0.3


async def test_a_call_goes_on_from_a_new_port_and_the_old_one_hears_nothing_more() -> None:
    async with edge(*SERVE) as server, open_load() as load:
        call = await load.open_call(server.http)
        with trio.fail_after(5.0):
            await call.wait_received(25)
        moved_at, old_port, checks = call.sent, call.port, call.checks_answered
        call.rebind()
        assert call.port != old_port

        with trio.fail_after(CHECK_SECONDS + SLACK):
            while call.checks_answered == checks:
                await trio.sleep(0.01)
        await trio.sleep(SLACK)  # what was on its way to the old port may still land there
        stale, received = call.stale, call.received
        await trio.sleep(1.5)

        assert call.stale == stale
        assert call.received - received >= 70  # of 75
        statistics = call.statistics(since=moved_at)
        assert 0 < statistics.longest_hole <= CHECK_SECONDS + SLACK
        assert not call.closed
        await wait_sessions(server.http, 1)


async def test_a_call_may_move_many_times() -> None:
    async with edge(*SERVE) as server, open_load() as load:
        call = await load.open_call(server.http)
        for _ in range(3):
            checks = call.checks_answered
            call.rebind()
            with trio.fail_after(CHECK_SECONDS + SLACK):
                while call.checks_answered == checks:
                    await trio.sleep(0.01)
            received = call.received
            with trio.fail_after(2.0):
                await call.wait_received(received + 25)
        await wait_sessions(server.http, 1)


async def test_media_alone_from_a_new_port_moves_nothing() -> None:
    async with edge(*SERVE) as server, open_load() as load:
        call = await load.open_call(server.http)
        with trio.fail_after(5.0):
            await call.wait_received(10)
        call.stop_checks()
        call.rebind()
        await trio.sleep(0.1)  # echoes that were on their way
        received = call.received
        await trio.sleep(CHECK_SECONDS + SLACK)
        assert call.received == received
        assert not call.closed
