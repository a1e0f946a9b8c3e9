"""The claim book of a fleet, in Redis: see ``sessions`` for its rules, docs/registry.md for keys.

A session is one hash. Each operation is one short script, so it is atomic, and one round trip. The
script compares plain numbers that stand beside the sealed claim, because Redis has no key to open
it; what is handed to a caller comes from sealed bytes alone. Who may write to Redis can so fence an
owner out, as by deleting its records, and can neither become an owner nor make a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha1
from typing import Final

import msgspec

from edge.errors import Drop, RemoteProtocolError
from edge.registry.listing import Store
from edge.registry.protocol import RegistryUnavailable
from edge.registry.records import MAX_SEALED_BYTES
from edge.registry.redis_worker import Command, Reply, is_unknown_script
from edge.registry.sessions import (
    MAX_CHECKPOINT_BYTES,
    MAX_EPOCH,
    MAX_LEADS,
    MAX_SERIAL,
    SESSION_SECONDS,
    Claim,
    Inheritance,
    Lead,
    Slot,
    StoredCheckpoint,
    StoreOutcome,
    check_claim,
    check_serial,
    is_session,
)

_MILLISECONDS: Final = int(SESSION_SECONDS * 1000)
_Argument = str | bytes | int


class _LeadRecord(msgspec.Struct, frozen=True):
    """The session that something leads to."""

    session: str


class _Script:
    """A script over one key, named by its digest once Redis knows it."""

    def __init__(self, body: str) -> None:
        self._text = _PRELUDE + body
        self._digest = sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    def command(self, key: str, *arguments: _Argument, full: bool = False) -> Command:
        """Make the command; ``full`` is for a Redis that has not seen the script yet."""
        kind, script = ("EVAL", self._text) if full else ("EVALSHA", self._digest)
        return (kind, script, 1, key, *arguments)


# ``epoch`` is 0 where nothing is held. What is in the way counts as nothing.
_PRELUDE: Final = f"""
local key, epoch, owner = KEYS[1], 0, ''
if redis.call('TYPE', key).ok == 'hash' then
  local held = redis.call('HMGET', key, 'epoch', 'owner')
  epoch, owner = tonumber(held[1] or 0) or 0, held[2] or ''
end
local function bounded(field, most)
  if epoch == 0 or redis.call('HSTRLEN', key, field) > most then return '' end
  return redis.call('HGET', key, field) or ''
end
local function held() return bounded('claim', {MAX_SEALED_BYTES}) end
"""
_CLAIM: Final = _Script("""
local wanted, by = tonumber(ARGV[1]), ARGV[2]
if not (epoch == wanted - 1 or (epoch == wanted and owner == by)
    or (ARGV[4] == '1' and epoch < wanted)) then return held() end
if epoch == 0 or (ARGV[4] == '1' and epoch < wanted) then redis.call('UNLINK', key) end
redis.call('HSET', key, 'epoch', ARGV[1], 'owner', by, 'claim', ARGV[3])
redis.call('PEXPIRE', key, ARGV[5])
return 1
""")
_STORED: Final = """
local mine, by = tonumber(ARGV[1]), ARGV[2]
if epoch < mine then return 'lost' end
if epoch > mine or owner ~= by then return 'fenced' end
local last = redis.call('HMGET', key, 'written', 'serial')
if tonumber(last[1] or 0) == mine and (tonumber(last[2] or 0) or 0) > tonumber(ARGV[3]) then
  return 'superseded'
end
redis.call('HSET', key, 'claim', ARGV[4], 'written', ARGV[1], 'writer', by, 'serial', ARGV[3],
  'checkpoint', ARGV[5])
redis.call('PEXPIRE', key, ARGV[6])
"""
_STORE: Final = _Script(_STORED + "return 'stored'")
# As a store, whose sealed claim is the heir's here, and whose slot comes last.
_HAND_OVER: Final = _Script(
    """
