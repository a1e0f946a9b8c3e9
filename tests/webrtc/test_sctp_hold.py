"""Messages that leave when a stored snapshot holds them: once each at the far end, whoever dies."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from random import Random
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.webrtc.sctp import Association
from edge.webrtc.sctp_hold import HOLD_SECONDS
from edge.webrtc.sctp_outputs import CheckpointWanted, SctpMessage, SctpOutput, SctpTransmit
from edge.webrtc.sctp_state import AssociationSnapshot, SctpConfig, SctpState
from edge.wire.sctp import decode_packet
from edge.wire.sctp_chunks import Data
from tests.support.examples import examples
from tests.webrtc.sctp_pair import Net, entropy, make, terrible

OURS: Final = SctpConfig(hold_acks=True, hold_messages=True, reserve=500)
SKIP: Final = 1_000
TEXT: Final = 51


def data(outputs: Iterable[SctpOutput]) -> list[bytes]:
    """The payloads of the DATA chunks in what is sent."""
    sent = [each.data for each in outputs if isinstance(each, SctpTransmit)]
    chunks = [chunk for each in sent for chunk in decode_packet(each, zero_checksum=True).chunks]
    return [chunk.payload for chunk in chunks if isinstance(chunk, Data)]


def up(seed: object = 1, config: SctpConfig = OURS) -> Net:
    """A pair of which the first has had its first snapshot stored."""
    net = Net([Association(entropy=entropy(f"{seed}a"), config=config), make(f"{seed}b")])
    net.carry(0, net.sides[0].connect(now=net.now))
    net.run()
    assert [side.state for side in net.sides] == [SctpState.ESTABLISHED] * 2
    store(net)
    for outputs in net.outputs:
        outputs.clear()
    return net


def store(net: Net) -> list[SctpOutput]:
    side = net.sides[0]
    outputs = side.stored(side.snapshot(now=net.now).serial, now=net.now)
    net.carry(0, outputs)
    return outputs


def send(net: Net, payload: bytes, *, stream: int = 1, most: int | None = None) -> list[SctpOutput]:
    outputs = net.sides[0].send(stream, TEXT, payload, now=net.now, max_retransmits=most)
    net.carry(0, outputs)
    return outputs


def test_a_message_leaves_when_it_is_stored() -> None:
    net = up()
    outputs = send(net, b"first")
    assert (data(outputs), outputs.count(CheckpointWanted())) == ([], 1)
    assert send(net, b"second") == [], "it was asked for"
    serial = net.sides[0].snapshot(now=net.now).serial
    outputs = send(net, b"third")
    assert (data(outputs), outputs.count(CheckpointWanted())) == ([], 1), "not in that one"
    assert data(net.sides[0].stored(serial, now=net.now)) == [b"first", b"second"]
    assert data(store(net)) == [b"third"]


def test_what_may_be_lost_waits_for_nothing() -> None:
    net = up()
    assert data(send(net, b"now", most=0)) == [b"now"]
    send(net, b"stored")
    assert data(send(net, b"behind it", most=0)) == []
    assert data(store(net)) == [b"stored", b"behind it"]
    net.run()
    assert net.data(1) == [b"now", b"stored", b"behind it"]


def test_no_timer_runs_for_what_has_not_left() -> None:
    net = up()
    send(net, b"message")
    assert net.sides[0].deadline == net.now + HOLD_SECONDS
    serial = net.sides[0].snapshot(now=net.now).serial
    window = net.sides[0]._sender.congestion.window
    net.sides[0].tick(now=net.now + HOLD_SECONDS / 2)
    net.carry(0, net.sides[0].stored(serial, now=net.now))
    assert net.sides[0].deadline > net.now + HOLD_SECONDS
    net.run()
    assert net.data(1) == [b"message"]
    assert net.sides[0].deadline == float("inf")
    assert net.sides[0]._sender.congestion.window >= window


@pytest.mark.parametrize("staged", [True, False])
def test_a_registry_that_is_slow_or_away_holds_nothing_for_long(staged: bool) -> None:
    net = up()
    send(net, b"late")
    if staged:
        net.sides[0].snapshot(now=net.now)
    net.now += HOLD_SECONDS
    assert data(net.sides[0].tick(now=net.now)) == [b"late"]
    assert data(send(net, b"at once")) == [b"at once"]
    store(net)
    assert data(send(net, b"waits again")) == []
    assert data(net.sides[0].unstored(now=net.now)) == [b"waits again"]
    assert data(send(net, b"at once")) == [b"at once"]


def test_the_end_does_not_wait() -> None:
    net = up()
    send(net, b"goodbye")
    net.carry(0, net.sides[0].abort(now=net.now))
    net.run()
    assert net.data(1) == [b"goodbye"]


def test_a_stream_is_reset_when_what_waits_on_it_was_sent() -> None:
    net = up()
    send(net, b"last")
    net.carry(0, net.sides[0].reset_streams([1], now=net.now))
    net.run(seconds=HOLD_SECONDS / 2)
    assert net.kinds(1) == []
    store(net)
    net.run(seconds=1.0)
    store(net)  # the answer of the peer's own request, if it has any
    net.run(seconds=1.0)
    assert net.kinds(1) == ["SctpMessage", "StreamsReset"]


def test_a_peer_without_room_gets_no_more_than_it_has_room_for() -> None:
    net = up()
    net.sides[0]._sender.peer_window = 2_000
    for _ in range(5):
        send(net, bytes(1_000))
    assert len(data(store(net))) == 2


def test_a_restart_holds_nothing_that_it_should_not() -> None:
    net = up()
    send(net, b"lost with the former association")
    serial = net.sides[0].snapshot(now=net.now).serial
    net.sides[1] = make("again")
    net.carry(1, net.sides[1].connect(now=net.now))
    net.run(seconds=0.1)
    assert "SctpRestarted" in net.kinds(0)
    assert net.sides[0].stored(serial, now=net.now) == []
    assert CheckpointWanted() in send(net, b"new")
    assert data(store(net)) == [b"new"]


def test_a_message_of_many_fragments_is_cut_anew_only_where_its_rest_was_not_stored() -> None:
    net = up(config=msgspec.structs.replace(OURS, reserve=20))
    payload = Random(1).randbytes(30_000)
    send(net, payload)
    snapshot = net.sides[0].snapshot(now=net.now)  # ten of its fragments
    net.carry(0, net.sides[0].stored(snapshot.serial, now=net.now))
    net.run(seconds=0.1)
    assert net.data(1) == []
    net.sides[0] = heir_of(snapshot, net)
    net.run(seconds=5.0)
    store(net)
    net.run(seconds=5.0)
    for _ in range(4):
        store(net)
        net.run(seconds=5.0)
    assert net.data(1) == [payload]


def heir_of(snapshot: AssociationSnapshot, net: Net) -> Association:
    return Association.restore(
        msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=AssociationSnapshot),
        entropy=entropy("heir"),
        config=net.sides[0].config,
        now=net.now,
        skip=SKIP,
    )


# Whatever dies when.


class World:
    """An owner and its heirs, a registry that takes a while, and a maker of messages.

    The maker is told by each snapshot how many of its messages it holds, as a backend is, and gives
    an heir the rest again. It makes the same ones: each tells its stream and number.
    """

    def __init__(self, seed: int, delay: float) -> None:
        self.random = Random(seed)
        self.net = up(seed)
        self.net.fate = terrible(seed, loss=0.15)
        self.net.react = self._react
        self.made: list[tuple[int, bytes]] = []
        self.given = 0
        self._delay = delay
        self._storing: deque[tuple[float, AssociationSnapshot, int]] = deque()
        self._wanted = False
        self._stored = self._write()

    def make(self, stream: int, size: int) -> None:
        head = f"{stream} {len(self.made)} ".encode()
        self.made.append((stream, head + bytes(size)))
        self._give()

    def run(self, seconds: float) -> None:
        end = self.net.now + seconds
        while True:
            at = min(self.net.next_event, self._storing[0][0] if self._storing else end)
            if at >= end:
                self.net.now = max(self.net.now, end)
                return
            if self._storing and self._storing[0][0] <= at:
                self._answer()
            else:
                self.net.step()

    def crash(self, silence: float) -> None:
        """Die; what is still on its way to the registry may or may not come to it."""
        if self._storing and self.random.random() < 0.5:
            self._stored = self._storing[0][1:]
        self._storing.clear()
        side = self.net.sides[0]
        side.paused, self._wanted = True, False
        self.net.now += silence
        snapshot, self.given = self._stored
        self.net.sides[0] = heir = heir_of(snapshot, self.net)
        # It is stored before it speaks.
        self._stored = self._write()
        self.net.carry(0, heir.stored(self._stored[0].serial, now=self.net.now))
        self._give()

    def heard(self) -> dict[int, list[bytes]]:
        heard = defaultdict(list)
        for output in self.net.outputs[1]:
            if isinstance(output, SctpMessage):
                heard[output.stream].append(output.data)
        return heard

    def due(self) -> dict[int, list[bytes]]:
        due = defaultdict(list)
        for stream, payload in self.made:
            due[stream].append(payload)
        return due

    def _give(self) -> None:
        while self.given < len(self.made):
            stream, payload = self.made[self.given]
            self.given += 1
            outputs = self.net.sides[0].send(stream, TEXT, payload, now=self.net.now)
            self.net.carry(0, outputs)

    def _write(self) -> tuple[AssociationSnapshot, int]:
        return self.net.sides[0].snapshot(now=self.net.now), self.given

    def _react(self, side: int, output: SctpOutput) -> Sequence[SctpOutput]:
        if side == 0 and isinstance(output, CheckpointWanted):
            self._wanted = True
            self._begin()
        return ()

    def _begin(self) -> None:
        if self._wanted and not self._storing:
            self._wanted = False
            self._storing.append((self.net.now + self._delay, *self._write()))

    def _answer(self) -> None:
        at, *self._stored = self._storing.popleft()  # type: ignore[assignment]
        self.net.now = max(self.net.now, at)
        serial = self._stored[0].serial
        self.net.carry(0, self.net.sides[0].stored(serial, now=self.net.now))
        self._begin()


STEP: Final = st.one_of(
    st.tuples(st.just("make"), st.integers(0, 3), st.sampled_from((0, 10, 900, 3_000, 30_000))),
    st.tuples(st.just("run"), st.sampled_from((0.0, 0.003, 0.02, 0.1, 0.6))),
    st.tuples(st.just("crash"), st.sampled_from((0.0, 0.5))),
)


@examples(25)
@given(st.integers(0, 2**16), st.sampled_from((0.001, 0.02, 0.1)), st.lists(STEP, max_size=25))
def test_the_far_end_has_each_message_once_and_in_order(
    seed: int, delay: float, steps: list[tuple[str, ...]]
) -> None:
    world = World(seed, delay)
    for name, *arguments in steps:
        getattr(world, name)(*arguments)
    world.run(60.0)
    assert world.heard() == world.due()
    assert world.net.sides[0]._sender.idle


def test_without_the_hold_the_same_crash_doubles_a_message() -> None:
    net = up(config=msgspec.structs.replace(OURS, hold_messages=False))
    snapshot = net.sides[0].snapshot(now=net.now)
    send(net, b"message")
    net.run()
    net.sides[0] = heir_of(snapshot, net)
    send(net, b"message")
    net.run()
    assert net.data(1) == [b"message"] * 2
