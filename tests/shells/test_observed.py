"""The times that a transceiver tells its metrics, while the session runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.abc import Clock

from edge.backends.protocol import CallQuality
from edge.wire.rtcp import ReceiverReport, ReportBlock, encode_rtcp
from tests.support.edge_net import UNIX_OFFSET, Phone, VirtualEdge, open_edge
from tests.support.net import Link, open_network

ONE_WAY = 0.1
NTP_EPOCH = 2_208_988_800


def report_round_trip(phone: Phone, edge: VirtualEdge, seconds: float) -> None:
    """Send a receiver report on a sender report that is so old."""
    (session,) = edge.transceivers[0].roster.by_call.values()
    sent_at = trio.current_time() + UNIX_OFFSET + NTP_EPOCH - seconds
    last_sr = int(sent_at * 65536) & 0xFFFFFFFF
    block = ReportBlock(session.peer.media.stream.ssrc, 64, 0, 0, 0, last_sr, 0)
    assert phone.caller._sender is not None
    packet = encode_rtcp((ReceiverReport(phone.caller.offer.ssrc, (block,)),))
    phone._send([phone.caller._sender.protect_rtcp(packet)])


async def test_setups_and_round_trips_are_observed(autojump_clock: Clock) -> None:
    setups: list[float] = []
    qualities: list[CallQuality] = []
    async with (
        open_network(link=Link(latency=ONE_WAY / 2)) as network,
        open_edge(network) as edge,
    ):
        maker = edge.transceivers[0]._maker
        maker._surroundings = replace(
            maker._surroundings, observe_setup=setups.append, observe_quality=qualities.append
        )
        async with edge.call() as phone:
            await phone.connected()
            # The check, our ClientHello, their flight, ours, and their Finished.
            assert setups == [pytest.approx(5 * ONE_WAY, abs=0.02)]
            assert qualities == []
            report_round_trip(phone, edge, seconds=0.5)
            await trio.sleep(2 * ONE_WAY)
            (quality,) = qualities
            assert quality.round_trip == pytest.approx(0.5 + ONE_WAY, abs=0.01)
            assert quality.remote_fraction_lost == 0.25
        assert len(setups) == 1
