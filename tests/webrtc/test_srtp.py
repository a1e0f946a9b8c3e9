from __future__ import annotations

import os
import struct
from collections.abc import Callable
from random import Random

import msgspec
import pylibsrtp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import Drop, LocalProtocolError, RemoteProtocolError
from edge.webrtc.keys import SrtpProfile
from edge.webrtc.srtp import (
    MAX_INDEX,
    MAX_RTCP_INDEX,
    REPLAY_WINDOW,
    AeadGcm,
    CounterModeHmac,
    ReplayWindow,
    SrtpReceiver,
    SrtpReceiverSnapshot,
    SrtpSender,
    SrtpSenderSnapshot,
    derive,
)
from edge.wire.rtp import (
    RtpPacket,
    build_header,
    encode_mid_extension,
    encode_rtp,
    header_length,
    parse_header,
)

CM = SrtpProfile.AES128_CM_HMAC_SHA1_80
GCM_128 = SrtpProfile.AEAD_AES_128_GCM
GCM_256 = SrtpProfile.AEAD_AES_256_GCM
LIBSRTP = {
    CM: pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    GCM_128: pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    GCM_256: pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}
SSRC = 0xDEADBEEF
COMPOUND = bytes.fromhex("80c90001deadbeef81ca0003deadbeef0103656467650000")
MINIMAL_COMPOUND = COMPOUND[:8]

every_profile = pytest.mark.parametrize("profile", list(SrtpProfile), ids=lambda p: p.name)


def master(profile: SrtpProfile) -> tuple[bytes, bytes]:
    return bytes(range(profile.key_bytes)), bytes(range(100, 100 + profile.salt_bytes))


def pair(profile: SrtpProfile) -> tuple[SrtpSender, SrtpReceiver]:
    return SrtpSender(profile, *master(profile)), SrtpReceiver(profile, *master(profile))


def libsrtp(profile: SrtpProfile, *, outbound: bool) -> pylibsrtp.Session:
    kind = pylibsrtp.Policy.SSRC_ANY_OUTBOUND if outbound else pylibsrtp.Policy.SSRC_ANY_INBOUND
    policy = pylibsrtp.Policy(
        key=b"".join(master(profile)), ssrc_type=kind, srtp_profile=LIBSRTP[profile]
    )
    policy.window_size = REPLAY_WINDOW
    return pylibsrtp.Session(policy)


def header(index: int, ssrc: int = SSRC) -> bytes:
    return build_header(111, False, index & 0xFFFF, index * 960 & 0xFFFFFFFF, ssrc)


def protect(sender: SrtpSender, index: int, ssrc: int = SSRC) -> bytes:
    return sender.protect_rtp(header(index, ssrc), b"payload %d" % index, index=index)


def drop_of(receiver: SrtpReceiver, packet: bytes) -> Drop:
    with pytest.raises(RemoteProtocolError) as caught:
        receiver.unprotect_rtp(packet)
    return caught.value.drop


