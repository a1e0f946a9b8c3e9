"""Datagram sockets on loopback: batches, errno paths, both families, and the virtual twin."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.abc import Clock
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from edge.address import Address
from edge.datagram import RECEIVE_BYTES, DatagramSocket, bind_udp
from edge.errors import Drop
from edge.mmsg import BATCH, PACKET_BYTES, to_address, to_endpoint
from edge.packets import KernelPacketSocket
from tests.support.net import Link, Network, open_loopback, open_network, receive, silence
from tests.support.relay_rig import relay_carries_a_call

LOOPBACK = ("127.0.0.1", 0)

# Bodies that hold on both networks: a fake is only worth what its twin confirms.


async def datagrams_arrive_whole_and_in_order(net: Network) -> None:
    one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
    sent = [bytes([number]) * (number * 11) for number in range(100)]
    for data in sent:
        assert one.send(data, other.address)
    assert await receive(other, 100) == sent
    assert (one.statistics().sent, other.statistics().received) == (100, 100)


async def framed_is_header_and_payload(net: Network) -> None:
    one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
    assert one.send_framed(b"header", b"payload", other.address)
    assert one.send_framed(b"header", b"", other.address)
    assert one.send_framed(b"", b"", other.address)
    assert await receive(other, 3) == [b"headerpayload", b"header", b""]


async def the_source_is_the_senders_address(net: Network) -> None:
    one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
    one.send(b"x", other.address)
    with trio.fail_after(5):
        assert await other.receive_batch() == [(b"x", one.address)]


async def batches_are_bounded(net: Network) -> None:
    one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
    for _ in range(BATCH + 1):
        one.send(b"x", other.address)
    await trio.sleep(0.1)
    sizes = [len(await other.receive_batch()), len(await other.receive_batch())]
    assert sizes == [BATCH, 1]
    assert await silence(other, seconds=0.05)


async def receiving_is_a_checkpoint(net: Network) -> None:
    one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
    for _ in range(BATCH * 2):
        one.send(b"x", other.address)
    await trio.sleep(0.1)
    with assert_checkpoints():
        await other.receive_batch()
    with assert_checkpoints():  # the second full batch is there without a wait
        await other.receive_batch()


async def a_cancelled_receive_loses_nothing(net: Network) -> None:
    one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
    for _ in range(BATCH * 2):
        one.send(b"x", other.address)
    await trio.sleep(0.1)
    await other.receive_batch()
    with trio.CancelScope() as scope:
        scope.cancel()
        await other.receive_batch()
    assert scope.cancelled_caught
    assert len(await receive(other, BATCH)) == BATCH


async def a_datagram_too_long_is_counted(net: Network) -> None:
    one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
    assert not one.send(bytes(65_508), other.address)
    assert not one.send_framed(bytes(38), bytes(65_507), other.address)
    assert one.statistics().drops == {Drop.SEND_ERROR: 2}
    assert one.statistics().sent == 0


async def closing_wakes_the_receiver(net: Network) -> None:
    sock = net.socket(LOOPBACK)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await sock.receive_batch()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            sock.close()
        await wait()
    sock.close()
    assert not sock.send(b"x", sock.address)
    assert sock.statistics().drops == {Drop.SEND_ERROR: 1}


# The same for PacketSocket.


async def packets_come_and_go_in_batches(net: Network) -> None:
    one, other = net.packets(LOOPBACK), net.packets(LOOPBACK)
    sent = [bytes([number % 251]) * (number % 1_500) for number in range(300)]
    assert one.send_all(sent, [to_endpoint(other.address)] * 300) == []
    await trio.sleep(0.1)
    got = [other.receive() for _ in range(4)]
    assert [len(batch) for batch in got] == [BATCH, BATCH, 300 - 2 * BATCH, 0]
    assert [data for batch in got for data, _ in batch] == sent
    assert {to_address(source) for batch in got for _, source in batch} == {one.address}
    assert {**one.drops(), **other.drops()} == {}


async def long_packets_are_dropped_alone(net: Network) -> None:
    one, other = net.socket(LOOPBACK), net.packets(LOOPBACK)
    for size in (PACKET_BYTES, PACKET_BYTES + 1, 60_000, 1, 0):
        one.send(bytes(size), other.address)
    await trio.sleep(0.1)
    assert [len(data) for data, _ in other.receive()] == [PACKET_BYTES, 1, 0]
    assert other.drops() == {Drop.MALFORMED: 2}


async def either_socket_ends_the_wait(net: Network) -> None:
    sender, one, other = net.socket(LOOPBACK), net.packets(LOOPBACK), net.packets(LOOPBACK)
    with one.waits(other) as waits:
        for sock in (one, other):
            with trio.move_on_after(0.05):
                await waits.readable()
                raise AssertionError("there is nothing to receive")
            sender.send(b"x", sock.address)
            with trio.fail_after(5), assert_checkpoints():
                await waits.readable()
            await trio.sleep(0.05)
            assert len(sock.receive()) == 1
        start = trio.current_time()
        await waits.tick(0.02)
        assert 0.019 < trio.current_time() - start < 1


async def a_dead_receiver_is_heard_of_by_those_who_watch(net: Network) -> None:
    one, other, gone = net.packets(LOOPBACK), net.packets(LOOPBACK), net.packets(LOOPBACK)
    ends = [to_endpoint(gone.address), to_endpoint(other.address)] * 20
    gone.close()
    for watching in (False, True):
        if watching:
            one.watch_errors()
        assert one.send_all([b"x"] * 40, ends) == []
        await trio.sleep(0.1)
        one.receive()
        assert one.unreachable == (20 if watching else 0)
    assert one.drops() == {Drop.UNREACHABLE: 20}
    assert len(other.receive()) == 40


Body = Callable[[Network], Awaitable[None]]
BODIES: list[Body] = [
    datagrams_arrive_whole_and_in_order,
    framed_is_header_and_payload,
    the_source_is_the_senders_address,
    batches_are_bounded,
    receiving_is_a_checkpoint,
    a_cancelled_receive_loses_nothing,
    a_datagram_too_long_is_counted,
    closing_wakes_the_receiver,
    packets_come_and_go_in_batches,
    long_packets_are_dropped_alone,
    either_socket_ends_the_wait,
    a_dead_receiver_is_heard_of_by_those_who_watch,
]
bodies = pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)


@bodies
async def test_on_loopback(body: Body) -> None:
    async with open_loopback() as net:
        await body(net)


@bodies
async def test_on_the_virtual_network(autojump_clock: Clock, body: Body) -> None:
    async with open_network() as net:
        await body(net)


async def test_the_relay_carries_a_call_on_loopback() -> None:
    async with open_loopback() as net:
        await relay_carries_a_call(net)


# What only a kernel does.


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_families(host: str) -> None:
    async with open_loopback() as net:
        one, other = net.socket((host, 0)), net.socket((host, 0))
        one.send_framed(b"a", b"b", other.address)
        with trio.fail_after(5):
            assert await other.receive_batch() == [(b"ab", one.address)]
        assert one.address == (host, one.address[1])


async def test_an_ipv6_socket_serves_ipv6_alone() -> None:
    async with open_loopback() as net:
        six = net.socket(("::", 0))
        four = net.socket(("127.0.0.1", six.address[1]))
        net.socket(LOOPBACK).send(b"x", four.address)
        assert await receive(four) == [b"x"]
        assert await silence(six, seconds=0.05)


async def test_sockets_have_large_buffers_and_do_not_block() -> None:
    with bind_udp(LOOPBACK) as sock:
        assert not sock.getblocking()
        default = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with default:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                wanted = sock.getsockopt(socket.SOL_SOCKET, option)
                assert wanted >= default.getsockopt(socket.SOL_SOCKET, option)


def test_binding_twice_fails_and_leaves_no_socket() -> None:
    with bind_udp(LOOPBACK) as sock, pytest.raises(OSError, match="in use") as caught:
        bind_udp(sock.getsockname()[:2])
    assert caught.value.errno == errno.EADDRINUSE


async def test_over_long_datagrams_are_dropped_not_cut() -> None:
    async with open_loopback() as net:
        one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
        for size in (RECEIVE_BYTES, RECEIVE_BYTES - 1, 65_507):
            assert one.send(bytes(size), other.address)
        assert [len(data) for data in await receive(other)] == [RECEIVE_BYTES - 1]
        assert other.statistics().drops == {Drop.MALFORMED: 2}


async def test_sending_to_nobody_disturbs_nobody() -> None:
    async with open_loopback() as net:
        one, other, gone = (net.socket(LOOPBACK) for _ in range(3))
        gone.close()
        for _ in range(10):
            one.send(b"x", gone.address)
        assert one.send(b"y", other.address)
        assert await receive(other) == [b"y"]


@pytest.mark.parametrize(
    "address", [("127.0.0.1", 0), ("::1", 9), ("255.255.255.255", 9), ("not numeric", 9)]
)
async def test_addresses_that_can_not_be_sent_to_are_counted(address: Address) -> None:
    async with open_loopback() as net:
        one = net.socket(LOOPBACK)
        assert not one.send(b"x", address)
        assert not one.send_framed(b"x", b"y", address)
        assert one.statistics().drops == {Drop.SEND_ERROR: 2}


async def test_what_can_not_be_sent_is_skipped_and_counted() -> None:
    async with open_loopback() as net:
        one, other = net.packets(LOOPBACK), net.packets(LOOPBACK)
        good, nowhere = to_endpoint(other.address), to_endpoint(("127.0.0.1", 0))
        broadcast, alien = to_endpoint(("255.255.255.255", 9)), to_endpoint(("::1", 9))
        ends = [nowhere, good, broadcast, alien, good, nowhere]
        assert one.send_all([b"x"] * 6, ends) == [0, 2, 3, 5]
        assert one.drops() == {Drop.SEND_ERROR: 4}
        await trio.sleep(0.05)
        assert len(other.receive()) == 2


async def test_a_full_send_buffer_is_counted_as_blocked() -> None:
    with bind_udp(LOOPBACK) as sock:
        packets = KernelPacketSocket(sock)
        packets._sender._call = lambda *_: -errno.ENOBUFS
        assert packets.send_all([b"x"] * 3, [to_endpoint(packets.address)] * 3) == [0, 1, 2]
        assert packets.drops() == {Drop.SEND_BLOCKED: 3}


@pytest.mark.parametrize("kind", [DatagramSocket, KernelPacketSocket])
async def test_what_the_kernel_drops_is_counted(
    kind: type[DatagramSocket] | type[KernelPacketSocket],
) -> None:
    with bind_udp(LOOPBACK) as sock, bind_udp(LOOPBACK) as sender:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        receiver = kind(sock)
        for _ in range(50):
            sender.sendto(bytes(1_000), sock.getsockname())
        if isinstance(receiver, DatagramSocket):
            drops = receiver.statistics().drops
        else:
            drops = receiver.drops()
        assert 40 <= drops[Drop.KERNEL_QUEUE] < 50


def test_ports_are_shared_only_if_all_agree() -> None:
    with bind_udp(LOOPBACK, reuse_port=True) as sock:
        address = sock.getsockname()[:2]
        with bind_udp(address, reuse_port=True) as other:
            assert other.getsockname() == sock.getsockname()
        with pytest.raises(OSError, match="in use"):
            bind_udp(address)


class FailingSocket(socket.socket):
    """Fails as a kernel does under memory pressure or when ICMP errors are reported."""

    errors: tuple[int, ...] = ()

    def _fail(self) -> None:
        if self.errors:
            first, *rest = self.errors
            self.errors = tuple(rest)
            raise OSError(first, "injected")

    def sendto(self, *args: object) -> int:
        self._fail()
        return 1

    def sendmsg(self, *args: object) -> int:
        self._fail()
        return 1

    def recvfrom(self, *args: object) -> tuple[bytes, Address]:
        self._fail()
        return super().recvfrom(RECEIVE_BYTES)


def failing_socket() -> FailingSocket:
    sock = FailingSocket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(LOOPBACK)
    return sock


@pytest.mark.parametrize(
    ("code", "drop"),
    [
        (errno.EAGAIN, Drop.SEND_BLOCKED),
        (errno.ENOBUFS, Drop.SEND_BLOCKED),
        (errno.EPERM, Drop.SEND_ERROR),
        (errno.ENETUNREACH, Drop.SEND_ERROR),
        (errno.ECONNREFUSED, Drop.SEND_ERROR),
        (errno.EMSGSIZE, Drop.SEND_ERROR),
    ],
)
async def test_send_errors_are_counted_and_pass(code: int, drop: Drop) -> None:
    sock = failing_socket()
    datagrams = DatagramSocket(sock)
    try:
        sock.errors = (code, code)
        assert not datagrams.send(b"x", datagrams.address)
        assert not datagrams.send_framed(b"x", b"y", datagrams.address)
        assert datagrams.send(b"x", datagrams.address)
        statistics = datagrams.statistics()
        assert (statistics.sent, statistics.drops) == (1, {drop: 2})
    finally:
        datagrams.close()


async def test_receive_errors_are_counted_and_pass() -> None:
    sock = failing_socket()
    datagrams = DatagramSocket(sock)
    try:
        async with open_loopback() as net:
            net.socket(LOOPBACK).send(b"x", datagrams.address)
            sock.errors = (errno.ECONNREFUSED, errno.EHOSTUNREACH)
            assert await receive(datagrams) == [b"x"]
            assert datagrams.statistics().drops == {Drop.RECEIVE_ERROR: 2}
    finally:
        datagrams.close()


# The virtual network itself.


async def fates(seed: int, *, noise: bool) -> list[tuple[float, bytes]]:
    """Send 50 datagrams over a bad link, with other traffic beside them or not."""
    link = Link(latency=0.01, jitter=0.02, loss=0.3, duplicate=0.2, reorder=0.2)
    got: list[tuple[float, bytes]] = []
    async with open_network(seed=seed, link=link) as net:
        one, other, third = (net.socket(("192.0.2.1", port)) for port in (1, 2, 3))
        start = trio.current_time()
        for number in range(50):
            one.send(bytes([number]), other.address)
            if noise:
                third.send(b"noise", other.address)
        with trio.move_on_after(1.0):
            while True:
                for data, source in await other.receive_batch():
                    if source == one.address:
                        got.append((round(trio.current_time() - start, 9), data))
    return sorted(got)


async def test_a_fate_depends_on_seed_flow_and_index_alone(autojump_clock: Clock) -> None:
    assert await fates(1, noise=False) == await fates(1, noise=True)
    assert await fates(1, noise=False) != await fates(2, noise=False)


async def test_a_bad_link_loses_doubles_and_reorders(autojump_clock: Clock) -> None:
    arrived = [data[0] for _, data in await fates(1, noise=False)]
    assert 20 < len(set(arrived)) < 50
    assert len(arrived) > len(set(arrived))
    assert arrived != sorted(arrived)


async def test_a_virtual_queue_is_bounded(autojump_clock: Clock) -> None:
    async with open_network() as net:
        one, other = net.socket(("192.0.2.1", 1)), net.socket(("192.0.2.1", 2))
        for _ in range(1_100):
            one.send(b"x", other.address)
        await trio.sleep(1)
        assert other.statistics().drops == {Drop.QUEUE_FULL: 1_100 - 1_024}


async def test_a_rebound_socket_has_the_new_address_only(autojump_clock: Clock) -> None:
    async with open_network() as net:
        one, other = net.socket(("192.0.2.1", 1)), net.socket(("192.0.2.1", 2))
        one.rebind(("192.0.2.9", 5))
        one.send(b"x", other.address)
        assert await other.receive_batch() == [(b"x", ("192.0.2.9", 5))]
        other.send(b"to the old", ("192.0.2.1", 1))
        other.send(b"to the new", ("192.0.2.9", 5))
        assert await receive(one) == [b"to the new"]
        assert await silence(one)


async def test_what_is_held_leaves_together_and_in_order() -> None:
    async with open_loopback() as net:
        one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
        one.hold()
        for number in range(300):
            assert one.send_framed(b"h", str(number).encode(), other.address)
        assert one.send_framed(b"h", bytes(3_000), other.address)  # too long for a batch: at once
        one.flush()
        got: list[bytes] = []
        with trio.fail_after(2):
            while len(got) < 301:
                got += [data for data, _ in await other.receive_batch()]
        assert [data for data in got if len(data) < 9] == [b"h%d" % n for n in range(300)]
        assert one.statistics().sent == 301


async def test_what_the_kernel_refuses_of_a_batch_is_counted() -> None:
    async with open_loopback() as net:
        one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
        one.hold()
        one.send_framed(b"h", b"", ("127.0.0.1", 0))
        one.send_framed(b"h", b"", other.address)
        one.flush()
        assert one.statistics().sent == 1
        assert one.statistics().drops == {Drop.SEND_ERROR: 1}


async def test_under_load_batches_come_by_the_tick_and_nothing_is_lost() -> None:
    async with open_loopback() as net:
        one, other = net.socket(LOOPBACK), net.socket(LOOPBACK)
        got, batches = 0, 0
        with trio.fail_after(5):
            for _ in range(100):
                for _ in range(10):
                    one.send(b"x", other.address)
                await trio.sleep(0.001)
                while got < one.statistics().sent:
                    batch = await other.receive_batch()
                    assert set(batch) == {(b"x", one.address)}
                    got, batches = got + len(batch), batches + 1
        assert got == 1_000
        assert batches <= 200
