"""Asking a host whether anybody listens: ICMP of the real kernel, and what a view makes of it."""

import time

import pytest
import trio
import trio.testing

from edge.datagram import bind_udp
from edge.probe import PROBE_SECONDS, is_refused
from edge.registry.directory import REFUSED_SECONDS, Directory
from edge.registry.memory import MemoryRegistry
from edge.registry.protocol import TransceiverRecord


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_port_that_was_closed_refuses_and_an_open_one_does_not(host: str) -> None:
    sock = bind_udp((host, 0))
    address = sock.getsockname()[:2]
    started = time.perf_counter()
    assert not await is_refused(address)
    assert time.perf_counter() - started >= PROBE_SECONDS
    sock.close()
    assert await is_refused(address)


async def test_who_refuses_leaves_the_view_long_before_its_lease_is_over() -> None:
    registry = MemoryRegistry()
    slot = await registry.claim_slot()
    sock = bind_udp(("127.0.0.1", 0))
    await registry.put_transceiver(
        TransceiverRecord(slot=slot, cluster=0, address=sock.getsockname()[:2], http_url="")
    )
    directory = Directory(registry, is_refused=is_refused)
    await directory.refresh()
    assert await directory.lives(slot)
    sock.close()
    gone = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(directory.run)
        with directory.watch(lambda: None if directory.transceivers else gone.set()):
            directory.hint_gone()
            with trio.fail_after(1.0):
                await gone.wait()
        assert not await directory.lives(slot)
        await directory.refresh()
        assert directory.transceiver(slot) is None, "its record is still there, and does not count"
        nursery.cancel_scope.cancel()


async def test_who_listens_again_comes_back_by_itself(
    autojump_clock: trio.abc.Clock,
) -> None:
    refuses = True

    async def is_refused_now(address: object) -> bool:
        await trio.lowlevel.checkpoint()
        return refuses

    registry = MemoryRegistry(lease_seconds=60.0)
    slot = await registry.claim_slot()
    await registry.put_transceiver(
        TransceiverRecord(slot=slot, cluster=0, address=("127.0.0.1", 9), http_url="")
    )
    directory = Directory(registry, is_refused=is_refused_now)
    await directory.refresh()
    assert not await directory.lives(slot)
    refuses = False
    assert not await directory.lives(slot)
    await trio.sleep(REFUSED_SECONDS + 0.1)
    await directory.refresh()
    assert await directory.lives(slot)
