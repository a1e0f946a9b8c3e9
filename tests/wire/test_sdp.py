"""Offers as real clients write them, what of them we accept, and the answers they get."""

from __future__ import annotations

import random
import re
from base64 import b64encode
from pathlib import Path

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import LocalProtocolError, RemoteProtocolError
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_state import SctpConfig
from edge.wire.sdp import (
    ChannelSection,
    Codec,
    Direction,
    Fingerprint,
    Negotiated,
    Offer,
    SctpSide,
    decode_offer,
    encode_answer,
    negotiate,
)
from tests.support.examples import examples

GOLDEN = {path.stem: path.read_bytes() for path in Path(__file__).parent.glob("golden/*.sdp")}
OURS = Fingerprint("sha-256", ":".join(["AB"] * 32))
MINIMAL = """\
v=0
o=- 1 1 IN IP4 127.0.0.1
s=-
t=0 0
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=rtpmap:111 opus/48000/2
a=ice-ufrag:abcd
a=ice-pwd:abcdefghijklmnopqrstuv
a=fingerprint:sha-256 {digest}
a=setup:actpass
a=mid:a
a=rtcp-mux
""".format(digest=":".join(["0f"] * 32))


def answer_to(negotiated: Negotiated, *candidates: tuple[str, int]) -> str:
    return encode_answer(
        negotiated,
        ufrag="A" * 23,
        password="p" * 24,
        fingerprint=OURS,
        candidates=candidates or [("192.0.2.1", 3478)],
        ssrc=0xDECAF,
        cname="cname1",
        session_id=7,
    )


def accept(text: str) -> Negotiated:
    return negotiate(decode_offer(text.encode()))


def refused(text: str) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        accept(text)
    return str(caught.value)


def edited(old: str, new: str, text: str = MINIMAL) -> str:
    assert old in text
    return text.replace(old, new)


def without(*starts: str) -> str:
    return "".join(line for line in MINIMAL.splitlines(True) if not line.startswith(starts))


# --- Goldens -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "payload_type", "mid_extension", "sections", "longest"),
    [
        ("chromium_channel", 111, 4, 2, 262_144),
        ("chromium_full", 111, 4, 3, 262_144),
        ("firefox_channel", 109, 3, 2, 1_073_741_823),
        ("firefox_full", 109, 3, 3, 1_073_741_823),
        ("aiortc_audio", 96, 1, 1, None),
        ("aiortc_full", 96, 1, 3, 262_144),
    ],
)
@pytest.mark.parametrize("with_candidates", [True, False])
def test_offers_of_real_clients(
    name: str,
    payload_type: int,
    mid_extension: int,
    sections: int,
    longest: int | None,
    with_candidates: bool,
) -> None:
    body = GOLDEN[name]
    if not with_candidates:
        body = re.sub(rb"a=candidate:.*\r\n", b"", body)
    negotiated = negotiate(decode_offer(body))
    assert negotiated.audio.payload_type == payload_type
    assert (negotiated.audio.name, negotiated.audio.clock_rate) == ("opus", 48_000)
    assert negotiated.mid == "0"
    assert negotiated.mid_extension == mid_extension
    assert negotiated.dtls_role == "active"
    assert negotiated.sends
    assert negotiated.receives
    assert len(negotiated.offer.sections) == sections
    assert len(negotiated.remote_ssrcs) == 1
    assert f"a=ice-ufrag:{negotiated.remote_ice.ufrag}\r\n".encode() in body
    assert f"a=ice-pwd:{negotiated.remote_ice.password}\r\n".encode() in body
    channels = negotiated.channels
    assert (None if channels is None else channels.sctp.max_message_bytes) == longest
    lines = {f"{one.algorithm} {one.value}".encode() for one in negotiated.fingerprints}
    assert lines == set(re.findall(rb"a=fingerprint:(.*)\r\n", body))

    answer = SessionDescription.parse(answer_to(negotiated))
    offer = SessionDescription.parse(body.decode())
    assert [(m.kind, m.rtp.muxId, m.profile) for m in answer.media] == [
        (m.kind, m.rtp.muxId, m.profile) for m in offer.media
    ]
    served = ["0"] if channels is None else ["0", str(channels.section)]
    assert [group.items for group in answer.group] == [served]
    for media in answer.media:  # what aiortc insists on, rejected or not
        assert media.ice is not None
        assert media.ice.iceLite
        assert media.ice.usernameFragment == "A" * 23
        assert media.dtls is not None
        assert media.dtls.role == "client"
        assert media.rtcp_mux or media.kind == "application"
    audio, *others = answer.media
    assert [codec.payloadType for codec in audio.rtp.codecs] == [payload_type]
    assert [one.ssrc for one in audio.ssrc] == [0xDECAF]
    assert audio.ice_candidates_complete
    for media in others:
        if media.rtp.muxId in served:
            assert media.sctpCapabilities is not None
            assert (media.port, media.sctp_port, media.sctpCapabilities.maxMessageSize) == (
                *(3478, 5000, 65_536),
            )
        else:
            assert (media.port, media.direction) == (0, "inactive")


