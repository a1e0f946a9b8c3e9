"""A client that speaks and hears: PCM in, codec, WebRTC, codec, PCM out, and when each packet came.

It speaks all the time, silence when there is nothing to say, as a phone with an open microphone.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urljoin

import trio

from edge.audio.codec import make_decoder, make_encoder
from edge.backends.protocol import AudioFormat
from edge.client.caller import _MID_BLOCK, Caller
from edge.client.http import request
from edge.client.journal import Journal
from edge.client.offer import OPUS
from edge.webrtc.certificate import DtlsCertificate
from edge.wire.rtp import build_header
from tests.support.sounds import RATE, loudness

FRAME_BYTES: Final = RATE // 50 * 2
CODECS: Final = {
    "opus": AudioFormat("opus", 48_000),
    "pcmu": AudioFormat("PCMU", 8_000),
    "pcma": AudioFormat("PCMA", 8_000),
}
PAYLOAD_TYPES: Final = {"opus": OPUS, "pcmu": 0, "pcma": 8}
MAX_PACKET: Final = 2_048
CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Heard:
    """One packet of the server's: when it came, and its sound at RATE."""

    at: float
    pcm: bytes = field(repr=False)

    @property
    def loudness(self) -> float:
        """Root mean square; 1 is full scale."""
        return loudness(self.pcm)


class Microphone(Journal):
    """What a caller sends and gets, as sound in the place of numbered packets."""

    def __init__(self, codec: str) -> None:
        super().__init__()
        self.heard: list[Heard] = []
        self.spoken_at = 0.0
        """When the last packet that is no silence was sent."""
        self.waiting: deque[bytes] = deque()
        """Frames of PCM to be spoken."""
        self._encode = make_encoder(CODECS[codec], RATE).encode
        self._decode = make_decoder(CODECS[codec], RATE).decode
        self._speaks = False

    def payload(self, number: int) -> bytes:
        self._speaks = bool(self.waiting)
        return self._encode(self.waiting.popleft() if self.waiting else bytes(FRAME_BYTES))

    def note_sent(self, now: float) -> None:
        super().note_sent(now)
        if self._speaks:
            self.spoken_at = now

    def check_off(self, payload: bytes, now: float) -> None:
        self.heard.append(Heard(now, self._decode(payload)))


class VoiceCaller(Caller):
    """A caller with a microphone, of one codec."""

    def __init__(self, certificate: DtlsCertificate, codec: str) -> None:
        super().__init__(certificate, now=trio.current_time())
        self.microphone = Microphone(codec)
        self.journal = self.microphone
        self._codec = codec

    def make_offer(self) -> bytes:
        """The SDP, of which nothing but this codec is left."""
        if self._codec == "opus":
            return self.offer.encode()
        number = PAYLOAD_TYPES[self._codec]
        offer = self.offer.encode().decode().replace("SAVPF 111 0 8", f"SAVPF {number}")
        attributes = ("a=rtpmap:", "a=fmtp:")
        kept = [
            line
            for line in offer.splitlines()
            if not line.startswith(attributes) or line.split(":")[1].startswith(f"{number} ")
        ]
        return "\r\n".join([*kept, ""]).encode()

    def _protect(self, number: int) -> bytes:
        assert self._sender is not None
        index = self._first_index + number
        samples = CODECS[self._codec].clock_rate // 50
        header = build_header(
            PAYLOAD_TYPES[self._codec],
            number == 0,
            index & 0xFFFF,
            self._first_timestamp + number * samples & 0xFFFFFFFF,
            self.offer.ssrc,
            _MID_BLOCK,
        )
        return self._sender.protect_rtp(header, self.journal.payload(number), index=index)


class VoiceClient:
    """One call; made by ``open_voice``."""

    def __init__(self, caller: VoiceCaller, sock: trio.socket.SocketType, location: str) -> None:
        self._caller = caller
        self._socket = sock
        self._location = location
        self.microphone = caller.microphone

    @property
    def heard(self) -> list[Heard]:
        """Every packet of the server's so far."""
        return self.microphone.heard

    @property
    def closed(self) -> bool:
        """Whether either side has ended the call."""
        return self._caller.closed

    async def say(self, pcm: bytes) -> float:
        """Speak PCM16 of RATE; returns when its last packet was sent."""
        microphone = self.microphone
        for at in range(0, len(pcm), FRAME_BYTES):
            microphone.waiting.append(pcm[at : at + FRAME_BYTES].ljust(FRAME_BYTES, b"\0"))
        while microphone.waiting:
            await trio.sleep(0.005)
        return microphone.spoken_at

    async def wait_heard(self, count: int, *, seconds: float = 10.0) -> None:
        """Wait for so many packets in all."""
        with trio.fail_after(seconds):
            while len(self.heard) < count:
                await trio.sleep(0.005)

    async def wait_sound(self, *, after: float, least: float, seconds: float = 10.0) -> Heard:
        """Wait for the first packet that came after this moment and is so loud."""
        seen = 0
        with trio.fail_after(seconds):
            while True:
                for packet in self.heard[seen:]:
                    if packet.at > after and packet.loudness >= least:
                        return packet
                seen = len(self.heard)
                await trio.sleep(0.005)

    async def hang_up(self) -> int:
        """End the call over HTTP; gives the status."""
        return (await request("POST", f"{self._location}/hangup")).status

    async def connected(self) -> None:
        """Wait until both sides may speak."""
        with trio.fail_after(CONNECT_SECONDS):
            while not self._caller.secured:
                await trio.sleep(0.005)

    async def send(self, datagrams: list[bytes]) -> None:
        """Send to the server."""
        for datagram in datagrams:
            assert self._caller.server is not None
            await self._socket.sendto(datagram, self._caller.server)

    async def receive(self) -> None:
        """Receive until cancelled."""
        while True:
            datagram = await self._socket.recv(MAX_PACKET)
            await self.send(self._caller.receive(datagram, now=trio.current_time()))

    async def keep_time(self) -> None:
        """Send what is due until cancelled."""
        while True:
            now = trio.current_time()
            await self.send(self._caller.tick(now=now))
            await trio.sleep_until(min(self._caller.deadline, now + 0.01))

    async def close(self) -> None:
        """Say goodbye."""
        await self.send(self._caller.close())


@asynccontextmanager
async def open_voice(http: str, *, codec: str = "opus") -> AsyncGenerator[VoiceClient]:
    """Call an edge on loopback and hold the call for as long as the block."""
    caller = VoiceCaller(DtlsCertificate.generate(), codec)
    url = urljoin(http, "/v1/realtime/calls")
    headers = (("Content-Type", "application/sdp"),)
    response = await request("POST", url, caller.make_offer(), headers=headers)
    assert response.status == 201, response
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        client = VoiceClient(caller, sock, urljoin(url, response.headers["location"]))
        await client.send(caller.take_answer(response.body, now=trio.current_time()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive)
            nursery.start_soon(client.keep_time)
            await client.connected()
            yield client
            await client.close()
            nursery.cancel_scope.cancel()
