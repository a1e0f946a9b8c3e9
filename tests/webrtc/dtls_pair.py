"""Two DTLS machines, and the ways bytes get from one to the other: at once, or over a bad net."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from edge.webrtc.dtls import (
    Dtls,
    DtlsCertificate,
    DtlsEstablished,
    DtlsOutput,
    DtlsState,
    DtlsTransmit,
    Role,
)
from edge.webrtc.keys import SrtpKeys, SrtpProfile
from edge.wire.fingerprint import Fingerprint

CERTIFICATE_A = DtlsCertificate.generate()
CERTIFICATE_B = DtlsCertificate.generate()

Fate = Callable[[int, int], Sequence[float]]
"""(sender 0 or 1, index of its datagram) -> the delays of the copies that arrive, in seconds."""


def make(
    role: Role,
    *,
    own: DtlsCertificate = CERTIFICATE_A,
    peer: DtlsCertificate = CERTIFICATE_B,
    fingerprints: frozenset[Fingerprint] | None = None,
    profiles: Sequence[SrtpProfile] = tuple(SrtpProfile),
    mtu: int = 1200,
) -> Dtls:
    expected = frozenset({peer.fingerprint}) if fingerprints is None else fingerprints
    return Dtls(own, role=role, fingerprints=expected, profiles=profiles, mtu=mtu)


def datagrams(outputs: Sequence[DtlsOutput]) -> list[bytes]:
    return [output.data for output in outputs if isinstance(output, DtlsTransmit)]


def events(outputs: Sequence[DtlsOutput]) -> list[DtlsOutput]:
    return [output for output in outputs if not isinstance(output, DtlsTransmit)]


def keys(outputs: Sequence[DtlsOutput]) -> SrtpKeys:
    (established,) = (output for output in outputs if isinstance(output, DtlsEstablished))
    return established.keys


@dataclass
class Pair:
    """The client (0), the server (1) and everything they handed back except datagrams."""

    client: Dtls = field(default_factory=lambda: make("active"))
    server: Dtls = field(
        default_factory=lambda: make("passive", own=CERTIFICATE_B, peer=CERTIFICATE_A)
    )
    client_events: list[DtlsOutput] = field(default_factory=list)
    server_events: list[DtlsOutput] = field(default_factory=list)

    @property
    def machines(self) -> tuple[Dtls, Dtls]:
        return self.client, self.server

    @property
    def established(self) -> bool:
        return all(machine.state is DtlsState.ESTABLISHED for machine in self.machines)

    def note(self, sender: int, outputs: Sequence[DtlsOutput]) -> list[bytes]:
        (self.client_events, self.server_events)[sender].extend(events(outputs))
        return datagrams(outputs)

    def start(self, *, now: float = 0.0) -> list[bytes]:
        self.note(1, self.server.start(now=now))
        return self.note(0, self.client.start(now=now))

    def transfer(self, sender: int, data: Sequence[bytes], *, now: float = 0.0) -> None:
        """Carry ``data`` to the other side, then answers to and fro until both are silent."""
        while data:
            receiver = 1 - sender
            machine = self.machines[receiver]
            outputs = [output for d in data for output in machine.receive(d, now=now)]
            data, sender = self.note(receiver, outputs), receiver

    def connect(self, *, now: float = 0.0) -> tuple[SrtpKeys, SrtpKeys]:
        self.transfer(0, self.start(now=now), now=now)
        return keys(self.client_events), keys(self.server_events)


def run(pair: Pair, fate: Fate, *, limit: float = 60.0) -> float:
    """Play a handshake over a net and with the machines' timers; the time both were established."""
    arrivals: list[tuple[float, int, int, bytes]] = []
    order, counts = itertools.count(), [0, 0]

    def post(sender: int, data: Sequence[bytes], now: float) -> None:
        for datagram in data:
            for delay in fate(sender, counts[sender]):
                heapq.heappush(arrivals, (now + delay, next(order), 1 - sender, datagram))
            counts[sender] += 1

    post(0, pair.start(now=0.0), 0.0)
    while not pair.established:
        arrival = arrivals[0][0] if arrivals else math.inf
        now = min(arrival, *(machine.deadline for machine in pair.machines))
        assert now < limit, "the handshake did not finish"
        if now == arrival:
            _, _, receiver, datagram = heapq.heappop(arrivals)
            outputs = pair.machines[receiver].receive(datagram, now=now)
            post(receiver, pair.note(receiver, outputs), now)
            continue
        for sender, machine in enumerate(pair.machines):
            if machine.deadline <= now:
                post(sender, pair.note(sender, machine.tick(now=now)), now)
    return now


def steady(delay: float = 0.01) -> Fate:
    return lambda sender, index: (delay,)


def losing(lost: tuple[int, int], delay: float = 0.01) -> Fate:
    """Lose exactly one datagram: that of sender ``lost[0]`` with index ``lost[1]``."""
    return lambda sender, index: () if (sender, index) == lost else (delay,)


def terrible(seed: int) -> Fate:
    """30 % lost, 20 % doubled, delays of 5 to 80 ms that reorder; a function of its arguments."""

    def fate(sender: int, index: int) -> Sequence[float]:
        random = Random(f"{seed} {sender} {index}")
        if random.random() < 0.3:
            return ()
        copies = 2 if random.random() < 0.2 else 1
        return [random.uniform(0.005, 0.08) for _ in range(copies)]

    return fate
