"""Whose fault it was, what was dropped, and why a session ended.

Two blames (after h11): a ``LocalProtocolError`` means that our caller used a machine wrongly, a
``RemoteProtocolError`` means that bytes from the network are not acceptable. A decoder raises
nothing else; anything else that escapes is a bug.
"""

from __future__ import annotations

from enum import StrEnum


class ProtocolError(Exception):
    """A rule of a protocol was broken; see the two subclasses for by whom."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something the machine's state does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that is malformed, unauthentic or not allowed.

    ``drop`` names the cause for a counter. The message never carries payload, keys or addresses.
    """

    def __init__(self, message: str, drop: Drop | None = None) -> None:
        super().__init__(message)
        self.drop = drop if drop is not None else Drop.MALFORMED


class ConfigError(Exception):
    """A configuration key or value is wrong; the message is one line fit for a person."""


class BackendError(Exception):
    """The model side failed or can not be reached; the message is one line fit for a log."""


class BackendFenced(BackendError):
    """Another transceiver serves this session at the backend: it has been taken over."""


class Drop(StrEnum):
    """Every reason for which a datagram, frame or record is discarded; a metric label."""

    MALFORMED = "malformed"
    """Not decodable as what its first byte says it is."""
    UNKNOWN_KIND = "unknown_kind"
    """The first byte belongs to no protocol of RFC 7983 that we serve."""
    BAD_TOKEN = "bad_token"
    """The routing token is forged, expired, of another cluster or sealed with an unknown key."""
    UNKNOWN_SLOT = "unknown_slot"
    """The token names a transceiver that is not alive."""
    UNKNOWN_FLOW = "unknown_flow"
    """No confirmed flow for this client."""
    NOT_OWNER = "not_owner"
    """A transceiver named a client whose flow it does not own."""
    UNKNOWN_RELAY = "unknown_relay"
    """An internal datagram came from an address that is not a registered relay."""
    LOOP = "loop"
    """A relay of another cluster sent what it should have sent elsewhere; it goes no further."""
    NOT_CONNECTED = "not_connected"
    """The client's TCP connection to the relay is gone."""
    UNREACHABLE = "unreachable"
    """The network reported that a transceiver or a relay can not be reached (ICMP)."""
    UNKNOWN_SESSION = "unknown_session"
    """No session for this token or path."""
    UNKNOWN_PATH = "unknown_path"
    """Not STUN, from an address that has not passed a connectivity check."""
    BAD_INTEGRITY = "bad_integrity"
    """STUN MESSAGE-INTEGRITY or FINGERPRINT is missing or wrong, or an SCTP checksum is."""
    BAD_AUTH = "bad_auth"
    """The authentication tag of an SRTP or SRTCP packet or of a DTLS record is wrong."""
    REPLAY = "replay"
    """An SRTP or SRTCP index or a DTLS record number was seen already or is too old."""
    NOT_READY = "not_ready"
    """Media before the DTLS handshake has finished."""
    UNEXPECTED_PAYLOAD = "unexpected_payload"
    """RTP of a payload type or source that was not negotiated."""
    AMPLIFICATION = "amplification"
    """More than three times the received bytes for a path that is not proven yet."""
    TABLE_FULL = "table_full"
    """A bounded table had no room."""
    RATE_LIMIT = "rate_limit"
    """A rate limit was exceeded."""
    QUEUE_FULL = "queue_full"
    """A bounded queue was full; the oldest entry was dropped."""
    SEND_BLOCKED = "send_blocked"
    """The kernel's send buffer was full."""
    SEND_ERROR = "send_error"
    """The kernel refused to send (unreachable, not permitted, too long)."""
    RECEIVE_ERROR = "receive_error"
    """The kernel reported an error on receive."""
    KERNEL_QUEUE = "kernel_queue"
    """A socket's receive queue in the kernel was full: we did not read fast enough."""
    LATE = "late"
    """Too late to be played."""
    TOO_LONG = "too_long"
    """A message of a data channel exceeds the limit that our answer names."""
    UNKNOWN_CHANNEL = "unknown_channel"
    """A message on a stream that is no open data channel, or on a channel that nobody reads."""
    RESERVE_USED = "reserve_used"
    """No record number was left of those that the stored checkpoint reserves."""
    BUG = "bug"
    """An unexpected exception in our code; the log has the traceback."""


class EndReason(StrEnum):
    """Why a session ended: the one value its nursery hands back."""

    HANGUP = "hangup"
    """Asked for over HTTP."""
    PEER_CLOSED = "peer_closed"
    """The client said goodbye: DTLS close_notify or RTCP BYE."""
    NEVER_CONNECTED = "never_connected"
    """ICE or DTLS did not finish within the setup deadline."""
    CONSENT_EXPIRED = "consent_expired"
    """No valid STUN check for the consent time (RFC 7675)."""
    FINGERPRINT_MISMATCH = "fingerprint_mismatch"
    """The client's certificate is not the one its offer names."""
    DTLS_FAILED = "dtls_failed"
    """The DTLS handshake failed."""
    BACKEND_CLOSED = "backend_closed"
    """The backend finished the conversation."""
    BACKEND_FAILED = "backend_failed"
    """The backend broke or could not be reached."""
    MAX_DURATION = "max_duration"
    """The configured longest session is over."""
    IDLE = "idle"
    """Neither the client nor the backend has sent audio for the configured time."""
    MOVED = "moved"
    """Another transceiver goes on with it, as planned; the client was told nothing."""
    FENCED = "fenced"
    """Another transceiver has taken it over while we were out of sight; nothing more was sent."""
    SHUTDOWN = "shutdown"
    """The process is going away."""
    INTERNAL_ERROR = "internal_error"
    """A bug ended this session; the log has the traceback."""
