"""Decode the SDP offer of a WebRTC client into frozen values (RFC 8866, RFC 8829).

An offer is a list of lines ``type=value``: first those of the session, then one block a media
section, each opened by ``m=``. Transport attributes (ICE, DTLS) of the session hold for every
section that does not name its own. Lines and attributes that we do not use are passed over,
those that we use must be well formed; text that an answer repeats is held to the ``token``
alphabet here, so that no answer can be made to carry a line of the offerer's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from edge.errors import RemoteProtocolError
from edge.wire.fingerprint import Fingerprint
from edge.wire.sdp_channels import SctpSide, decode_sctp

MAX_BYTES: Final = 65_536
MAX_LINE_BYTES: Final = 1_024
MAX_LINES: Final = 2_048
"""A browser's offer with sixteen video sections stays below it; a line costs a few microseconds."""
MAX_SECTIONS: Final = 16

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,255}", re.ASCII)  # RFC 8866, 9
_PROTOCOL: Final = re.compile(r"[A-Za-z0-9/-]{1,64}", re.ASCII)
_ICE_CHARS: Final = re.compile(r"[A-Za-z0-9+/]+", re.ASCII)  # RFC 8839, 5.4
_HEX_PAIRS: Final = re.compile(r"[0-9A-F]{2}(?::[0-9A-F]{2})*", re.ASCII)  # RFC 8122, 5
_RTPMAP: Final = re.compile(r"(\d{1,3}) +([\w.+-]{1,64})/(\d{1,7})(?:/(\d{1,2}))?", re.ASCII)
_EXTMAP: Final = re.compile(r"(\d{1,5})(?:/(\w+))? +(\S+)(?: .*)?", re.ASCII)

SPED_OPTIONS: Final = ("sped", "googspedv1", "goog-sped-v1")
"""ICE options for DTLS inside of STUN: the draft's, and libwebrtc's from 155 and from 149 on."""

DIGEST_BYTES: Final = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
"""The fingerprint algorithms that count; weaker ones are passed over."""

_STATIC_CODECS: Final = {0: "PCMU", 8: "PCMA"}
"""Payload types that need no rtpmap; RFC 3551, section 6."""


class Direction(StrEnum):
    """Who sends, from the point of view of whoever wrote the description."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"


class Setup(StrEnum):
    """Who starts the DTLS handshake (RFC 5763, section 5)."""

    ACTIVE = "active"
    PASSIVE = "passive"
    ACTPASS = "actpass"
    HOLDCONN = "holdconn"


@dataclass(frozen=True, slots=True)
class Codec:
    """One RTP payload format; ``parameters`` are the key-value pairs of its ``fmtp``.

    ``nack`` says that lost packets may be asked for again (RFC 4585, section 4.2).
    """

    payload_type: int
    name: str
    clock_rate: int
    channels: int
    parameters: tuple[tuple[str, str], ...] = ()
    nack: bool = False


@dataclass(frozen=True, slots=True)
class HeaderExtension:
    """One ``extmap``: its id is sent for ``uri`` in the ``direction`` given (RFC 8285)."""

    id: int
    uri: str
    direction: Direction


@dataclass(frozen=True, slots=True)
class RemoteIce:
    """The client's ICE credentials."""

    ufrag: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Transport:
    """ICE and DTLS attributes of a section or of the session; each may be absent."""

    ufrag: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    fingerprints: frozenset[Fingerprint] = frozenset()
    setup: Setup | None = None
    sped: tuple[str, ...] = ()
    """Those of ``SPED_OPTIONS`` that are there."""

    def over(self, base: Transport) -> Transport:
        """What holds when these attributes override those of ``base``."""
        ice = self if self.ufrag or self.password else base
        return Transport(
            ice.ufrag,
            ice.password,
            self.fingerprints or base.fingerprints,
            self.setup or base.setup,
            self.sped or base.sped,
        )


@dataclass(frozen=True, slots=True)
class MediaSection:
    """One ``m=`` block; ``mid`` is empty when absent, ``transport`` has the session's defaults."""

    kind: str
    port: int
    protocol: str
    formats: tuple[str, ...]
    mid: str
    direction: Direction
    transport: Transport
    codecs: tuple[Codec, ...]
    extensions: tuple[HeaderExtension, ...]
    ssrcs: frozenset[int]
    rtcp_mux: bool
    rtcp_rsize: bool
    bundle_only: bool
    sctp: SctpSide | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A client's offer; ``bundle`` names the mids of its BUNDLE group, in order (RFC 9143)."""

    ice_lite: bool
    bundle: tuple[str, ...]
    sections: tuple[MediaSection, ...]


