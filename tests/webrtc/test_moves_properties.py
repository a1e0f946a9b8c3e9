"""Random conversations that move: exactly, or past what a crash may have used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.client.channel import CallerChannel
from edge.webrtc.channel_outputs import ChannelMessage, ChannelOpened
from edge.webrtc.dtls_protection import RecordWriter
from edge.webrtc.dtls_records import ContentType, Record
from edge.webrtc.outputs import Ended, PeerOutput, Transmit
from edge.webrtc.peer import Peer, PeerSnapshot
from edge.webrtc.reserve import HEIR_SKIPS, NO_RESERVE, OWNER_USES, Reserve
from edge.webrtc.sctp_outputs import CheckpointWanted
from edge.webrtc.sctp_state import SctpConfig
from edge.webrtc.srtp import AeadGcm
from edge.wire.demux import Kind, classify
from edge.wire.rtcp import GenericNack, encode_rtcp
from edge.wire.rtp import build_header
from tests.support.examples import examples
from tests.webrtc.peer_call import Call, make_call

RED: Final = 63
REDUNDANT: Final = bytes.fromhex("ef0f0003 6f aabbcc 11223344")
STEP: Final = 1 / 128  # seconds; exact in binary, as are the times of a snapshot then


def copy(snapshot: PeerSnapshot) -> PeerSnapshot:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=PeerSnapshot)


# An exact move.


@dataclass
class Input:
    """What a peer was told, what it said, and what it was before."""

    name: str
    arguments: tuple[object, ...]
    options: dict[str, object]
    before: PeerSnapshot
    outputs: Sequence[PeerOutput] = ()

    def give(self, peer: Peer) -> list[PeerOutput]:
        said = getattr(peer, self.name)(*self.arguments, **self.options)
        return said if isinstance(said, list) else [] if said is None else [said]


class Recorded:
    """A peer whose inputs are written down."""

    def __init__(self, peer: Peer) -> None:
        self.inputs: list[Input] = []
        self._peer = peer

    def __getattr__(self, name: str) -> object:
        if name not in ("receive", "send_audio", "send_message", "tick"):
            return getattr(self._peer, name)

        def record(*arguments: object, **options: object) -> object:
            now = options["now"]
            assert isinstance(now, float)
            each = Input(name, arguments, options, copy(self._peer.snapshot(now=now)))
            self.inputs.append(each)
            said = getattr(self._peer, name)(*arguments, **options)
            each.outputs = said if isinstance(said, list) else [] if said is None else [said]
            return said

        return record


def converse(seed: int) -> tuple[list[Input], set[bytes]]:
    """Talk with losses both ways; redundant packets, requests for more, and messages.

    Returns the peer's inputs, and what it sent more than once.
    """
    random = Random(seed)
    channel = CallerChannel("oai-events")
    call = make_call(nack=True, channel=channel)
    call.run(1.0, step=STEP)
    call.peer.media.red_payload_type = RED
    call.to_caller = lambda datagram: random.random() > 0.05
    heard: list[bytes] = []

    def arrives(datagram: bytes) -> bool:
        heard.append(datagram)
        return random.random() > 0.05

    call.to_peer = arrives
    recorded = Recorded(call.peer)
    call.peer = recorded  # type: ignore[assignment]
    for number in range(80):
        match random.randrange(7):
            case 0:
                call.say(f"{number}" * random.choice((1, 3_000)))
            case 1:
                data = bytes(random.choice((1, 5_000)))
                call.follow(call.peer.send_message(channel.number, data, now=call.now))
            case 2:
                call.carry([redundant(call, number)])
            case 3:
                call.carry([request(call)])
            case 4:
                call.carry(heard[-random.randrange(1, 60) :][:1])  # once more, or late
            case _:
                call.run(random.choice((0.05, 0.5)), step=STEP)
    call.run(max(0.5, 7.5 - call.now), step=STEP)  # there was a report
    sent = Counter(each.data for each in call.sent)
    return recorded.inputs, {data for data, times in sent.items() if times > 1}


def redundant(call: Call, number: int) -> bytes:
    assert call.caller._sender is not None
    header = build_header(RED, False, number, 960 * number, 77)
    return call.caller._sender.protect_rtp(header, REDUNDANT, index=number)


def request(call: Call) -> bytes:
    stream = call.peer.media.stream
    assert call.caller._sender is not None
    nack = GenericNack(1, stream.ssrc, (stream.last_sent & 0xFFFF,))
    return call.caller._sender.protect_rtcp(encode_rtcp((nack,)))


def without(outputs: Sequence[PeerOutput], known: set[bytes]) -> list[PeerOutput]:
    """All but packets that are sent again: what is kept for that does not travel."""
    return [each for each in outputs if not (isinstance(each, Transmit) and each.data in known)]


def is_report(each: Input) -> bool:
    sent = [output.data for output in each.outputs if isinstance(output, Transmit)]
    return each.name == "tick" and any(classify(data) is Kind.RTCP for data in sent)


@pytest.mark.parametrize("seed", range(3))
def test_a_conversation_goes_on_elsewhere_exactly_as_it_would_have(seed: int) -> None:
    inputs, repeated = converse(seed)
    assert {each.name for each in inputs} == {"receive", "send_audio", "send_message", "tick"}
    assert repeated
    assert any(is_report(each) for each in inputs)
    for start in range(seed, len(inputs), 41):
        now = inputs[start].options["now"]
        assert isinstance(now, float)
        heir = Peer.restore(inputs[start].before, entropy=bytes, now=now)
        for number, each in enumerate(inputs[start:], start):
            said = without(each.give(heir), repeated)
            assert said == without(each.outputs, repeated), (start, number, each.name)


# A crash.


@dataclass
class Nonces:
    """What was sealed under which nonce; no pair of key and number may come twice."""

    used: Counter[tuple[object, ...]] = field(default_factory=Counter)

    @contextmanager
    def watched(self) -> Iterator[None]:
        rtp, rtcp, write = AeadGcm.seal_rtp, AeadGcm.seal_rtcp, RecordWriter.write

        def seal_rtp(one: AeadGcm, header: bytes, data: bytes, ssrc: int, index: int) -> bytes:
            self.used[one._salt, ssrc, index] += 1
            return rtp(one, header, data, ssrc, index)

        def seal_rtcp(one: AeadGcm, compound: bytes, ssrc: int, index: int) -> bytes:
            self.used[one._salt, ssrc, index] += 1
            return rtcp(one, compound, ssrc, index)

        def write_record(one: RecordWriter, kind: ContentType, content: bytes) -> Record:
            self.used[one._key.key, one.next_sequence] += 1
            return write(one, kind, content)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AeadGcm, "seal_rtp", seal_rtp)
            patch.setattr(AeadGcm, "seal_rtcp", seal_rtcp)
            patch.setattr(RecordWriter, "write", write_record)
            yield


class Fleet:
    """A call and the last checkpoint that is stored of it; what was written down is counted.

    A checkpoint that somebody waits for is stored before any time passes, unless the owner dies
    first. What none tells of is told again to the heir, as a backend does.
    """

    def __init__(self) -> None:
        self.channel = CallerChannel("oai-events")
        config = SctpConfig(hold_acks=True, hold_messages=True, reserve=OWNER_USES.tsn)
        self.call = make_call(nack=True, channel=self.channel, config=config)
        self.said: list[str] = []
        self.told: list[str] = []
        self.stored_told = self.seen = 0
        self.call.run(0.1)
        self.store()
        self.pass_time(0.2)

    def lose(self, seed: int, rate: float) -> None:
        """Have some of what belongs to the channel never arrive, either way."""
        random = Random(seed)

        def arrives(datagram: bytes) -> bool:
            return classify(datagram) is not Kind.DTLS or random.random() >= rate

        self.call.to_peer = self.call.to_caller = arrives

    @property
    def number(self) -> int:
        return next(o.channel for o in self.call.outputs if isinstance(o, ChannelOpened))

    def store(self) -> None:
        call = self.call
        self.stored, self.at = copy(call.peer.snapshot(now=call.now)), call.now
        self.stored_told, self.seen = len(self.told), len(call.outputs)
        call.follow(call.peer.checkpoint_stored(now=call.now))
        call.peer.limit(OWNER_USES)
        if call.peer.deadline <= call.now:
            call.follow(call.peer.tick(now=call.now))

    def say(self) -> None:
        self.said.append(f"said {len(self.said)}")
        self.call.say(self.said[-1])

    def tell(self) -> None:
        self.told.append(f"told {len(self.told)}")
        self._tell(self.told[-1])

    def talk(self) -> None:
        self.pass_time(0.1)

    def talk_for_long(self) -> None:
        """Until there was a report."""
        self.pass_time(6.5)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            if CheckpointWanted() in self.call.outputs[self.seen :]:
                self.store()
            self.call.run(0.02, step=0.02)

    def move(self) -> None:
        """Hand over, as planned: what leaves here ends at once."""
        old = self.call.peer
        old.leave()
        self.stored, self.at = copy(old.snapshot(now=self.call.now)), self.call.now
        self.stored_told = len(self.told)
        self._take_up(NO_RESERVE)
        self.store()

    def crash(self) -> None:
        """Die; while nobody listens time passes, and what the client sends is lost."""
        call, fate = self.call, self.call.to_peer
        call.to_peer = lambda datagram: False
        call.run(0.2)
        call.to_peer = fate
        self._take_up(HEIR_SKIPS)
        call.run(0.02)  # it hears, and says nothing yet

    def revive(self) -> None:
        """The heir has stored its own checkpoint, and meets the backend."""
        untold = self.told[self.stored_told :]
        self.store()
        self.stored_told -= len(untold)
        for message in untold:
            self._tell(message)

    def crash_and_go_on(self) -> None:
        self.crash()
        self.revive()
        self.talk()
        self.store()  # as a writer has it: from here on a packet of the heir's is known

    def crash_twice(self) -> None:
        """The first heir has stored its checkpoint and spoken, but stored nothing since."""
        self.crash()
        self.revive()
        self.talk()
        self.tell()
        self.crash_and_go_on()

    def crash_in_silence(self) -> None:
        """The first heir dies before it has stored anything."""
        self.crash()
        self.crash_and_go_on()

    def _tell(self, message: str) -> None:
        self.call.follow(self.call.peer.send_message(self.number, message, now=self.call.now))

    def _take_up(self, skip: Reserve) -> None:
        age = self.call.now - self.at
        self.call.peer = Peer.restore(
            self.stored, entropy=bytes, now=self.call.now, age=age, skip=skip
        )
        self.call.peer.limit(NO_RESERVE)


STEPS: Final = (
    *("talk", "talk_for_long", "say", "tell", "store", "move"),
    *("crash_and_go_on", "crash_twice", "crash_in_silence"),
)


@examples(6)
@given(
    st.lists(st.sampled_from(STEPS), max_size=12), st.integers(0, 2**16), st.sampled_from((0, 0.1))
)
def test_whatever_dies_when_nothing_is_used_twice_and_no_message_is_lost(
    steps: list[str], seed: int, loss: float
) -> None:
    nonces = Nonces()
    with nonces.watched():
        fleet = Fleet()
        fleet.lose(seed, loss)
        for step in steps:
            getattr(fleet, step)()
        fleet.lose(seed, 0.0)
        before = fleet.call.caller.journal.received
        for _ in range(6):  # what was lost comes once more after 3 s at most
            fleet.store()
            fleet.pass_time(1.5)
    assert max(nonces.used.values()) == 1
    call = fleet.call
    assert call.caller.journal.rejected == 0, "the client takes all"
    assert call.caller.journal.received >= before + 440
    heard = [each.data for each in call.outputs if isinstance(each, ChannelMessage)]
    assert list(dict.fromkeys(heard)) == fleet.said, "no message is lost, some come twice"
    assert list(fleet.channel.received) == fleet.told, "each once, in order"
    assert not fleet.channel.closed
    assert not any(isinstance(each, Ended) for each in call.outputs)


@pytest.mark.parametrize("step", ["crash_twice", "crash_in_silence"])
def test_two_take_overs_in_a_row(step: str) -> None:
    nonces = Nonces()
    with nonces.watched():
        fleet = Fleet()
        for _ in range(3):
            fleet.store()
            fleet.talk_for_long()
            fleet.say()
            fleet.tell()
            getattr(fleet, step)()
            fleet.talk_for_long()
    assert max(nonces.used.values()) == 1
    assert fleet.call.caller.journal.rejected == 0
    assert list(fleet.channel.received) == fleet.told


def test_without_a_skip_the_same_crash_would_use_a_nonce_twice() -> None:
    nonces = Nonces()
    with nonces.watched():
        fleet = Fleet()
        fleet.talk()
        fleet._take_up(NO_RESERVE)
        fleet.store()
        fleet.talk()
    assert max(nonces.used.values()) > 1
