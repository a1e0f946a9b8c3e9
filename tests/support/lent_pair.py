"""Two peers from one snapshot, one of which lends to a real ``Plane``: what both do must be equal.

The lent one is served as ``transceiver.dispatch`` serves a session, over loopback sockets.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Final

from msgspec.structs import replace

from edge.address import Address
from edge.datagram import bind_udp
from edge.mmsg import ENDPOINT_BYTES, PACKET_BYTES, Endpoint, to_endpoint
from edge.offload._native import Plane, Stream
from edge.webrtc.outputs import AudioReceived, PeerOutput, Transmit
from edge.webrtc.peer import Peer, PeerSnapshot
from edge.wire.demux import is_rtp
from edge.wire.spp import HEADER_BYTES, split
from tests.support.lending import PATH, restore

LOOPBACK: Final[Address] = "127.0.0.1", 0
Heard = tuple[bytes, int, int]
"""Payload, index, timestamp."""


def drain(sock: socket.socket) -> list[bytes]:
    """What has come to a socket."""
    taken = []
    while True:
        try:
            taken.append(sock.recv(65_536))
        except BlockingIOError:
            return taken


def received(datagram: bytes, peer: Peer, now: float) -> list[PeerOutput]:
    """What a session does with a datagram."""
    if is_rtp(datagram):
        audio = peer.receive_rtp(datagram, PATH, now=now)
        return [] if audio is None else [audio]
    return peer.receive(datagram, PATH, now=now)


class PurePeer:
    """The measure."""

    def __init__(self, snapshot: PeerSnapshot) -> None:
        self.peer = restore(snapshot)
        self.heard: list[Heard] = []
        self.sent: list[bytes] = []

    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        for datagram in datagrams:
            self.follow(received(datagram, self.peer, now))

    def send(self, payload: bytes, timestamp: int, marker: bool, now: float) -> None:
        output = self.peer.send_audio(payload, timestamp=timestamp, marker=marker, now=now)
        self.follow([] if output is None else [output])

    def tick(self, now: float) -> None:
        self.follow(self.peer.tick(now=now))

    def follow(self, outputs: Sequence[PeerOutput]) -> None:
        for output in outputs:
            match output:
                case AudioReceived(payload, sequence, timestamp):
                    self.heard.append((payload, sequence, timestamp))
                case Transmit(_, data):
                    self.transmit(data)

    def transmit(self, data: bytes) -> None:
        self.sent.append(data)

    def state(self, now: float) -> PeerSnapshot:
        """All state, but for the budget of paths: a proven one has none."""
        snapshot = self.peer.snapshot(now=now)
        paths = tuple((path, replace(state, budget=0)) for path, state in snapshot.ice.paths)
        return replace(snapshot, ice=replace(snapshot.ice, paths=paths))


class LentPeer(PurePeer):
    """A peer whose media goes through a ``Plane`` where it may."""

    def __init__(self, snapshot: PeerSnapshot, relay: socket.socket, plane: Plane) -> None:
        super().__init__(snapshot)
        keys = self.peer.rtp_keys()
        assert keys is not None
        self.opened = self.sealed = 0
        self.plane = plane
        self.stream: Stream = plane.stream(self._hear, keys.receive, keys.send)
        self.relay = relay
        self.endpoint: Endpoint = to_endpoint(relay.getsockname()[:2])

    def _hear(self, payload: bytes, index: int, timestamp: int, now: float) -> None:
        self.heard.append((payload, index, timestamp))
        self.opened += 1

    def lend(self) -> None:
        self.peer.lend(self.stream, PATH, self.endpoint, sends=True)

    def receive(self, datagrams: Sequence[bytes], now: float) -> None:
        for datagram in datagrams:
            self.relay.send(PATH + datagram)
        rest, opened, taken, too_long = self.plane.receive(now)
        assert (taken, too_long) == (len(datagrams), 0)
        for hear, payload, index, timestamp in opened:
            hear(payload, index, timestamp, now)
        for framed, _ in rest:
            super().receive([split(framed)[1]], now)
            self.lend()

    def send(self, payload: bytes, timestamp: int, marker: bool, now: float) -> None:
        if self.stream.send(payload, timestamp, marker, now):
            self.sealed += 1
        else:
            super().send(payload, timestamp, marker, now)

    def transmit(self, data: bytes) -> None:
        self.collect()
        if len(PATH) + len(data) > PACKET_BYTES:  # a ``MediaSocket`` sends such a one by itself
            self.sent.append(data)
        else:
            self.plane.put(PATH, data, self.endpoint)

    def collect(self) -> None:
        """Take what has come to the relay."""
        for framed in drain(self.relay):
            assert framed[:HEADER_BYTES] == PATH
            self.sent.append(framed[HEADER_BYTES:])


@contextmanager
def open_plane(host: str = LOOPBACK[0]) -> Iterator[tuple[Plane, socket.socket]]:
    """A plane, and a relay's socket that is connected to it."""
    with closing(bind_udp((host, 0))) as sock, closing(bind_udp((host, 0))) as relay:
        relay.connect(sock.getsockname())
        plane = Plane(sock.fileno(), ENDPOINT_BYTES[sock.family], 0xE0_E0_E0_E0_E0)
        yield plane, relay
        plane.close()


@contextmanager
def open_pair(snapshot: PeerSnapshot) -> Iterator[tuple[PurePeer, LentPeer]]:
    """The measure, and what is to be like it."""
    with open_plane() as (plane, relay):
        lent = LentPeer(snapshot, relay, plane)
        yield PurePeer(snapshot), lent
        lent.stream.close()