class TestVectors:
    def test_key_derivation_rfc3711_b3(self) -> None:
        key = bytes.fromhex("e1f97a0d3e018be0d64fa32c06de4139")
        salt = bytes.fromhex("0ec675ad498afeebb6960b3aabe6")
        assert derive(key, salt, 0, 16).hex() == "c61e7a93744f39ee10734afe3ff7a087"
        assert derive(key, salt, 2, 14).hex() == "30cbbc08863d8c85d49db34a9ae1"
        assert derive(key, salt, 1, 94).hex() == (
            "cebe321f6ff7716b6fd4ab49af256a156d38baa48f0a0acf3c34e2359e6cdbce"
            "e049646c43d9327ad175578ef72270986371c10c9a369ac2f94a8c5fbcdddc25"
            "6d6e919a48b610ef17c2041e474035766b68642c59bbfc2f34db60dbdfb2"
        )

    def test_key_derivation_rfc6188_7_2(self) -> None:
        key = bytes.fromhex("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6")
        salt = bytes.fromhex("3b04803de51ee7c96423ab5b78d2")
        assert derive(key, salt, 0, 32).hex() == (
            "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4"
        )
        assert derive(key, salt, 2, 14).hex() == "fa31791685ca444a9e07c6c64e93"

    def test_keystream_rfc3711_b2(self) -> None:
        key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
        salt = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfd")
        transform = CounterModeHmac(key, salt, bytes(20))
        sealed = transform.seal_rtp(build_header(0, False, 0, 0, 0), bytes(16 * 0xFF02), 0, 0)
        keystream = sealed[12:-10]
        assert keystream[:48].hex() == (
            "e03ead0935c95e80e166b16dd92b4eb4"
            "d23513162b02d0f72a43a2fe4a5f97ab"
            "41e95b3bb0a2e8dd477901e4fca894c0"
        )
        assert keystream[16 * 0xFEFF : 16 * 0xFF00].hex() == "ec8cdf7398607cb0f2d21675ea9ea1e4"

    def test_whole_packet_of_libsrtps_own_test(self) -> None:
        key = bytes.fromhex("e1f97a0d3e018be0d64fa32c06de4139")
        salt = bytes.fromhex("0ec675ad498afeebb6960b3aabe6")
        plain = bytes.fromhex("800f1234decafbadcafebabe" + "ab" * 16)
        sealed = SrtpSender(CM, key, salt).protect_rtp(plain[:12], plain[12:], index=0x1234)
        assert sealed.hex() == (
            "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb"
        )

    @pytest.mark.parametrize(
        ("key_bytes", "sealed"),
        [
            (
                16,
                "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833"
                "899d7f27beb16a9152cf765ee4390cce",
            ),
            (
                32,
                "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b"
                "7aa3db36dfffd6b0f9bb7878d7a76c13",
            ),
        ],
    )
    def test_gcm_rtp_rfc7714_16(self, key_bytes: int, sealed: str) -> None:
        transform = AeadGcm(bytes(range(key_bytes)), b"Quid pro quo")
        rtp_header = bytes.fromhex("8040f17b8041f8d35501a0b2")
        payload = b"Gallia est omnis divisa in partes tres"
        packet = transform.seal_rtp(rtp_header, payload, 0x5501A0B2, 0xF17B)
        assert packet == rtp_header + bytes.fromhex(sealed)
        assert transform.open_rtp(packet, 12, 0x5501A0B2, 0xF17B) == payload

    @pytest.mark.parametrize(
        ("key_bytes", "sealed"),
        [
            (
                16,
                "63e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda"
                "4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade",
            ),
            (
                32,
                "d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be"
                "8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be",
            ),
        ],
    )
    def test_gcm_rtcp_rfc7714_17(self, key_bytes: int, sealed: str) -> None:
        transform = AeadGcm(bytes(range(key_bytes)), b"Quid pro quo")
        compound = bytes.fromhex(
            "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61"
            "deadbeefdeadbeefdeadbeefdeadbeefdeadbeef"
        )
        packet = transform.seal_rtcp(compound, 0x4D617273, 0x5D4)
        assert packet == compound[:8] + bytes.fromhex(sealed) + bytes.fromhex("800005d4")
        assert transform.open_rtcp(packet, 0x4D617273, 0x5D4) == compound


