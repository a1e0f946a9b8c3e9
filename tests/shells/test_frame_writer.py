"""How the frames of many sessions are written to one transceiver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from edge.backends.frames.frame_writer import MAX_WAITING, WRITE_SECONDS, FrameWriter

Clock = trio.abc.Clock


class Line(trio.abc.SendStream):
    """Takes a piece when it is told to."""

    def __init__(self, *, closed: bool = False) -> None:
        self.pieces: list[bytes] = []
        self.reads = trio.Event()
        self._closed = closed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.reads.wait()
        if self._closed:
            raise trio.BrokenResourceError
        self.pieces.append(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError("nobody asks")

    async def aclose(self) -> None:
        raise AssertionError("whoever made it closes it")


@asynccontextmanager
async def writing(line: Line) -> AsyncIterator[tuple[FrameWriter, trio.Nursery]]:
    writer = FrameWriter(line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        yield writer, nursery
        nursery.cancel_scope.cancel()


async def fill(writer: FrameWriter) -> None:
    """Have one frame under way, and as much waiting as may."""
    await writer.send(b"first")
    await trio.testing.wait_all_tasks_blocked()
    await writer.send(bytes(MAX_WAITING))


async def test_what_comes_during_a_write_goes_as_one_piece(autojump_clock: Clock) -> None:
    line = Line()
    async with writing(line) as (writer, _):
        await writer.send(b"a")
        await trio.testing.wait_all_tasks_blocked()
        for frame in (b"b", b"c", b"d"):
            await writer.send(frame)
        line.reads.set()
        await trio.testing.wait_all_tasks_blocked()
        assert line.pieces == [b"a", b"bcd"]


async def test_who_waits_for_room_keeps_its_place(autojump_clock: Clock) -> None:
    line, begun = Line(), bytearray()
    async with writing(line) as (writer, nursery):
        await fill(writer)
        for number in range(20):
            frame = bytes([number])
            nursery.start_soon(writer.send, frame, lambda each=frame: begun.extend(each))
            await trio.testing.wait_all_tasks_blocked()
        assert not begun
        line.reads.set()
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join(line.pieces)[-20:] == begun == bytes(range(20))


async def test_nobody_waits_for_who_does_not_read(autojump_clock: Clock) -> None:
    async with writing(Line()) as (writer, _):
        await fill(writer)
        began = trio.current_time()
        await writer.send(b"late", before=_must_not_be_called)
        assert trio.current_time() - began == WRITE_SECONDS


async def test_to_give_up_ends_the_wait(autojump_clock: Clock) -> None:
    async with writing(Line()) as (writer, nursery):
        await fill(writer)
        nursery.start_soon(writer.send, b"late", _must_not_be_called)
        await trio.testing.wait_all_tasks_blocked()
        writer.give_up()
        with trio.fail_after(WRITE_SECONDS / 2):
            await writer.send(b"later", before=_must_not_be_called)
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 0


async def test_a_broken_connection_takes_nothing_more(autojump_clock: Clock) -> None:
    line = Line(closed=True)
    line.reads.set()
    async with writing(line) as (writer, nursery):
        await writer.send(b"a")
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 0
        await writer.send(b"b", before=_must_not_be_called)


def _must_not_be_called() -> None:
    raise AssertionError("it was written")
