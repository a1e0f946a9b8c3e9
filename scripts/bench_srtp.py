"""CPU time of SRTP a packet, per profile and direction, beside libsrtp in the same run.

python scripts/bench_srtp.py [--packets N] [--payload BYTES] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pylibsrtp
from reporting import write_json

from edge.webrtc.keys import SrtpProfile
from edge.webrtc.srtp import SrtpReceiver, SrtpSender
from edge.wire.rtp import build_header

ROUNDS = 5
SSRC = 0x1234ABCD
LIBSRTP_PROFILES = {
    SrtpProfile.AES128_CM_HMAC_SHA1_80: pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    SrtpProfile.AEAD_AES_128_GCM: pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
    SrtpProfile.AEAD_AES_256_GCM: pylibsrtp.Policy.SRTP_PROFILE_AEAD_AES_256_GCM,
}


def session(profile: SrtpProfile, key: bytes, kind: int) -> pylibsrtp.Session:
    """A libsrtp session for any SSRC of one direction."""
    policy = pylibsrtp.Policy(key=key, ssrc_type=kind, srtp_profile=LIBSRTP_PROFILES[profile])
    return pylibsrtp.Session(policy)


def microseconds(operation: Callable[[], Iterable[object]]) -> float:
    """CPU time of one of the packets that the operation yields."""
    start = time.process_time()
    packets = sum(1 for _ in operation())
    return (time.process_time() - start) / packets * 1e6


def measure_once(profile: SrtpProfile, packets: int, payload: bytes) -> dict[str, float]:
    """Microseconds a packet with fresh contexts."""
    key, salt = os.urandom(profile.key_bytes), os.urandom(profile.salt_bytes)
    headers = [build_header(111, False, i & 0xFFFF, i * 960, SSRC) for i in range(packets)]
    plain = [header + payload for header in headers]
    sender, receiver = SrtpSender(profile, key, salt), SrtpReceiver(profile, key, salt)
    outbound = session(profile, key + salt, pylibsrtp.Policy.SSRC_ANY_OUTBOUND)
    inbound = session(profile, key + salt, pylibsrtp.Policy.SSRC_ANY_INBOUND)
    sealed = list(map(outbound.protect, plain))
    outbound = session(profile, key + salt, pylibsrtp.Policy.SSRC_ANY_OUTBOUND)
    return {
        "protect": microseconds(
            lambda: (sender.protect_rtp(h, payload, index=i) for i, h in enumerate(headers))
        ),
        "unprotect": microseconds(lambda: map(receiver.unprotect_rtp, sealed)),
        "libsrtp_protect": microseconds(lambda: map(outbound.protect, plain)),
        "libsrtp_unprotect": microseconds(lambda: map(inbound.unprotect, sealed)),
    }


def measure(profile: SrtpProfile, packets: int, payload: bytes) -> dict[str, float]:
    """The best of some rounds, and the ratios to libsrtp."""
    rounds = [measure_once(profile, packets, payload) for _ in range(ROUNDS)]
    best = {name: min(figures[name] for figures in rounds) for name in rounds[0]}
    best["protect_ratio"] = best["protect"] / best["libsrtp_protect"]
    best["unprotect_ratio"] = best["unprotect"] / best["libsrtp_unprotect"]
    return {name: round(value, 3) for name, value in best.items()}


def main() -> None:
    """Measure each profile, print a table and, if asked, write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=20_000)
    parser.add_argument("--payload", type=int, default=100, help="bytes")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    payload = os.urandom(options.payload)
    results = {profile.name: measure(profile, options.packets, payload) for profile in SrtpProfile}
    print(f"us/packet, {options.payload}-byte payload{'protect':>14}{'unprotect':>20}")
    for name, figures in results.items():
        columns = (
            f"{figures[way]:8.2f} ({figures[f'{way}_ratio']:.2f} x libsrtp)"
            for way in ("protect", "unprotect")
        )
        print(f"{name:24}", *columns)
    write_json(options.json, results)


if __name__ == "__main__":
    main()
