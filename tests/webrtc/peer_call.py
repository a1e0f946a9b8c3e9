"""A ``Peer`` and a ``Caller`` in memory, with numbers as their clock."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from edge.address import Address
from edge.client.caller import Caller
from edge.client.channel import CallerChannel
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.channels import Channels
from edge.webrtc.dtls import Dtls
from edge.webrtc.ice import IceCredentials, IceLite
from edge.webrtc.media import Media
from edge.webrtc.outputs import AudioReceived, PeerOutput, Transmit
from edge.webrtc.peer import Peer
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_state import SctpConfig
from edge.webrtc.streams import SendStream
from edge.wire.demux import Kind, classify
from edge.wire.fingerprint import Fingerprint
from edge.wire.sdp import decode_offer, encode_answer, negotiate
from edge.wire.spp import Path, encode_path

RELAY: Address = ("192.0.2.1", 3478)
HOME: Address = ("198.51.100.7", 40_000)
CERTIFICATES = DtlsCertificate.generate(), DtlsCertificate.generate()
NTP_OFFSET = 1_800_000_000.0

Fate = Callable[[bytes], bool]
"""Whether a datagram arrives."""


@dataclass
class Call:
    """Both ends, and everything that the peer has sent or said."""

    peer: Peer
    caller: Caller
    answer: bytes
    now: float = 0.0
    path: Path = field(default_factory=lambda: encode_path(HOME, RELAY))
    outputs: list[PeerOutput] = field(default_factory=list)
    sent: list[Transmit] = field(default_factory=list)
    to_peer: Fate = lambda datagram: True
    to_caller: Fate = lambda datagram: True

    def start(self) -> None:
        """Give the caller its answer; without losses both are connected when this returns."""
        self.carry(self.caller.take_answer(self.answer, now=self.now))

    def carry(self, datagrams: list[bytes]) -> None:
        """Bring the caller's datagrams to the peer, and its outputs back, until both are silent."""
        for datagram in datagrams:
            if self.to_peer(datagram):
                self.follow(self.peer.receive(datagram, self.path, now=self.now))

    def follow(self, outputs: list[PeerOutput]) -> None:
        """Note what the peer says, deliver what it sends, and echo what it hears."""
        for output in outputs:
            self.outputs.append(output)
            match output:
                case Transmit(path, data):
                    self.sent.append(output)
                    if path == self.path and self.to_caller(data):
                        self.carry(self.caller.receive(data, now=self.now))
                case AudioReceived(payload):
                    self._echo(payload)

    def _echo(self, payload: bytes) -> None:
        timestamp = self.peer.media.media_time(now=self.now)
        output = self.peer.send_audio(payload, timestamp=timestamp, marker=False, now=self.now)
        if output is not None:
            self.follow([output])

    def run(self, seconds: float, *, step: float = 0.005) -> None:
        """Let time pass for both."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.carry(self.caller.tick(now=self.now))
            if self.peer.deadline <= self.now:
                self.follow(self.peer.tick(now=self.now))

    def say(self, data: str | bytes) -> None:
        """Have the caller send a message on its channel."""
        self.carry(self.caller.send_message(data, now=self.now))

    def rtp_indices(self) -> list[tuple[int, int]]:
        """(SSRC, sequence number) of every RTP packet that the peer has sent."""
        return [
            (int.from_bytes(sent.data[8:12], "big"), int.from_bytes(sent.data[2:4], "big"))
            for sent in self.sent
            if classify(sent.data) is Kind.RTP
        ]


def make_call(
    *,
    fingerprints: frozenset[Fingerprint] | None = None,
    answered: bool = True,
    nack: bool = False,
    channel: CallerChannel | None = None,
    config: SctpConfig = SctpConfig(),  # noqa: B008
) -> Call:
    """Negotiate one call by SDP, as signaling does; started unless it is not ``answered``."""
    caller = Caller(CERTIFICATES[0], now=0.0, channel=channel)
    negotiated = negotiate(decode_offer(caller.offer.encode()))
    sctp = None if negotiated.channels is None else negotiated.channels.sctp
    association = Association(entropy=os.urandom, config=config)
    local = IceCredentials("token" * 4, "password" * 4)
    ssrc = int.from_bytes(os.urandom(4), "big")
    peer = Peer(
        ice=IceLite(
            local,
            IceCredentials(negotiated.remote_ice.ufrag, negotiated.remote_ice.password),
            tie_breaker=1,
            entropy=os.urandom,
            now=0.0,
        ),
        dtls=Dtls(
            CERTIFICATES[1],
            role=negotiated.dtls_role,
            fingerprints=negotiated.fingerprints if fingerprints is None else fingerprints,
        ),
        media=Media(
            SendStream(ssrc, 111, 48_000, first_index=65, first_timestamp=7),
            cname="cname",
            now=0.0,
            ntp_offset=NTP_OFFSET,
            nack=nack,
        ),
        channels=None
        if sctp is None
        else Channels(
            association,
            dtls_client=negotiated.dtls_role == "active",
            remote_max_message_size=sctp.max_message_bytes,
        ),
        sctp_init=None if sctp is None else sctp.init,
    )
    answer = encode_answer(
        negotiated,
        ufrag=local.ufrag,
        password=local.password,
        fingerprint=CERTIFICATES[1].fingerprint,
        candidates=[RELAY],
        ssrc=ssrc,
        cname="cname",
        session_id=1,
        sctp_init=peer.local_sctp_init,
    )
    call = Call(peer, caller, answer.encode())
    if answered:
        call.start()
    return call
