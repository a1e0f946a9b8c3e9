"""aiortc as an independent peer, in a process of its own: sends a tone, measures what comes back.

``python -m tests.support.aiortc_client --url http://HOST:PORT --seconds 3`` prints one JSON line
and exits 0 only if audio with energy was decoded. It is asyncio, hence never imported by a test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import time
import urllib.request
from array import array
from dataclasses import asdict, dataclass, field
from fractions import Fraction

import aioice.ice
import av
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDtlsTransport,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

RATE = 48_000
FRAME = RATE // 50
TONE_HERTZ = 440
CONNECT_SECONDS = 15.0


@dataclass(slots=True)
class Report:
    """What the line holds; energy as ``totalAudioEnergy`` of getStats() counts it."""

    connected: bool = False
    packets_received: int = 0
    audio_energy: float = 0.0
    setup_ms: float | None = None
    first_audio_ms: float | None = None
    srtp: str = ""
    role: str = ""
    state: str = ""
    channel: str = ""
    """Of the data channel, where there is one."""
    opened: float | None = None
    """When it has opened, in seconds since 1970."""
    events: list[str] = field(default_factory=list)
    """The types of what came on it, in order, with the instructions of sessions."""


class Tone(MediaStreamTrack):
    """A sine in 20 ms frames, in real time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._start = time.monotonic()
        self._frames = 0

    async def recv(self) -> av.AudioFrame:
        """Wait for the next frame's time and make it."""
        await asyncio.sleep(self._start + self._frames * 0.02 - time.monotonic())
        first = self._frames * FRAME
        self._frames += 1
        step = 2 * math.pi * TONE_HERTZ / RATE
        samples = array("h", (int(8000 * math.sin(step * (first + i))) for i in range(FRAME)))
        frame = av.AudioFrame(format="s16", layout="mono", samples=FRAME)
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate = RATE
        frame.pts = first
        frame.time_base = Fraction(1, RATE)
        return frame


async def measure(track: MediaStreamTrack, report: Report, start: float) -> None:
    """Add up the energy of what arrives."""
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        assert isinstance(frame, av.AudioFrame)
        samples = array("h", bytes(frame.planes[0]))
        power = sum(sample * sample for sample in samples) / (len(samples) * 32768.0**2)
        report.audio_energy += power * frame.samples / frame.sample_rate
        if power > 1e-6 and report.first_audio_ms is None:
            report.first_audio_ms = (time.monotonic() - start) * 1000


def post(url: str, sdp: str) -> str:
    """POST the offer; gives the answer."""
    request = urllib.request.Request(
        f"{url}/v1/realtime/calls",
        data=sdp.encode(),
        headers={"Content-Type": "application/sdp"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 201, response.status
        answer: bytes = response.read()
        return answer.decode()


def add_channel(peer: RTCPeerConnection, report: Report, updates: int) -> None:
    """Open a channel that updates the session so often, and then says what is no event."""
    channel = peer.createDataChannel("oai-events")

    @channel.on("open")
    def on_open() -> None:
        report.opened = time.time()
        for number in range(updates):
            session = {"instructions": str(number)}
            channel.send(json.dumps({"type": "session.update", "session": session}))
        channel.send("no event")

    @channel.on("message")
    def on_message(message: str) -> None:
        event = json.loads(message)
        instructions = event.get("session", {}).get("instructions", "")
        report.events.append(f"{event['type']} {instructions}".strip())
        report.channel = channel.readyState


def add_parts(
    peer: RTCPeerConnection, parts: list[str], codec: str, report: Report, updates: int
) -> RTCRtpTransceiver:
    """Add what the offer shall hold; gives the audio."""
    audio = None
    for part in parts:
        if part == "audio":
            audio = peer.addTransceiver(Tone(), direction="sendrecv")
            known = RTCRtpSender.getCapabilities("audio").codecs
            audio.setCodecPreferences(
                [each for each in known if codec and each.mimeType.lower() == f"audio/{codec}"]
            )
        elif part == "video":
            peer.addTransceiver("video")
        else:
            add_channel(peer, report, updates)
    assert audio is not None
    return audio


async def secured(receiver: RTCRtpReceiver) -> None:
    """Wait until the audio's own transport is up.

    The connection's state is not what to wait for: transports of rejected sections hold it back.
    """
    while receiver.transport.state != "connected":
        await asyncio.sleep(0.002)


def note_security(transport: RTCDtlsTransport, report: Report) -> None:
    """Note what DTLS agreed on, which aiortc's own getStats() does not tell."""
    assert transport._ssl is not None
    report.role = transport._role
    report.srtp = transport._ssl.get_selected_srtp_profile().decode()


async def call(arguments: argparse.Namespace, report: Report) -> None:
    """One call of the given length."""
    bundle = RTCBundlePolicy(arguments.bundle)
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=bundle))
    tasks: list[asyncio.Task[None]] = []
    parts = arguments.parts.split(",")
    transceiver = add_parts(peer, parts, arguments.codec, report, arguments.updates)
    await peer.setLocalDescription(await peer.createOffer())
    start = time.monotonic()

    @peer.on("track")
    def on_track(track: MediaStreamTrack) -> None:
        tasks.append(asyncio.create_task(measure(track, report, start)))

    sdp = peer.localDescription.sdp.replace("setup:actpass", f"setup:{arguments.setup}")
    answer = await asyncio.to_thread(post, arguments.url, sdp)
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    try:
        await asyncio.wait_for(secured(transceiver.receiver), CONNECT_SECONDS)
        report.connected = True
        report.setup_ms = (time.monotonic() - start) * 1000
        note_security(transceiver.receiver.transport, report)
        await asyncio.sleep(arguments.seconds)
        report.state = peer.connectionState
        report.packets_received = await packets_received(transceiver.receiver)
    except TimeoutError:
        pass
    finally:
        for task in tasks:
            task.cancel()
        await peer.close()


async def packets_received(receiver: RTCRtpReceiver) -> int:
    """The inbound stream's packet count."""
    stats = await receiver.getStats()
    return sum(item.packetsReceived for item in stats.values() if item.type == "inbound-rtp")


def main() -> int:
    """Make the call and print the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--parts", default="audio", help="of audio, video and channel, in order")
    parser.add_argument("--updates", type=int, default=0, help="session.update events to send")
    parser.add_argument("--codec", default="", help="the only audio codec: opus, pcmu, pcma")
    parser.add_argument("--setup", default="actpass", help="the role that the offer names")
    parser.add_argument("--bundle", default="balanced")
    parser.add_argument("--address", default="127.0.0.1", help="the one host candidate")
    arguments = parser.parse_args()
    # aioice skips loopback addresses, and would name every other interface of the machine.
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [arguments.address]
    report = Report()
    asyncio.run(call(arguments, report))
    print(json.dumps(asdict(report)))
    return 0 if report.connected and report.audio_energy > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
