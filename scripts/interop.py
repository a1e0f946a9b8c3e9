"""Run the interop tests and write what they measured to docs/interop.md."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.interop import ROWS, Row  # noqa: E402

TESTS: Final = ("tests/browser/test_variants.py", "tests/real/test_aiortc.py")
SELECTION: Final = "every_offer or offers_of"
PAGE: Final = ROOT / "docs" / "interop.md"

HEAD: Final = """\
# Interop

What stock clients offer, and how their calls went, one call each on loopback or (Firefox) across a
virtual link. Written by `scripts/interop` from the same tests that run in CI
(`{tests}`): do not edit.

"ok" means: connected, audio came back where the client listens and none where it does not, a data
channel is open where the row says so, and the session ended when the client closed. The DTLS role
is ours. The setup time runs in the client from the POST of the offer to `connected`; the first call
of a process is slower than the others.

| client | version | what | result | SRTP profile | DTLS role | setup ms |
|---|---|---|---|---|---|---|
"""

TAIL: Final = """
## What the rows show

- The DTLS server chooses the SRTP profile: Chromium takes AES_CM where it is the server and agrees
  to GCM where we are; Firefox and aiortc take GCM either way.
- Data channels open wherever the offer puts them, first or last. Video is not served: a section
  that the offer puts first carries the BUNDLE and is accepted, idle; the others are rejected.
- aiortc counts the transports of rejected sections: its `connectionState` stays `connecting` while
  the audio flows, and its channel waits for them as well, but for max-bundle. With max-bundle (not its default) it takes the candidates of the last section
  only, so that a rejected section behind the audio leaves it without any: it never connects.
- Muting a track, `replaceTrack(null)` and a call that hears nothing keep the session. `pc.close()`
  ends it within milliseconds by close_notify. A closed tab says nothing in Chromium: the session
  ends when consent runs out, 30 s later by default.
"""


def main() -> int:
    """Run the tests; the page is written only when they pass."""
    with tempfile.TemporaryDirectory() as directory:
        rows = Path(directory) / "rows"
        command = [sys.executable, "-m", "pytest", "-q", *TESTS, "-k", SELECTION]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, ROWS: str(rows)}).returncode
        if code == 0:
            PAGE.write_text(render(rows.read_bytes().splitlines()))
        return code


def render(lines: list[bytes]) -> str:
    """The whole page."""
    rows = [msgspec.json.decode(line, type=Row) for line in lines]
    return HEAD.format(tests="`, `".join(TESTS)) + "".join(map(_line, rows)) + TAIL


def _line(row: Row) -> str:
    profile = row.srtp.removeprefix("SRTP_")
    setup = "" if row.setup_ms is None else f"{row.setup_ms:.0f}"
    cells = (row.client, row.version, row.what, row.result, profile, row.role, setup)
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    sys.exit(main())
