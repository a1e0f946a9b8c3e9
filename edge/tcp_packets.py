"""A forwarder's public side over TCP: ICE-TCP for networks without UDP (RFC 6544, passive).

``TcpPacketSocket`` is a ``PacketSocket`` whose datagrams are frames on connections that clients
open, so tokens, flows, limits and drops are those of UDP. To wait for it is to wait for its epoll,
which holds the listening socket and all connections. Nothing here ever waits for a client: what a
connection does not take now waits in a short queue, whose oldest frame goes first.

A connection is nobody's until it has said something: its first frame must be what ``admits`` lets
in, and it is closed if the answer to it does not come in time. From then on what is *sent* keeps
it, since the relay sends only what an authenticated transceiver says. Connections without an
answer are few, and the oldest gives way; those with one are never pushed out. Whoever is refused
gets no word.
"""

from __future__ import annotations

import errno
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol

import trio

from edge.address import Address
from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.mmsg import Endpoint, to_endpoint
from edge.packets import Waits
from edge.tcp_connections import Connection, TcpLimits, TcpStatistics, network_of
from edge.ticks import open_timer
from edge.wire.framing import encode_frame

READ_BYTES: Final = 2_048
"""What is taken of a connection at once: at most some 200 frames."""
READY: Final = 64
"""Connections that are looked at in one go."""
ACCEPTS: Final = 16
MAX_STRANGERS: Final = 256
"""Connections that no transceiver has answered yet; over it the oldest is closed."""
HOUSEKEEPING_SECONDS: Final = 0.5

_OUT_OF_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_BOTH: Final = select.EPOLLIN | select.EPOLLOUT

Admits = Callable[[bytes], Drop | None]
"""Looks at a connection's first frame; returns why it is refused."""


class Pollable(Protocol):
    """Whatever epoll can wait for."""

    def fileno(self) -> int:
        """Its descriptor."""


