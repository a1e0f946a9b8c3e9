"""Session descriptions: an offer in, an answer out (RFC 8829, RFC 3264).

``decode_offer`` turns bytes into an ``Offer``, ``negotiate`` decides what of it we serve, and
``encode_answer`` writes the answer. The parts are in ``sdp_offer`` and ``sdp_answer``.
"""

from __future__ import annotations

from edge.wire.fingerprint import Fingerprint
from edge.wire.sdp_answer import ChannelSection, Negotiated, encode_answer, negotiate
from edge.wire.sdp_channels import SctpSide
from edge.wire.sdp_offer import (
    Codec,
    Direction,
    HeaderExtension,
    MediaSection,
    Offer,
    RemoteIce,
    Setup,
    Transport,
    decode_offer,
)

__all__ = [
    "ChannelSection",
    "Codec",
    "Direction",
    "Fingerprint",
    "HeaderExtension",
    "MediaSection",
    "Negotiated",
    "Offer",
    "RemoteIce",
    "SctpSide",
    "Setup",
    "Transport",
    "decode_offer",
    "encode_answer",
    "negotiate",
]
