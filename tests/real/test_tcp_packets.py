"""A forwarder's TCP side over loopback: who may stay, what is held for whom, and how it ends."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
import trio

from edge.datagram import bind_udp
from edge.errors import Drop
from edge.mmsg import to_endpoint
from edge.packets import KernelPacketSocket
from edge.tcp_connections import QUEUE_FRAMES, TcpLimits, TcpStatistics, bind_tcp
from edge.tcp_packets import MAX_STRANGERS, TcpPacketSocket
from edge.wire.framing import FrameReader, encode_frame

HELLO = b"let me in"


def admits(frame: bytes) -> Drop | None:
    return None if frame == HELLO else Drop.BAD_TOKEN


class Rig:
    """A TCP side on a clock that the test sets, and its clients."""

    def __init__(self, limits: TcpLimits, host: str) -> None:
        self.now = 0.0
        self.listener = bind_tcp((host, 0))
        self.packets = TcpPacketSocket(
            self.listener, admits=admits, limits=limits, clock=lambda: self.now
        )
        self.clients: list[socket.socket] = []

    def connect(self, *frames: bytes) -> socket.socket:
        """Connect and say something."""
        client = socket.create_connection(self.packets.address)
        self.clients.append(client)
        client.settimeout(2.0)
        client.sendall(b"".join(map(encode_frame, frames)))
        return client

    def take(self) -> list[bytes]:
        """Do what is to be done; returns the datagrams."""
        taken: list[bytes] = []
        for _ in range(8):
            taken += [data for data, _ in self.packets.receive()]
        return taken

    def send(self, client: socket.socket, *datagrams: bytes) -> list[int]:
        """Send to a client."""
        endpoint = to_endpoint(client.getsockname()[:2])
        return self.packets.send_all(datagrams, [endpoint] * len(datagrams))

    def known(self) -> Sequence[int]:
        """How many connections there are, and how many are strangers'."""
        statistics = self.packets.statistics()
        return statistics.connections, statistics.strangers


@contextmanager
def running(limits: TcpLimits = TcpLimits(), host: str = "127.0.0.1") -> Iterator[Rig]:  # noqa: B008
    rig = Rig(limits, host)
    try:
        yield rig
    finally:
        rig.packets.close()
        for client in rig.clients:
            client.close()


