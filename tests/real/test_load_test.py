"""``edge load-test`` against a running edge: figures, limits and exit codes."""

import sys
from pathlib import Path

import msgspec
import trio

from edge.client.load_report import LoadReport
from tests.support.edges import SERVE
from tests.support.processes import ROOT, edge

KEY = "a-key-that-only-this-test-uses-0123456789"


async def load_test(*arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "edge", "load-test", *arguments]
    with trio.fail_after(30):
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, cwd=ROOT
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_all_calls_are_echoed() -> None:
    async with edge(*SERVE) as server:
        quick = ("--http", server.http, "--sessions", "5", "--ramp", "50", "--duration", "1")
        code, out, err = await load_test(*quick, "--json")
        assert (code, err) == (0, "")
        report = msgspec.json.decode(out, type=LoadReport)
        assert (report.connected, report.failed, report.ended_early) == (5, {}, 0)
        assert report.sent >= 200
        assert (report.lost, report.duplicates, report.rejected) == (0, 0, 0)

        code, out, err = await load_test(*quick, "--channel", "--json")
        assert (code, err) == (0, "")
        report = msgspec.json.decode(out, type=LoadReport)
        assert 0 < report.channel_ms["p50"] >= report.setup_ms["p50"]
        trips = {each.step: each.round_trips["max"] for each in report.steps}
        assert trips == {
            "check answered": 1,
            "DTLS done, audio sent": 2,
            "first echo": 3,
            "channel open": 3,  # with SNAP
        }
        assert (report.lost, report.rejected) == (0, 0)

        code, out, err = await load_test(*quick, "--frame-ms", "60", "--max-setup-ms", "1")
        assert code == 1
        assert "5 of 5 calls" in out
        assert "\nDTLS done, audio sent " in out
        assert err.startswith("edge: setup p95 ")


async def test_a_key_is_needed_and_used(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    async with edge(*SERVE, "--api-keys-file", str(keys)) as server:
        quick = ("--http", server.http, "--sessions", "1", "--duration", "0.2")
        code, _, err = await load_test(*quick)
        assert (code, err) == (1, "edge: 1 calls failed: the server answered 401\n")
        code, _, err = await load_test(*quick, "--api-key-file", str(keys))
        assert (code, err) == (0, "")
