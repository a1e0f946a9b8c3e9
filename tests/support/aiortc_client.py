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
from dataclasses import asdict, dataclass
from fractions import Fraction

import aioice.ice
import av
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

RATE = 48_000
FRAME = RATE // 50
TONE_HERTZ = 440


@dataclass(slots=True)
class Report:
    """What the line holds; energy as ``totalAudioEnergy`` of getStats() counts it."""

    connected: bool = False
    packets_received: int = 0
    audio_energy: float = 0.0
    setup_ms: float | None = None
    first_audio_ms: float | None = None


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


async def call(url: str, seconds: float, report: Report) -> None:
    """One call of the given length."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    tasks: list[asyncio.Task[None]] = []
    connected = asyncio.Event()
    transceiver = peer.addTransceiver(Tone(), direction="sendrecv")
    await peer.setLocalDescription(await peer.createOffer())
    start = time.monotonic()

    @peer.on("track")
    def on_track(track: MediaStreamTrack) -> None:
        tasks.append(asyncio.create_task(measure(track, report, start)))

    @peer.on("connectionstatechange")
    def on_state() -> None:
        if peer.connectionState == "connected":
            report.connected = True
            report.setup_ms = (time.monotonic() - start) * 1000
            connected.set()

    answer = await asyncio.to_thread(post, url, peer.localDescription.sdp)
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    try:
        await asyncio.wait_for(connected.wait(), 15)
        await asyncio.sleep(seconds)
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
    parser.add_argument("--address", default="127.0.0.1", help="the one host candidate")
    arguments = parser.parse_args()
    # aioice skips loopback addresses, and would name every other interface of the machine.
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [arguments.address]
    report = Report()
    asyncio.run(call(arguments.url, arguments.seconds, report))
    print(json.dumps(asdict(report)))
    return 0 if report.connected and report.audio_energy > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
