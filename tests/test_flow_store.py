"""The pure forwarder's flows: against a model, and what one costs."""

from __future__ import annotations

import tracemalloc

from hypothesis import settings

from edge.forwarder.protocol import FlowEntry
from edge.forwarder.store import MemoryStore
from edge.wire.spp import MAGIC, Path, encode_path
from tests.support.examples import examples
from tests.support.flow_store import CAPACITY, store_walk

TestWalk = store_walk(lambda: MemoryStore(CAPACITY)).TestCase
TestWalk.settings = settings(examples(10), stateful_step_count=20)


def test_what_is_beyond_the_capacity_is_refused() -> None:
    store = MemoryStore(2)
    one, two, three = (encode_path(("192.0.2.1", port), ("192.0.2.9", 1)) for port in (1, 2, 3))
    assert store.put(one, FlowEntry(1, 0.0))
    assert store.put(two, FlowEntry(1, 0.0))
    assert not store.put(three, FlowEntry(1, 0.0))
    assert store.put(one, FlowEntry(2, 0.0))
    assert (len(store), store.get(three)) == (2, None)
    store.remove(two)
    assert store.put(three, FlowEntry(1, 0.0))


def test_a_flow_costs_at_most_250_bytes() -> None:
    count = 22_000  # a dict has just grown here: the worst case; 100,000 cost less and take seconds
    paths = (Path(MAGIC + number.to_bytes(36, "big")) for number in range(count))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        store = MemoryStore(count)
        for path in paths:
            store.put(path, FlowEntry(1, 1_000.0, 2, 1_000.0, 2_000.0))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(store) == count
    assert (after - before) / count <= 250
