"""How the network treats a call, put together for whoever asks."""

from __future__ import annotations

from edge.audio.listener import ListenerStatistics
from edge.backends.protocol import CallQuality
from edge.webrtc.media import MediaStatistics


def call_quality(media: MediaStatistics, heard: ListenerStatistics) -> CallQuality:
    """Join what the media's counts say and what the jitter buffer made of it."""
    return CallQuality(
        round_trip=media.round_trip_time,
        jitter=media.jitter,
        lost=media.lost,
        concealed=heard.concealed,
        delay=heard.delay,
        remote_jitter=media.remote_jitter,
        remote_fraction_lost=media.remote_fraction_lost,
        target=heard.target,
        recovered_red=heard.recovered_red,
        recovered_fec=heard.recovered_fec,
    )
