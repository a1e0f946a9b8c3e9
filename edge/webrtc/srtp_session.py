"""Both directions of SRTP under the keys of one handshake (RFC 5764, 4.2), and what comes by them.

What was opened is counted by the media and read, with redundant audio (RFC 2198).
"""

from __future__ import annotations

from edge.errors import Drop, RemoteProtocolError
from edge.webrtc.ice_paths import PathState
from edge.webrtc.keys import SrtpKeys
from edge.webrtc.media import Media
from edge.webrtc.offload import RtpKeys
from edge.webrtc.outputs import AudioReceived
from edge.webrtc.srtp import SrtpReceiver, SrtpSender
from edge.wire.red import decode_red


class SrtpSession:
    """A sender and a receiver."""

    __slots__ = ("receiver", "sender")

    def __init__(self, sender: SrtpSender, receiver: SrtpReceiver) -> None:
        self.sender = sender
        self.receiver = receiver

    @classmethod
    def from_keys(cls, keys: SrtpKeys) -> SrtpSession:
        """Begin with the keys that DTLS has brought."""
        return cls(
            SrtpSender(keys.profile, keys.local_key, keys.local_salt),
            SrtpReceiver(keys.profile, keys.remote_key, keys.remote_salt),
        )

    def rtp_keys(self) -> RtpKeys:
        """What an offload needs."""
        return RtpKeys(receive=self.receiver.session_keys(), send=self.sender.session_keys())

    def open_rtp(
        self, datagram: bytes, media: Media, state: PathState, now: float
    ) -> AudioReceived:
        """Open a packet of ``media`` that came on a path of this ``state``, and count it.

        Raises RemoteProtocolError, with its drop, for what is not a packet of the negotiated audio.
        """
        payload, index, second, timestamp, ssrc = self.receiver.unprotect_media(datagram)
        state.heard = now
        payload_type, marker = second & 0x7F, second > 0x7F
        media.receive_rtp(index, timestamp, payload_type, ssrc, len(payload), now=now)
        if payload_type != media.stream.payload_type:
            return _read_red(payload, media, index, timestamp, marker, payload_type)
        return AudioReceived(payload, index, timestamp, marker)


def _read_red(
    payload: bytes, media: Media, index: int, timestamp: int, marker: bool, payload_type: int
) -> AudioReceived:
    if payload_type != media.red_payload_type:
        raise RemoteProtocolError("payload type not negotiated", Drop.UNEXPECTED_PAYLOAD)
    *redundant, primary = decode_red(payload)
    if any(block.payload_type != media.stream.payload_type for block in (primary, *redundant)):
        raise RemoteProtocolError("RED of another codec", Drop.UNEXPECTED_PAYLOAD)
    return AudioReceived(primary.payload, index, timestamp, marker, tuple(redundant))