def test_chromium_offer_in_full() -> None:
    offer = decode_offer(GOLDEN["chromium_full"])
    audio, video, channel = offer.sections
    assert [codec.name for codec in audio.codecs] == [
        *("opus", "red", "G722", "PCMU", "PCMA", "CN", "telephone-event", "telephone-event")
    ]
    assert audio.codecs[0] == Codec(
        111, "opus", 48_000, 2, (("minptime", "10"), ("useinbandfec", "1"))
    )
    assert audio.rtcp_rsize
    assert (video.kind, channel.kind) == ("video", "application")
    assert channel.formats == ("webrtc-datachannel",)
    assert offer.bundle == ("0", "1", "2")


def test_the_whole_answer() -> None:
    negotiated = negotiate(decode_offer(GOLDEN["chromium_channel"]))
    text = answer_to(negotiated, ("192.0.2.1", 3478), ("2001:db8::1", 3479))
    assert text.split("\r\n") == [
        "v=0",
        "o=- 7 1 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=ice-lite",
        "a=ice-options:ice2",
        "a=msid-semantic: WMS *",
        "a=group:BUNDLE 0 1",
        "m=audio 3478 UDP/TLS/RTP/SAVPF 111",
        "c=IN IP4 192.0.2.1",
        "a=rtpmap:111 opus/48000/2",
        "a=fmtp:111 minptime=10;useinbandfec=1",
        "a=ptime:20",
        "a=maxptime:20",
        "a=mid:0",
        "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid",
        "a=sendrecv",
        "a=rtcp-mux",
        "a=rtcp-rsize",
        "a=msid:edge edge-audio",
        "a=ssrc:912559 cname:cname1",
        "a=ssrc:912559 msid:edge edge-audio",
        "a=ice-ufrag:AAAAAAAAAAAAAAAAAAAAAAA",
        "a=ice-pwd:pppppppppppppppppppppppp",
        f"a=fingerprint:sha-256 {OURS.value}",
        "a=setup:active",
        "a=candidate:1 1 udp 2130706431 192.0.2.1 3478 typ host",
        "a=candidate:2 1 udp 2130706175 2001:db8::1 3479 typ host",
        "a=end-of-candidates",
        "m=application 3478 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 192.0.2.1",
        "a=mid:1",
        "a=sctp-port:5000",
        "a=max-message-size:65536",
        "a=ice-ufrag:AAAAAAAAAAAAAAAAAAAAAAA",
        "a=ice-pwd:pppppppppppppppppppppppp",
        f"a=fingerprint:sha-256 {OURS.value}",
        "a=setup:active",
        "a=candidate:1 1 udp 2130706431 192.0.2.1 3478 typ host",
        "a=candidate:2 1 udp 2130706175 2001:db8::1 3479 typ host",
        "a=end-of-candidates",
        "",
    ]


# --- Negotiation ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "sends", "receives", "answered"),
    [
        (Direction.SENDRECV, True, True, "sendrecv"),
        (Direction.SENDONLY, False, True, "recvonly"),
        (Direction.RECVONLY, True, False, "sendonly"),
        (Direction.INACTIVE, False, False, "inactive"),
    ],
)
@pytest.mark.parametrize("level", ["session", "media"])
def test_direction(
    level: str, offered: Direction, sends: bool, receives: bool, answered: str
) -> None:
    before = "m=audio" if level == "session" else "a=mid"
    negotiated = accept(edited(before, f"a={offered}\n{before}"))
    assert (negotiated.sends, negotiated.receives) == (sends, receives)
    answer = answer_to(negotiated)
    assert f"a={answered}\r\n" in answer
    assert ("a=ssrc:" in answer) is sends


