"""The native loop's tables: they are C, so their edges are tried one by one."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Final

import pytest

from edge.errors import Drop, LocalProtocolError
from edge.forwarder.native import NativeForwarder
from edge.forwarder.protocol import FlowEntry
from edge.wire.spp import Path, encode_path
from tests.support.forwarder_rig import RTP
from tests.support.native_rig import HOST, Rig


def path_of(number: int) -> Path:
    return encode_path((f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 9), ("::1", 4))


@pytest.mark.parametrize("seed", range(5))
def test_the_table_is_a_dict(seed: int) -> None:
    """Also where entries move together again, round the end of the table: it is nearly full."""
    dice = random.Random(seed)
    paths = [path_of(number) for number in range(400)]
    with contextlib.closing(Rig(1, max_flows=300)) as rig:
        flows, model = rig.forwarder.flows, dict[Path, FlowEntry]()
        for step in range(10_000):
            path = dice.choice(paths)
            if dice.random() < 0.7:
                entry = FlowEntry(dice.randrange(1, 9), dice.randrange(1 << 20), step % 3)
                room = len(model) < 300 or path in model
                assert flows.put(path, entry) is room
                if room:
                    model[path] = entry
            else:
                flows.remove(path)
                model.pop(path, None)
            assert flows.get(path) == model.get(path)
            if step % 100 == 99:
                assert len(flows) == len(model)
                assert dict(walk(rig)) == model
                assert [flows.get(path) for path in paths] == [model.get(path) for path in paths]


def walk(rig: Rig, **wanted: float) -> list[tuple[Path, FlowEntry]]:
    found, cursor = [], 0
    while True:
        cursor, some = rig.forwarder.flows.scan(
            cursor, 7, heard_before=wanted.get("heard_before", 1e9), hop=int(wanted.get("hop", 0))
        )
        found += some
        if not cursor:
            return found


def test_a_scan_finds_what_is_asked_for() -> None:
    with contextlib.closing(Rig(1, max_flows=300)) as rig:
        for number in range(300):
            entry = FlowEntry(1 + number % 3, number / 10, 5 if number % 2 else 0, 1.0, 2.5)
            assert rig.forwarder.flows.put(path_of(number), entry)
        assert {path for path, _ in walk(rig)} == {path_of(number) for number in range(300)}
        assert len(walk(rig, hop=2)) == 100
        assert len(walk(rig, hop=5)) == 150
        early = walk(rig, heard_before=3.0)
        assert {path for path, _ in early} == {path_of(number) for number in range(30)}
        assert {entry.save_at for _, entry in early} == {2.5}


def test_many_hops_come_and_go() -> None:
    with contextlib.closing(Rig(1)) as rig:
        forwarder, path = rig.forwarder, path_of(1)
        for hop in range(1, 3_000):
            address = f"10.1.{hop >> 8}.{hop & 255}", 9
            public = (f"10.2.{hop >> 8}.{hop & 255}", 9) if hop % 2 else None
            forwarder.set_hop(hop, address, group=hop, public=public)
        for hop in range(1, 3_000):
            forwarder.remove_hop(hop)
            assert not forwarder.forward(path, RTP, hop)
            forwarder.remove_hop(hop)
        assert forwarder.statistics().drops == {Drop.UNKNOWN_SLOT: 2_999}


def test_a_flow_takes_at_most_250_bytes() -> None:
    flows = 100_000
    code = f"""
import struct
from edge.forwarder._native import Core
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
core = Core(bytes(18), 2, 2, 1.0, {flows})
empty = resident()
for number in range({flows}):
    assert core.put(b"\\x56\\xec" + struct.pack("!32xI", number), 1, 1.0, 0, 0.0, 0.0)
print((resident() - empty) / {flows})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=30, capture_output=True, text=True, check=True
    )
    assert 64 <= float(done.stdout) <= 250


WRONG: Final[dict[str, Callable[[NativeForwarder], object]]] = {
    "short path": lambda f: f.flows.get(Path(bytes(37))),
    "no magic": lambda f: f.flows.put(Path(bytes(38)), FlowEntry(1, 0.0)),
    "long path": lambda f: f.flows.remove(Path(path_of(1) + b"\0")),
    "no owner": lambda f: f.flows.put(path_of(1), FlowEntry(0, 0.0)),
    "challenger": lambda f: f.flows.put(path_of(1), FlowEntry(1, 0.0, -1)),
    "hop 0": lambda f: f.set_hop(0, (HOST, 1), group=0, public=None),
    "hop 2**32": lambda f: f.set_hop(1 << 32, (HOST, 1), group=0, public=None),
    "cursor": lambda f: f.flows.scan(-1, 1),
    "far cursor": lambda f: f.flows.scan(1 << 40, 1),
    "limit": lambda f: f.flows.scan(0, 0),
    "forward": lambda f: f.forward(Path(b"\x56\xec"), RTP, 1),
    "deliver": lambda f: f.deliver(Path(b""), RTP),
    "threads": lambda f: f.set_threads(0),
}
MESSAGE: Final = "SPP header|is a number|a cursor|one thread"


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_refused(what: str) -> None:
    with contextlib.closing(Rig(1)) as rig, pytest.raises(ValueError, match=MESSAGE):
        WRONG[what](rig.forwarder)


def test_an_address_must_be_numeric() -> None:
    with contextlib.closing(Rig(1)) as rig, pytest.raises(LocalProtocolError):
        rig.forwarder.set_hop(1, ("relay.example", 1), group=1, public=None)


@pytest.mark.parametrize("seconds", [-1.0, float("-inf"), float("nan"), float("inf"), 1e30])
def test_times_stay_within_their_range(seconds: float) -> None:
    with contextlib.closing(Rig(1)) as rig:
        assert rig.forwarder.flows.put(path_of(1), FlowEntry(1, seconds, save_at=seconds))
        entry = rig.forwarder.flows.get(path_of(1))
        assert entry is not None
        assert entry.heard == entry.save_at
        assert entry.heard in (0.0, (2**32 - 1) / 10)