@every_profile
class TestAgainstLibsrtp:
    def test_it_opens_what_we_protect_across_roll_overs(self, profile: SrtpProfile) -> None:
        sender, other = pair(profile)[0], libsrtp(profile, outbound=False)
        for index in [30_000, 60_000, 65_534, 65_535, 65_536, 65_537, 90_000, 120_000, 131_072]:
            plain = header(index) + b"payload %d" % index
            assert other.unprotect(protect(sender, index)) == plain

    def test_we_open_what_it_protects_across_roll_overs(self, profile: SrtpProfile) -> None:
        receiver, other = pair(profile)[1], libsrtp(profile, outbound=True)
        for index in [30_000, 60_000, 65_534, 65_535, 65_536, 65_537, 90_000, 120_000, 131_072]:
            plain = header(index) + b"payload"
            assert receiver.unprotect_rtp(other.protect(plain)) == (plain, index)

    def test_reordering_around_a_roll_over(self, profile: SrtpProfile) -> None:
        receiver, other = pair(profile)[1], libsrtp(profile, outbound=True)
        indexes = list(range(65_400, 65_700))
        sealed = {index: other.protect(header(index) + b"x") for index in indexes}
        assert receiver.unprotect_rtp(sealed[indexes[0]])[1] == indexes[0]
        shuffled = indexes[1:]
        Random(7).shuffle(shuffled)
        for index in shuffled:
            assert receiver.unprotect_rtp(sealed[index]) == (header(index) + b"x", index)
        for index in indexes:
            assert drop_of(receiver, sealed[index]) is Drop.REPLAY

    @pytest.mark.parametrize("payload", [b"", b"x", os.urandom(1200)], ids=len)
    def test_extensions_and_csrcs_are_authenticated_not_encrypted(
        self, profile: SrtpProfile, payload: bytes
    ) -> None:
        packet = RtpPacket(
            111, True, 9, 960, SSRC, payload, ((4, b"0"), (3, b"abc")), tuple(range(15))
        )
        plain = encode_rtp(packet)
        offset = header_length(plain)
        sender, receiver = pair(profile)
        sealed = sender.protect_rtp(plain[:offset], payload, index=9)
        assert sealed == libsrtp(profile, outbound=True).protect(plain)
        assert sealed[:offset] == plain[:offset]
        for at in (12, offset - 3):
            forged = bytearray(sealed)
            forged[at] ^= 1
            assert drop_of(receiver, bytes(forged)) is Drop.BAD_AUTH
        assert receiver.unprotect_rtp(sealed) == (plain, 9)

    @pytest.mark.parametrize("compound", [COMPOUND, MINIMAL_COMPOUND], ids=len)
    def test_rtcp_both_ways(self, profile: SrtpProfile, compound: bytes) -> None:
        sender, receiver = pair(profile)
        inbound, outbound = libsrtp(profile, outbound=False), libsrtp(profile, outbound=True)
        for _ in range(5):
            assert inbound.unprotect_rtcp(sender.protect_rtcp(compound)) == compound
            assert receiver.unprotect_rtcp(outbound.protect_rtcp(compound)) == compound

    def test_it_follows_a_restored_sender(self, profile: SrtpProfile) -> None:
        sender, inbound = pair(profile)[0], libsrtp(profile, outbound=False)
        inbound.unprotect_rtcp(sender.protect_rtcp(COMPOUND))
        checkpoint = sender.snapshot()
        for _ in range(50):
            inbound.unprotect_rtcp(sender.protect_rtcp(COMPOUND))
        heir = SrtpSender.restore(checkpoint, skip=10_000)
        assert inbound.unprotect_rtcp(heir.protect_rtcp(COMPOUND)) == COMPOUND

    def test_lengths_that_are_not_ours(self, profile: SrtpProfile) -> None:
        key, salt = master(profile)
        with pytest.raises(LocalProtocolError):
            SrtpSender(profile, key + b"x", salt)
        with pytest.raises(LocalProtocolError):
            SrtpReceiver(profile, key, salt[:-1])


