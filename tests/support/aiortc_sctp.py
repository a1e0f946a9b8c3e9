"""aiortc's SCTP against ours over a lossy line in memory, in a process of its own (asyncio).

``python -m tests.support.aiortc_sctp --role client --loss 0.1`` prints one JSON line. aiortc opens
a channel and we echo on it; we open two and aiortc echoes; each side closes one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Protocol

from aiortc import RTCDataChannel, RTCSctpTransport
from aiortc.rtcdatachannel import RTCDataChannelParameters
from aiortc.rtcsctptransport import RTCSctpCapabilities

from edge.webrtc.channel_outputs import (
    ChannelClosed,
    ChannelMessage,
    ChannelOpened,
    ChannelOutput,
)
from edge.webrtc.channels import Channels
from edge.webrtc.sctp import Association
from edge.webrtc.sctp_outputs import SctpEstablished, SctpTransmit
from edge.wire.dcep import ChannelOpen

MESSAGES: list[str | bytes] = [
    *("hello", "", b"", b"\0\1", "käse", "x" * 60_000),
    *(f"event {number}" * (number % 90) + "." for number in range(60)),
]
DELAY = 0.003  # seconds one way


class Receiver(Protocol):
    """What aiortc registers."""

    async def _handle_data(self, data: bytes) -> None: ...


@dataclass
class Report:
    """What the line holds."""

    established: bool = False
    opened: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    echoed_by_us: bool = False
    echoed_by_aiortc: bool = False
    unordered: bool = False
    drops: dict[str, int] = field(default_factory=dict)


class Line:
    """A stand-in for ``RTCDtlsTransport``, with our channels at its other end."""

    state = "connected"

    def __init__(self, role: str, channels: Channels, loss: float, report: Report) -> None:
        self._role = "server" if role == "client" else "client"
        self.channels, self.report = channels, report
        self.echo: set[int] = set()
        self.heard: dict[int, list[str | bytes]] = {}
        self._loss, self._random = loss, Random(7)
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def _register_data_receiver(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def _unregister_data_receiver(self, receiver: Receiver) -> None:
        self._receiver = None

    async def _send_data(self, data: bytes) -> None:
        if self._random.random() >= self._loss:
            self._loop.call_later(DELAY, self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        self.follow(self.channels.receive(data, now=self._loop.time()))

    def _hand_over(self, data: bytes) -> None:
        if self._receiver is not None:
            task = asyncio.create_task(self._receiver._handle_data(data))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def follow(self, outputs: Sequence[ChannelOutput]) -> None:
        """Carry out what our side wants."""
        for output in outputs:
            match output:
                case SctpTransmit(data):
                    if self._random.random() >= self._loss:
                        self._loop.call_later(DELAY, self._hand_over, data)
                case SctpEstablished():
                    self.report.established = True
                case ChannelOpened(channel, settings, remote):
                    self.report.opened.append(settings.label)
                    if remote:
                        self.echo.add(channel)
                case ChannelMessage(channel, message):
                    self.heard.setdefault(channel, []).append(message)
                    if channel in self.echo:
                        now = self._loop.time()
                        self.follow(self.channels.send(channel, message, now=now))
                case ChannelClosed(channel, reason):
                    self.report.closed.append(f"{channel} {reason}")
                case _:
                    pass
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadline = self.channels.deadline
        if deadline < float("inf"):
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self.follow(self.channels.tick(now=self._loop.time()))


async def wait(seconds: float, done: object) -> bool:
    """Wait until ``done()``."""
    assert callable(done)
    end = asyncio.get_running_loop().time() + seconds
    while not done():
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.005)
    return True


async def talk(role: str, loss: float, report: Report) -> None:
    """The whole conversation."""
    loop = asyncio.get_running_loop()
    channels = Channels(Association(entropy=Random(3).randbytes), dtls_client=role == "client")
    line = Line(role, channels, loss, report)
    transport = RTCSctpTransport(line)  # type: ignore[arg-type]
    theirs: list[RTCDataChannel] = []

    def on_channel(channel: RTCDataChannel) -> None:
        theirs.append(channel)
        channel.on("message", channel.send)

    transport.on("datachannel", on_channel)
    ours, outputs = channels.open(ChannelOpen("ours"), now=loop.time())
    line.follow(outputs)
    free, outputs = channels.open(ChannelOpen("free", ordered=False), now=loop.time())
    line.follow(outputs)
    await transport.start(RTCSctpCapabilities(maxMessageSize=65_536), 5000)
    line.follow(channels.connect(now=loop.time()))
    channel = RTCDataChannel(transport, RTCDataChannelParameters(label="aiortc's"))
    heard: list[str | bytes] = []
    channel.on("message", heard.append)
    await wait(15, lambda: channel.readyState == "open" and len(report.opened) == 3)
    for message in MESSAGES:
        channel.send(message)
        for number in (ours, free):
            line.follow(channels.send(number, message, now=loop.time()))

    def got(number: int) -> list[str | bytes]:
        return line.heard.get(number, [])

    await wait(
        30, lambda: all(len(each) >= len(MESSAGES) for each in (heard, got(ours), got(free)))
    )
    report.echoed_by_us = heard == MESSAGES
    report.echoed_by_aiortc = got(ours) == MESSAGES
    report.unordered = sorted(map(repr, got(free))) == sorted(map(repr, MESSAGES))
    channel.close()
    line.follow(channels.close_channel(ours, now=loop.time()))
    await wait(15, lambda: channel.readyState == "closed" and len(report.closed) == 2)
    report.drops = {str(drop): count for drop, count in channels.drops.items()}
    await transport.stop()


def main() -> int:
    """Talk and print the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=("client", "server"), default="client")
    parser.add_argument("--loss", type=float, default=0.0)
    arguments = parser.parse_args()
    report = Report()
    asyncio.run(talk(arguments.role, arguments.loss, report))
    print(json.dumps(asdict(report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
