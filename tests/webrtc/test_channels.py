"""Data channels of two peers, one in either DTLS role."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import cast

import msgspec
import pytest

from edge.errors import Drop, LocalProtocolError
from edge.webrtc.channel_outputs import (
    AssociationFailed,
    ChannelClosed,
    ChannelDrained,
    ChannelEnd,
    ChannelMessage,
    ChannelOpened,
    ChannelOutput,
    ChannelsSnapshot,
)
from edge.webrtc.channels import Channels
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_outputs import (
    CheckpointWanted,
    OutboxFull,
    SctpEnd,
    SctpEstablished,
    SctpOutput,
    SctpRestarted,
)
from edge.webrtc.sctp_state import SctpConfig, SctpState
from edge.wire.dcep import PPID_DCEP, ChannelOpen, encode_dcep
from tests.webrtc.sctp_pair import Fate, Net, entropy, make, perfect, terrible

EVENTS = ChannelOpen("oai-events")


class Call:
    """Channels 0 are the DTLS client's, 1 the server's, over a ``Net``."""

    def __init__(self, fate: Fate = perfect, *, seed: object = 1, **options: object) -> None:
        self.ends = [
            Channels(make(f"{seed}a", **options), dtls_client=True),
            Channels(make(f"{seed}b", **options), dtls_client=False),
        ]
        self.net = Net(cast(list[Association], self.ends), fate)

    def up(self) -> Call:
        for side in (0, 1):
            self.net.carry(side, self.ends[side].connect(now=self.net.now))  # type: ignore[arg-type]
        self.net.run()
        return self

    def do(self, side: int, outputs: list[ChannelOutput]) -> None:
        self.net.carry(side, outputs)  # type: ignore[arg-type]

    def open(self, side: int, settings: ChannelOpen = EVENTS, **options: int) -> int:
        number, outputs = self.ends[side].open(settings, now=self.net.now, **options)
        self.do(side, outputs)
        return number

    def send(self, side: int, channel: int, data: str | bytes) -> None:
        self.do(side, self.ends[side].send(channel, data, now=self.net.now))

    def close(self, side: int, channel: int) -> None:
        self.do(side, self.ends[side].close_channel(channel, now=self.net.now))

    def run(self) -> None:
        self.net.run()

    def heard(self, side: int) -> list[ChannelOutput]:
        return cast(list[ChannelOutput], self.net.outputs[side])

    def data(self, side: int) -> list[str | bytes]:
        return [each.data for each in self.heard(side) if isinstance(each, ChannelMessage)]


def test_the_browser_opens_and_talks() -> None:
    call = Call().up()
    number = call.open(0)
    assert number == 0
    call.send(0, number, '{"type":"session.update"}')
    call.run()
    assert call.heard(1)[1:] == [
        ChannelOpened(0, EVENTS, remote=True),
        ChannelMessage(0, '{"type":"session.update"}'),
    ]
    assert call.heard(0) == [SctpEstablished(), ChannelOpened(0, EVENTS, remote=False)]
    call.send(1, number, "answer")
    call.run()
    assert call.data(0) == ["answer"]


def test_numbers_follow_the_dtls_role() -> None:
    call = Call().up()
    assert [call.open(0), call.open(0), call.open(1), call.open(1)] == [0, 2, 1, 3]
    call.run()
    assert [each.channel for each in call.heard(1) if isinstance(each, ChannelOpened)] == [
        *(0, 2, 1, 3)
    ]


def test_all_kinds_of_messages() -> None:
    call = Call().up()
    number = call.open(1)
    kinds: list[str | bytes] = ["text", "", b"binary", b"", "käse", b"\0", "\0"]
    for data in kinds:
        call.send(1, number, data)
    call.run()
    assert call.data(0) == kinds


def test_opened_before_the_association_is_up() -> None:
    call = Call()
    call.send(0, call.open(0), "early")
    call.up()
    assert call.data(1) == ["early"]


def test_with_inits_in_sdp_an_open_channel_takes_one_round_trip() -> None:
    call = Call()
    inits = [end.association.local_init() for end in call.ends]
    for side in (0, 1):
        call.do(side, call.ends[side].start_with(inits[1 - side], now=call.net.now))
    call.send(0, call.open(0), "hello")
    call.run()
    assert call.data(1) == ["hello"]
    assert call.heard(0)[1] == ChannelOpened(0, EVENTS, remote=False)


@pytest.mark.parametrize("seed", range(3))
def test_channels_over_a_terrible_network(seed: int) -> None:
    call = Call(terrible(seed), seed=seed).up()
    numbers = [call.open(side) for side in (0, 1, 0)]
    call.run()
    for turn in range(15):
        for number in numbers:
            call.send(turn % 2, number, f"{number} {turn}")
    call.run()
    for side in (0, 1):
        for number in numbers:
            got = [
                each.data
                for each in call.heard(side)
                if isinstance(each, ChannelMessage) and each.channel == number
            ]
            assert got == [f"{number} {turn}" for turn in range(15) if turn % 2 != side]


@pytest.mark.parametrize("seed", range(3))
def test_unordered_and_weak_channels(seed: int) -> None:
    call = Call(terrible(seed), seed=seed).up()
    weak = call.open(0, ChannelOpen("weak", ordered=False, max_retransmits=0))
    short = call.open(0, ChannelOpen("short", lifetime=50))
    free = call.open(0, ChannelOpen("free", ordered=False))
    for turn in range(40):
        for number in (weak, short, free):
            call.send(0, number, f"{number} {turn}")
    call.run()
    settings = {
        each.channel: each.settings for each in call.heard(1) if isinstance(each, ChannelOpened)
    }
    assert settings[weak].max_retransmits == 0
    assert settings[short].lifetime == 50
    assert not settings[free].ordered
    got = call.data(1)
    assert sorted(each for each in got if each in {f"{free} {n}" for n in range(40)}) == sorted(
        f"{free} {turn}" for turn in range(40)
    )
    assert len(got) == len(set(got)) < 120


@pytest.mark.parametrize("closer", [0, 1])
@pytest.mark.parametrize("seed", range(2))
def test_closing_delivers_what_was_queued_and_frees_the_number(closer: int, seed: int) -> None:
    call = Call(terrible(seed), seed=seed).up()
    number = call.open(0)
    call.run()
    for turn in range(20):
        call.send(closer, number, f"{turn}")
    call.close(closer, number)
    with pytest.raises(LocalProtocolError):
        call.send(closer, number, "too late")
    call.run()
    assert call.data(1 - closer) == [f"{turn}" for turn in range(20)]
    assert call.heard(closer).count(ChannelClosed(number, ChannelEnd.LOCAL)) <= 1
    assert ChannelClosed(number, ChannelEnd.REMOTE) in call.heard(1 - closer)
    closed = [each for each in call.heard(closer) if isinstance(each, ChannelClosed)]
    assert len(closed) == 1
    assert call.open(0) == number
    call.send(0, number, "again")
    call.run()
    assert call.data(1)[-1] == "again"


def test_both_close_at_once() -> None:
    call = Call().up()
    number = call.open(0)
    call.run()
    call.close(0, number)
    call.close(1, number)
    call.run()
    for side in (0, 1):
        assert sum(isinstance(each, ChannelClosed) for each in call.heard(side)) == 1
    assert call.open(0) == number


def test_a_number_is_not_free_before_the_peer_has_reset_its_side() -> None:
    call = Call().up()
    number = call.open(0)
    call.run()
    call.ends[1]._reset = lambda streams, now: []  # type: ignore[method-assign]
    call.close(0, number)
    call.run()
    assert ChannelClosed(number, ChannelEnd.LOCAL) in call.heard(0)
    assert call.open(0) == number + 2


def test_closed_before_it_is_up() -> None:
    call = Call()
    number = call.open(0)
    call.close(0, number)
    call.up()
    assert ChannelClosed(number, ChannelEnd.LOCAL) in call.heard(0)
    assert ChannelClosed(number, ChannelEnd.REMOTE) in call.heard(1)


def test_a_number_agreed_on_needs_no_dcep() -> None:
    call = Call()
    call.open(0, negotiated=7)
    call.up()
    call.open(1, negotiated=7)
    call.send(0, 7, "hello")
    call.send(1, 7, "back")
    call.run()
    assert call.data(1) == ["hello"]
    assert call.data(0) == ["back"]
    for side in (0, 1):
        assert ChannelOpened(7, EVENTS, remote=False) in call.heard(side)
    with pytest.raises(LocalProtocolError):
        call.ends[0].open(EVENTS, now=call.net.now, negotiated=7)


def test_a_message_too_long_closes_its_channel_alone() -> None:
    call = Call(max_message_size=1_000).up()
    first, second = call.open(0), call.open(0)
    call.send(0, first, "x" * 1_001)
    call.send(0, first, "not heard")
    call.send(0, second, "y" * 1_000)
    call.run()
    assert call.data(1) == ["y" * 1_000]
    assert ChannelClosed(first, ChannelEnd.TOO_LONG) in call.heard(1)
    assert ChannelClosed(first, ChannelEnd.REMOTE) in call.heard(0)
    assert call.ends[1].drops[Drop.TOO_LONG] == 1
    assert call.open(0) == first


def test_what_the_peer_does_not_take_is_not_sent() -> None:
    call = Call().up()
    number = call.open(0)
    with pytest.raises(LocalProtocolError):
        call.send(0, number, "x" * 65_537)
    with pytest.raises(LocalProtocolError):
        call.send(0, 99, "no such channel")


def test_a_full_outbox_says_so_and_tells_when_there_is_room() -> None:
    call = Call(outbox=20_000).up()
    number = call.open(0)
    call.run()
    sent = 0
    with pytest.raises(OutboxFull):  # noqa: PT012
        while True:
            call.send(0, number, bytes(4_000))
            sent += 1
    assert 0 < call.ends[0].buffered(number) <= 20_000
    call.run()
    assert call.heard(0).count(ChannelDrained(number)) == 1
    assert len(call.data(1)) == sent
    assert call.ends[0].buffered(number) == 0


def raw(call: Call, stream: int, ppid: int, data: bytes) -> None:
    association = call.ends[0].association
    call.do(0, association.send(stream, ppid, data, now=call.net.now))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stream", "ppid", "data", "drop"),
    [
        (0, PPID_DCEP, b"\3", Drop.MALFORMED),
        (0, PPID_DCEP, b"\7nonsense", Drop.MALFORMED),
        (1, PPID_DCEP, encode_dcep(EVENTS), Drop.MALFORMED),  # our own parity
        (4, 51, b"no channel here", Drop.UNKNOWN_CHANNEL),
        (2, 51, b"\xff\xfe", Drop.MALFORMED),
        (2, 77, b"what", Drop.UNEXPECTED_PAYLOAD),
        (2, PPID_DCEP, encode_dcep(EVENTS), Drop.MALFORMED),  # open already
    ],
)
def test_what_a_peer_may_not_say_is_dropped_by_name(
    stream: int, ppid: int, data: bytes, drop: Drop
) -> None:
    call = Call().up()
    assert (call.open(0), call.open(0)) == (0, 2)
    call.close(0, 0)
    call.run()
    raw(call, stream, ppid, data)
    call.run()
    assert call.ends[1].drops == {drop: 1}
    call.send(0, 2, "goes on")
    call.run()
    assert call.data(1) == ["goes on"]


def test_a_flood_of_channels_is_capped() -> None:
    call = Call().up()
    for number in range(0, 400, 2):
        raw(call, number, PPID_DCEP, encode_dcep(EVENTS))
    call.run()
    opened = [each for each in call.heard(1) if isinstance(each, ChannelOpened)]
    assert len(opened) == 64
    assert call.ends[1].drops == {Drop.TABLE_FULL: 136}


@pytest.mark.parametrize("seed", range(4))
def test_random_messages_break_nothing(seed: int) -> None:
    call = Call(seed=seed).up()
    rng = Random(seed)
    for _ in range(200):
        data = rng.choice((encode_dcep(EVENTS), b"\2", rng.randbytes(rng.randrange(1, 30))))
        stream = rng.randrange(12)
        if rng.random() < 0.1:
            resets = call.ends[0].association.reset_streams([stream], now=call.net.now)
            call.do(0, resets)  # type: ignore[arg-type]
        elif call.ends[0].association.can_send(stream):
            raw(call, stream, rng.choice((50, 50, 51, 53, 56, 57, 0)), data)
        if rng.random() < 0.1:
            call.close(1, stream)
        if rng.random() < 0.2:
            call.run()
    call.run()
    assert call.ends[1].association.remote is not None
    assert len(call.ends[1]._channels) <= 64


@pytest.mark.parametrize("seed", range(6))
def test_mutated_packets_break_nothing(seed: int) -> None:
    rng = Random(seed)

    def spoil(packet: bytes) -> bytes:
        data = bytearray(packet)
        data[8:12] = bytes(4)  # no checksum, and the right tag
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(12, len(data))] = rng.choice((0, 1, 3, 4, 128, 192, 255))
        return bytes(data)

    call = Call(terrible(seed, loss=0.1), seed=seed)
    receives = [end.receive for end in call.ends]
    taken = 0

    def receive(packet: bytes, *, now: float) -> list[ChannelOutput]:
        nonlocal taken
        taken += 1
        outputs = receives[1](spoil(packet), now=now) if rng.random() < 0.5 else []
        return outputs + receives[1](packet, now=now)

    call.ends[1].receive = receive  # type: ignore[method-assign]
    call.up()
    for turn in range(30):
        with suppress(LocalProtocolError):  # the peer may have been told of fewer streams
            number = call.open(0)
            for _ in range(3):
                call.send(0, number, "x" * rng.randrange(1, 3_000))
            if turn % 2:
                call.close(0, number)
        call.net.run(seconds=0.2)
    call.run()
    assert taken > 2
    assert call.ends[1].drops or call.ends[1].association.state is SctpState.ENDED


def test_the_end_closes_every_channel() -> None:
    call = Call().up()
    number = call.open(0)
    call.run()
    call.do(0, call.ends[0].close(now=call.net.now))
    call.run()
    for side, reason in ((0, SctpEnd.CLOSED), (1, SctpEnd.ABORTED)):
        assert call.heard(side)[-2:] == [
            ChannelClosed(number, ChannelEnd.ASSOCIATION),
            AssociationFailed(reason),
        ]


def test_a_restart_of_the_peer_keeps_channels_open() -> None:
    call = Call().up()
    number = call.open(0)
    call.run()
    snapshot = call.ends[1].snapshot(now=call.net.now)
    heir = Channels(make("heir"), dtls_client=False)
    heir._channels = {each.id: each for each in snapshot.channels}
    call.ends[1] = heir
    call.net.sides[1] = cast(Association, heir)
    call.do(1, heir.connect(now=call.net.now))
    call.run()
    assert SctpRestarted() in call.heard(0)
    call.send(0, number, "there")
    call.send(1, number, "and back")
    call.run()
    assert call.data(1) == ["there"]
    assert call.data(0) == ["and back"]
    assert not [each for each in call.heard(0) if isinstance(each, ChannelClosed)]


@pytest.mark.parametrize("seed", range(2))
def test_a_move_at_every_step_changes_nothing(seed: int) -> None:
    def talk(move: bool) -> list[list[ChannelOutput]]:
        call = Call(terrible(seed), seed=seed)

        def swap() -> None:
            if not move:
                return
            old = call.ends[1]
            data = msgspec.msgpack.encode(old.snapshot(now=call.net.now))
            call.ends[1] = Channels.restore(
                msgspec.msgpack.decode(data, type=ChannelsSnapshot),
                entropy=entropy("heir"),
                config=old.association.config,
                now=call.net.now,
            )
            call.net.sides[1] = cast(Association, call.ends[1])

        call.net.before_step = swap
        call.up()
        first, second = call.open(0), call.open(1)
        call.run()
        for turn in range(12):
            call.send(turn % 2, first, f"{turn}" * 500)
            call.send(1 - turn % 2, second, f"{turn}")
        call.close(0, first)
        call.run()
        return [call.heard(0), call.heard(1)]

    assert talk(False) == talk(True)


@pytest.mark.parametrize("seed", range(4))
def test_a_crash_loses_nothing_of_the_clients_and_keeps_channels_open(seed: int) -> None:
    call = Call(terrible(seed, loss=0.1), seed=seed)
    server = call.ends[1]
    config = SctpConfig(hold_acks=True, reserve=1_000)
    server.association.config = config
    stored: list[ChannelsSnapshot] = []

    def store(side: int, output: object) -> list[SctpOutput]:
        if side == 0 or not isinstance(output, CheckpointWanted):
            return []
        stored.append(server.snapshot(now=call.net.now))
        serial = stored[-1].association.serial
        return cast(list[SctpOutput], server.stored(serial, now=call.net.now))

    call.net.react = store
    number = call.up().open(0)
    call.net.run(until=lambda: bool(stored and stored[-1].channels))
    for turn in range(30):
        call.send(0, number, f"{turn}" * 100)
        call.send(1, number, "before")
    call.net.run(seconds=0.04 * (seed % 6))
    call.net.react = lambda side, output: ()
    heir = Channels.restore(
        stored[-1], entropy=entropy("heir"), config=SctpConfig(), now=call.net.now, skip=1_000
    )
    call.ends[1], call.net.sides[1] = heir, cast(Association, heir)
    call.do(1, heir.tick(now=call.net.now))
    for turn in range(20):
        call.send(1, number, f"after {turn}")
    call.run()
    assert list(dict.fromkeys(call.data(1))) == [f"{turn}" * 100 for turn in range(30)]
    assert [each for each in call.data(0) if each != "before"] == [f"after {n}" for n in range(20)]
    assert not [each for each in call.heard(0) if isinstance(each, ChannelClosed)]


def test_no_label_and_no_message_in_repr() -> None:
    call = Call().up()
    call.send(0, call.open(0, ChannelOpen("secret")), "secret")
    call.run()
    assert "secret" not in repr(call.heard(0) + call.heard(1))