def is_closed(client: socket.socket) -> bool:
    """Whether the other side has closed without a word."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_frames_are_datagrams_both_ways(host: str) -> None:
    with running(host=host) as rig:
        client = rig.connect(HELLO, b"datagram")
        assert rig.take() == [HELLO, b"datagram"]
        assert rig.send(client, b"answer", b"and more") == []
        assert client.recv(100) == encode_frame(b"answer") + encode_frame(b"and more")
        assert rig.packets.statistics() == TcpStatistics(1, 0, 1)
        assert rig.packets.drops() == {}


async def test_one_wait_serves_connections_and_the_other_socket() -> None:
    with running() as rig, ExitStack() as stack:
        other = KernelPacketSocket(bind_udp(("127.0.0.1", 0)))
        stack.callback(other.close)
        with rig.packets.waits(other) as waits, trio.fail_after(2.0):
            client = rig.connect(HELLO)
            await waits.readable()
            assert rig.take() == [HELLO]
            with trio.move_on_after(0.05) as quiet:
                await waits.readable()
            assert quiet.cancelled_caught, "nothing is left to do"
            client.sendall(encode_frame(b"datagram"))
            await waits.readable()
            assert rig.take() == [b"datagram"]
            other.send_all([b"to itself"], [to_endpoint(other.address)])
            await waits.readable()
            assert [data for data, _ in other.receive()] == [b"to itself"]
            await waits.tick(0.001)


def test_the_first_frame_decides() -> None:
    with running() as rig:
        client = rig.connect(b"something else", HELLO)
        assert rig.take() == []
        assert is_closed(client)
        assert rig.packets.drops() == {Drop.BAD_TOKEN: 1}


def test_what_is_no_frame_ends_a_connection_that_was_let_in() -> None:
    with running() as rig:
        client = rig.connect(HELLO)
        assert rig.take() == [HELLO]
        client.sendall(b"\xff\xff")
        assert rig.take() == []
        assert is_closed(client)
        assert rig.packets.drops() == {Drop.MALFORMED: 1}


def test_nobody_stays_without_an_answer_or_for_ever() -> None:
    with running(TcpLimits(first_seconds=5.0, idle_seconds=60.0)) as rig:
        silent, waiting, served = rig.connect(), rig.connect(HELLO), rig.connect(HELLO)
        rig.take()
        rig.send(served, b"an answer")
        for rig.now in (4.0, 5.0):
            waiting.sendall(encode_frame(b"I am here"))  # what comes in keeps nothing
            rig.take()
            rig.packets.expire(now=rig.now)
        assert rig.known() == (1, 0)
        assert is_closed(silent)
        assert is_closed(waiting)
        rig.now = 59.0
        rig.send(served, b"another")
        rig.packets.expire(now=118.0)
        assert rig.known() == (1, 0)
        rig.packets.expire(now=119.0)
        assert rig.known() == (0, 0)


def test_one_address_has_only_so_many() -> None:
    with running(TcpLimits(per_address=2)) as rig:
        clients = [rig.connect(HELLO) for _ in range(3)]
        assert rig.take() == [HELLO] * 2
        assert is_closed(clients[2])
        assert rig.packets.drops() == {Drop.TABLE_FULL: 1}
        clients[0].close()
        rig.take()
        rig.connect(HELLO)
        assert rig.take() == [HELLO]


def test_the_oldest_stranger_gives_way_and_nobody_who_was_answered() -> None:
    with running(TcpLimits(connections=3)) as rig:
        served = [rig.connect(HELLO) for _ in range(2)]
        rig.take()
        for client in served:
            rig.send(client, b"an answer")
        old = rig.connect(HELLO)
        rig.take()
        young = rig.connect(HELLO)
        rig.take()
        assert is_closed(old)
        assert rig.known() == (3, 1)
        rig.send(young, b"an answer")
        late = rig.connect(HELLO)
        rig.take()
        assert is_closed(late)
        assert rig.known() == (3, 0)
        assert rig.packets.drops() == {Drop.TABLE_FULL: 2}


def test_strangers_are_few() -> None:
    with running(TcpLimits(per_address=MAX_STRANGERS + 9)) as rig:
        first = rig.connect()
        for _ in range(MAX_STRANGERS + 4):
            rig.connect()
            rig.take()
        assert rig.known() == (MAX_STRANGERS, MAX_STRANGERS)
        assert is_closed(first)


def test_a_client_that_does_not_read_loses_its_oldest_frames_and_delays_nobody() -> None:
    with running() as rig:
        deaf, client = rig.connect(HELLO), rig.connect(HELLO)
        assert rig.take() == [HELLO] * 2
        frames = [number.to_bytes(4, "big") * 250 for number in range(6_000)]
        unsent = [place for frame in frames for place in rig.send(deaf, frame)]
        dropped = rig.packets.drops()[Drop.QUEUE_FULL]
        assert len(unsent) == dropped > QUEUE_FRAMES
        rig.send(client, b"for you")
        assert client.recv(100) == encode_frame(b"for you")
        reader, read = FrameReader(), list[bytes]()
        while len(read) < len(frames) - dropped:
            read += reader.receive(deaf.recv(65_536))
            rig.take()
        assert [frame for frame in frames if frame in set(read)] == read, "in order, each whole"
        assert read[-QUEUE_FRAMES:] == frames[-QUEUE_FRAMES:]
        assert len(reader) == 0


def test_a_frame_that_nobody_could_read_is_not_sent() -> None:
    with running() as rig:
        client = rig.connect(HELLO)
        rig.take()
        assert rig.send(client, b"x" * 1_501, b"short enough") == [0]
        assert client.recv(100) == encode_frame(b"short enough")
        assert rig.packets.drops() == {Drop.SEND_ERROR: 1}


def test_whoever_is_gone_is_not_connected() -> None:
    with running() as rig:
        client = rig.connect(HELLO)
        rig.take()
        endpoint = to_endpoint(client.getsockname())
        client.close()
        rig.take()
        assert rig.known() == (0, 0)
        assert rig.packets.send_all([b"hello?"], [endpoint]) == [0]
        assert rig.packets.drops() == {Drop.NOT_CONNECTED: 1}


def test_without_descriptors_nobody_is_let_in_until_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running() as rig:
        client = rig.connect(HELLO)

        class Full:
            def accept(self) -> None:
                raise OSError(errno.EMFILE, "too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(rig.packets, "_listener", Full())
            assert rig.take() == []
        assert rig.packets.drops() == {Drop.RECEIVE_ERROR: 1}, "asked once, not in a loop"
        assert rig.take() == []
        rig.packets.expire(now=0.0)
        assert rig.take() == [HELLO]
        assert client.fileno() > 0
