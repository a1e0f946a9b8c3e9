"""A transceiver and its signaling as parts of a process."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import trio
from starlette.types import ASGIApp

from edge.address import Address
from edge.app.base import Base, running
from edge.app.sockets import bound
from edge.audio.codec import prepare
from edge.backends.choice import open_backend
from edge.backends.frames.backend import FramesBackend
from edge.backends.protocol import AudioFormat
from edge.exposition import make_page
from edge.geo import GeoSettings
from edge.http.calls import Fleet
from edge.http.owners import Owners
from edge.http.problem import Cause
from edge.offload.engine import open_media_socket
from edge.registry.heartbeat import keep_transceiver
from edge.registry.lease import Lease
from edge.registry.protocol import TransceiverRecord
from edge.signaling import create_app
from edge.transceiver.checkpoint import CheckpointKeys
from edge.transceiver.environment import Environment
from edge.transceiver.load import watch_loop
from edge.transceiver.mobility import Fleet as MobileFleet
from edge.transceiver.service import Transceiver
from edge.webrtc.certificate import DtlsCertificate
from edge.webrtc.dtls import DEFAULT_PROFILES
from edge.webrtc.offload import MediaOffload

CODECS: Final = (
    AudioFormat("opus", 48_000),
    AudioFormat("PCMU", 8_000),
    AudioFormat("PCMA", 8_000),
)
"""What clients may speak."""


@asynccontextmanager
async def open_transceiver(base: Base) -> AsyncIterator[tuple[Transceiver, Address]]:
    """Run a transceiver that is not registered yet; yields it and its UDP address."""
    settings = base.config.transceiver
    clock = trio.lowlevel.current_clock().current_time  # trio.current_time costs three calls
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(open_backend(base.config, os.environ))
        for codec in CODECS:
            prepare(codec, backend.wants(codec))
        (sock,) = stack.enter_context(bound("transceiver.bind", settings.bind))
        datagrams, offload = open_media_socket(
            sock,
            settings.engine,
            clock=clock,
            seed=int.from_bytes(os.urandom(8), "big"),
        )
        stack.callback(datagrams.close)
        lease = Lease(now=clock(), seconds=base.config.registry.lease_seconds)
        fleet = _mobile_fleet(base, lease)
        transceiver = Transceiver(
            datagrams,
            slot=await base.registry.claim_slot(),
            cluster=base.config.registry.cluster,
            sealer=base.sealer,
            directory=base.directory,
            backend=backend,
            certificate=DtlsCertificate.generate(profiles=DEFAULT_PROFILES),
            config=settings,
            audio=base.config.audio,
            offload=offload,
            fleet=fleet,
            environment=Environment(clock=clock, unix=time.time, entropy=os.urandom),
            observe_setup=base.metrics.observe_setup,
            observe_quality=base.metrics.observe_quality,
        )
        base.metrics.add_transceiver(transceiver)
        if isinstance(backend, FramesBackend):
            base.metrics.add_backend(backend.statistics)
        base.metrics.add_datagrams(datagrams.statistics)
        watch = partial(watch_loop, transceiver.admission, rested=_rested(offload))
        async with running(transceiver.run, watch):
            yield transceiver, datagrams.address


def _mobile_fleet(base: Base, lease: Lease) -> MobileFleet | None:
    """What sessions need that outlive a process; None where nobody could take them over."""
    settings = base.config.registry
    if settings.url == "memory:" or not settings.secret:
        return None
    keys = CheckpointKeys(settings.secret, settings.previous_secret)
    return MobileFleet(base.registry.sessions, lease, keys)


def _rested(offload: MediaOffload | None) -> Callable[[], float]:
    return float if offload is None else lambda: offload.rested


@asynccontextmanager
async def register(
    base: Base, transceiver: Transceiver, address: Address, url: str
) -> AsyncIterator[None]:
    """Keep a transceiver in the registry."""
    config = base.config

    def make_record() -> TransceiverRecord:
        return TransceiverRecord(
            slot=transceiver.slot,
            cluster=config.registry.cluster,
            address=address,
            http_url=config.transceiver.http_url or url,
            sessions=transceiver.sessions,
            draining=transceiver.draining,
        )

    keep = partial(
        keep_transceiver,
        base.registry,
        make_record,
        interval=config.registry.heartbeat_seconds,
        lease=transceiver.lease,
    )
    async with running(keep):
        yield


def make_transceiver_app(
    base: Base, transceiver: Transceiver, stop: trio.Event, geography: GeoSettings
) -> ASGIApp:
    """Make the HTTP of a transceiver: signaling, the demo page, health and metrics."""
    refusals: Counter[Cause] = Counter()
    base.metrics.add_refusals(refusals)
    return create_app(
        transceiver,
        http=base.config.http,
        fleet=_fleet(base, transceiver),
        refusals=refusals,
        render_metrics=make_page(base.metrics),
        ready=lambda: not stop.is_set() and base.directory.has_own_relay,
        now=trio.current_time,
        geography=geography,
    )


def _fleet(base: Base, transceiver: Transceiver) -> Fleet:
    """What signaling asks of the registry and of the view of the fleet."""

    owners = Owners(
        slot=transceiver.slot,
        owner_of=base.registry.sessions.owner_of,
        transceiver=base.directory.transceiver,
    )
    return Fleet(
        secrets=base.secrets,
        unix=time.time,
        claim_once=base.registry.claim_once,
        release=base.registry.release_claim,
        owners=owners,
    )