def test_dtls_role() -> None:
    assert accept(MINIMAL).dtls_role == "active"
    assert accept(edited("actpass", "passive")).dtls_role == "active"
    negotiated = accept(edited("actpass", "active"))
    assert negotiated.dtls_role == "passive"
    assert "a=setup:passive\r\n" in answer_to(negotiated)
    assert "holdconn" in refused(edited("actpass", "holdconn"))
    assert "a=setup" in refused(edited("actpass", "sideways"))
    assert "no a=setup" in refused(without("a=setup"))


def test_codec_preference_is_ours() -> None:
    text = edited("SAVPF 111", "SAVPF 8 0 111")
    assert accept(text).audio.name == "opus"
    offer = decode_offer(text.encode())
    assert negotiate(offer, codecs=["PCMU", "opus"]).audio.payload_type == 0
    negotiated = negotiate(offer, codecs=["PCMA"])
    assert negotiated.audio == Codec(8, "PCMA", 8_000, 1)
    answer = answer_to(negotiated)
    assert "a=rtpmap:8 PCMA/8000\r\n" in answer
    assert "a=fmtp" not in answer


@pytest.mark.parametrize("rtpmap", ["opus/48000", "opus/16000/2", "PCMU/16000", "speex/8000"])
def test_foreign_codecs_are_refused(rtpmap: str) -> None:
    assert "codecs" in refused(edited("opus/48000/2", rtpmap))


def test_payload_types_that_collide_with_rtcp_are_not_taken() -> None:
    assert "codecs" in refused(MINIMAL.replace("111", "72"))


def test_codec_names_are_compared_without_case() -> None:
    assert accept(edited("opus/", "OPUS/")).audio.name == "opus"


def test_first_acceptable_audio_section_wins() -> None:
    video_less_mux = MINIMAL[MINIMAL.index("m=audio") :].replace("a=rtcp-mux\n", "")
    text = edited("m=audio", video_less_mux.replace("mid:a", "mid:x") + "m=audio")
    negotiated = accept(text + MINIMAL[MINIMAL.index("m=audio") :].replace("mid:a", "mid:z"))
    assert (negotiated.section, negotiated.mid) == (1, "a")
    media = SessionDescription.parse(answer_to(negotiated)).media
    assert [section.port for section in media] == [0, 3478, 0]


def test_bundle_only_and_inherited_transport() -> None:
    transport = [line for line in MINIMAL.splitlines() if line.startswith(("a=ice", "a=finger"))]
    text = "\n".join(
        [
            *("v=0", "a=group:BUNDLE v a", "m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:v"),
            *(*transport, "a=setup:passive", "m=audio 0 UDP/TLS/RTP/SAVPF 0", "a=mid:a"),
            *("a=bundle-only", "a=rtcp-mux"),
        ]
    )
    negotiated = accept(text)
    assert negotiated.remote_ice.ufrag == "abcd"
    assert len(negotiated.fingerprints) == 1
    assert negotiated.audio.name == "PCMU"
    assert "a=group:BUNDLE v a\r\n" in answer_to(negotiated)
    assert "bundle-only" in refused(text.replace("m=video 9", "m=video 0"))