def decode_offer(body: bytes) -> Offer:
    """Decode an offer of at most 64 KB, 2,048 lines of 1 KB and 16 sections, with LF or CRLF.

    Raises RemoteProtocolError with a sentence for a person that repeats nothing of the offer.
    """
    session, *blocks = _blocks(_lines(body))
    transport = _transport(session)
    direction = _direction(session, Direction.SENDRECV)
    sections = tuple(_section(block, transport, direction) for block in blocks)
    if not sections:
        raise RemoteProtocolError("the offer has no media section (m= line)")
    mids = [section.mid for section in sections if section.mid]
    if len(set(mids)) != len(mids):
        raise RemoteProtocolError("two media sections have the same a=mid")
    return Offer(session.has("ice-lite"), _bundle(session), sections)


class _Block:
    """The attributes of the session or of one section, in order, by name."""

    def __init__(self, head: str) -> None:
        self.head = head
        self._attributes: dict[str, list[str]] = {}

    def add(self, attribute: str) -> None:
        name, _, value = attribute.partition(":")
        self._attributes.setdefault(name, []).append(value.strip())

    def has(self, name: str) -> bool:
        return name in self._attributes

    def all(self, name: str) -> list[str]:
        return self._attributes.get(name, [])

    def first(self, name: str) -> str:
        return self.all(name)[0] if self.has(name) else ""


_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f]")
_CONTROL_IN_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]|\r(?!\n|\Z)")


def _lines(body: bytes) -> list[tuple[str, str]]:
    if len(body) > MAX_BYTES:
        raise RemoteProtocolError(f"the offer is longer than {MAX_BYTES} bytes")
    if body.count(b"\n") >= MAX_LINES:
        raise RemoteProtocolError(f"the offer has more than {MAX_LINES} lines")
    if max(map(len, body.split(b"\n"))) > MAX_LINE_BYTES:
        raise RemoteProtocolError(f"the offer has a line longer than {MAX_LINE_BYTES} bytes")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError("the offer is not UTF-8 text") from None
    has_control = _CONTROL_IN_TEXT.search(text) is not None  # a search a line costs as much as all
    lines = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.removesuffix("\r")
        if not line:
            continue
        if line[1:2] != "=" or (has_control and _CONTROL.search(line)):
            raise RemoteProtocolError(f"line {number} of the offer is not of the form type=value")
        lines.append((line[0], line[2:]))
    if not lines or lines[0] != ("v", "0"):
        raise RemoteProtocolError("the offer does not start with v=0")
    return lines


def _blocks(lines: list[tuple[str, str]]) -> list[_Block]:
    blocks = [_Block("")]
    for kind, value in lines:
        if kind == "m":
            if len(blocks) > MAX_SECTIONS:
                raise RemoteProtocolError(f"the offer has more than {MAX_SECTIONS} media sections")
            blocks.append(_Block(value))
        elif kind == "a":
            blocks[-1].add(value)
    return blocks


def _section(block: _Block, session: Transport, direction: Direction) -> MediaSection:
    kind, port, protocol, *formats = [*block.head.split(), "", "", ""]
    formats = [text for text in formats if text]
    if not formats or not all(map(_TOKEN.fullmatch, [kind, *formats])):
        raise RemoteProtocolError("an m= line is not of the form: media port protocol formats")
    if not _PROTOCOL.fullmatch(protocol):
        raise RemoteProtocolError("an m= line has a malformed protocol")
    mid = block.first("mid")
    if mid and not _TOKEN.fullmatch(mid):
        raise RemoteProtocolError("an a=mid is not a token")
    return MediaSection(
        kind=kind,
        port=_number(port, 65_535, "the port of an m= line"),
        protocol=protocol,
        formats=tuple(formats),
        mid=mid,
        direction=_direction(block, direction),
        transport=_transport(block).over(session),
        codecs=_codecs(block, formats) if kind in ("audio", "video") else (),
        extensions=_extensions(block),
        ssrcs=frozenset(
            _number(value.split(" ", 1)[0], 2**32 - 1, "an a=ssrc") for value in block.all("ssrc")
        ),
        rtcp_mux=block.has("rtcp-mux"),
        rtcp_rsize=block.has("rtcp-rsize"),
        bundle_only=block.has("bundle-only"),
        sctp=decode_sctp(block.first) if kind == "application" else None,
    )


