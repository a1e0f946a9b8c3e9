"""The gate in the kernel, on loopback: what the interpreter says is what the kernel does."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

import pytest
import trio

from edge.address import Address
from edge.datagram import bind_udp
from edge.errors import Drop
from edge.forwarder.bpf import Program, attach, detach, kernel_drops
from edge.forwarder.gate import compile_gate
from edge.forwarder.gatekeeper import CALM_SECONDS, SocketGate
from edge.forwarder.protocol import FlowEntry
from edge.forwarder.store import MemoryStore
from edge.wire.spp import encode_path
from tests.support.bpf import packet, run
from tests.test_gate import CHECK, PAYLOADS, RTP, sources

HOSTS = ("127.0.0.1", "::1")


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bind(stack: ExitStack, host: str) -> socket.socket:
    sock = stack.enter_context(bind_udp((host, 0)))
    # Short, so that a few hundred datagrams are more than it holds.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    return sock


def address(sock: socket.socket) -> Address:
    name: Address = sock.getsockname()[:2]
    return name


def received(sock: socket.socket) -> list[tuple[bytes, Address]]:
    """Take everything; on loopback it is there when the sender's call returns."""
    found: list[tuple[bytes, Address]] = []
    while True:
        try:
            data, source = sock.recvfrom(4_096)
        except BlockingIOError:
            return found
        found.append((data, source[:2]))


def passing(
    public: socket.socket, senders: Sequence[socket.socket], payloads: Iterable[bytes]
) -> set[tuple[bytes, Address]]:
    for payload in payloads:
        for sender in senders:
            sender.sendto(payload, public.getsockname())
    return set(received(public))


@pytest.mark.parametrize("more", [0, 2_000, 10_000], ids=["few", "exact", "bloom"])
def test_the_kernel_passes_what_the_interpreter_passes(
    stack: ExitStack, host: str, more: int
) -> None:
    public = bind(stack, host)
    known = [bind(stack, host) for _ in range(8)]
    strangers = [bind(stack, host) for _ in range(32)]
    program = compile_gate([*map(address, known), *sources(more)], share=0.0, key=11)
    attach(public, program)
    payloads = (*PAYLOADS.values(), CHECK, bytes(1_500))
    for sender in (*known, *strangers):
        found = passing(public, [sender], payloads)
        passes = bool(run(program, packet(address(sender), RTP)))
        assert passes or sender in strangers
        assert found == ({(each, address(sender)) for each in payloads} if passes else set())
    if not more:
        assert kernel_drops(public) == len(strangers) * len(payloads)


def test_a_share_of_strangers_checks_passes(stack: ExitStack, host: str) -> None:
    public, stranger = bind(stack, host), bind(stack, host)
    attach(public, compile_gate([], share=0.25, key=11))
    passed = 0
    for _ in range(40):
        for _ in range(50):
            stranger.sendto(CHECK, public.getsockname())
        passed += len(received(public))
    assert 380 <= passed <= 620, "of 2,000, six standard deviations around 500"
    attach(public, compile_gate([], share=1.0, key=11))
    assert passing(public, [stranger], [CHECK, RTP]) == {(CHECK, address(stranger))}


def test_without_known_sources_webrtc_passes(stack: ExitStack, host: str) -> None:
    public, stranger = bind(stack, host), bind(stack, host)
    attach(public, compile_gate(None, share=0.0, key=11))
    payloads = (*PAYLOADS.values(), CHECK, b"\xffnoise", CHECK[:19], b"\x00" * 40)
    found = {data for data, _ in passing(public, [stranger], payloads)}
    assert found == {PAYLOADS["rtp"], PAYLOADS["dtls"], PAYLOADS["short"], CHECK}


def test_a_filter_can_be_taken_off(stack: ExitStack) -> None:
    public, stranger = bind(stack, HOSTS[0]), bind(stack, HOSTS[0])
    attach(public, compile_gate([], share=0.0, key=11))
    assert not passing(public, [stranger], [RTP])
    detach(public)
    assert passing(public, [stranger], [RTP])
    with pytest.raises(OSError, match="No such file") as caught:
        detach(public)
    assert caught.value.errno == errno.ENOENT


def test_a_faulty_program_is_refused(stack: ExitStack) -> None:
    program: Program = compile_gate([], share=0.0, key=11)[:-1]
    with pytest.raises(OSError, match="Invalid argument"):
        attach(bind(stack, HOSTS[0]), program)


def test_a_flood_closes_the_gate_and_calls_go_on(stack: ExitStack, host: str) -> None:
    public, client, stranger = (bind(stack, host) for _ in range(3))
    store = MemoryStore(10)
    store.put(encode_path(address(client), address(public)), FlowEntry(1, 0.0))
    gate = SocketGate([public], store, public=address(public))

    def call_gets_through(strangers: int, now: float) -> bool:
        """One turn of a relay that takes all there is, and drops what strangers sent."""
        for _ in range(500):
            stranger.sendto(RTP, public.getsockname())
        client.sendto(RTP, public.getsockname())
        heard = (RTP, address(client)) in received(public)
        gate.tick({Drop.RATE_LIMIT: strangers}, now=now)
        return heard

    assert not call_gets_through(0, 0.0)
    assert not call_gets_through(400, 0.1)
    assert gate.statistics().closed
    assert all(call_gets_through(400, 0.2 + turn / 10) for turn in range(20))
    gate.tick({Drop.RATE_LIMIT: 400}, now=2.3)
    gate.tick({Drop.RATE_LIMIT: 400}, now=2.4 + CALM_SECONDS)
    assert not gate.statistics().closed
    assert passing(public, [stranger], [RTP])


async def test_a_filter_that_a_dead_worker_left_behind_is_taken_off(
    host: str, stack: ExitStack
) -> None:
    public, client = bind(stack, host), bind(stack, host)
    attach(public, compile_gate([], share=0.0, key=1))
    assert passing(public, [client], [RTP]) == set()
    gate = SocketGate([public], MemoryStore(4), public=address(public))
    async with trio.open_nursery() as nursery:
        await nursery.start(gate.run, dict)
        assert passing(public, [client], [RTP]) == {(RTP, address(client))}
        nursery.cancel_scope.cancel()