class TestSender:
    def test_an_index_never_comes_twice_or_falls(self) -> None:
        sender = pair(GCM_128)[0]
        protect(sender, 100)
        for index in (100, 99, 0):
            with pytest.raises(LocalProtocolError):
                protect(sender, index)
        protect(sender, 100, ssrc=1)  # another SSRC, another nonce
        protect(sender, 65_636)  # the same sequence number one roll-over on

    def test_the_index_belongs_to_the_sequence_number(self) -> None:
        with pytest.raises(LocalProtocolError):
            pair(GCM_128)[0].protect_rtp(header(5), b"", index=6)

    def test_the_last_index(self) -> None:
        sender = pair(CM)[0]
        protect(sender, MAX_INDEX)
        with pytest.raises(LocalProtocolError):
            protect(sender, MAX_INDEX + 1)

    @every_profile
    def test_srtcp_ends_with_its_last_index(self, profile: SrtpProfile) -> None:
        sender, receiver = pair(profile)
        sender = SrtpSender.restore(sender.snapshot(), skip=MAX_RTCP_INDEX)
        assert receiver.unprotect_rtcp(sender.protect_rtcp(COMPOUND)) == COMPOUND
        with pytest.raises(LocalProtocolError):
            sender.protect_rtcp(COMPOUND)

    def test_a_restored_sender_refuses_what_may_have_been_sent(self) -> None:
        sender = pair(GCM_128)[0]
        protect(sender, 100)
        checkpoint = sender.snapshot()
        with pytest.raises(LocalProtocolError):
            protect(SrtpSender.restore(checkpoint), 100)
        heir = SrtpSender.restore(checkpoint, rtp_skip=1000)
        with pytest.raises(LocalProtocolError):
            protect(heir, 1100)
        protect(heir, 1101)
        with pytest.raises(LocalProtocolError):
            SrtpSender.restore(checkpoint, skip=-1)

    @every_profile
    def test_the_snapshot_is_a_value_without_keys_in_sight(self, profile: SrtpProfile) -> None:
        sender = pair(profile)[0]
        protect(sender, 100)
        sender.protect_rtcp(COMPOUND)
        snapshot = sender.snapshot()
        stored = msgspec.msgpack.encode(snapshot)
        assert msgspec.msgpack.decode(stored, type=SrtpSenderSnapshot) == snapshot
        assert repr(snapshot) == str(snapshot) == f"SrtpSenderSnapshot({profile.name}, ...)"
        twin = SrtpSender.restore(snapshot)
        assert twin.protect_rtcp(COMPOUND) == sender.protect_rtcp(COMPOUND)
        assert protect(twin, 101) == protect(sender, 101)


