"""One SCTP packet of each kind, without checksums, for mutation."""

from __future__ import annotations

from typing import Final

from edge.wire.sctp import encode_packet
from edge.wire.sctp_chunks import (
    Abort,
    Chunk,
    CookieAck,
    CookieEcho,
    Data,
    ForwardTsn,
    Heartbeat,
    Init,
    Reconfig,
    Sack,
    Shutdown,
)
from edge.wire.sctp_codec import encode_chunk
from edge.wire.sctp_parameters import InitParameters, OutgoingReset, ResetResponse

_INIT: Final = Init(1, 262_144, 1024, 1024, 7, InitParameters(None, True, 1, b"\x82\xc0"))
_KINDS: Final[tuple[tuple[Chunk, ...], ...]] = (
    (_INIT,),
    (Init(1, 262_144, 1024, 1024, 7, InitParameters(b"cookie", True, 1, b"\x82\xc0", b"junk")),),
    (CookieEcho(b"cookie"), Data(7, 1, 0, 50, 3, b"\x03\0\0\0\0\0\0\0\0\x01\0\0x")),
    (CookieAck(), Sack(7, 1000)),
    (Sack(7, 1000, ((2, 3), (5, 9)), (4, 5)), Data(8, 1, 1, 51, 3, b"hello")),
    (Heartbeat(b"information"), Shutdown(9)),
    (ForwardTsn(12, ((1, 3), (2, 4))), Data(13, 1, 4, 51, 2, b"he"), Data(14, 1, 4, 51, 1, b"y")),
    (Reconfig((OutgoingReset(1, 2, 3, (4, 5, 6)), ResetResponse(1, 1))),),
    (Abort(((12, b"over"), (4, b""))),),
)
GOLDEN: Final = tuple(
    encode_packet(5000, 5000, 77, map(encode_chunk, chunks), zero_checksum=True)
    for chunks in _KINDS
)