@pytest.mark.parametrize(
    ("first", "idle"),
    [
        (
            "m=video 9 UDP/TLS/RTP/SAVPF 96 97\na=rtpmap:96 VP8/90000\na=rtcp-mux\n",
            ["m=video 3478 UDP/TLS/RTP/SAVPF 96", "a=rtpmap:96 VP8/90000", "a=mid:first"],
        ),
        (
            "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\n",  # it has no a=sctp-port
            ["m=application 3478 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:5000"],
        ),
    ],
)
def test_a_section_before_the_audio_carries_the_bundle(first: str, idle: list[str]) -> None:
    """Chromium with max-bundle refuses an answer that rejects it."""
    head, _, audio = MINIMAL.partition("m=audio")
    transport = "".join(
        line for line in audio.splitlines(True) if line.startswith(("a=ice", "a=finger", "a=setup"))
    )
    text = f"{head}a=group:BUNDLE first a x\n{first}a=mid:first\n{transport}m=audio{audio}"
    answer = answer_to(accept(text + "m=video 9 UDP/TLS/RTP/SAVPF 96\na=mid:x\n"))
    assert "a=group:BUNDLE first a\r\n" in answer
    _, carrier, served, rejected = answer.split("m=")
    assert set(idle) <= set(f"m={carrier}".split("\r\n"))
    assert "a=inactive\r\n" in carrier
    assert "a=sendrecv\r\n" in served
    assert served.startswith("audio 3478 ")
    assert rejected.startswith("video 0 ")
    for attribute in ("a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "a=setup", "a=candidate"):
        assert attribute in carrier
        assert attribute in served  # Firefox crashes without


# --- Data channels -------------------------------------------------------------------------

CHANNEL = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\na=mid:c\na=sctp-port:5001\n"
INIT = Association(entropy=random.Random(1).randbytes, config=SctpConfig()).local_init()


def with_channel(channel: str = CHANNEL, *, bundle: str = "a c", first: bool = False) -> str:
    head, _, audio = MINIMAL.partition("m=audio")
    transport = "".join(
        line for line in audio.splitlines(True) if line.startswith(("a=ice", "a=finger", "a=setup"))
    )
    group = f"a=group:BUNDLE {bundle}\n" if bundle else ""
    if first:
        return f"{head}{group}{channel}{transport}m=audio{audio}"
    return f"{head}{group}m=audio{audio}{channel}"


@pytest.mark.parametrize("first", [False, True])
def test_bundled_channels_are_served(first: bool) -> None:
    text = with_channel(first=first, bundle="c a" if first else "a c")
    negotiated = accept(text)
    assert negotiated.channels == ChannelSection(0 if first else 1, SctpSide(5001, 65_536))
    assert negotiated.carrier == 0
    answer = answer_to(negotiated)
    assert f"a=group:BUNDLE {'c a' if first else 'a c'}\r\n" in answer
    sections = answer.split("m=")[1:]
    (section,) = (each for each in sections if each.startswith("application"))
    assert section.startswith("application 3478 UDP/DTLS/SCTP webrtc-datachannel\r\n")
    assert "a=sctp-port:5000\r\na=max-message-size:65536\r\n" in section
    assert "a=inactive" not in answer
    assert "a=sctp-init" not in answer


@pytest.mark.parametrize(
    "text",
    [
        with_channel(bundle=""),
        with_channel(bundle="a"),
        with_channel(CHANNEL.replace("a=sctp-port:5001\n", "")),
        with_channel(CHANNEL.replace("n 9", "n 0")),
        with_channel(CHANNEL.replace("UDP/DTLS", "DTLS")),
        with_channel(CHANNEL.replace("webrtc-datachannel", "5000")),
    ],
)
def test_other_channels_are_rejected(text: str) -> None:
    negotiated = accept(text)
    assert negotiated.channels is None
    assert "m=application 0 " in answer_to(negotiated)


def test_channels_that_are_bundle_only_are_served() -> None:
    text = with_channel(CHANNEL.replace("n 9", "n 0") + "a=bundle-only\n")
    assert accept(text).channels is not None


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a=sctp-port:0", "a=sctp-port"),
        ("a=sctp-port:65536", "a=sctp-port"),
        ("a=sctp-port:5000x", "a=sctp-port"),
        ("a=max-message-size:-1", "a=max-message-size"),
        ("a=max-message-size:99999999999999999999", "a=max-message-size"),
    ],
)
def test_malformed_values_of_sctp_are_refused(line: str, problem: str) -> None:
    section = CHANNEL if problem != "a=sctp-port" else CHANNEL.replace("a=sctp-port:5001", line)
    assert problem in refused(with_channel(f"{section}{line}\n"))


