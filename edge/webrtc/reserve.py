"""How far an owner may count beyond its last stored checkpoint, and how much its heir skips.

No number that makes a nonce may be used twice, whatever dies when. An heir begins ``HEIR_SKIPS``
after the numbers of the checkpoint that it loaded, so the owner may use those before, as far as
``OWNER_USES``. It stores a new checkpoint already after ``RENEW_AFTER``, a small part of that: the
rest is for the time in which the registry can not be written to. What lies between the two is for
a registry that lost the last checkpoint or two which it had said to hold (a fail-over may).

The numbers are within what Chromium was seen to accept (docs/handover.md): a sequence number may
jump by less than 2^15, two take-overs without a packet in between included.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**48)]


class Reserve(msgspec.Struct, frozen=True, array_like=True):
    """One number of each kind: where a session is, or an amount to add to that.

    ``tsn`` is counted from the association's first, so that it does not wrap.
    """

    rtp: Count = 0
    rtcp: Count = 0
    dtls: Count = 0
    tsn: Count = 0

    def plus(self, other: Reserve) -> Reserve:
        """Add each kind."""
        return Reserve(
            self.rtp + other.rtp,
            self.rtcp + other.rtcp,
            self.dtls + other.dtls,
            self.tsn + other.tsn,
        )

    def left_of(self, limit: Reserve) -> Reserve:
        """What of each kind may still be used below ``limit``; never less than 0."""
        return Reserve(
            max(0, limit.rtp - self.rtp),
            max(0, limit.rtcp - self.rtcp),
            max(0, limit.dtls - self.dtls),
            max(0, limit.tsn - self.tsn),
        )

    @property
    def least(self) -> int:
        """The smallest of the numbers."""
        return min(self.rtp, self.rtcp, self.dtls, self.tsn)


NO_RESERVE: Final = Reserve()
OWNER_USES: Final = Reserve(rtp=12_000, rtcp=8_000, dtls=2**20, tsn=500)
"""RTP: four minutes of packets of 20 ms."""
RENEW_AFTER: Final = Reserve(rtp=1_000, rtcp=1_000, dtls=2**17, tsn=250)
HEIR_SKIPS: Final = Reserve(rtp=14_000, rtcp=10_000, dtls=2**20 + 2**18, tsn=1_000)
