"""A plane and its streams, beside no peer."""

from __future__ import annotations

import sys
from contextlib import closing

import pytest

from edge.datagram import bind_udp
from edge.mmsg import to_endpoint
from edge.wire.rtp import build_header, encode_mid_extension
from tests.support.lending import (
    AUDIO,
    GCM,
    HEADER,
    KEYS,
    OTHER_PATH,
    OURS,
    PATH,
    Client,
    client_keys,
    incoming,
    make_snapshot,
    outgoing,
    refuse,
)
from tests.support.lent_pair import drain, open_pair, open_plane


def test_a_send_beyond_the_limit_does_nothing() -> None:
    with open_plane() as (plane, relay):
        stream = plane.stream(refuse, KEYS, KEYS)
        endpoint = to_endpoint(relay.getsockname())
        stream.lend(PATH, endpoint, None, outgoing(limit=9))
        assert [stream.send(b"x", 0, False, 1.0) for _ in range(4)] == [True, True, False, False]
        assert stream.recall() == (None, (9, 2, 2, 0, 1.0))
        assert len(drain(relay)) == 2
        stream.lend(PATH, endpoint, None, outgoing(next_index=2**48 - 1))
        assert [stream.send(b"x", 0, False, 1.0) for _ in range(2)] == [True, False]


def test_what_is_not_lent_is_not_sent_and_a_closed_stream_is_never_lent() -> None:
    with open_plane() as (plane, relay):
        stream = plane.stream(refuse, KEYS, KEYS)
        endpoint = to_endpoint(relay.getsockname())
        assert not stream.send(b"x", 0, False, 1.0)
        stream.lend(PATH, endpoint, incoming(), outgoing())
        stream.close()
        assert not stream.send(b"x", 0, False, 1.0)
        assert stream.recall() == (None, None)
        stream.lend(PATH, endpoint, incoming(), outgoing())
        assert not stream.send(b"x", 0, False, 1.0)
        assert drain(relay) == []


def test_a_longer_header_than_it_has_room_for_is_not_lent() -> None:
    """An m-line's name, which is a client's to choose, may make it so."""
    header = build_header(AUDIO, False, 0, 0, OURS, encode_mid_extension(4, "m" * 200))
    with open_plane() as (plane, relay):
        stream = plane.stream(refuse, KEYS, KEYS)
        stream.lend(PATH, to_endpoint(relay.getsockname()), incoming(), outgoing(header=header))
        assert not stream.send(b"x", 0, False, 1.0)
        received, sent = stream.recall()
        assert received is not None
        assert sent is None


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [(PATH[1:], to_endpoint(("192.0.2.1", 1))), (PATH, to_endpoint(("::1", 1))), (PATH, b"")],
    ids=["path", "family", "nothing"],
)
def test_what_fits_no_place_is_refused(path: bytes, endpoint: bytes) -> None:
    with open_plane() as (plane, _):
        stream = plane.stream(refuse, KEYS, KEYS)
        with pytest.raises(ValueError, match="not a path"):
            stream.lend(type(PATH)(path), endpoint, incoming(), None)
        with pytest.raises(ValueError, match="not the header"):
            stream.lend(PATH, to_endpoint(("192.0.2.1", 1)), None, outgoing(header=HEADER[1:]))
        assert stream.recall() == (None, None)


def test_keys_of_no_profile_are_refused() -> None:
    with open_plane() as (plane, _):
        for keys in ((b"", b"", b""), (bytes(24), bytes(12), b""), (bytes(16), bytes(12), b"x")):
            with pytest.raises(ValueError, match="profile"):
                plane.stream(refuse, KEYS, keys)


def test_another_relay_and_another_path_come_to_python() -> None:
    packet = Client(GCM).packet(b"for the peer")
    with open_plane() as (plane, relay), closing(bind_udp(("127.0.0.1", 0))) as other:
        keys = client_keys()
        stream = plane.stream(refuse, keys, KEYS)
        stream.lend(PATH, to_endpoint(relay.getsockname()), incoming(), None)
        other.connect(relay.getpeername())
        other.send(PATH + packet)
        relay.send(OTHER_PATH + packet)
        relay.send(PATH)
        relay.send(b"")
        datagrams, heard, taken, too_long = plane.receive(1.0)
        assert [data for data, _ in datagrams] == [PATH + packet, OTHER_PATH + packet, PATH, b""]
        assert [end for _, end in datagrams] == [
            to_endpoint(sock.getsockname()) for sock in (other, relay, relay, relay)
        ]
        assert (heard, taken, too_long) == ([], 4, 0)
        relay.send(PATH + packet)
        assert plane.receive(1.5) == ([], [(refuse, b"for the peer", 1_001, 1_001 * 960)], 1, 0)
        assert stream.recall()[0] == (1_002, 12, 1_001 * 960, 0.0, 1.5)


def test_no_index_goes_beyond_48_bits() -> None:
    """One packet more would be sealed as the first of all; it comes to Python, which refuses."""
    client = Client(GCM, index=2**48 - 1)
    with open_plane() as (plane, relay):
        stream = plane.stream(refuse, client_keys(), KEYS)
        stream.lend(PATH, to_endpoint(relay.getsockname()), incoming(2**48 - 1), None)
        relay.send(PATH + client.packet(b"the last"))
        relay.send(PATH + Client(GCM, index=0).packet(b"sealed as the first of all"))
        datagrams, heard, _, _ = plane.receive(1.0)
        assert (len(datagrams), len(heard)) == (1, 1)


def test_many_streams_find_their_packets() -> None:
    """More than the table had room for, some of them gone again."""
    client = Client(GCM)
    packet = client.packet(b"x")
    with open_plane() as (plane, relay):
        endpoint = to_endpoint(relay.getsockname())
        paths = [type(PATH)(PATH[:-2] + number.to_bytes(2)) for number in range(300)]
        streams = [plane.stream(refuse, client_keys(), KEYS) for _ in paths]
        for stream, path in zip(streams, paths, strict=True):
            stream.lend(path, endpoint, incoming(), None)
        for stream in streams[::3]:
            stream.recall()
        opened = passed = 0
        for path in paths:
            relay.send(path + packet)
            datagrams, heard, _, _ = plane.receive(1.0)
            opened, passed = opened + len(heard), passed + len(datagrams)
        assert (opened, passed) == (200, 100)


def test_nothing_is_kept_of_what_went_through() -> None:
    with open_pair(make_snapshot(GCM)) as (_, lent):
        client = Client(GCM)

        def turn() -> None:
            for number in range(500):
                packet = client.packet(b"x" * 600)
                lent.relay.send(PATH + packet[:-1])
                lent.plane.receive(1.0)
                lent.receive([packet], 1.0)
                lent.send(b"y" * 80, number * 960, False, 1.0)
                lent.peer.statistics()
            lent.collect()
            lent.heard.clear()
            lent.sent.clear()

        turn()
        before, references = sys.getallocatedblocks(), sys.getrefcount(lent.stream)
        turn()
        grown, more = sys.getallocatedblocks() - before, sys.getrefcount(lent.stream) - references
        assert grown < 200
        assert more == 0