def test_snap_is_answered_where_it_is_offered_and_wanted() -> None:
    offered = CHANNEL + f"a=sctp-init:{b64encode(INIT).decode()}\n"
    negotiated = accept(with_channel(offered))
    assert negotiated.channels is not None
    assert negotiated.channels.sctp.init == INIT
    answer = encode_answer(
        negotiated,
        ufrag="A" * 23,
        password="p" * 24,
        fingerprint=OURS,
        candidates=[("192.0.2.1", 3478)],
        ssrc=1,
        cname="c",
        session_id=7,
        sctp_init=b"ours",
    )
    assert "a=sctp-init:b3Vycw==\r\n" in answer
    off = negotiate(decode_offer(with_channel(offered).encode()), snap=False).channels
    assert off == ChannelSection(1, SctpSide(5001, 65_536))


@pytest.mark.parametrize("option", ["sped", "googspedv1", "goog-sped-v1"])
def test_sped_is_answered_where_it_is_offered_and_wanted(option: str) -> None:
    offer = decode_offer(offered_sped(f"trickle {option} renomination").encode())
    assert f"a=ice-options:ice2 {option}\r\n" in answer_to(negotiate(offer))
    assert "a=ice-options:ice2\r\n" in answer_to(negotiate(offer, sped=False))


def test_of_unknown_ice_options_nothing_is_repeated() -> None:
    for options in ("trickle", "", "spedx SPED", "sped2 ice2"):
        offer = decode_offer(offered_sped(options).encode())
        assert "a=ice-options:ice2\r\n" in answer_to(negotiate(offer))
    both = decode_offer(offered_sped("googspedv1 trickle sped").encode())
    assert "a=ice-options:ice2 sped googspedv1\r\n" in answer_to(negotiate(both))


def offered_sped(options: str) -> str:
    return with_channel(CHANNEL).replace("a=setup:", f"a=ice-options:{options}\na=setup:")


@pytest.mark.parametrize(
    "value", ["", "AAA", "not base64!", b64encode(INIT[:-1]).decode(), b64encode(b"").decode()]
)
def test_an_init_that_can_not_be_read_is_passed_over(value: str) -> None:
    channels = accept(with_channel(f"{CHANNEL}a=sctp-init:{value}\n")).channels
    assert channels is not None
    assert channels.sctp.init is None


def test_media_level_overrides_session_level() -> None:
    session = "a=ice-ufrag:sess\na=ice-pwd:0123456789012345678901\na=setup:active\n"
    session += f"a=fingerprint:SHA-384 {':'.join(['11'] * 48)}\n"
    negotiated = accept(edited("m=audio", session + "m=audio"))
    assert negotiated.remote_ice.ufrag == "abcd"
    assert negotiated.dtls_role == "active"
    assert {one.algorithm for one in negotiated.fingerprints} == {"sha-256"}
    rest = without("v=", "a=ice", "a=setup", "a=finger")
    inherited = accept(f"v=0\n{session}{rest}")
    assert inherited.remote_ice.ufrag == "sess"
    assert inherited.dtls_role == "passive"
    assert {one.algorithm for one in inherited.fingerprints} == {"sha-384"}


def test_weak_fingerprints_do_not_count() -> None:
    weak = f"a=fingerprint:sha-1 {':'.join(['00'] * 20)}\n"
    both = accept(edited("a=setup", weak + "a=setup"))
    assert [one.algorithm for one in both.fingerprints] == ["sha-256"]
    assert "sha-256" in refused(without("a=finger") + weak)
    assert both.fingerprints == {Fingerprint("sha-256", ":".join(["0F"] * 32))}


@pytest.mark.parametrize(
    ("extmap", "expected"),
    [
        ("3 urn:ietf:params:rtp-hdrext:sdes:mid", 3),
        ("15 urn:ietf:params:rtp-hdrext:sdes:mid", None),
        ("3/recvonly urn:ietf:params:rtp-hdrext:sdes:mid", None),
        ("3 urn:ietf:params:rtp-hdrext:ssrc-audio-level", None),
    ],
)
def test_mid_extension(extmap: str, expected: int | None) -> None:
    negotiated = accept(MINIMAL + f"a=extmap:{extmap}\n")
    assert negotiated.mid_extension == expected
    assert ("a=extmap" in answer_to(negotiated)) is (expected is not None)


