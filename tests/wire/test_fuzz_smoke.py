"""A short run of the fuzz target, and proof that it would notice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.errors import RemoteProtocolError
from tests.fuzz.fuzz_wire import CRASHERS, DECODERS, Decoder, main, run


@pytest.mark.parametrize("name", DECODERS)
def test_every_golden_packet_is_accepted_by_some_decoder_of_its_kind(name: str) -> None:
    decoder = DECODERS[name]
    accepted = 0
    for seed in decoder.seeds:
        try:
            decoder.decode(seed)
            accepted += 1
        except RemoteProtocolError:
            assert name.startswith("stun"), "only STUN decoders share their seeds"
    assert accepted


@pytest.mark.parametrize("name", DECODERS)
def test_mutants_give_a_value_or_a_remote_error(name: str, tmp_path: Path) -> None:
    for saved in CRASHERS.glob(f"{name}-*.bin"):
        (tmp_path / saved.name).write_bytes(saved.read_bytes())
    result = run(name, DECODERS[name], runs=2_000, seed=1, crashers=tmp_path)
    assert result.crashes == []
    assert result.accepted + result.rejected == result.runs >= 2_000
    assert result.accepted > 20  # the mutants reach past the first check
    assert result.rejected > 20 or name == "demux"


def test_a_crash_is_seen_saved_and_tried_again(tmp_path: Path) -> None:
    def decode(data: bytes) -> int:
        return data[7]

    broken = Decoder(decode, [b"seed of 12 b"])
    result = run("broken", broken, runs=500, seed=1, crashers=tmp_path)
    assert result.crashes
    assert "IndexError" in result.crashes[0]
    assert "broken seed 1 index" in result.crashes[0]
    saved = list(tmp_path.iterdir())
    assert 1 <= len(saved) <= 5
    again = run("broken", broken, runs=0, seed=1, crashers=tmp_path)
    assert len(again.crashes) == again.runs == len(saved)


def test_the_table_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.json"
    assert main(["--runs", "50", "--only", "spp", "--json", str(table)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("spp")
    written = json.loads(table.read_text())["decoders"]["spp"]
    assert written["runs"] == written["accepted"] + written["rejected"] >= 50