local before = tonumber(ARGV[1])
if epoch == before + 1 and owner == ARGV[7]
    and tonumber(redis.call('HGET', key, 'written') or 0) == before then return 'stored' end
"""
    + _STORED
    + """
redis.call('HSET', key, 'epoch', before + 1, 'owner', ARGV[7])
return 'stored'
"""
)
_INHERIT: Final = _Script(f"""
local wanted, by, former = tonumber(ARGV[1]), ARGV[2], ARGV[3]
if not (epoch == wanted and owner == by)
    and (epoch == 0 or epoch ~= wanted - 1 or owner ~= former) then return held() end
redis.call('HSET', key, 'epoch', ARGV[1], 'owner', by, 'claim', ARGV[4])
redis.call('PEXPIRE', key, ARGV[5])
return {{bounded('written', 16), bounded('writer', 16), bounded('serial', 16),
  bounded('checkpoint', {MAX_CHECKPOINT_BYTES})}}
""")
_FORGET: Final = _Script("""
if epoch == tonumber(ARGV[1]) and owner == ARGV[2] then redis.call('UNLINK', key) end
return 1
""")
_OWNER: Final = _Script("return held()")


class RedisSessions:
    """A ``SessionBook`` in the keys of one cluster; made by ``RedisRegistry``."""

    def __init__(
        self, store: Store, prefix: str, lead_names: Callable[[str], Sequence[str]]
    ) -> None:
        """``lead_names`` hides a lead: by the current secret, then by the previous."""
        self._store = store
        self._prefix = prefix
        self._hidden = lead_names

    async def claim(self, wanted: Claim, *, anew: bool = False) -> Claim | None:
        """Claim a session; see ``SessionBook``."""
        check_claim(wanted)
        name = self._name(wanted.session)
        arguments = (wanted.epoch, wanted.owner, self._seal(wanted), int(anew), _MILLISECONDS)
        (reply,) = await self._run(_CLAIM, [(name, arguments)])
        return wanted if reply == 1 else self._open(wanted.session, reply)

    async def owner_of(self, session: str) -> Claim | None:
        """Tell who holds a session."""
        (held,) = await self.owners_of((session,))
        return held

    async def owners_of(self, sessions: Sequence[str]) -> Sequence[Claim | None]:
        """Tell who holds each of these sessions."""
        asked = [session for session in sessions if is_session(session)]
        replies = await self._run(_OWNER, [(self._name(session), ()) for session in asked])
        held = {one: self._open(one, reply) for one, reply in zip(asked, replies, strict=True)}
        return [held.get(session) for session in sessions]

    async def store(self, claim: Claim, serial: int, sealed: bytes) -> StoreOutcome:
        """Store a checkpoint; see ``SessionBook``."""
        return await self._keep(_STORE, claim, serial, sealed, held=claim)

    async def hand_over(self, claim: Claim, serial: int, sealed: bytes, heir: Slot) -> StoreOutcome:
        """Store a checkpoint and claim the next epoch for an heir; see ``SessionBook``."""
        given = claim.next_of(heir)
        check_claim(given)
        return await self._keep(_HAND_OVER, claim, serial, sealed, heir, held=given)

    async def inherit(self, wanted: Claim, former: Slot) -> Inheritance:
        """Claim a session, and load its newest checkpoint; see ``SessionBook``."""
        check_claim(wanted)
        name = self._name(wanted.session)
        arguments = (wanted.epoch, wanted.owner, former, self._seal(wanted), _MILLISECONDS)
        (reply,) = await self._run(_INHERIT, [(name, arguments)])
        match reply:
            case [bytes(written), bytes(writer), bytes(serial), bytes(sealed)]:
                stored = self._checkpoint(wanted, written, writer, serial, sealed)
                return Inheritance(wanted, stored)
        return Inheritance(self._open(wanted.session, reply), None)

    async def forget(self, claim: Claim) -> None:
        """Take a session out, unless it is another's."""
        check_claim(claim)
        await self._run(_FORGET, [(self._name(claim.session), (claim.epoch, claim.owner))])

    def save_leads(self, session: str, leads: Sequence[Lead]) -> None:
        """Queue what leads to a session; see ``SessionBook``."""
        saved = tuple(leads[:MAX_LEADS])
        if len(leads) > len(saved):
            self._store.drops[Drop.TABLE_FULL] += len(leads) - len(saved)
        self._store.worker.post(("leads", session), partial(self._lead_writes, session, saved))

    async def find_session(self, lead: Lead) -> str | None:
        """Find a session, by the current secret and by the previous."""
        for lease in await self._store.read(self._lead_names(lead), _LeadRecord):
            if lease is not None and lease.record is not None:
                return lease.record.session
        return None

    async def _keep(
        self,
        script: _Script,
        claim: Claim,
        serial: int,
        sealed: bytes,
        *more: _Argument,
        held: Claim,
    ) -> StoreOutcome:
        """Store a checkpoint by a script; ``held`` is the claim that holds afterwards."""
        check_claim(claim)
        check_serial(serial)
        if len(sealed) > MAX_CHECKPOINT_BYTES:
            self._store.drops[Drop.TOO_LONG] += 1
            return StoreOutcome.TOO_LONG
        name = self._name(claim.session)
        numbers = (claim.epoch, claim.owner, serial)
        arguments = (*numbers, self._seal(held), sealed, _MILLISECONDS, *more)
        (reply,) = await self._run(script, [(name, arguments)])
        return _OUTCOMES.get(reply, StoreOutcome.LOST) if isinstance(reply, bytes) else _LOST

    async def _run(
        self, script: _Script, calls: Sequence[tuple[str, Sequence[_Argument]]]
    ) -> Sequence[Reply]:
        worker = self._store.worker
        replies = await worker.call(*(script.command(key, *rest) for key, rest in calls))
        if any(is_unknown_script(reply) for reply in replies):
            # Nothing was done. The first one teaches it to Redis.
            full = (script.command(key, *rest, full=True) for key, rest in calls)
            replies = await worker.call(*full)
        if any(isinstance(reply, Exception) for reply in replies):
            raise RegistryUnavailable("Redis refuses a script")
        return replies

    def _name(self, session: str) -> str:
        return f"{self._prefix}:session:{session}"

    def _lead_names(self, lead: Lead) -> list[str]:
        return [f"{self._prefix}:lead:{hidden}" for hidden in self._hidden(lead)]

    def _lead_writes(self, session: str, leads: Sequence[Lead]) -> Sequence[Command]:
        # Runs in the worker's thread.
        record = _LeadRecord(session)
        names = [self._lead_names(lead)[0] for lead in leads]
        return [self._store.write(name, record, SESSION_SECONDS) for name in names]

    def _seal(self, claim: Claim) -> bytes:
        return self._store.seal(self._name(claim.session), claim, SESSION_SECONDS)

    def _open(self, session: str, reply: Reply) -> Claim | None:
        lease = self._store.open(self._name(session), reply, Claim)
        return None if lease is None else lease.record

    def _checkpoint(
        self, claim: Claim, written: bytes, writer: bytes, serial: bytes, sealed: bytes
    ) -> StoredCheckpoint | None:
        if not sealed:
            return None
        try:
            author = Claim(
                session=claim.session,
                owner=Slot(_number(writer, MAX_EPOCH)),
                epoch=_number(written, claim.epoch),
            )
            number = _number(serial, MAX_SERIAL)
        except RemoteProtocolError as error:
            self._store.drops[error.drop] += 1
            return None
        return StoredCheckpoint(claim=author, serial=number, sealed=sealed)


_LOST: Final = StoreOutcome.LOST
_OUTCOMES: Final = {outcome.value.encode(): outcome for outcome in StoreOutcome}


def _number(text: bytes, most: int) -> int:
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise RemoteProtocolError("not the number of an epoch, an owner or a checkpoint")
    return int(text)
