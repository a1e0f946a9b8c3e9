"""A session as one value: sealed, opened, limited, and how long it is."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.backends.protocol import MAX_RESUME_BYTES
from edge.errors import ConfigError, Drop, LocalProtocolError, RemoteProtocolError
from edge.registry.sessions import MAX_CHECKPOINT_BYTES, Slot, StoredCheckpoint
from edge.session_config import MAX_SESSION_BYTES
from edge.transceiver.checkpoint import Checkpoint, CheckpointKeys, Positions
from edge.webrtc.peer import Peer
from edge.webrtc.reserve import HEIR_SKIPS, NO_RESERVE
from tests.support.session_values import NOW, SECRET, write_checkpoint
from tests.support.session_values import stored as stored_by

OTHER_SECRET = "o" * 32
CHECKPOINT = write_checkpoint()
KEYS = CheckpointKeys(SECRET)


def stored(checkpoint: Checkpoint, sealed: bytes | None = None) -> StoredCheckpoint:
    one = stored_by(checkpoint, KEYS)
    return one if sealed is None else msgspec.structs.replace(one, sealed=sealed)


def drop_of(one: StoredCheckpoint, *, now: float = NOW, keys: CheckpointKeys = KEYS) -> Drop:
    before = keys.drops.copy()
    with pytest.raises(RemoteProtocolError) as caught:
        keys.open(one, now=now)
    assert keys.drops - before == {caught.value.drop: 1}
    return caught.value.drop


def test_what_is_opened_is_what_was_sealed() -> None:
    opened = KEYS.open(stored(CHECKPOINT), now=NOW + 59.0)
    assert opened == CHECKPOINT
    assert opened.tokens == (CHECKPOINT.peer.ice.local.ufrag,)
    assert not opened.exact
    assert msgspec.structs.replace(CHECKPOINT, reserve=NO_RESERVE).exact
    Peer.restore(opened.peer, entropy=os.urandom, now=9.0, skip=HEIR_SKIPS)


def test_the_previous_secret_opens_and_another_does_not() -> None:
    one = stored(CHECKPOINT)
    assert CheckpointKeys(OTHER_SECRET, SECRET).open(one, now=NOW) == CHECKPOINT
    assert drop_of(one, keys=CheckpointKeys(OTHER_SECRET)) is Drop.BAD_AUTH
    newer = CheckpointKeys(OTHER_SECRET, SECRET).seal(CHECKPOINT)
    assert drop_of(stored(CHECKPOINT, newer)) is Drop.BAD_AUTH
    with pytest.raises(ConfigError):
        CheckpointKeys("short")


@pytest.mark.parametrize(
    "change",
    [
        lambda one: {"claim": msgspec.structs.replace(one.claim, session="rtc_1")},
        lambda one: {"claim": msgspec.structs.replace(one.claim, owner=Slot(8))},
        lambda one: {"claim": msgspec.structs.replace(one.claim, epoch=4)},
        lambda one: {"serial": one.serial + 1},
    ],
    ids=["session", "owner", "epoch", "serial"],
)
def test_it_opens_under_its_own_claim_alone(
    change: Callable[[StoredCheckpoint], dict[str, object]],
) -> None:
    one = stored(CHECKPOINT)
    moved = msgspec.convert(msgspec.structs.asdict(one) | change(one), StoredCheckpoint)
    assert drop_of(moved) is Drop.BAD_AUTH


@given(st.data())
def test_changed_bytes_never_open(data: st.DataObject) -> None:
    sealed = bytearray(KEYS.seal(CHECKPOINT))
    if data.draw(st.booleans()):
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del sealed[data.draw(st.integers(0, len(sealed) - 1)) :]
    assert drop_of(stored(CHECKPOINT, bytes(sealed))) in (Drop.BAD_AUTH, Drop.MALFORMED)


@given(st.binary(max_size=300))
def test_garbage_never_opens(garbage: bytes) -> None:
    assert drop_of(stored(CHECKPOINT, garbage)) in (Drop.BAD_AUTH, Drop.MALFORMED)


@pytest.mark.parametrize("age", [62.0, 1e9, -3.0, float("nan"), float("inf")])
def test_it_counts_for_its_time_alone(age: float) -> None:
    one = stored(msgspec.structs.replace(CHECKPOINT, written=NOW - age))
    assert drop_of(one) in (Drop.REPLAY, Drop.MALFORMED)


@pytest.mark.parametrize(
    "fields",
    [
        {"resume": bytes(MAX_RESUME_BYTES + 1)},
        {"session_config": bytes(MAX_SESSION_BYTES + 1)},
        {"relays": CHECKPOINT.relays * 65},
        {"positions": Positions(played=-1)},
        {"version": 1},
    ],
)
def test_what_is_out_of_bounds_does_not_open(fields: dict[str, object]) -> None:
    broken = Checkpoint(**(msgspec.structs.asdict(CHECKPOINT) | fields))
    assert drop_of(stored(broken)) is Drop.MALFORMED


def test_a_length_has_an_end() -> None:
    assert drop_of(stored(CHECKPOINT, bytes(MAX_CHECKPOINT_BYTES + 1))) is Drop.MALFORMED
    huge = msgspec.structs.replace(CHECKPOINT, session_config=bytes(MAX_CHECKPOINT_BYTES))
    with pytest.raises(LocalProtocolError):
        KEYS.seal(huge)


def test_no_key_and_no_address_is_shown() -> None:
    one = stored(CHECKPOINT)
    text = repr(one) + repr(CHECKPOINT)
    for secret in (CHECKPOINT.peer.ice.local.password, CHECKPOINT.tokens[0], "10.0.0.9"):
        assert secret not in text
        assert secret.encode() not in one.sealed


def test_a_voice_session_is_a_few_kilobytes() -> None:
    assert 1_000 < len(KEYS.seal(CHECKPOINT)) < 4_096


def test_a_session_with_data_channels_moves_too() -> None:
    checkpoint = write_checkpoint(channel=True)
    assert checkpoint.peer.channels is not None
    assert KEYS.open(stored(checkpoint), now=NOW) == checkpoint