@pytest.mark.parametrize(
    ("feedback", "agreed"),
    [
        ("111 nack", True),
        ("* nack", True),
        ("111  nack ", True),
        ("111 nack pli", False),
        ("111 transport-cc", False),
        ("0 nack", False),
        ("nack", False),
        ("", False),
    ],
)
def test_nack(feedback: str, agreed: bool) -> None:
    offer = decode_offer(f"{MINIMAL}a=rtcp-fb:{feedback}\n".encode())
    negotiated = negotiate(offer, nack=True)
    assert negotiated.nack is agreed
    assert ("a=rtcp-fb:111 nack\r\n" in answer_to(negotiated)) is agreed
    assert not negotiate(offer).nack
    assert "rtcp-fb" not in answer_to(negotiate(offer))


def test_no_feedback_in_a_profile_without() -> None:
    text = edited("SAVPF", "SAVP", MINIMAL + "a=rtcp-fb:111 nack\n")
    assert not negotiate(decode_offer(text.encode()), nack=True).nack


def test_what_is_not_offered_is_not_answered() -> None:
    answer = answer_to(accept(without("a=mid")))
    assert "rsize" not in answer
    assert "BUNDLE" not in answer
    assert "a=mid" not in answer


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (edited("m=audio", "a=ice-lite\nm=audio"), "ICE-lite"),
        (edited("m=audio 9", "m=audio 0"), "disabled"),
        (edited("m=audio", "m=video"), "no audio"),
        (edited("UDP/TLS/RTP/SAVPF", "RTP/AVP"), "SRTP"),
        (edited("m=audio", "a=group:BUNDLE b\nm=audio"), "BUNDLE"),
        (without("a=rtcp-mux"), "rtcp-mux"),
        (without("a=ice-ufrag", "a=ice-pwd"), "ice-ufrag"),
        (without("a=ice-pwd"), "ice-pwd"),
        (edited("abcd\n", "abc\n"), "ice-ufrag"),
        (edited("abcd\n", "ab d\n"), "ice-ufrag"),
        (edited("0f:0f\n", "0f\n"), "fingerprint"),
        (edited("0f:0f\n", "0f:0g\n"), "fingerprint"),
        (without("m=", "a="), "no media section"),
        (without("v="), "v=0"),
        ("", "v=0"),
        (edited("s=-", "no equals sign"), "line 3"),
        (edited("s=-", "s=\0"), "line 3"),
        (edited("s=-", "s=a\rb"), "line 3"),
        (edited("m=audio 9", "m=audio 99999"), "port"),
        (edited("m=audio 9", "m=audio ٣"), "port"),
        (edited("m=audio 9 UDP/TLS/RTP/SAVPF 111", "m=audio 9"), "m= line"),
        (edited("SAVPF 111", "SAVPF 128"), "payload type"),
        (edited("a=mid:a", "a=mid:a b"), "mid"),
        (MINIMAL + MINIMAL[MINIMAL.index("m=") :], "same a=mid"),
        (edited("opus/48000/2", "opus"), "rtpmap"),
        (MINIMAL + "a=ssrc:99999999999 cname:x\n", "ssrc"),
        (MINIMAL + "a=extmap:x y\n", "extmap"),
        (MINIMAL + "a=extmap:1/up y\n", "extmap"),
    ],
)
def test_refusals_say_what_is_wrong(text: str, sentence: str) -> None:
    assert sentence in refused(text)


