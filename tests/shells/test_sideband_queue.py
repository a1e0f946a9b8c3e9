"""What waits for a sideband is bounded, in size and in time."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import trio
import trio.testing
from starlette.types import Message
from starlette.websockets import WebSocket

from edge.http.sideband import (
    EVENTS_PER_SECOND,
    GOODBYE_SECONDS,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_EVENTS,
    _Sideband,
)

Clock = trio.abc.Clock


class Client:
    """A WebSocket's other end, which takes messages only if it reads."""

    def __init__(self, *, reads: bool = True, says: Iterable[str] = ()) -> None:
        self.got: list[Message] = []
        self._reads = reads
        self._says = list(says)

    async def receive(self) -> Message:
        await trio.lowlevel.checkpoint()
        if self._says:
            return {"type": "websocket.receive", "text": self._says.pop(0)}
        await trio.sleep_forever()
        raise AssertionError

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if not self._reads:
            await trio.sleep_forever()
        self.got.append(message)


async def open_sideband(client: Client) -> _Sideband:
    async def receive() -> Message:
        if websocket.application_state.name == "CONNECTING":
            return {"type": "websocket.connect"}
        return await client.receive()

    async def send(message: Message) -> None:
        if message["type"] != "websocket.accept":
            await client.send(message)

    websocket = WebSocket({"type": "websocket", "headers": []}, receive, send)
    await websocket.accept()
    return _Sideband(websocket)


async def test_the_last_events_arrive_before_the_end(autojump_clock: Clock) -> None:
    client = Client()
    sideband = await open_sideband(client)
    for event in (b"a", b"b"):
        assert sideband.take(event)
    sideband.close()
    await sideband.run(lambda event: None)
    assert [message.get("text") for message in client.got] == ["a", "b", None]
    assert client.got[-1]["code"] == 1000
    assert trio.current_time() == 0.0


async def test_the_end_waits_for_no_reader(autojump_clock: Clock) -> None:
    sideband = await open_sideband(Client(reads=False))
    assert sideband.take(b"a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sideband.run, lambda event: None)
        await trio.sleep(60.0)  # while the call lasts it may wait
        assert nursery.child_tasks
        sideband.close()
    assert trio.current_time() == 60.0 + GOODBYE_SECONDS
    assert not sideband.is_slow


@pytest.mark.parametrize(
    ("event", "fit"),
    [(b"x" * 2_000, MAX_QUEUED_BYTES // 2_000), (b"x", MAX_QUEUED_EVENTS)],
)
async def test_over_its_bound_it_is_cut(autojump_clock: Clock, event: bytes, fit: int) -> None:
    sideband = await open_sideband(Client(reads=False))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sideband.run, lambda event: None)
        assert sum(sideband.take(event) for _ in range(fit)) == fit
        assert not sideband.is_slow
        assert not sideband.take(event)
        assert sideband.is_slow
    assert trio.current_time() == 0.0, "at once"
    assert not sideband.take(event)


async def test_who_says_much_is_slowed_down(autojump_clock: Clock) -> None:
    said: list[bytes] = []
    sideband = await open_sideband(Client(says=["{}"] * 1_000))
    with trio.move_on_after(0.5):
        await sideband.run(said.append)
    assert len(said) == pytest.approx(1.5 * EVENTS_PER_SECOND, abs=5)
