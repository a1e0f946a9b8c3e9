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
from edge.app.base import Base, bound, running
from edge.audio.codec import prepare
from edge.backends.choice import open_backend
from edge.backends.frames.backend import FramesBackend
from edge.backends.protocol import AudioFormat
from edge.geo import GeoSettings
from edge.http.calls import Fleet
from edge.http.problem import Cause
from edge.offload.engine import open_media_socket
from edge.registry.directory import keep_transceiver
from edge.registry.protocol import TransceiverRecord
from edge.signaling import create_app
from edge.transceiver.call_ids import slot_of
from edge.transceiver.load import watch_loop
from edge.transceiver.maker import Environment
from edge.transceiver.service import Transceiver
from edge.webrtc.certificate import DtlsCertificate
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
        transceiver = Transceiver(
            datagrams,
            slot=await base.registry.claim_slot(),
            cluster=base.config.registry.cluster,
            sealer=base.sealer,
            directory=base.directory,
            backend=backend,
            certificate=DtlsCertificate.generate(),
            config=settings,
            audio=base.config.audio,
            offload=offload,
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
        keep_transceiver, base.registry, make_record, interval=config.registry.heartbeat_seconds
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
        render_metrics=base.metrics.render,
        ready=lambda: not stop.is_set() and base.directory.has_own_relay,
        now=trio.current_time,
        geography=geography,
    )


def _fleet(base: Base, transceiver: Transceiver) -> Fleet:
    """What signaling asks of the registry and of the view of the fleet."""

    def owner_url(call_id: str) -> str | None:
        slot = slot_of(call_id)
        record = None if slot is None else base.directory.transceiver(slot)
        return None if record is None or slot == transceiver.slot else record.http_url or None

    return Fleet(
        secrets=base.secrets,
        unix=time.time,
        claim_once=base.registry.claim_once,
        release=base.registry.release_claim,
        owner_url=owner_url,
    )