def test_limits() -> None:
    line = "a=x:" + "y" * 1_020
    assert len(line) == 1_024
    accept(MINIMAL + line)
    assert "1024 bytes" in refused(MINIMAL + line + "y")
    section = "m=video 9 UDP/TLS/RTP/SAVPF 96\n"
    accept(MINIMAL + section * 15)
    assert "16 media" in refused(MINIMAL + section * 16)
    long_line = "a=" + "x" * 61 + "\n"
    padding = long_line * ((65_536 - len(MINIMAL)) // 64)
    accept(MINIMAL + padding)
    assert "65536 bytes" in refused(MINIMAL + padding + long_line * 2)
    short_lines = "a=x\n" * (2_047 - MINIMAL.count("\n"))
    accept(MINIMAL + short_lines)
    assert "2048 lines" in refused(MINIMAL + short_lines + "a=x\n")
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        decode_offer(MINIMAL.encode() + b"a=\xff\n")


def test_both_line_endings() -> None:
    assert decode_offer(MINIMAL.encode()) == decode_offer(MINIMAL.replace("\n", "\r\n").encode())


def test_the_best_candidate_has_the_highest_priority_and_the_default_address() -> None:
    addresses = [("192.0.2.1", 3478), ("2001:db8::1", 3479), ("192.0.2.3", 3478)]
    answer = answer_to(accept(MINIMAL), *addresses)
    lines = [line.split() for line in answer.splitlines() if line.startswith("a=candidate:")]
    assert [(line[4], int(line[5])) for line in lines] == addresses
    priorities = [int(line[3]) for line in lines]
    assert priorities == sorted(set(priorities), reverse=True)
    assert len({line[0] for line in lines}) == 3, "foundations differ: each is checked for itself"
    assert "c=IN IP4 192.0.2.1" in answer


def test_an_answer_needs_a_candidate() -> None:
    with pytest.raises(LocalProtocolError):
        encode_answer(
            accept(MINIMAL),
            ufrag="A" * 23,
            password="p" * 24,
            fingerprint=OURS,
            candidates=[],
            ssrc=1,
            cname="c",
            session_id=1,
        )


def test_repr_shows_no_credentials() -> None:
    text = repr(accept(MINIMAL)) + repr(decode_offer(MINIMAL.encode()))
    assert "abcd" not in text
    assert "abcdefghijklmnopqrstuv" not in text


# --- Properties ----------------------------------------------------------------------------


def decode_or_none(body: bytes) -> Offer | None:
    try:
        return decode_offer(body)
    except RemoteProtocolError:
        return None


def check_total(body: bytes) -> bool:
    """A value or RemoteProtocolError; an answer mirrors the offer's sections and adds no line."""
    offer = decode_or_none(body)
    if offer is None:
        return False
    try:
        negotiated = negotiate(offer)
    except RemoteProtocolError:
        return False
    answer = answer_to(negotiated)
    assert answer.isascii()
    assert len(answer.splitlines()) == answer.count("\r\n") <= 40 + 16 * 10
    media = re.findall(r"(?m)^m=(\S+) (\d+) ", answer)
    assert [kind for kind, _ in media] == [section.kind for section in offer.sections]
    accepted = {index for index, (_, port) in enumerate(media) if port != "0"}
    channels = set() if negotiated.channels is None else {negotiated.channels.section}
    assert accepted == {negotiated.section, negotiated.carrier} | channels
    return True


LINES = [line for body in GOLDEN.values() for line in body.decode().split("\r\n")]


@given(st.integers(0, 2**32))
@examples(60)
def test_mutated_goldens(seed: int) -> None:
    rng = random.Random(seed)
    lines = rng.choice(list(GOLDEN.values())).decode().split("\r\n")
    for _ in range(rng.randrange(1, 6)):
        where = rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                del lines[where : where + rng.randrange(1, 4)]
            case 1:
                lines.insert(where, rng.choice(LINES))
            case 2:
                lines[where] = lines[where][: rng.randrange(len(lines[where]) + 1)]
            case 3:
                words = re.split(r"([ :/;=])", lines[where])
                words[rng.randrange(len(words))] = rng.choice(
                    ["", "0", "-1", "٣", "9" * 30, "\x85"]
                )
                lines[where] = "".join(words)
            case _:
                lines[where] = lines[where].replace(":", rng.choice([" ", "\r", "::", "\u2028"]))
        lines = lines or [""]
    body = bytearray("\r\n".join(lines).encode())
    if body and rng.random() < 0.3:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    check_total(bytes(body))


@given(st.lists(st.sampled_from(LINES), max_size=60))
@examples(30)
def test_shuffled_lines(lines: list[str]) -> None:
    check_total("\n".join([MINIMAL.strip(), *lines]).encode())


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@examples(30)
def test_random_bytes(body: bytes) -> None:
    check_total(body)
    check_total(b"v=0\n" + body)


def test_the_property_reaches_answers() -> None:
    assert all(map(check_total, GOLDEN.values()))