class TestReceiver:
    @every_profile
    def test_forgeries_change_nothing(self, profile: SrtpProfile) -> None:
        sender, receiver = pair(profile)
        sealed = protect(sender, 30_000)
        for at in range(12, len(sealed)):
            forged = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
            assert drop_of(receiver, forged) is Drop.BAD_AUTH
        ahead = build_header(111, False, 60_000, 0, SSRC) + sealed[12:]
        assert drop_of(receiver, ahead) is Drop.BAD_AUTH
        before = receiver.snapshot()
        assert before.rtp == ()
        assert receiver.unprotect_rtp(sealed)[1] == 30_000
        assert drop_of(receiver, ahead) is Drop.BAD_AUTH
        assert receiver.unprotect_rtp(protect(sender, 30_001))[1] == 30_001

    def test_too_old_for_the_window(self) -> None:
        sender, receiver = pair(GCM_128)
        old, oldest_kept = protect(sender, 1000), protect(sender, 1001)
        receiver.unprotect_rtp(protect(sender, 1000 + REPLAY_WINDOW))
        assert drop_of(receiver, old) is Drop.REPLAY
        assert receiver.unprotect_rtp(oldest_kept)[1] == 1001
        assert drop_of(receiver, oldest_kept) is Drop.REPLAY

    def test_before_the_first_roll_over_counter(self) -> None:
        sender, receiver = pair(GCM_128)
        receiver.unprotect_rtp(protect(sender, 3))
        assert drop_of(receiver, protect(sender, 65_530)) is Drop.REPLAY

    @every_profile
    def test_rtcp_replay_forgery_and_plain_text(self, profile: SrtpProfile) -> None:
        sender, receiver = pair(profile)
        first, second = sender.protect_rtcp(COMPOUND), sender.protect_rtcp(COMPOUND)
        assert receiver.unprotect_rtcp(second) == COMPOUND
        assert receiver.unprotect_rtcp(first) == COMPOUND
        for packet in (first, second):
            with pytest.raises(RemoteProtocolError) as caught:
                receiver.unprotect_rtcp(packet)
            assert caught.value.drop is Drop.REPLAY
        third = sender.protect_rtcp(COMPOUND)
        word = len(third) - (14 if profile is CM else 4)
        for at in range(4, len(third)):
            forged = third[:at] + bytes((third[at] ^ 0x80,)) + third[at + 1 :]
            with pytest.raises(RemoteProtocolError) as caught:
                receiver.unprotect_rtcp(forged)
            expected = Drop.MALFORMED if at == word else Drop.BAD_AUTH
            assert caught.value.drop is expected
        assert receiver.unprotect_rtcp(third) == COMPOUND

    @every_profile
    def test_the_table_is_bounded_and_forgets_nothing(self, profile: SrtpProfile) -> None:
        sender = SrtpSender(profile, *master(profile))
        receiver = SrtpReceiver(profile, *master(profile), max_sources=2)
        known = protect(sender, 5, ssrc=1)
        receiver.unprotect_rtp(known)
        receiver.unprotect_rtp(protect(sender, 5, ssrc=2))
        assert drop_of(receiver, protect(sender, 5, ssrc=3)) is Drop.TABLE_FULL
        assert drop_of(receiver, known) is Drop.REPLAY
        assert receiver.unprotect_rtp(protect(sender, 6, ssrc=2))[1] == 6
        for ssrc in (1, 2):
            receiver.unprotect_rtcp(sender.protect_rtcp(struct.pack(">II", 0x80C90001, ssrc)))
        with pytest.raises(RemoteProtocolError) as caught:
            receiver.unprotect_rtcp(sender.protect_rtcp(struct.pack(">II", 0x80C90001, 3)))
        assert caught.value.drop is Drop.TABLE_FULL

    @every_profile
    @given(data=st.binary(max_size=80), rtcp=st.booleans())
    def test_garbage_is_a_remote_protocol_error(
        self, profile: SrtpProfile, data: bytes, rtcp: bool
    ) -> None:
        receiver = pair(profile)[1]
        packet = b"\x80" + data
        for candidate in (packet, data):
            with pytest.raises(RemoteProtocolError):
                (receiver.unprotect_rtcp if rtcp else receiver.unprotect_rtp)(candidate)
        assert receiver.snapshot().rtp == receiver.snapshot().rtcp == ()


class TestRestoredReceiver:
    @every_profile
    @pytest.mark.parametrize("at", [200, 40_000, 65_535, 65_536, 170_000])
    @pytest.mark.parametrize("missed", [0, 1, 30_000, 33_000, 65_000])
    def test_it_finds_the_roll_over_counter(
        self, profile: SrtpProfile, at: int, missed: int
    ) -> None:
        sender, receiver = pair(profile)
        steps = [*range(at % 30_000, at, 30_000), at]
        for index in sorted(set(steps)):
            receiver.unprotect_rtp(protect(sender, index))
        heir = SrtpReceiver.restore(receiver.snapshot())
        index = at + missed + 1
        assert heir.unprotect_rtp(protect(sender, index))[1] == index
        assert heir.unprotect_rtp(protect(sender, index + 1))[1] == index + 1

    def test_one_trial_until_the_source_is_heard(self) -> None:
        sender, receiver = pair(GCM_128)
        receiver.unprotect_rtp(protect(sender, 1000))
        checkpoint = receiver.snapshot()
        near, far = protect(sender, 1001), protect(sender, 1001 + 70_000)
        assert SrtpReceiver.restore(checkpoint).unprotect_rtp(far)[1] == 71_001
        heir = SrtpReceiver.restore(checkpoint)
        heir.unprotect_rtp(near)
        assert drop_of(heir, far) is Drop.BAD_AUTH

    def test_what_the_snapshot_knew_stays_a_replay(self) -> None:
        sender, receiver = pair(CM)
        sealed = [protect(sender, index) for index in range(65_000, 66_100)]
        for packet in sealed:
            receiver.unprotect_rtp(packet)
        control = sender.protect_rtcp(COMPOUND)
        receiver.unprotect_rtcp(control)
        heir = SrtpReceiver.restore(receiver.snapshot())
        for packet in sealed:
            assert drop_of(heir, packet) is Drop.REPLAY
        with pytest.raises(RemoteProtocolError):
            heir.unprotect_rtcp(control)

    @every_profile
    def test_the_snapshot_is_a_value_without_keys_in_sight(self, profile: SrtpProfile) -> None:
        sender, receiver = pair(profile)
        for index in range(100, 1300, 3):
            receiver.unprotect_rtp(protect(sender, index))
        receiver.unprotect_rtcp(sender.protect_rtcp(COMPOUND))
        snapshot = receiver.snapshot()
        stored = msgspec.msgpack.encode(snapshot)
        assert msgspec.msgpack.decode(stored, type=SrtpReceiverSnapshot) == snapshot
        assert repr(snapshot) == f"SrtpReceiverSnapshot({profile.name}, ...)"
        assert SrtpReceiver.restore(snapshot).snapshot() == snapshot


