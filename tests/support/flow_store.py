"""A random walk through a flow store, beside a dict that says what must be there."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge.forwarder.protocol import FlowEntry, FlowStore
from edge.wire.spp import Path, encode_path

CAPACITY = 12
HOPS = st.integers(1, 4) | st.just(2**32 - 1)
TIMES = st.integers(0, 1_000_000).map(lambda tenths: tenths / 10)
PATHS = [
    encode_path((host, port), (proxy, 3478))
    for host in ("192.0.2.1", "2001:db8::1")
    for proxy in ("203.0.113.1", "2001:db8::2")
    for port in (1, 2, 256, 65_535)
]


def coarse(entry: FlowEntry) -> object:
    """An entry as the contract promises it: times to 0.1 s."""
    return pytest.approx(tuple(entry), abs=0.11)


def store_walk(make: Callable[[], FlowStore]) -> type[RuleBasedStateMachine]:
    """Return a state machine for stores with room for CAPACITY flows at least."""

    class StoreWalk(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.store = make()
            self.model: dict[Path, FlowEntry] = {}

        @rule(
            path=st.sampled_from(PATHS),
            entry=st.builds(FlowEntry, HOPS, TIMES, st.just(0) | HOPS, TIMES, TIMES),
        )
        def put(self, path: Path, entry: FlowEntry) -> None:
            room = path in self.model or len(self.model) < CAPACITY
            done = self.store.put(path, entry)
            assert done or not room
            if done:
                self.model[path] = entry

        @rule(path=st.sampled_from(PATHS))
        def remove(self, path: Path) -> None:
            self.store.remove(path)
            self.model.pop(path, None)

        @rule(
            limit=st.integers(1, 40),
            before=st.just(math.inf) | TIMES,
            hop=st.just(0) | HOPS,
        )
        def scan(self, limit: int, before: float, hop: int) -> None:
            cursor, found = self.store.scan(0, limit, heard_before=before, hop=hop)
            while cursor:
                last = cursor
                cursor, more = self.store.scan(cursor, limit, heard_before=before, hop=hop)
                assert cursor == 0 or cursor > last
                found += more
            clear = {
                path
                for path, entry in self.model.items()
                if hop in (0, entry.owner, entry.challenger) and entry.heard < before - 0.2
            }
            near = {
                path
                for path, entry in self.model.items()
                if hop in (0, entry.owner, entry.challenger) and entry.heard < before + 0.2
            }
            assert len(found) == len(dict(found))
            assert clear <= dict(found).keys() <= near
            for path, entry in found:
                assert tuple(entry) == coarse(self.model[path])

        @invariant()
        def agrees(self) -> None:
            assert len(self.store) == len(self.model)
            for path in PATHS:
                entry = self.store.get(path)
                assert (entry is None) == (path not in self.model)
                if entry is not None:
                    assert tuple(entry) == coarse(self.model[path])

    return StoreWalk
