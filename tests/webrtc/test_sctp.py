"""Two associations against each other, and one against a peer that lies."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import msgspec
import pytest

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_congestion import INITIAL_WINDOW, RTO_INITIAL
from edge.webrtc.sctp_flight import MAX_SKIP
from edge.webrtc.sctp_outputs import (
    MAX_PACKET,
    CheckpointWanted,
    OutboxFull,
    SctpClosed,
    SctpEnd,
    SctpMessage,
    SctpOutput,
    SctpTooLong,
    SctpTransmit,
    StreamsReset,
)
from edge.webrtc.sctp_reassembly import Stream
from edge.webrtc.sctp_state import AssociationSnapshot, SctpConfig, SctpState
from edge.wire.sctp import decode_packet, encode_packet
from edge.wire.sctp_chunks import (
    BEGIN,
    END,
    UNORDERED,
    Abort,
    Chunk,
    Data,
    ForwardTsn,
    Heartbeat,
    Init,
    Reconfig,
    Sack,
    UnknownChunk,
)
from edge.wire.sctp_codec import encode_chunk
from edge.wire.sctp_parameters import IncomingReset, OutgoingReset, ResetResponse
from tests.webrtc.sctp_pair import Net, connected, entropy, make, make_net, terrible

TEXT = 51


def both_connect(net: Net) -> None:
    for side in (0, 1):
        net.carry(side, net.sides[side].connect(now=net.now))


def send(net: Net, side: int, stream: int, data: bytes, **options: object) -> None:
    outputs = net.sides[side].send(stream, TEXT, data, now=net.now, **options)  # type: ignore[arg-type]
    net.carry(side, outputs)


def texts(count: int, seed: object = 1, longest: int = 4_000) -> list[bytes]:
    rng = Random(str(seed))
    return [b"%d." % number + bytes(rng.randrange(longest)) for number in range(count)]


def chunks(packets: list[bytes]) -> list[Chunk]:
    return [each for data in packets for each in decode_packet(data, zero_checksum=True).chunks]


def speak(side: Association, *items: Chunk, now: float = 200.0) -> list[SctpOutput]:
    """Let the peer say something with the right tag."""
    tag = side._handshake.local.tag
    data = encode_packet(5000, 5000, tag, map(encode_chunk, items), zero_checksum=True)
    return side.receive(data, now=now)


def said(outputs: list[SctpOutput]) -> list[Chunk]:
    return chunks([each.data for each in outputs if isinstance(each, SctpTransmit)])


def first_tsn(side: Association) -> int:
    assert side.remote is not None
    return side.remote.side.tsn


# The handshake.


def test_one_side_connects() -> None:
    net = make_net()
    net.carry(0, net.sides[0].connect(now=net.now))
    net.run()
    assert net.kinds(0) == net.kinds(1) == ["SctpEstablished"]
    assert [len(packets) for packets in net.packets] == [2, 2]
    assert net.now == pytest.approx(100.04)


def test_both_sides_connect_at_once() -> None:
    net = make_net()
    both_connect(net)
    net.run()
    assert net.kinds(0) == net.kinds(1) == ["SctpEstablished"]


@pytest.mark.parametrize("both", [False, True])
def test_a_hundred_handshakes_over_a_terrible_network(both: bool) -> None:
    for seed in range(100):
        net = make_net(terrible(seed, loss=0.3), seed=seed)
        both_connect(net) if both else net.carry(0, net.sides[0].connect(now=net.now))
        send(net, 0, 1, b"hello")
        net.run(until=lambda net=net: bool(net.messages(1)))  # type: ignore[misc]
        net.run()
        assert net.kinds(0) == ["SctpEstablished"], seed
        assert net.data(1) == [b"hello"]


def test_inits_in_sdp_need_no_handshake() -> None:
    net = make_net()
    inits = [side.local_init() for side in net.sides]
    send(net, 0, 1, b"at once")
    for side in (0, 1):
        net.carry(side, net.sides[side].start_with(inits[1 - side], now=net.now))
    net.run(until=lambda: bool(net.messages(1)))
    assert net.now == pytest.approx(100.01)
    assert net.data(1) == [b"at once"]
    assert net.sides[0].remote is not None
    assert net.sides[0].remote.zero_checksum


def test_a_bad_init_in_sdp_leaves_the_handshake_open() -> None:
    net = make_net()
    with pytest.raises(RemoteProtocolError):
        net.sides[0].start_with(b"nonsense", now=net.now)
    both_connect(net)
    net.run()
    assert net.kinds(0) == ["SctpEstablished"]


def test_a_peer_that_begins_anew_is_followed() -> None:
    net = connected()
    send(net, 0, 1, b"before")
    net.run()
    net.sides[1] = make("another")
    net.carry(1, net.sides[1].connect(now=net.now))
    net.run()
    assert net.kinds(0) == ["SctpRestarted"]
    send(net, 0, 1, b"after")
    send(net, 1, 1, b"and back")
    net.run()
    assert net.data(1) == [b"before", b"after"]
    assert net.data(0) == [b"and back"]


def test_an_old_init_changes_nothing() -> None:
    net = make_net()
    both_connect(net)
    init = net.packets[1][0]
    net.run()
    net.carry(0, net.sides[0].receive(init, now=net.now))
    send(net, 1, 1, b"still here")
    net.run()
    assert net.data(0) == [b"still here"]
    assert "SctpRestarted" not in net.kinds(0)


def test_nobody_answers() -> None:
    side = make()
    outputs = side.connect(now=0.0)
    sent_at, now = [0.0], 0.0
    while side.deadline < math.inf:
        now = side.deadline
        outputs = side.tick(now=now)
        sent_at.append(now)
    assert sent_at[1] == RTO_INITIAL
    assert 30 < now < 60
    assert outputs[-1] == SctpClosed(SctpEnd.UNANSWERED)
    assert side.tick(now=now + 1) == side.receive(b"", now=now + 1) == []


def test_a_wrong_tag_or_checksum_is_dropped_by_name() -> None:
    net = connected()
    data = encode_packet(5000, 5000, 1, [encode_chunk(Abort())])
    assert net.sides[0].receive(data, now=200.0) == []
    assert net.sides[0].receive(data[:8] + b"\1\1\1\1" + data[12:], now=200.0) == []
    assert net.sides[0].drops == {Drop.MALFORMED: 1, Drop.BAD_INTEGRITY: 1}
    assert net.sides[0].state is SctpState.ESTABLISHED


def test_checksums_are_left_out_only_where_both_agree() -> None:
    for options, zero in (({}, True), ({"zero_checksum": False}, False)):
        net = Net([make("a"), make("b", **options)])
        both_connect(net)
        send(net, 0, 1, b"x")
        net.run()
        assert net.data(1) == [b"x"]
        for data in net.packets[0]:
            kinds = {type(each).__name__ for each in chunks([data])}
            plain = zero and not kinds & {"Init", "CookieEcho"}
            assert (data[8:12] == bytes(4)) is plain, kinds


# Data.


@pytest.mark.parametrize("seed", range(6))
def test_reliable_messages_arrive_once_and_in_order(seed: int) -> None:
    net = connected(terrible(seed), seed=seed)
    sent = {0: texts(60, f"{seed}0"), 1: texts(60, f"{seed}1")}
    for first, second in zip(sent[0], sent[1], strict=True):
        send(net, 0, 1, first)
        send(net, 1, 1, second)
    net.run()
    assert net.data(1) == sent[0]
    assert net.data(0) == sent[1]
    assert all(len(data) <= MAX_PACKET for packets in net.packets for data in packets)


@pytest.mark.parametrize("seed", range(3))
def test_unordered_messages_arrive_once(seed: int) -> None:
    net = connected(terrible(seed), seed=seed)
    sent = texts(60, seed)
    for data in sent:
        send(net, 0, 1, data, unordered=True)
    net.run()
    assert Counter(net.data(1)) == Counter(sent)
    assert net.data(1) != sent  # they did overtake each other


def test_a_loss_on_one_stream_does_not_hold_up_another() -> None:
    net = connected(lambda sender, index: () if (sender, index) == (0, 5) else (0.01,))
    net._sent[0] = 4
    for stream in (1, 2, 3):
        send(net, 0, stream, b"x" * 1000)
    net.run(until=lambda: len(net.messages(1)) == 2)
    assert [message.stream for message in net.messages(1)] == [2, 3]
    net.run()
    assert [message.stream for message in net.messages(1)] == [2, 3, 1]


def test_numbers_wrap() -> None:
    sides = [make(name) for name in "ab"]
    for side in sides:
        local = msgspec.structs.replace(side._handshake.local, tsn=2**32 - 5)
        side._handshake.local = local
        side._begin(local)
        side._sender.outbox.ssns[1] = 2**16 - 3
    net = Net(sides, terrible("wrap"))
    both_connect(net)
    net.run(until=lambda: all(side.state is SctpState.ESTABLISHED for side in sides))
    for side in sides:
        assert side._receiver is not None
        side._receiver.reassembly._streams[1] = Stream(2**16 - 3)
    sent = texts(30)
    for data in sent:
        send(net, 0, 1, data)
        send(net, 1, 1, data)
    net.run()
    assert net.data(0) == net.data(1) == sent


def test_timing_of_acknowledgements() -> None:
    net = connected()
    side, tsn = net.sides[0], first_tsn(net.sides[0])

    def data(number: int, flags: int = BEGIN | END) -> Data:
        return Data(tsn + number, 1, number, TEXT, flags, b"x")

    assert said(speak(side, data(0), now=200.0)) == []
    assert side.deadline == 200.2
    (sack,) = said(side.tick(now=200.2))
    assert isinstance(sack, Sack)
    assert sack.tsn == tsn
    assert said(speak(side, data(1), now=201.0)) == []
    assert len(said(speak(side, data(2), now=201.0))) == 1  # every second packet
    assert len(said(speak(side, data(3, 15), now=202.0))) == 1  # the I bit
    (sack,) = said(speak(side, data(5), now=203.0))  # a gap
    assert isinstance(sack, Sack)
    assert sack.gaps == ((2, 2),)
    (sack,) = said(speak(side, data(5), now=204.0))
    assert isinstance(sack, Sack)
    assert sack.duplicates == (tsn + 5,)


def test_an_acknowledgement_rides_on_data() -> None:
    net = connected()
    side, tsn = net.sides[0], first_tsn(net.sides[0])
    speak(side, Data(tsn, 1, 0, TEXT, 3, b"x"))
    sack, data = said(side.send(1, TEXT, b"y" * 1104, now=200.0))
    assert isinstance(sack, Sack)
    assert isinstance(data, Data)
    assert side.deadline > 200.2


def test_a_single_loss_is_repaired_by_fast_retransmission() -> None:
    net = connected(lambda sender, index: () if (sender, index) == (0, 3) else (0.01,))
    net._sent[0] = 0
    sent = [b"%d" % number + bytes(1000) for number in range(8)]
    for data in sent:
        send(net, 0, 1, data)
    net.run(until=lambda: len(net.messages(1)) == 8)
    assert net.now == pytest.approx(100.04 + 0.03, abs=0.011)  # one round trip more, no timer
    assert net.data(1) == sent
    congestion = net.sides[0]._sender.congestion
    assert congestion.recovery_until is not None
    assert congestion.window == congestion.threshold < INITIAL_WINDOW


def test_a_lost_tail_is_repaired_by_the_timer() -> None:
    net = connected(lambda sender, index: () if (sender, index) == (0, 1) else (0.01,))
    net._sent[0] = 0
    start = net.now
    send(net, 0, 1, b"x")
    net.run(until=lambda: bool(net.messages(1)))
    assert net.now - start == pytest.approx(RTO_INITIAL + 0.01)


def test_only_what_was_sent_once_is_measured() -> None:
    net = connected(lambda sender, index: () if (sender, index) == (0, 1) else (0.01,))
    net._sent[0] = 0
    send(net, 0, 1, b"x")
    net.run()
    assert net.sides[0]._sender.round_trip.smoothed is None
    send(net, 0, 1, b"y")
    net.run()
    assert net.sides[0]._sender.round_trip.smoothed == pytest.approx(0.22)  # a late SACK counts


def test_the_window_opens_slowly_and_closes_on_loss() -> None:
    net = connected()
    sender = net.sides[0]._sender
    before = sender.congestion.window
    for data in texts(40, longest=8_000):
        send(net, 0, 1, data)
        assert sender.flight.bytes <= sender.congestion.window + MAX_PACKET
    net.run()
    assert sender.congestion.window > before
    net.fate = lambda sender, index: ()
    send(net, 0, 1, b"x" * 5000)
    net.run(seconds=1.0)
    assert sender.congestion.window == MAX_PACKET
    assert sender.round_trip.timeout <= 3.0


def test_the_peers_window_is_respected_and_probed() -> None:
    net = connected()
    side = net.sides[0]
    tsn = side._sender.flight.next_tsn
    side.send(1, TEXT, b"x" * 100, now=200.0)
    assert said(speak(side, Sack(tsn, 0))) == []
    first = said(side.send(1, TEXT, b"y" * 100, now=200.0))
    assert len(first) == 1  # a probe: nothing is in flight
    assert said(side.send(1, TEXT, b"z" * 100, now=200.0)) == []
    assert len(said(speak(side, Sack(tsn + 1, 100_000)))) == 1


# What may be lost.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", [{"max_retransmits": 0}, {"lifetime": 0.1}])
def test_messages_that_may_be_lost_hold_nothing_up(seed: int, options: dict[str, float]) -> None:
    net = connected(terrible(seed), seed=seed)
    weak, strong = texts(40, seed), texts(10, f"s{seed}")
    for number, data in enumerate(weak):
        send(net, 0, 1, data, unordered=number % 5 == 0, **options)
        if number % 4 == 0:
            send(net, 0, 2, strong[number // 4])
    net.run()
    got = [message.data for message in net.messages(1) if message.stream == 1]
    assert [message.data for message in net.messages(1) if message.stream == 2] == strong
    assert len(got) == len(set(got)) < 40
    assert set(got) <= set(weak)
    ordered = [data for number, data in enumerate(weak) if number % 5]
    assert [data for data in got if data in ordered] == [data for data in ordered if data in got]
    net.fate = lambda sender, index: (0.01,)
    send(net, 0, 1, b"the last one")
    net.run()
    assert net.data(1)[-1] == b"the last one"
    assert net.sides[0]._sender.idle


def test_a_peer_without_forward_tsn_gets_everything() -> None:
    net = connected(terrible(4))
    net.sides[0]._sender.flight.forward_tsn = False
    sent = texts(20)
    for data in sent:
        send(net, 0, 1, data, max_retransmits=0)
    net.run()
    assert net.data(1) == sent


def test_forward_tsn_delivers_what_it_uncovers() -> None:
    net = connected()
    side, tsn = net.sides[0], first_tsn(net.sides[0])
    speak(side, Data(tsn + 1, 1, 1, TEXT, 3, b"second"), Data(tsn + 3, 1, 3, TEXT, 3, b"fourth"))
    outputs = speak(side, ForwardTsn(tsn + 2, ((1, 2),)))
    assert [each.data for each in outputs if isinstance(each, SctpMessage)] == [
        b"second",
        b"fourth",
    ]
    assert said(outputs)[-1] == Sack(tsn + 3, 262_144)
    assert said(speak(side, ForwardTsn(tsn + 1))) == [Sack(tsn + 3, 262_144)]


def test_fragments_without_a_beginning_are_swallowed() -> None:
    net = connected()
    side, tsn = net.sides[0], first_tsn(net.sides[0])
    assert side._receiver is not None
    speak(side, Data(tsn, 1, 0, TEXT, 0, b"x"), Data(tsn + 1, 1, 0, TEXT, 0, b"x"))
    assert side._receiver.reassembly.buffered == 0
    speak(side, Data(tsn + 2, 1, 0, TEXT, END, b"x"))
    assert not side._receiver.reassembly._by_first
    outputs = speak(
        side, Data(tsn + 3, 1, 0, TEXT, BEGIN, b"a"), Data(tsn + 4, 1, 0, TEXT, 1, b"b")
    )
    assert SctpMessage(1, TEXT, b"ab") in outputs


# Resets, and the end.


def test_a_reset_waits_for_what_was_sent_before() -> None:
    net = connected()
    side, tsn = net.sides[0], first_tsn(net.sides[0])

    def ask(sequence: int) -> tuple[Chunk, bool]:
        request = OutgoingReset(sequence, 0, (tsn + 1) % 2**32, (1,))
        outputs = speak(side, Reconfig((request,)))
        (answer,) = said(outputs)
        return answer, StreamsReset((1,), incoming=True) in outputs

    speak(side, Data(tsn, 1, 0, TEXT, 3, b"x"))
    assert ask(tsn + 3) == (Reconfig((ResetResponse(tsn + 3, 5),)), False)  # out of step
    assert ask(tsn) == (Reconfig((ResetResponse(tsn, 6),)), False)  # in progress
    speak(side, Data(tsn + 1, 1, 1, TEXT, 3, b"x"))
    assert ask(tsn) == (Reconfig((ResetResponse(tsn, 1),)), True)
    assert ask(tsn) == (Reconfig((ResetResponse(tsn, 1),)), False)  # a repetition
    assert ask(tsn + 1) == (Reconfig((ResetResponse(tsn + 1, 1),)), True)


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_begins_anew(seed: int) -> None:
    net = connected(terrible(seed), seed=seed)
    sent = texts(10, seed)
    for data in sent:
        send(net, 0, 1, data)
        send(net, 0, 3, data)
    net.carry(0, net.sides[0].reset_streams([1], now=net.now))
    with pytest.raises(LocalProtocolError):
        net.sides[0].send(1, TEXT, b"too late", now=net.now)
    net.run()
    assert StreamsReset((1,), incoming=False) in net.outputs[0]
    assert StreamsReset((1,), incoming=True) in net.outputs[1]
    assert [each.data for each in net.messages(1) if each.stream == 1] == sent
    send(net, 0, 1, b"again")
    send(net, 0, 3, b"went on")
    net.run()
    assert sorted(net.data(1)[-2:]) == [b"again", b"went on"]
    assert net.sides[0]._sender.outbox.ssns == {1: 1, 3: 11}


@pytest.mark.parametrize("seed", range(3))
def test_shutdown_after_everything_was_acknowledged(seed: int) -> None:
    net = connected(terrible(seed), seed=seed)
    sent = texts(10, seed)
    for data in sent:
        send(net, 0, 1, data)
        send(net, 1, 1, data)
    net.carry(0, net.sides[0].shutdown(now=net.now))
    with pytest.raises(LocalProtocolError):
        net.sides[0].send(1, TEXT, b"too late", now=net.now)
    net.run()
    assert net.data(1) == sent
    assert net.data(0) == sent
    assert [side.state for side in net.sides] == [SctpState.ENDED] * 2
    assert SctpClosed(SctpEnd.SHUTDOWN) in net.outputs[0] + net.outputs[1]


def test_abort() -> None:
    net = connected()
    net.carry(0, net.sides[0].abort(now=net.now))
    net.run()
    assert net.outputs[0] == [SctpClosed(SctpEnd.CLOSED)]
    assert net.outputs[1] == [SctpClosed(SctpEnd.ABORTED)]
    assert [side.deadline for side in net.sides] == [math.inf] * 2


def test_a_silent_peer_ends_the_association() -> None:
    net = connected(lambda sender, index: ())
    send(net, 0, 1, b"anybody?")
    net.run()
    assert net.outputs[0] == [SctpClosed(SctpEnd.UNANSWERED)]
    assert 30 < net.now - 100 < 60


def test_heartbeats_and_unknown_chunks_are_answered() -> None:
    net = connected()
    side, tsn = net.sides[0], first_tsn(net.sides[0])
    assert said(speak(side, Heartbeat(b"info"))) == [Heartbeat(b"info", acknowledges=True)]
    data = Data(tsn, 1, 0, TEXT, 15, b"x")
    (report,) = said(speak(side, UnknownChunk(0x40, 0, b"what"), data))  # stop, report
    assert isinstance(report, Abort)
    assert not report.fatal
    assert report.causes[0][0] == 6
    assert said(speak(side, UnknownChunk(0x20, 0, b"what"), data)) == []  # stop
    (sack,) = said(speak(side, UnknownChunk(0x80, 0, b"what"), data))  # skip
    assert isinstance(sack, Sack)


# A peer that lies.


def attack(side: Association, make_chunk: object, count: int) -> int:
    assert callable(make_chunk)
    most = 0
    for number in range(count):
        speak(side, make_chunk(number))
        if number % 50:
            continue
        assert side._receiver is not None
        reassembly = side._receiver.reassembly
        kept = sum(len(part) for run in reassembly._by_first.values() for part in run.parts)
        kept += sum(
            len(message.data)
            for stream in reassembly._streams.values()
            for message in stream.waiting.values()
        )
        assert kept <= reassembly.buffered
        most = max(most, reassembly.buffered, 96 * len(reassembly._by_first))
    return most


LIMIT = 262_144 + 65_536 + 2_000


@pytest.mark.parametrize(
    "kind",
    ["one gap", "endless", "no begin", "begins", "gaps", "gap messages", "far ssn", "streams"],
)
def test_memory_stays_bounded(kind: str) -> None:
    net = connected()
    side, tsn = net.sides[0], first_tsn(net.sides[0])
    body = bytes(1000)
    chunk = {
        "one gap": lambda n: Data(tsn + 1 + n, 1, 1 + n, TEXT, 3, body),
        "endless": lambda n: Data(tsn + n, 1, 0, TEXT, BEGIN if n == 0 else 0, body),
        "no begin": lambda n: Data(tsn + n, 1, 0, TEXT, 0, body),
        "begins": lambda n: Data(tsn + n, n % 50, 0, TEXT, BEGIN, body),
        "gaps": lambda n: Data(tsn + 2 + 2 * n, 1, n, TEXT, 0, b"x"),
        "gap messages": lambda n: Data(tsn + 2 + 2 * n, 1, 0, TEXT, 3 | UNORDERED, b"x"),
        "far ssn": lambda n: Data(tsn + n, 1, 1 + n, TEXT, 3, body),
        "streams": lambda n: Data(tsn + n, n, 1, TEXT, 3, b"x"),
    }[kind]
    assert attack(side, chunk, 2_000) <= LIMIT
    ended = kind == "far ssn"
    assert side.state is (SctpState.ENDED if ended else SctpState.ESTABLISHED)
    assert side._receiver is not None
    assert len(side._receiver.tsns.blocks) <= 512
    assert len(side._receiver.reassembly._streams) <= 1024


def test_a_message_beyond_the_limit_is_dropped_by_name_and_the_rest_goes_on() -> None:
    net = connected(max_message_size=10_000)
    send(net, 0, 1, bytes(10_001))
    send(net, 0, 1, b"nothing of this stream")
    send(net, 0, 2, bytes(10_000))
    net.run()
    assert net.outputs[1][0] == SctpTooLong(1)
    assert [message.stream for message in net.messages(1)] == [2]
    net.carry(0, net.sides[0].reset_streams([1], now=net.now))
    net.run()
    send(net, 0, 1, b"anew")
    net.run()
    assert net.data(1)[-1] == b"anew"


def test_the_outbox_is_bounded() -> None:
    net = connected(lambda sender, index: (), outbox=20_000)
    for _ in range(28):  # ten in flight, the rest waits
        send(net, 0, 1, bytes(1_000))
    with pytest.raises(OutboxFull):
        send(net, 0, 1, bytes(4_000))
    assert 15_000 < net.sides[0].outbox_bytes <= 20_000
    assert net.sides[0].buffered(1) == net.sides[0].outbox_bytes


def test_a_packet_full_of_costly_chunks_is_cheap() -> None:
    net = connected(lambda sender, index: ())
    for _ in range(10):
        send(net, 0, 1, b"x" * 1000)
    side = net.sides[0]
    acked = side._sender.flight.acked
    speak(side, *(Sack(acked, 100_000, ((2, 2),)) for _ in range(300)))
    assert side.drops == {Drop.RATE_LIMIT: 296}
    streams = tuple(range(4_000))
    tsn = first_tsn(side)
    speak(side, Reconfig((IncomingReset(tsn, streams),)))
    assert side._resets is not None
    assert len(side._resets.snapshot(now=0.0).waiting) <= 1024


def test_acknowledging_what_was_never_sent_does_nothing() -> None:
    net = connected()
    side = net.sides[0]
    speak(side, Sack(side._sender.flight.next_tsn + 5, 1000))
    assert side.drops == {Drop.MALFORMED: 1}


@pytest.mark.parametrize("seed", range(8))
def test_random_chunks_break_nothing(seed: int) -> None:
    net = connected(seed=seed)
    side, rng = net.sides[0], Random(seed)
    tsn = first_tsn(side)
    own = side._sender.flight.next_tsn
    for _ in range(150):
        if rng.random() < 0.2:
            side.send(rng.randrange(4), TEXT, bytes(rng.randrange(1, 3000)), now=200.0)
        chunk = rng.choice(
            (
                Data(
                    (tsn + rng.randrange(-3, 40)) % 2**32,
                    rng.randrange(3),
                    rng.randrange(5),
                    TEXT,
                    rng.randrange(16),
                    bytes(rng.randrange(1, 1200)),
                ),
                ForwardTsn((tsn + rng.randrange(-3, 40)) % 2**32, ((1, rng.randrange(9)),)),
                Sack((own + rng.randrange(-3, 40)) % 2**32, 9_000, ((2, 3), (7, 7))),
            )
        )
        speak(side, chunk)
        assert side._receiver is not None
        reassembly = side._receiver.reassembly
        cost = sum(run.cost for run in reassembly._by_first.values())
        cost += sum(
            len(message.data) + 96
            for stream in reassembly._streams.values()
            for message in stream.waiting.values()
        )
        assert reassembly.buffered == cost
        flight = side._sender.flight
        assert flight.bytes == sum(each.size for each in flight.sent if each.state == 0)
        assert len(flight.sent) == flight.next_tsn - flight.acked - 1


# Moving.


def moved(side: Association, *, now: float, skip: int = 0) -> Association:
    """Through bytes and back, as another process would have it."""
    data = msgspec.msgpack.encode(side.snapshot(now=now))
    snapshot = msgspec.msgpack.decode(data, type=AssociationSnapshot)
    return Association.restore(
        snapshot, entropy=entropy("heir"), config=side.config, now=now, skip=skip
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_planned_move_at_every_step_changes_nothing(seed: int) -> None:
    def talk(move: bool) -> Net:
        net = make_net(terrible(seed), seed=seed)

        def swap() -> None:
            if move:
                net.sides[0] = moved(net.sides[0], now=net.now)

        net.before_step = swap
        both_connect(net)
        for number, data in enumerate(texts(12, seed)):
            send(net, 0, 1, data, max_retransmits=0 if number % 4 == 0 else None)
            send(net, 1, 1, data)
        net.run(seconds=2.0)
        if net.sides[0].can_reset:
            net.carry(0, net.sides[0].reset_streams([1], now=net.now))
        net.run()
        net.carry(0, net.sides[0].shutdown(now=net.now))
        net.run()
        return net

    plain, swapped = talk(False), talk(True)
    assert plain.outputs == swapped.outputs
    assert len(plain.messages(0)) == 12


def test_a_snapshot_is_a_value_of_its_own() -> None:
    net = connected(lambda sender, index: (0.01,) if index % 3 else ())
    for data in texts(20):
        send(net, 0, 1, data)
        send(net, 1, 1, data)
    net.run(seconds=0.02)
    for side in net.sides:
        snapshot = side.snapshot(now=net.now)
        before = msgspec.msgpack.encode(snapshot)
        assert snapshot.sender.sent
        net.run(seconds=0.3)
        assert msgspec.msgpack.encode(snapshot) == before


RESERVE = 1_000


class Store:
    """Stores each wanted snapshot a while later, as a registry does."""

    def __init__(self, net: Net, *, delay: int) -> None:
        self.net, self.delay = net, delay
        self.stored: AssociationSnapshot | None = None
        self._queue: list[tuple[int, AssociationSnapshot]] = []
        self._steps = 0
        net.react, net.before_step = self.react, self.step

    def react(self, side: int, output: SctpOutput) -> list[SctpOutput]:
        if side == 0 and isinstance(output, CheckpointWanted):
            self.take()
        return []

    def take(self) -> None:
        snapshot = self.net.sides[0].snapshot(now=self.net.now)
        self._queue.append((self._steps + self.delay, snapshot))

    def step(self) -> None:
        self._steps += 1
        while self._queue and self._queue[0][0] <= self._steps:
            self.stored = self._queue.pop(0)[1]
            side = self.net.sides[0]
            self.net.carry(0, side.stored(self.stored.serial, now=self.net.now))

    def crash(self) -> None:
        assert self.stored is not None
        self._queue.clear()
        self.net.sides[0] = Association.restore(
            self.stored,
            entropy=entropy("heir"),
            config=self.net.sides[0].config,
            now=self.net.now,
            skip=RESERVE,
        )


@pytest.mark.parametrize("seed", range(8))
def test_a_crash_at_any_time_loses_nothing_of_the_peers(seed: int) -> None:
    net = connected(terrible(seed, loss=0.1), seed=seed, hold_acks=True, reserve=RESERVE)
    net.sides[1].config = SctpConfig()
    store = Store(net, delay=3)
    store.take()
    sent = texts(40, seed, 1_500)
    for data in sent[:30]:
        send(net, 1, 1, data)
        send(net, 0, 1, b"before")
    net.run(seconds=0.05 * (seed % 8) + 0.03)
    store.crash()
    for data in sent[30:]:
        send(net, 1, 1, data)
    after = texts(20, f"after{seed}")
    for data in after:
        send(net, 0, 1, data)
    net.run()
    got = net.data(0)
    assert [data for data in dict.fromkeys(got)] == sent  # noqa: C416
    assert [data for data in net.data(1) if data != b"before"] == after
    assert net.sides[0]._sender.idle


def test_what_was_queued_in_the_snapshot_is_sent_by_the_heir() -> None:
    net = connected(lambda sender, index: (), reserve=RESERVE)
    sent = texts(30, 1, 6_000)
    for data in sent:
        send(net, 0, 1, data)
    side = net.sides[0]
    assert side.outbox_bytes > 0
    net.sides[0] = moved(side, now=net.now, skip=RESERVE)
    net.fate = lambda sender, index: (0.01,)
    net.carry(0, net.sides[0].tick(now=net.now))
    net.run()
    assert net.data(1) == sent


def test_a_stream_that_the_snapshot_does_not_know_can_be_used_by_the_heir() -> None:
    net = connected(reserve=RESERVE)
    side = net.sides[0]
    snapshot = side.snapshot(now=net.now)
    for number in range(5):
        send(net, 0, 1, b"%d" % number)
    net.run()
    heirs = [snapshot]
    for life in (1, 2):
        net.sides[0] = Association.restore(
            heirs[-1], entropy=entropy("heir"), config=side.config, now=net.now, skip=RESERVE
        )
        heirs.append(net.sides[0].snapshot(now=net.now))
        for stream in (1, 2):
            send(net, 0, stream, b"%d %d" % (life, stream))
        net.run()
        assert net.sides[0]._sender.idle
    assert net.data(1)[5:] == [b"1 1", b"1 2", b"2 1", b"2 2"]


def test_the_heir_acknowledges_what_the_owner_could_not() -> None:
    net = connected(hold_acks=True)
    side, tsn = net.sides[0], first_tsn(net.sides[0])
    speak(side, Data(tsn, 1, 0, TEXT, 3, b"x"))
    snapshot = side.snapshot(now=200.0)
    heir = Association.restore(snapshot, entropy=entropy(1), config=SctpConfig(), now=200.0, skip=9)
    sacks = [each for each in said(heir.tick(now=200.0)) if isinstance(each, Sack)]
    assert [each.tsn for each in sacks] == [tsn]
    heir = Association.restore(snapshot, entropy=entropy(1), config=side.config, now=200.0)
    assert CheckpointWanted() in heir.tick(now=200.0)


def test_answers_to_resets_wait_for_the_store_as_well() -> None:
    net = connected(hold_acks=True)
    side, tsn = net.sides[0], first_tsn(net.sides[0])
    outputs = speak(side, Reconfig((OutgoingReset(tsn, 0, tsn - 1, (1,)),)))
    assert (said(outputs), CheckpointWanted() in outputs) == ([], True)
    answer = Reconfig((ResetResponse(tsn, 1),))
    assert answer in said(side.stored(side.snapshot(now=200.0).serial, now=200.0))
    assert answer not in said(side.stored(side.snapshot(now=200.0).serial, now=200.0))


def test_nothing_is_acknowledged_before_it_is_stored() -> None:
    net = connected(hold_acks=True)
    side, tsn = net.sides[0], first_tsn(net.sides[0])
    outputs = speak(side, *(Data(tsn + n, 1, n, TEXT, 11, b"x") for n in range(2)))
    assert outputs.count(CheckpointWanted()) == 1
    assert said(outputs) == []
    assert side.deadline == math.inf
    serial = side.snapshot(now=200.0).serial
    outputs = speak(side, Data(tsn + 2, 1, 2, TEXT, 11, b"x"))  # not in that snapshot
    assert outputs.count(CheckpointWanted()) == 1
    (sack,) = said(side.stored(serial, now=200.0))
    assert isinstance(sack, Sack)
    assert sack.tsn == (tsn + 1) % 2**32
    assert side.stored(serial, now=200.0) == []
    (sack,) = said(side.stored(side.snapshot(now=200.0).serial, now=200.0))
    assert isinstance(sack, Sack)
    assert sack.tsn == (tsn + 2) % 2**32


def test_no_more_numbers_are_used_than_reserved() -> None:
    net = connected(reserve=10)
    side = net.sides[0]
    first = side._sender.flight.next_tsn
    side.stored(side.snapshot(now=net.now).serial, now=net.now)
    for number in range(30):
        send(net, 0, 1, b"%d" % number)
    net.run(seconds=5.0)
    assert side._sender.flight.next_tsn == first + 9
    assert net.outputs[0].count(CheckpointWanted()) == 1  # when half of it was used
    for _ in range(4):
        net.carry(0, side.stored(side.snapshot(now=net.now).serial, now=net.now))
        net.run(seconds=5.0)
    assert len(net.data(1)) == 30


def test_a_crash_is_not_survived_where_the_peer_can_not_skip() -> None:
    net = connected()
    net.sides[0]._sender.flight.forward_tsn = False
    snapshot = net.sides[0].snapshot(now=net.now)
    for skip in (1, MAX_SKIP + 1):
        with pytest.raises(LocalProtocolError):
            Association.restore(
                snapshot, entropy=entropy(1), config=SctpConfig(), now=net.now, skip=skip
            )


def test_no_secrets_in_repr() -> None:
    net = connected()
    send(net, 0, 1, b"secret")
    side = net.sides[0]
    text = repr((net.outputs, side._handshake.snapshot(now=0.0), side.remote, net.messages(1)))
    assert "secret" not in text
    assert str(side._handshake.local.tag) not in text
    init = decode_packet(make().connect(now=0.0)[0].data).chunks[0]  # type: ignore[union-attr]
    assert isinstance(init, Init)
    assert str(init.tag) not in repr(init)


@pytest.mark.parametrize("lost", [(), (1,), (2,)])
def test_what_was_said_just_before_an_abort_survives_one_lost_packet(lost: tuple[int, ...]) -> None:
    net = connected()
    first = net._sent[0]
    net.fate = lambda sender, index: () if sender == 0 and index - first in lost else (0.01,)
    send(net, 0, 1, b"the reason")
    net.carry(0, net.sides[0].abort(now=net.now))
    net.run()
    assert net.data(1) == [b"the reason"]
    assert net.outputs[1][-1] == SctpClosed(SctpEnd.ABORTED)
    assert len(net.packets[0]) == 3


def test_an_abort_repeats_one_packet_at_most() -> None:
    net = connected()
    for number in range(20):
        send(net, 0, 1, bytes([number]) * 1_000)
    before = len(net.packets[0])
    net.carry(0, net.sides[0].abort(now=net.now))
    assert len(net.packets[0]) == before + 2
