"""A session written down, from a call that has talked in memory."""

from __future__ import annotations

from typing import Final

from edge.backends.protocol import AudioFormat
from edge.client.channel import CallerChannel
from edge.registry.sessions import Claim, Slot, StoredCheckpoint
from edge.transceiver.admission import Opener
from edge.transceiver.checkpoint import Checkpoint, CheckpointKeys, Positions, Terms
from edge.webrtc.reserve import HEIR_SKIPS
from tests.webrtc.peer_call import make_call

SECRET: Final = "s" * 32
CLAIM: Final = Claim(session="rtc_" + "0" * 32, owner=Slot(7), epoch=3)
NOW: Final = 1_800_000_000.0


def write_checkpoint(
    seconds: float = 2.0, *, nack: bool = False, channel: bool = False
) -> Checkpoint:
    """Of a call that has talked for so long, with an event a second where it has a channel."""
    call = make_call(nack=nack, channel=CallerChannel("oai-events") if channel else None)
    for _ in range(round(seconds)):
        call.run(1.0)
        if channel:
            call.say('{"type": "response.create"}')
    return Checkpoint(
        claim=CLAIM,
        serial=5,
        written=NOW,
        reserve=HEIR_SKIPS,
        peer=call.peer.snapshot(now=call.now),
        terms=Terms(codec=AudioFormat("opus", 48_000), wanted=AudioFormat("pcm16", 24_000)),
        positions=Positions(played=144_000, heard=144_000, timestamp=288_000),
        relays=((call.path, ("10.0.0.9", 4000)),),
        opened=NOW - 6.5,
        connected=NOW - 6.0,
        opener=Opener("key_1", "", "198.51.100.0/24"),
        session_config=b'{"instructions": "Be brief."}',
        resume=bytes(32),
    )


def stored(checkpoint: Checkpoint, keys: CheckpointKeys) -> StoredCheckpoint:
    """What the registry holds of it."""
    return StoredCheckpoint(
        claim=checkpoint.claim, serial=checkpoint.serial, sealed=keys.seal(checkpoint)
    )