@given(st.lists(st.integers(-1500, 1500), max_size=60))
def test_replay_window_is_a_set_with_a_floor(steps: list[int]) -> None:
    window, seen = ReplayWindow(), set[int]()
    for step in steps:
        index = max(0, window.highest) + step
        floor = window.highest - REPLAY_WINDOW
        allowed = index >= 0 and index > floor and index not in seen
        assert window.accepts(index) is allowed
        if allowed:
            window.add(index)
            seen.add(index)
            assert window.highest == max(seen)
            assert window.seen < 1 << REPLAY_WINDOW


@given(st.integers(40_000, 2**40), st.integers(-32_768, 32_767))
def test_estimate_is_exact_within_half_a_roll_over(highest: int, distance: int) -> None:
    index = highest + distance
    assert ReplayWindow(highest).estimate(index & 0xFFFF) == index


Opened = tuple[bytes, int, int, int, int]


def _outcome(packet: bytes, open_packet: Callable[[bytes], Opened]) -> Opened | Drop:
    try:
        return open_packet(packet)
    except RemoteProtocolError as error:
        return error.drop


def _read_again(packet: bytes, index: int) -> Opened:
    payload_type, marker, _, timestamp, ssrc, start, end = parse_header(packet)
    return packet[start:end], index, payload_type | marker << 7, timestamp, ssrc


@given(
    sequences=st.lists(st.integers(0, 40), min_size=1, max_size=60),
    extension=st.sampled_from((b"", encode_mid_extension(1, "0"))),
    damage=st.booleans(),
)
def test_the_hot_path_opens_what_the_readable_one_opens(
    sequences: list[int], extension: bytes, damage: bool
) -> None:
    key, salt = bytes(range(16)), bytes(range(12))
    profile = SrtpProfile.AEAD_AES_128_GCM
    plain, fast = SrtpReceiver(profile, key, salt), SrtpReceiver(profile, key, salt)
    for sequence in sequences:
        header = build_header(111, True, sequence + 65_520 & 0xFFFF, 960, 7, extension)
        sender = SrtpSender(profile, key, salt)
        packet = sender.protect_rtp(header, b"payload", index=sequence + 65_520)
        if damage and sequence % 3 == 0:
            packet = packet[:-1] + bytes((packet[-1] ^ 1,))
        assert _outcome(packet, fast.unprotect_media) == _outcome(
            packet,
            lambda each: _read_again(*plain.unprotect_rtp(each)),
        )
    assert fast.snapshot() == plain.snapshot()


@given(st.binary(max_size=60).map(lambda rest: b"\x90" + rest))
def test_the_hot_path_reads_no_further_than_the_packet(packet: bytes) -> None:
    receiver = SrtpReceiver(SrtpProfile.AEAD_AES_128_GCM, bytes(16), bytes(12))
    with pytest.raises(RemoteProtocolError):
        receiver.unprotect_media(packet)
