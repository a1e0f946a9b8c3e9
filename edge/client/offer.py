"""The offer that a caller sends, and what it needs to know of the answer (RFC 8866, RFC 9429)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edge.address import Address
from edge.errors import RemoteProtocolError
from edge.wire.fingerprint import Fingerprint
from edge.wire.sdp_channels import decode_sctp_init, encode_sctp

OPUS: Final = 111
MID: Final = "0"
MID_EXTENSION: Final = 1
"""Local identifier of the urn:ietf:params:rtp-hdrext:sdes:mid header extension."""

_OFFER: Final = """\
v=0
o=- {session_id} 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE {mids}
a=msid-semantic: WMS
m=audio 9 UDP/TLS/RTP/SAVPF 111 0 8
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=ice-ufrag:{ufrag}
a=ice-pwd:{password}
a=ice-options:trickle
a=fingerprint:{fingerprint.algorithm} {fingerprint.value}
a=setup:actpass
a=mid:{mid}
a=extmap:{mid_extension} urn:ietf:params:rtp-hdrext:sdes:mid
a=sendrecv
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:0 PCMU/8000
a=rtpmap:8 PCMA/8000
a=ssrc:{ssrc} cname:{ufrag}
"""
_CHANNEL_MID: Final = "1"
_CHANNEL: Final = """\
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:{ufrag}
a=ice-pwd:{password}
a=ice-options:trickle
a=fingerprint:{fingerprint.algorithm} {fingerprint.value}
a=setup:actpass
a=mid:{mid}
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the caller made up for one call."""

    ufrag: str = field(repr=False)
    password: str = field(repr=False)
    fingerprint: Fingerprint
    ssrc: int
    channel: bool = False
    """Whether there is a section for data channels as well."""
    sctp_init: bytes | None = field(default=None, repr=False)

    @classmethod
    def make(
        cls, fingerprint: Fingerprint, *, channel: bool = False, sctp_init: bytes | None = None
    ) -> Offer:
        """Draw credentials and an SSRC; the ufrag and password are ice-chars (RFC 8839, 5.4)."""
        return cls(
            ufrag=secrets.token_hex(4),
            password=secrets.token_hex(16),
            fingerprint=fingerprint,
            ssrc=secrets.randbits(32),
            channel=channel,
            sctp_init=sctp_init,
        )

    def encode(self) -> bytes:
        """Write the SDP, without candidates: the server learns them from our checks."""
        text = _OFFER.format(
            session_id=secrets.randbits(62),
            ufrag=self.ufrag,
            password=self.password,
            fingerprint=self.fingerprint,
            ssrc=self.ssrc,
            mid=MID,
            mids=f"{MID} {_CHANNEL_MID}" if self.channel else MID,
            mid_extension=MID_EXTENSION,
        )
        if self.channel:
            text += _CHANNEL.format(
                ufrag=self.ufrag,
                password=self.password,
                fingerprint=self.fingerprint,
                mid=_CHANNEL_MID,
            )
            text += "".join(f"{line}\n" for line in encode_sctp(self.sctp_init))
        return text.replace("\n", "\r\n").encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said; ``role`` is ours, the opposite of its ``a=setup``."""

    ufrag: str = field(repr=False)
    password: str = field(repr=False)
    fingerprints: frozenset[Fingerprint]
    role: str
    candidates: tuple[Address, ...] = field(repr=False)
    """Where the server may be reached, best first; at least one."""
    has_channel: bool = False
    """Whether it serves data channels."""
    sctp_init: bytes | None = field(default=None, repr=False)

    @classmethod
    def decode(cls, body: bytes) -> Answer:
        """Read the lines we need; RemoteProtocolError when one is missing."""
        text = body.decode("ascii", "replace").replace("\r", "")
        find = _finder(text)
        return cls(
            ufrag=find(r"a=ice-ufrag:(\S+)")[0],
            password=find(r"a=ice-pwd:(\S+)")[0],
            fingerprints=frozenset(
                Fingerprint(algorithm.lower(), value.upper())
                for algorithm, value in re.findall(r"^a=fingerprint:(\S+) (\S+)$", text, re.M)
            ),
            role="passive" if find(r"a=setup:(active|passive)")[0] == "active" else "active",
            candidates=_candidates(text),
            has_channel=re.search(r"^m=application [1-9]", text, re.M) is not None,
            sctp_init=_sctp_init(text),
        )


def _finder(text: str) -> Callable[[str], tuple[str, ...]]:
    def find(pattern: str) -> tuple[str, ...]:
        match = re.search(f"^{pattern}$", text, re.M)
        if match is None:
            raise RemoteProtocolError(f"the answer has no line like {pattern.split(':')[0]}")
        return match.groups()

    return find


def _sctp_init(text: str) -> bytes | None:
    """Our INIT chunk's counterpart, where the server knows SNAP (draft-hancke-tsvwg-snap)."""
    match = re.search(r"^a=sctp-init:(\S{1,1024})$", text, re.M)
    return decode_sctp_init(match[1]) if match else None


def _candidates(text: str) -> tuple[Address, ...]:
    """Host candidates for UDP by falling priority (RFC 8839, 5.1)."""
    pattern = r"^a=candidate:\S+ 1 (?i:udp) (\d{1,10}) (\S+) (\d{1,5}) typ host.*$"
    found = sorted(re.findall(pattern, text, re.M), key=lambda groups: -int(groups[0]))
    if not found:
        raise RemoteProtocolError("the answer has no candidate that serves")
    return tuple((host, int(port)) for _, host, port in found)
