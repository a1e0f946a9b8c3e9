"""The socket with an offload, which one there is, and calls over it."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path as File

import pytest
import trio

from edge.client import open_load
from edge.datagram import DatagramSocket, bind_udp
from edge.errors import Drop
from edge.mmsg import BATCH
from edge.offload.engine import open_media_socket
from edge.offload.socket import MediaSocket
from edge.ready import StartupError
from tests.support.edges import SERVE
from tests.support.lending import (
    GCM,
    PATH,
    Client,
    incoming,
    lent_keys,
    outgoing,
    refuse,
)
from tests.support.lent_pair import drain
from tests.support.processes import ROOT, child, edge


def media_socket(host: str = "127.0.0.1") -> MediaSocket:
    return MediaSocket(bind_udp((host, 0)), clock=lambda: 1.0, seed=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_call_over_either_family(host: str) -> None:
    heard: list[bytes] = []
    with closing(media_socket(host)) as media, closing(bind_udp((host, 0))) as relay:
        address = relay.getsockname()[:2]
        stream = media.open_stream(lent_keys(), lambda payload, *_: heard.append(payload))
        stream.lend(PATH, media.endpoint(address), incoming(), outgoing())
        client = Client(GCM)
        for number in range(3):
            relay.sendto(PATH + client.packet(bytes((number,))), media.address)
        with trio.fail_after(5):
            assert await media.receive_batch() == []
        for hear, payload, index, timestamp in media.heard:
            hear(payload, index, timestamp, 1.0)
        assert heard == [b"\0", b"\1", b"\2"]
        assert stream.send(b"answer", 0, True, 1.0)
        (answer,) = drain(relay)
        assert answer[:38] == PATH
        assert (media.statistics().received, media.statistics().sent) == (3, 1)


def test_what_is_held_leaves_by_flush_or_when_the_batch_is_full() -> None:
    with closing(media_socket()) as media, closing(bind_udp(("127.0.0.1", 0))) as relay:
        address = relay.getsockname()
        media.hold()
        for number in range(BATCH + 2):
            assert media.send_framed(b"%d" % number, b"!", address)
        assert drain(relay) == [b"%d!" % number for number in range(BATCH)]
        media.flush()
        assert drain(relay) == [b"128!", b"129!"]
        media.send_framed(b"", b"", address)
        media.send_framed(b"x" * 2_048, b"", address)
        media.send_framed(b"x" * 2_048, b"y", address)
        assert [len(data) for data in drain(relay)] == [0, 2_048, 2_049]
        assert media.statistics().sent == BATCH + 5


async def test_more_than_a_batch_comes_in_several() -> None:
    with closing(media_socket()) as media, closing(bind_udp(("127.0.0.1", 0))) as relay:
        for number in range(2 * BATCH + 1):
            relay.sendto(b"%d" % number, media.address)
        relay.sendto(bytes(4_096), media.address)
        relay.sendto(bytes(4_095), media.address)
        taken: list[bytes] = []
        with trio.fail_after(5):
            while len(taken) < 2 * BATCH + 2:
                taken += [data for data, _ in await media.receive_batch()]
        assert taken == [*(b"%d" % number for number in range(2 * BATCH + 1)), bytes(4_095)]
        assert media.statistics().drops == {Drop.MALFORMED: 1}


def test_what_the_kernel_does_not_take_is_counted_and_the_rest_leaves() -> None:
    with closing(media_socket()) as media, closing(bind_udp(("127.0.0.1", 0))) as relay:
        media.hold()
        for address in (relay.getsockname(), ("255.255.255.255", 9), relay.getsockname()):
            media.send_framed(b"x", b"", address)
        media.flush()
        media.send_framed(b"x", b"", ("::1", 9))
        assert len(drain(relay)) == 2
        counts = media.statistics()
        assert (counts.sent, counts.drops) == (2, {Drop.SEND_ERROR: 2})
        assert media.statistics().sent == 2, "counted once"


async def test_a_closed_one_touches_no_descriptor() -> None:
    """Its number may be another file's by then."""
    sock = bind_udp(("127.0.0.1", 0))
    descriptor = sock.fileno()
    media = MediaSocket(sock, clock=lambda: 1.0, seed=1)
    stream = media.open_stream(lent_keys(), refuse)
    media.close()
    with closing(bind_udp(("127.0.0.1", 0))) as heir, closing(bind_udp(("127.0.0.1", 0))) as to:
        assert heir.fileno() == descriptor
        stream.lend(PATH, media.endpoint(to.getsockname()), None, outgoing())
        stream.send(b"x", 0, False, 1.0)
        media.send_framed(b"x", b"", to.getsockname())
        assert drain(to) == []
        with pytest.raises(trio.ClosedResourceError):
            await media.receive_batch()
        assert media.statistics().drops == {Drop.SEND_ERROR: 2}
        media.close()