class TcpPacketSocket:
    """``PacketSocket`` over a listening, non-blocking TCP socket, which others close as well.

    ``clock`` is monotonic, in seconds.
    """

    unreachable = 0

    def __init__(
        self,
        listener: socket.socket,
        *,
        admits: Admits,
        limits: TcpLimits,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._listener = listener
        self._listening = listener.fileno()
        self._admits = admits
        self._limits = limits
        self._clock = clock
        self._epoll = select.epoll()
        self._epoll.register(listener, select.EPOLLIN)
        self._paused = False
        self._by_descriptor: dict[int, Connection] = {}
        self._by_endpoint: dict[bytes, Connection] = {}
        self._strangers: dict[bytes, Connection] = {}
        self._networks: Counter[str] = Counter()
        self._drops: Counter[Drop] = Counter()
        self._accepted = 0

    @property
    def address(self) -> Address:
        """The bound address."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    @contextmanager
    def waits(self, other: Pollable) -> Iterator[Waits]:
        """See ``PacketSocket``."""
        with select.epoll() as both, open_timer() as timer:
            both.register(self._epoll, select.EPOLLIN)
            both.register(other, select.EPOLLIN)

            async def tick(seconds: float) -> None:
                timer.set(seconds)
                await trio.lowlevel.wait_readable(timer)

            yield Waits(partial(trio.lowlevel.wait_readable, both.fileno()), tick)

    def fileno(self) -> int:
        """Its epoll's descriptor, readable while there is something to do."""
        return self._epoll.fileno()

    def watch_errors(self) -> None:
        """See ``PacketSocket``. A connection tells of its end anyway."""

    async def keep_house(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Close whoever is late or idle, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(HOUSEKEEPING_SECONDS)
            self.expire(now=self._clock())

    def expire(self, *, now: float) -> None:
        """Close what is past its time, and accept again where room was missing."""
        for connection in [each for each in self._by_endpoint.values() if each.deadline <= now]:
            self._close(connection)
        if self._paused:
            self._paused = False
            self._epoll.modify(self._listening, select.EPOLLIN)

    def statistics(self) -> TcpStatistics:
        """Return the counters."""
        return TcpStatistics(len(self._by_endpoint), len(self._strangers), self._accepted)

    def drops(self) -> Mapping[Drop, int]:
        """See ``PacketSocket``."""
        return self._drops.copy()

    def close(self) -> None:
        """Close all connections and the listening socket; may be repeated."""
        for connection in tuple(self._by_endpoint.values()):
            self._close(connection)
        self._epoll.close()
        self._listener.close()

    # What comes.

    def receive(self) -> list[tuple[bytes, Endpoint]]:
        """See ``PacketSocket``. A go serves each ready connection once, so none waits for another.

        That may be more than BATCH datagrams.
        """
        batch: list[tuple[bytes, Endpoint]] = []
        for descriptor, events in self._epoll.poll(0, READY):
            connection = self._by_descriptor.get(descriptor)
            if connection is None:
                if descriptor == self._listening:
                    self._accept()
                continue
            if events & select.EPOLLOUT:
                self._flush(connection)
            if events & ~select.EPOLLOUT and connection.endpoint in self._by_endpoint:
                batch += [(each, connection.endpoint) for each in self._read(connection)]
        return batch

    def _read(self, connection: Connection) -> list[bytes]:
        try:
            data = connection.socket.recv(READ_BYTES)
            frames = connection.reader.receive(data)
        except BlockingIOError:
            return []
        except OSError:  # a reset
            data, frames = b"", []
        except RemoteProtocolError as error:
            return self._refuse(connection, error.drop)
        if not data:
            self._close(connection)
        elif frames and not connection.admitted:
            if drop := self._admits(frames[0]):
                return self._refuse(connection, drop)
            connection.admitted = True
            connection.deadline = self._clock() + self._limits.first_seconds
        return frames

    def _refuse(self, connection: Connection, drop: Drop) -> list[bytes]:
        self._drops[drop] += 1
        self._close(connection)
        return []

    # What goes out.

    def send_all(self, datagrams: Sequence[bytes], endpoints: Sequence[bytes]) -> list[int]:
        """See ``PacketSocket``. A frame that has to wait counts as taken."""
        pairs = zip(datagrams, endpoints, strict=True)
        return [place for place, pair in enumerate(pairs) if not self._send(*pair)]

    def _send(self, datagram: bytes, endpoint: bytes) -> bool:
        connection = self._by_endpoint.get(endpoint)
        if connection is None:
            self._drops[Drop.NOT_CONNECTED] += 1
            return False
        self._strangers.pop(endpoint, None)
        connection.deadline = self._clock() + self._limits.idle_seconds
        try:
            kept = connection.queue.put(encode_frame(datagram))
        except LocalProtocolError:
            self._drops[Drop.SEND_ERROR] += 1
            return False
        if not kept:
            self._drops[Drop.QUEUE_FULL] += 1
        return (connection.blocked or self._flush(connection)) and kept

    def _flush(self, connection: Connection) -> bool:
        """Write what the kernel takes; False when the connection is gone."""
        queue = connection.queue
        try:
            queue.written(connection.socket.send(queue.waiting()))
        except BlockingIOError:
            pass
        except OSError:
            self._drops[Drop.SEND_ERROR] += len(queue)
            self._close(connection)
            return False
        if connection.blocked != bool(queue):
            connection.blocked = bool(queue)
            events = _BOTH if connection.blocked else select.EPOLLIN
            self._epoll.modify(connection.socket, events)
        return True

    # Who comes and goes.

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._drops[Drop.RECEIVE_ERROR] += 1
                if error.errno in _OUT_OF_ROOM:  # else we would be told of it without end
                    self._paused = True
                    self._epoll.modify(self._listening, 0)
                return
            try:
                self._enter(sock, address[:2])
            except OSError:  # it is gone already
                sock.close()

    def _enter(self, sock: socket.socket, address: Address) -> None:
        endpoint, network = to_endpoint(address), network_of(address[0])
        if self._is_full(network) or endpoint in self._by_endpoint:
            self._drops[Drop.TABLE_FULL] += 1
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._epoll.register(sock, select.EPOLLIN)
        deadline = self._clock() + self._limits.first_seconds
        connection = Connection(sock, endpoint, network, deadline)
        self._by_descriptor[sock.fileno()] = self._by_endpoint[endpoint] = connection
        self._strangers[endpoint] = connection
        self._networks[network] += 1
        self._accepted += 1

    def _is_full(self, network: str) -> bool:
        """Whether there is no room, not even by closing the oldest stranger."""
        if self._networks[network] >= self._limits.per_address:
            return True
        is_full = len(self._by_endpoint) >= self._limits.connections
        if self._strangers and (is_full or len(self._strangers) >= MAX_STRANGERS):
            self._refuse(next(iter(self._strangers.values())), Drop.TABLE_FULL)
            is_full = False
        return is_full

    def _close(self, connection: Connection) -> None:
        """Forget a connection; closing a socket takes it out of its epoll."""
        if self._by_endpoint.pop(connection.endpoint, None) is None:
            return
        self._strangers.pop(connection.endpoint, None)
        del self._by_descriptor[connection.socket.fileno()]
        self._networks[connection.network] -= 1
        if not self._networks[connection.network]:
            del self._networks[connection.network]
        connection.socket.close()
