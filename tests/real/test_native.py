"""What is the native loop's own: its threads, and how a process with them ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from typing import Final

import pytest
import trio

from edge.datagram import DatagramSocket
from edge.errors import Drop
from edge.wire.spp import encode_path
from tests.support.forwarder_rig import RTP
from tests.support.native_rig import HOP, Rig, open_rig


async def echo(rig: Rig) -> None:
    """Send all that reaches the transceiver back."""
    while True:
        for datagram, source in await rig.transceiver.receive_batch():
            assert source == rig.internal
            rig.transceiver.send(datagram, rig.internal)


async def collect(client: DatagramSocket, heard: Counter[bytes]) -> None:
    while True:
        heard.update(datagram for datagram, _ in await client.receive_batch())


async def test_a_change_of_threads_loses_and_doubles_nothing() -> None:
    sent: Counter[bytes] = Counter()
    heard: Counter[bytes] = Counter()
    async with open_rig(4, threads=2) as rig, trio.open_nursery() as nursery:
        clients = [rig.add_client() for _ in range(16)]
        nursery.start_soon(echo, rig)
        for client in clients:
            nursery.start_soon(collect, client, heard)
        for step in range(120):
            for number, client in enumerate(clients):
                packet = RTP + bytes([step, number])
                assert client.send(packet, rig.public)
                sent[packet] += 1
            rig.forwarder.set_threads(1 + step % 5)
            assert rig.forwarder.threads == min(4, 1 + step % 5)
            await trio.sleep(0.005)
        with trio.fail_after(5):
            while heard.total() < sent.total():
                await trio.sleep(0.01)
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    for client in clients:
        client.close()
    assert heard == sent
    statistics = rig.forwarder.statistics()
    assert statistics.packets_to_transceivers == statistics.packets_to_clients == sent.total()
    assert not statistics.drops


async def test_a_thread_runs_where_it_is_pinned() -> None:
    cpu = max(os.sched_getaffinity(0))
    before = set(os.listdir("/proc/self/task"))
    async with open_rig(1, cpus=(cpu,)):
        [thread] = set(os.listdir("/proc/self/task")) - before
        assert os.sched_getaffinity(int(thread)) == {cpu}


async def test_sockets_may_be_closed_while_it_runs() -> None:
    async with open_rig(2, threads=2) as rig:
        client = rig.add_client()
        rig.close()
        descriptors = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
        assert client.send(RTP, rig.public)  # the threads have copies
        with trio.fail_after(5):
            while not rig.forwarder.statistics().packets_to_transceivers:
                await trio.sleep(0.01)
        assert not rig.forwarder.deliver(encode_path(client.address, rig.public), RTP)
        assert rig.forwarder.statistics().drops[Drop.SEND_ERROR] == 1
        client.close()
        for sock in descriptors:
            sock.close()


async def test_it_can_not_run_twice_at_once() -> None:
    async with open_rig() as rig:
        with pytest.raises(RuntimeError, match="runs already"):
            await rig.forwarder.run()
        client = rig.add_client()
        client.send(RTP, rig.public)
        with trio.fail_after(5):
            await rig.transceiver.receive_batch()
        client.close()


async def test_a_dead_hop_costs_others_nothing() -> None:
    """The kernel tells of it at whatever call comes next, which is another's."""
    async with open_rig() as rig:
        client = rig.add_client()
        path = encode_path(client.address, rig.public)
        rig.forwarder.set_hop(9, client.address, group=9, public=None)
        client.close()
        for _ in range(300):
            assert rig.forwarder.forward(path, RTP, 9)
            assert rig.forwarder.forward(path, RTP, HOP)
        with trio.fail_after(5):
            while rig.forwarder.statistics().drops != {Drop.UNREACHABLE: 300}:
                await trio.sleep(0.01)


SCRIPT: Final = """
import os, socket, sys, time
from edge.forwarder._native import Core
a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
a.bind(("127.0.0.1", 0)); b.bind(("127.0.0.1", 0))
core = Core(bytes(18), a.family, b.family, 1.0, 1000)
core.start((a.fileno(),), (b.fileno(),), 1, ())
"""
ENDINGS: Final = {
    "exit": "sys.exit(0)",
    "keep": "sys.modules['os'].core = core",
    "error": "del core; sys.exit(0)",
    "twice": "core.stop(); core.stop(); core.start((a.fileno(),), (b.fileno(),), 1, ())",
    "fork": (
        "child = os.fork()\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "    before = time.process_time()\n"
        "    time.sleep(0.3)\n"
        "    assert time.process_time() - before < 0.15, 'woken for nothing'\n"
        "    core.stop(); sys.exit(0)\n"
        "core.stop(); core.start((a.fileno(),), (b.fileno(),), 1, ()); del core\n"
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_running_thread_does_not_keep_the_process(ending: str) -> None:
    code = SCRIPT + ENDINGS[ending]
    done = subprocess.run([sys.executable, "-c", code], timeout=20, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