async def test_who_waits_under_load_learns_of_the_end() -> None:
    media = media_socket()
    with closing(bind_udp(("127.0.0.1", 0))) as relay:
        ended = trio.Event()

        async def receive() -> None:
            try:
                while True:
                    await media.receive_batch()
            except trio.ClosedResourceError:
                ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            until = trio.current_time() + 0.2
            while trio.current_time() < until:
                for _ in range(8):
                    relay.sendto(b"x", media.address)
                await trio.sleep(0)
            media.close()
            with trio.fail_after(1):
                await ended.wait()


async def test_a_busy_socket_leaves_time_for_others() -> None:
    """It rests for a millisecond at a time with all tasks, and no longer."""
    with closing(media_socket()) as media, closing(bind_udp(("127.0.0.1", 0))) as relay:
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                while True:
                    await media.receive_batch()

            nursery.start_soon(receive)
            turns, until, longest, last = 0, trio.current_time() + 0.3, 0.0, trio.current_time()
            while (now := trio.current_time()) < until:
                turns, longest, last = turns + 1, max(longest, now - last), now
                for _ in range(4):
                    relay.sendto(b"x", media.address)
                await trio.sleep(0)
            nursery.cancel_scope.cancel()
        assert turns > 50
        assert longest < 0.1
        assert media.statistics().received > 200


# Which one there is.


def without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edge.offload._native", None)
    monkeypatch.delitem(sys.modules, "edge.offload.socket")


def opened(engine: str) -> tuple[type[DatagramSocket], bool]:
    with closing(bind_udp(("127.0.0.1", 0))) as sock:
        datagrams, offload = open_media_socket(sock, engine, clock=lambda: 0.0, seed=0)
        with closing(datagrams):
            return type(datagrams), offload is not None


def test_native_where_it_is_built_and_pure_where_it_is_asked_for() -> None:
    assert opened("auto") == opened("native") == (MediaSocket, True)
    assert opened("pure") == (DatagramSocket, False)


def test_auto_does_without_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    without_extension(monkeypatch)
    assert opened("auto") == (DatagramSocket, False)
    with pytest.raises(StartupError, match="no native engine here"):
        opened("native")


async def test_an_edge_that_can_not_be_native_says_so_in_one_sentence() -> None:
    code = "import sys; sys.modules['edge.offload._native'] = None; import runpy; "
    code += "runpy.run_module('edge', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, *SERVE]
    async with child(command, env={"EDGE_TRANSCEIVER_ENGINE": "native"}) as running:
        assert await running.wait(seconds=20) == 1
        lines = running.stderr.text.splitlines()
        assert running.stdout.text == ""
    sentences = [line for line in lines if "transceiver.engine" in line]
    assert len(sentences) == 1, lines
    assert "no native engine here" in sentences[0]
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize("engine", ["native", "pure"])
async def test_calls_are_echoed_by_either_engine(engine: str) -> None:
    async with edge(*SERVE, env={"EDGE_TRANSCEIVER_ENGINE": engine}) as server:
        maps = File(f"/proc/{server.pid}/maps").read_text()
        assert (f"{ROOT}/edge/offload/_native" in maps) == (engine == "native")
        async with open_load() as load:
            calls = [await load.open_call(server.http) for _ in range(4)]
            with trio.fail_after(10):
                for call in calls:
                    await call.wait_received(100)
            for call in calls:
                statistics = call.statistics()
                assert statistics.missing == 0
                assert statistics.duplicates == 0
                assert statistics.longest_hole < 0.2
