"""Decide what of an offer we serve, and write the ICE-lite answer to it.

We serve exactly one audio section, and the data channels that are bundled with it; every other
section is answered as rejected, with port 0 (RFC 3264, section 6) and outside of the BUNDLE group
(RFC 9143, section 7.3.3). The one exception is the section that the offer tags as the carrier of
the group's transport: where the audio comes later, it may have no transport of its own
(bundlePolicy max-bundle), so the carrier is accepted too, and left idle if it is a video. We are
ICE-lite (RFC 8839, section 5.3) and choose the DTLS role that saves a round trip: active wherever
the offer allows it (RFC 5763, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, assert_never

from edge.address import Address
from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.wire.fingerprint import Fingerprint
from edge.wire.sdp_channels import FORMAT, PORT, PROTOCOLS, SctpSide, encode_sctp
from edge.wire.sdp_offer import Codec, Direction, MediaSection, Offer, RemoteIce, Setup, Transport

DEFAULT_CODECS: Final = ("opus", "PCMU", "PCMA")

_FORMS: Final = {"opus": (48_000, 2), "PCMU": (8_000, 1), "PCMA": (8_000, 1)}
"""Clock rate and channels in the rtpmap; RFC 7587, section 7 and RFC 3551, section 6."""

_ANSWER_FMTP: Final = {"opus": "minptime=10;useinbandfec=1"}
_FRAME_MILLISECONDS: Final = 20

_SRTP_PROTOCOLS: Final = frozenset(
    {"UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP", "RTP/SAVPF", "RTP/SAVP"}
)
"""RFC 8829, section 5.1.2, less those without SRTP and those over TCP."""

_MID_URI: Final = "urn:ietf:params:rtp-hdrext:sdes:mid"
_RTCP_TYPES: Final = range(64, 96)
"""Payload types that rtcp-mux can not tell from RTCP; RFC 5761, section 4."""

_NOWHERE: Final = ("0.0.0.0", 0)
_HOST_TYPE_PREFERENCE: Final = 126  # RFC 8445, section 5.1.2.2
_TCP_TYPE_PREFERENCE: Final = 90
"""Lower than all of UDP's (RFC 6544, section 4.2); this is Chromium's for its own."""
_PASSIVE_PREFERENCE: Final = 4 << 13  # RFC 6544, section 4.2


@dataclass(frozen=True, slots=True)
class ChannelSection:
    """The section of data channels: its index, and the client's SCTP."""

    section: int
    sctp: SctpSide


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What both sides agree on; ``sends`` and ``receives`` are from our point of view.

    ``section`` is the index of the audio section in ``offer.sections`` and ``carrier`` that of the
    section with the transport, mostly the same; ``mid`` is empty when the offer has none;
    ``mid_extension`` is the id of the MID header extension, or None.
    """

    section: int
    carrier: int
    mid: str
    audio: Codec
    mid_extension: int | None
    dtls_role: Literal["active", "passive"]
    fingerprints: frozenset[Fingerprint] = field(repr=False)
    remote_ice: RemoteIce
    sends: bool
    receives: bool
    remote_ssrcs: frozenset[int]
    offer: Offer = field(repr=False)
    red: Codec | None = None
    """Redundant audio of the codec (RFC 2198), which we prefer to receive and never send."""
    nack: bool = False
    """Whether each side may ask for lost packets of the codec again."""
    channels: ChannelSection | None = None
    sped: tuple[str, ...] = ()
    """The ICE options by which DTLS inside of STUN was agreed on."""


def negotiate(
    offer: Offer,
    *,
    codecs: Sequence[str] = DEFAULT_CODECS,
    red: bool = False,
    nack: bool = False,
    snap: bool = True,
    sped: bool = True,
) -> Negotiated:
    """Choose the audio section, codec and DTLS role; ``codecs`` in our order of preference.

    ``red`` asks for redundant audio, ``nack`` for lost packets to be sent again, ``snap`` for SCTP
    without a handshake and ``sped`` for DTLS inside of STUN, each where it is offered. Raises
    RemoteProtocolError with a sentence that says what the offer lacks.
    """
    if offer.ice_lite:
        raise RemoteProtocolError("the offer is ICE-lite and so are we: one side must send checks")
    index, section, audio = _choose(offer, codecs)
    transport = section.transport.over(_tagged_transport(offer, section))
    if not transport.ufrag:
        raise RemoteProtocolError("the offer has no a=ice-ufrag and a=ice-pwd for its audio")
    if not transport.fingerprints:
        raise RemoteProtocolError("the offer has no a=fingerprint of sha-256, sha-384 or sha-512")
    return Negotiated(
        section=index,
        carrier=_choose_carrier(offer, index),
        mid=section.mid,
        audio=audio,
        mid_extension=_mid_extension(section),
        dtls_role=_dtls_role(transport.setup),
        fingerprints=transport.fingerprints,
        remote_ice=RemoteIce(transport.ufrag, transport.password),
        sends=section.direction in (Direction.SENDRECV, Direction.RECVONLY),
        receives=section.direction in (Direction.SENDRECV, Direction.SENDONLY),
        remote_ssrcs=section.ssrcs,
        offer=offer,
        red=_choose_red(section, audio) if red else None,
        # Feedback belongs to profiles that end in F; RFC 4585, section 4.2.
        nack=nack and audio.nack and section.protocol.endswith("F"),
        channels=_choose_channels(offer, section, snap=snap),
        sped=transport.sped if sped else (),
    )


def encode_answer(
    negotiated: Negotiated,
    *,
    ufrag: str,
    password: str,
    fingerprint: Fingerprint,
    candidates: Sequence[Address],
    tcp: Sequence[Address] = (),
    ssrc: int,
    cname: str,
    session_id: int,
    sctp_init: bytes | None = None,
) -> str:
    """Write the answer; ``candidates`` are our UDP host addresses, best first, at least one.

    ``tcp`` are those where we wait for connections (RFC 6544), for clients without UDP.
    ``sctp_init`` is our INIT chunk where the client's SCTP has one.
    """
    if not candidates:
        raise LocalProtocolError("an ICE-lite answer needs at least one candidate")
    default = _default(candidates)
    transport = [
        f"a=ice-ufrag:{ufrag}",
        f"a=ice-pwd:{password}",
        f"a=fingerprint:{fingerprint.algorithm} {fingerprint.value}",
        f"a=setup:{negotiated.dtls_role}",
    ]
    lines = _session_lines(negotiated, session_id)
    for index, section in enumerate(negotiated.offer.sections):
        accepted = index in _accepted(negotiated)
        if index == negotiated.section:
            lines += _audio_lines(negotiated, section, default, ssrc, cname)
        elif negotiated.channels is not None and index == negotiated.channels.section:
            lines += _channel_lines(section, default, sctp_init)
        else:
            lines += _idle_lines(section, default if accepted else _NOWHERE)
        # In every section: aiortc refuses a rejected one without ICE and DTLS attributes, and
        # Firefox 153 crashes when bundled audio that is not the tagged section has none.
        lines += transport
        if accepted:
            lines += candidate_lines(candidates, tcp)
    return "\r\n".join(lines) + "\r\n"


def _choose(offer: Offer, codecs: Sequence[str]) -> tuple[int, MediaSection, Codec]:
    problem = "the offer has no audio section (m=audio)"
    for index, section in enumerate(offer.sections):
        if section.kind != "audio":
            continue
        audio = _choose_codec(section, codecs)
        if section.protocol not in _SRTP_PROTOCOLS:
            problem = "the offer's audio is not SRTP keyed by DTLS (UDP/TLS/RTP/SAVPF)"
        elif section.port == 0 and not section.bundle_only:
            problem = "the offer's audio section is disabled (port 0)"
        elif offer.bundle and section.mid not in offer.bundle:
            problem = "the offer's audio section is not in its BUNDLE group"
        elif not section.rtcp_mux:
            problem = "the offer's audio section has no a=rtcp-mux"
        elif audio is None:
            problem = f"the offer's audio has none of our codecs: {', '.join(codecs)}"
        else:
            return index, section, audio
    raise RemoteProtocolError(problem)


def _choose_codec(section: MediaSection, codecs: Sequence[str]) -> Codec | None:
    for name in codecs:
        for codec in section.codecs:
            if (
                codec.name.lower() == name.lower()
                and (codec.clock_rate, codec.channels) == _FORMS[name]
                and codec.payload_type not in _RTCP_TYPES
            ):
                return replace(codec, name=name)
    return None


def _choose_red(section: MediaSection, audio: Codec) -> Codec | None:
    """RED with blocks of the codec alone: the fmtp lists their types, "111/111"; RFC 2198, 5."""
    for codec in section.codecs:
        blocks = codec.parameters[0][0].split("/") if codec.parameters else []
        if (
            codec.name.lower() == "red"
            and (codec.clock_rate, codec.channels) == (audio.clock_rate, audio.channels)
            and codec.payload_type not in _RTCP_TYPES
            and set(blocks) == {str(audio.payload_type)}
        ):
            return replace(codec, name="red")
    return None


def _choose_carrier(offer: Offer, audio: int) -> int:
    """The tagged section of our answer: the first of the group that can be (RFC 9143, 7.3.1).

    That the offer could do without it is not to be seen: Chromium writes no a=bundle-only.
    """
    for mid in offer.bundle:
        for index, section in enumerate(offer.sections):
            if section.mid == mid and section.port:
                return index
    if not offer.sections[audio].port:
        raise RemoteProtocolError("all sections of the offer's BUNDLE group are bundle-only")
    return audio


def _choose_channels(offer: Offer, audio: MediaSection, *, snap: bool) -> ChannelSection | None:
    """The first section of data channels that shares the transport of the audio."""
    for index, section in enumerate(offer.sections):
        if (
            section.sctp is not None
            and section.protocol in PROTOCOLS
            and section.formats == (FORMAT,)
            and (section.port or section.bundle_only)
            and {section.mid, audio.mid} <= set(offer.bundle)
        ):
            return ChannelSection(index, section.sctp if snap else replace(section.sctp, init=None))
    return None


def _accepted(negotiated: Negotiated) -> list[int]:
    """The sections that are not rejected, the one with the transport first."""
    accepted = [negotiated.carrier, negotiated.section]
    if negotiated.channels is not None:
        accepted.append(negotiated.channels.section)
    return list(dict.fromkeys(accepted))


def _tagged_transport(offer: Offer, section: MediaSection) -> Transport:
    """What a bundled section without ICE and DTLS attributes inherits (RFC 9143, section 7.1.3)."""
    if section.mid in offer.bundle:
        for other in offer.sections:
            if other.mid == offer.bundle[0]:
                return other.transport
    return Transport()


def _mid_extension(section: MediaSection) -> int | None:
    for extension in section.extensions:
        if (
            extension.uri == _MID_URI
            and extension.direction is Direction.SENDRECV
            and 1 <= extension.id <= 14  # what the one-byte form can say; RFC 8285, 4.2
            and 1 <= len(section.mid) <= 16
        ):
            return extension.id
    return None


def _dtls_role(setup: Setup | None) -> Literal["active", "passive"]:
    match setup:
        case Setup.ACTPASS | Setup.PASSIVE:
            return "active"
        case Setup.ACTIVE:
            return "passive"
        case Setup.HOLDCONN:
            raise RemoteProtocolError("a=setup:holdconn is not served")
        case None:
            raise RemoteProtocolError("the offer has no a=setup for its audio")
    assert_never(setup)


def _session_lines(negotiated: Negotiated, session_id: int) -> list[str]:
    lines = [
        "v=0",
        f"o=- {session_id} 1 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=ice-lite",
        f"a=ice-options:{' '.join(('ice2', *negotiated.sped))}",  # RFC 8839, section 5.6
        "a=msid-semantic: WMS *",
    ]
    if negotiated.mid in negotiated.offer.bundle:
        mids = [negotiated.offer.sections[index].mid for index in _accepted(negotiated)]
        lines.append(f"a=group:BUNDLE {' '.join(mids)}")
    return lines


def _audio_lines(
    negotiated: Negotiated,
    section: MediaSection,
    address: Address,
    ssrc: int,
    cname: str,
) -> list[str]:
    audio = negotiated.audio
    # The first of the formats is what the client shall send; RFC 3264, section 6.1.
    formats = [codec for codec in (negotiated.red, audio) if codec is not None]
    names = " ".join(str(codec.payload_type) for codec in formats)
    lines = [*_head_lines(section, address, names), *map(_rtpmap_line, formats)]
    if negotiated.red is not None:
        blocks = f"{audio.payload_type}/{audio.payload_type}"
        lines.append(f"a=fmtp:{negotiated.red.payload_type} {blocks}")
    if audio.name in _ANSWER_FMTP:
        lines.append(f"a=fmtp:{audio.payload_type} {_ANSWER_FMTP[audio.name]}")
    if negotiated.nack:
        lines.append(f"a=rtcp-fb:{audio.payload_type} nack")
    lines += [f"a=ptime:{_FRAME_MILLISECONDS}", f"a=maxptime:{_FRAME_MILLISECONDS}"]
    if section.mid:
        lines.append(f"a=mid:{section.mid}")
    if negotiated.mid_extension is not None:
        lines.append(f"a=extmap:{negotiated.mid_extension} {_MID_URI}")
    lines += [f"a={_answer_direction(negotiated)}", "a=rtcp-mux"]
    if section.rtcp_rsize:
        lines.append("a=rtcp-rsize")
    if negotiated.sends:
        lines += [
            "a=msid:edge edge-audio",
            f"a=ssrc:{ssrc} cname:{cname}",
            f"a=ssrc:{ssrc} msid:edge edge-audio",
        ]
    return lines


def _channel_lines(section: MediaSection, address: Address, init: bytes | None) -> list[str]:
    lines = _head_lines(section, address, section.formats[0])
    return [*lines, f"a=mid:{section.mid}", *encode_sctp(init)]


def _idle_lines(section: MediaSection, address: Address) -> list[str]:
    """A section that is rejected (at ``_NOWHERE``), or only carries the transport of others."""
    lines = _head_lines(section, address, section.formats[0])
    # aiortc also wants to know a format of a section that is not used.
    first = (codec for codec in section.codecs if str(codec.payload_type) == section.formats[0])
    lines += map(_rtpmap_line, first)
    if section.protocol.endswith("DTLS/SCTP") and address != _NOWHERE:
        lines.append(f"a=sctp-port:{PORT}")  # required all the same; RFC 8841, section 5.1
    if section.mid:
        lines.append(f"a=mid:{section.mid}")
    if section.rtcp_mux:
        lines.append("a=rtcp-mux")
    return [*lines, "a=inactive"]


def _head_lines(section: MediaSection, address: Address, payload_format: str) -> list[str]:
    host, port = address
    return [
        f"m={section.kind} {port} {section.protocol} {payload_format}",
        f"c=IN {'IP6' if ':' in host else 'IP4'} {host}",
    ]


def candidate_lines(candidates: Sequence[Address], tcp: Sequence[Address] = ()) -> list[str]:
    """Write host candidates: for UDP, best first, then passive ones for TCP, best first."""
    lines = []
    for index, (host, port) in enumerate(candidates):
        priority = _HOST_TYPE_PREFERENCE << 24 | (65_535 - index) << 8 | 255
        lines.append(f"a=candidate:{index + 1} 1 udp {priority} {host} {port} typ host")
    for index, (host, port) in enumerate(tcp):
        local = _PASSIVE_PREFERENCE | (8_191 - index)
        priority = _TCP_TYPE_PREFERENCE << 24 | local << 8 | 255
        foundation = len(candidates) + index + 1
        lines.append(
            f"a=candidate:{foundation} 1 tcp {priority} {host} {port} typ host tcptype passive"
        )
    return [*lines, "a=end-of-candidates"]


def _default(candidates: Sequence[Address]) -> Address:
    """The address of the m= and c= lines, for whoever knows no ICE: IPv4 where there is one."""
    return next((each for each in candidates if ":" not in each[0]), candidates[0])


def _answer_direction(negotiated: Negotiated) -> Direction:
    match negotiated.sends, negotiated.receives:
        case True, True:
            return Direction.SENDRECV
        case True, False:
            return Direction.SENDONLY
        case False, True:
            return Direction.RECVONLY
    return Direction.INACTIVE


def _rtpmap_line(codec: Codec) -> str:
    channels = f"/{codec.channels}" if codec.channels > 1 else ""
    return f"a=rtpmap:{codec.payload_type} {codec.name}/{codec.clock_rate}{channels}"
