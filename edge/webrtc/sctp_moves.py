"""Writing an association down and going on from that; see ``sctp`` for what a crash asks."""

from __future__ import annotations

import math
from typing import Self

from edge.webrtc.sctp_checkpoints import Checkpoints
from edge.webrtc.sctp_handshake import Entropy
from edge.webrtc.sctp_incoming import Incoming
from edge.webrtc.sctp_outputs import SctpOutput
from edge.webrtc.sctp_receiver import Receiver
from edge.webrtc.sctp_resets import StreamResets
from edge.webrtc.sctp_sender import Sender
from edge.webrtc.sctp_state import SENDING, AssociationSnapshot, SctpConfig, SctpState
from edge.wire.sctp_chunks import Reconfig


class Movable(Incoming):
    """An association that another process may go on with."""

    def snapshot(self, *, now: float) -> AssociationSnapshot:
        """Write the association down; where anything is held say ``stored`` later."""
        if self.config.hold_messages and self.state in SENDING:
            self._sender.stage(self.config.reserve // 2, now=now)
        receiver, resets = self._receiver, self._resets
        held = tuple(self._checkpoints.held)
        written = receiver.snapshot(now=now) if receiver is not None else None
        sack = receiver.sack() if receiver is not None and self._holds_acks else None
        return AssociationSnapshot(
            serial=self._checkpoints.written(self._sender.flight.next_tsn, sack),
            state=self.state,
            remote=self.remote,
            handshake=self._handshake.snapshot(now=now),
            sender=self._sender.snapshot(now=now),
            receiver=written,
            resets=resets.snapshot(now=now) if resets is not None else None,
            shutdown=self._shutdown.snapshot(now=now),
            held=held,
            waits=self._waits,
        )

    def stored(self, serial: int, *, now: float) -> list[SctpOutput]:
        """The snapshot of this number is safe: acknowledge and send what it holds."""
        checkpoint = self._checkpoints.stored(serial)
        self._unstored = False
        if checkpoint is None or self.state is SctpState.ENDED:
            return []
        if self.config.reserve:
            # One less: the rest of an abandoned message takes a number beyond the limit.
            self._sender.limit = checkpoint.next_tsn + self.config.reserve - 1
        if self.config.hold_messages:
            self._sender.hold.stored(checkpoint.next_tsn)
        if checkpoint.sack is not None:
            self._queue(checkpoint.sack)
        for answer in checkpoint.answers:
            self._queue(Reconfig((answer,)))
        return self._flush(now)

    def unstored(self, *, now: float) -> list[SctpOutput]:
        """No snapshot could be stored: acknowledge, and send without limit until one is."""
        if not self._holds_acks or self.state is SctpState.ENDED:
            return []
        self._unstored, self._sender.limit = True, math.inf
        self._sender.hold.release()
        for answer in self._checkpoints.release():
            self._queue(Reconfig((answer,)))
        if self._receiver is not None:
            self._receiver.deadline = now
        return self._flush(now)

    @property
    def used_tsns(self) -> int:
        """How many TSNs were used up or skipped since the association's first."""
        return self._sender.flight.next_tsn - self._handshake.local.tsn

    def limit(self, tsns: int) -> None:
        """Allow this many more TSNs: as many as a stored snapshot's heir will skip."""
        # One less: see ``stored``.
        limit = self._sender.flight.next_tsn + max(0, tsns - 1)
        self._sender.limit = math.inf if self._unstored else limit
        self._waits = self._waits or not self._sender.idle

    @classmethod
    def restore(
        cls,
        snapshot: AssociationSnapshot,
        *,
        entropy: Entropy,
        config: SctpConfig,
        now: float,
        age: float = 0.0,
        skip: int = 0,
    ) -> Self:
        """Go on from a snapshot that is ``age`` seconds old.

        ``skip`` is 0 only for the exact state of a planned move, else the dead owner's ``reserve``.
        Raises LocalProtocolError if the peer can not skip (it offered no FORWARD TSN): then only
        a new association, which restarts the peer's, is left.
        """
        association = cls(entropy=entropy, config=config)
        then = now - age
        association.state, association.remote = snapshot.state, snapshot.remote
        association._waits = snapshot.waits or skip > 0
        association._handshake.load(snapshot.handshake, now=then)
        association._shutdown.load(snapshot.shutdown, now=then)
        association._checkpoints = Checkpoints(snapshot.serial)
        association._sender = Sender.restore(
            snapshot.sender,
            outbox_limit=config.outbox,
            now=now,
            age=age,
            skip=skip,
            holds=config.hold_messages,
        )
        if snapshot.resets is not None:
            association._resets = StreamResets.restore(snapshot.resets, now=then)
        if snapshot.receiver is not None:
            association._receiver = receiver = Receiver.restore(
                snapshot.receiver,
                window=config.window,
                max_message_size=config.max_message_size,
                now=then,
            )
            if skip or config.hold_acks:
                receiver.deadline = now  # what the owner acknowledged last is not known
        for answer in snapshot.held:
            association._answer(answer)
        return association