def _direction(block: _Block, default: Direction) -> Direction:
    return next((value for value in Direction if block.has(value)), default)


def _bundle(session: _Block) -> tuple[str, ...]:
    groups = [value.split() for value in session.all("group")]
    return next((tuple(mids) for name, *mids in filter(None, groups) if name == "BUNDLE"), ())


def _transport(block: _Block) -> Transport:
    ufrag, password = block.first("ice-ufrag"), block.first("ice-pwd")
    if (ufrag or password) and not (
        4 <= len(ufrag) <= 256
        and 22 <= len(password) <= 256
        and _ICE_CHARS.fullmatch(ufrag + password)
    ):
        raise RemoteProtocolError("a=ice-ufrag or a=ice-pwd is missing or malformed")
    options = " ".join(block.all("ice-options")).split()
    sped = tuple(option for option in SPED_OPTIONS if option in options)
    return Transport(ufrag, password, _fingerprints(block), _setup(block.first("setup")), sped)


def _setup(text: str) -> Setup | None:
    if not text:
        return None
    try:
        return Setup(text.lower())
    except ValueError:
        raise RemoteProtocolError("an a=setup has an unknown value") from None


def _fingerprints(block: _Block) -> frozenset[Fingerprint]:
    found = set()
    for text in block.all("fingerprint"):
        algorithm, _, value = text.partition(" ")
        algorithm, value = algorithm.lower(), value.strip().upper()
        digest_bytes = DIGEST_BYTES.get(algorithm)
        if digest_bytes is None:
            continue
        if len(value) != 3 * digest_bytes - 1 or not _HEX_PAIRS.fullmatch(value):
            raise RemoteProtocolError("an a=fingerprint does not have the form of its algorithm")
        found.add(Fingerprint(algorithm, value))
    return frozenset(found)


def _codecs(block: _Block, formats: list[str]) -> tuple[Codec, ...]:
    """The section's codecs in the order of its formats, which is the offerer's preference."""
    maps: dict[int, tuple[str, int, int]] = {
        payload_type: (name, 8000, 1) for payload_type, name in _STATIC_CODECS.items()
    }
    for text in block.all("rtpmap"):
        match = _RTPMAP.fullmatch(text)
        if match is None:
            raise RemoteProtocolError("an a=rtpmap is malformed")
        payload_type, name, clock_rate, channels = match.groups()
        maps[int(payload_type)] = (name, int(clock_rate), int(channels or 1))
    parameters = _parameters(block)
    nacked = _nacked(block)
    codecs = []
    for text in formats:
        payload_type = _number(text, 127, "an RTP payload type")
        if payload_type in maps:
            name, rate, channel_count = maps[payload_type]
            pairs = parameters.get(text, ())
            nack = text in nacked or "*" in nacked
            codecs.append(Codec(payload_type, name, rate, channel_count, pairs, nack))
    return tuple(codecs)


def _nacked(block: _Block) -> frozenset[str]:
    """The formats with a plain ``nack``, not "nack pli"; RFC 4585, section 4.2."""
    feedback = (value.split() for value in block.all("rtcp-fb"))
    return frozenset(words[0] for words in feedback if words[1:] == ["nack"])


def _parameters(block: _Block) -> Mapping[str, tuple[tuple[str, str], ...]]:
    found = {}
    for text in block.all("fmtp"):
        payload_type, _, rest = text.partition(" ")
        pairs = (part.strip().partition("=") for part in rest.split(";") if part.strip())
        found[payload_type] = tuple((key, value) for key, _, value in pairs)
    return found


def _extensions(block: _Block) -> tuple[HeaderExtension, ...]:
    found = []
    for text in block.all("extmap"):
        match = _EXTMAP.fullmatch(text)
        if match is None:
            raise RemoteProtocolError("an a=extmap is malformed")
        number, direction, uri = match.groups()
        if direction not in (None, *Direction):
            raise RemoteProtocolError("an a=extmap has an unknown direction")
        found.append(HeaderExtension(int(number), uri, Direction(direction or "sendrecv")))
    return tuple(found)


def _number(text: str, highest: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= highest):
        raise RemoteProtocolError(f"{what} is not a number from 0 to {highest}")
    return int(text)
