"""What leaves a session for its client: the backend's audio, and all else that the peer sends.

How much of it may leave is the session's ``Voice``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from edge.address import Address
from edge.backends.protocol import AudioFormat, Call, CallQuality
from edge.errors import Drop
from edge.transceiver.lending import Lender
from edge.transceiver.playout import Playout
from edge.transceiver.surroundings import Surroundings
from edge.transceiver.voice import Voice
from edge.webrtc.peer import Peer
from edge.wire.spp import Path


class Sender:
    """Sends for one session. ``fail`` is called inside of the handler of a bug's exception."""

    def __init__(
        self,
        call: Call,
        peer: Peer,
        relays: dict[Path, Address],
        lender: Lender,
        surroundings: Surroundings,
        *,
        codec: AudioFormat,
        listens: bool,
        quality: Callable[[], CallQuality],
        fail: Callable[[], None],
    ) -> None:
        """``relays`` are the session's; ``listens``: the client does."""
        self.voice = Voice.FULL
        self.drops: Counter[Drop] = Counter()
        self._peer = peer
        self._relays = relays
        self._lender = lender
        self._send = surroundings.send
        self._listens = listens
        self._fail = fail
        self.playout = Playout(
            surroundings.pacer,
            self.play,
            codec=codec,
            wanted=call.audio,
            media_time=lambda now: peer.media.media_time(now=now),
            queue_seconds=surroundings.limits.playout_seconds,
            fade_seconds=surroundings.audio.fade_seconds,
            quality=quality,
        )
        if call.resumed is not None:
            self.playout.go_on(played=call.resumed.played)

    def play(self, payload: bytes, timestamp: int, marker: bool, now: float) -> None:
        """Send a frame of the backend's audio; for the playout. Never raises."""
        if self.voice is not Voice.FULL:
            self.drops[Drop.NOT_OWNER] += 1
            return
        try:
            stream = self._lender.stream
            if stream is None or not stream.send(payload, timestamp, marker, now):
                self._send_audio(payload, timestamp, marker, now)
        except Exception:  # the pacer, which calls us, serves all sessions
            self._fail()

    def transmit(self, path: Path, data: bytes) -> None:
        """Send a datagram of the peer's, by way of the relay that serves its path."""
        relay = self._relays.get(path)
        if relay is None:
            self.drops[Drop.UNKNOWN_PATH] += 1
        elif self.voice is Voice.FULL or self.voice.allows(data):
            self._send(path, data, relay)
        else:
            self.drops[Drop.NOT_OWNER] += 1

    def _send_audio(self, payload: bytes, timestamp: int, marker: bool, now: float) -> None:
        if not self._listens:  # its backend is paced all the same
            return
        if not self._peer.connected:
            self.drops[Drop.NOT_READY] += 1
            return
        output = self._peer.send_audio(payload, timestamp=timestamp, marker=marker, now=now)
        if output is not None:
            self.transmit(output.path, output.data)
