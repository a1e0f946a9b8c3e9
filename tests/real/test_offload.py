"""The offload against the code that it stands in for: what both do must be equal."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from edge.errors import Drop
from edge.webrtc.keys import SrtpProfile
from edge.wire.rtcp import ReceiverReport, ReportBlock, SenderReport, encode_rtcp
from edge.wire.rtp import encode_mid_extension
from tests.support.lending import (
    NTP_OFFSET,
    OURS,
    PATH,
    REMOTE,
    TICK,
    Client,
    make_snapshot,
)
from tests.support.lent_pair import LentPeer, PurePeer, open_pair

every_profile = pytest.mark.parametrize("profile", list(SrtpProfile), ids=lambda p: p.name)
STEPS = 1_500


class Script:
    """A random course of a call, the same for both peers; ``step`` plays a bit of it."""

    def __init__(self, profile: SrtpProfile, seed: int, pair: tuple[PurePeer, LentPeer]) -> None:
        self.dice = random.Random(seed)
        self.client = Client(profile, index=pair[0].peer.media.logs[REMOTE].highest + 1)
        self.foreign = Client(profile, index=5)
        self.pair = pair
        self.now = 0.0
        self.media_time = 0
        self.late: list[bytes] = []
        self.past: list[bytes] = []
        self.moves: list[Callable[[], None]] = [
            *[self.usual] * 8,
            *[self.speak] * 8,
            *(self.gap, self.deliver_late, self.duplicate, self.corrupt, self.cut),
            *(self.other_ssrc, self.other_type, self.odd_header, self.empty, self.jump),
            *(self.rtcp, self.tick, self.look, self.speak_too_long),
        ]

    def step(self) -> None:
        self.now += self.dice.randrange(1, 40) * TICK
        self.dice.choice(self.moves)()

    def _receive(self, *datagrams: bytes) -> None:
        for each in self.pair:
            each.receive(datagrams, self.now)
        self.past = [*self.past, *datagrams][-50:]

    def _payload(self) -> bytes:
        return self.dice.randbytes(self.dice.choice((1, 2, 15, 16, 17, 80, 160, 1_100)))

    def _packet(self, **options: int) -> bytes:
        extension = encode_mid_extension(4, "a" * self.dice.randrange(1, 20))
        return self.client.packet(
            self._payload(),
            timestamp=self.client.index * 960 + self.dice.randrange(50),
            marker=self.dice.random() < 0.1,
            extension=self.dice.choice((b"", extension)),
            **options,
        )

    def usual(self) -> None:
        self._receive(*(self._packet() for _ in range(self.dice.randrange(1, 5))))

    def gap(self) -> None:
        self.late += [self._packet() for _ in range(self.dice.randrange(1, 4))]
        self._receive(self._packet())

    def deliver_late(self) -> None:
        if self.late:
            self._receive(self.late.pop(self.dice.randrange(len(self.late))))

    def duplicate(self) -> None:
        if self.past:
            self._receive(self.dice.choice(self.past))

    def corrupt(self) -> None:
        packet = self._packet()
        at = self.dice.randrange(len(packet))
        bad = packet[:at] + bytes((packet[at] ^ 1 << self.dice.randrange(8),)) + packet[at + 1 :]
        self._receive(bad)
        self._receive(packet)

    def cut(self) -> None:
        packet = self._packet()
        self._receive(packet[: self.dice.randrange(len(packet))])
        self.late.append(packet)

    def other_ssrc(self) -> None:
        """Mostly with the very number that the usual one will have next."""
        self.foreign.index = max(self.foreign.index, self.client.index)
        self._receive(self.foreign.packet(self._payload(), ssrc=0xF0E1))

    def other_type(self) -> None:
        self._receive(self._packet(payload_type=13))

    def odd_header(self) -> None:
        first, rest, payload = self.dice.choice(
            (
                (0xA0, b"", b"padded\x00\x00\x03"),
                (0xA0, b"", b"wrong\xff"),
                (0x81, bytes(4), b"one CSRC"),
                (0x92, bytes(8) + b"\xbe\xde\x00\x01\x40a\x00\x00", b"two and an extension"),
                (0x90, b"\xbe\xde\x00\x00", b"an empty extension"),
                (0x90, b"\x00\x00\x00\x02" + bytes(8), b"a foreign extension"),
            )
        )
        self._receive(self.client.raw(first, rest, payload))

    def empty(self) -> None:
        self._receive(self.client.packet(b""))

    def jump(self) -> None:
        self.client.index += self.dice.choice((70, 1_100, 3_100))
        self._receive(self._packet())

    def rtcp(self) -> None:
        time = self.now + NTP_OFFSET
        block = ReportBlock(OURS, 3, 4, 2_000, 17, int(time * 65_536) & 0xFFFFFFFF, 0)
        report: SenderReport | ReceiverReport = SenderReport(
            REMOTE, int(time * 2**32) & (2**64 - 1), 960, 1, 80, (block,)
        )
        if self.dice.random() < 0.5:
            report = ReceiverReport(REMOTE, (block,))
        self._receive(self.client.srtp.protect_rtcp(encode_rtcp((report,))))

    def tick(self) -> None:
        for each in self.pair:
            if each.peer.deadline <= self.now:
                each.tick(self.now)

    def look(self) -> None:
        pure, lent = self.pair
        assert lent.peer.statistics() == pure.peer.statistics()
        assert lent.peer.heard_at(PATH) == pure.peer.heard_at(PATH)

    def speak(self) -> None:
        payload, marker = self._payload(), self.dice.random() < 0.1
        for each in self.pair:
            each.send(payload, self.media_time, marker, self.now)
        self.media_time += 960

    def speak_too_long(self) -> None:
        payload = bytes(2_000 - self.dice.randrange(60))
        for each in self.pair:
            each.send(payload, self.media_time, False, self.now)
        self.media_time += 960


@every_profile
@pytest.mark.parametrize(
    ("heard", "next_index"),
    [(1_000, 2_000), (65_300, 65_400), (2**47 + 65_300, 2**40 - 200), (2**32 - 50, 2**32 - 60)],
    ids=["low", "roll-over", "high", "32 bits"],
)
def test_lent_or_not_the_same_happens(profile: SrtpProfile, heard: int, next_index: int) -> None:
    """What is heard, sent and counted is equal to the byte, through a random course of a call."""
    snapshot = make_snapshot(profile, heard=heard, next_index=next_index)
    with open_pair(snapshot) as pair:
        pure, lent = pair
        script = Script(profile, heard + next_index, pair)
        for _ in range(STEPS):
            script.step()
            lent.collect()
        assert lent.heard == pure.heard
        assert lent.sent == pure.sent
        script.look()
        assert lent.state(script.now) == pure.state(script.now)
        assert lent.opened > len(pure.heard) / 4, "else nothing was shown"
        assert lent.sealed > len(pure.sent) / 4
        drops = pure.peer.statistics().drops
        assert min(drops[d] for d in (Drop.BAD_AUTH, Drop.REPLAY, Drop.UNEXPECTED_PAYLOAD)) > 5
