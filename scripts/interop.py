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

from tests.support.interop import ROWS, ClientRow, Row, TripsRow  # noqa: E402

TESTS: Final = (
    "tests/browser/test_plain_client.py",
    "tests/browser/test_round_trips.py",
    "tests/browser/test_sdk_agents.py",
    "tests/browser/test_sdk_pipecat.py",
    "tests/browser/test_sdk_whip.py",
    "tests/browser/test_variants.py",
    "tests/real/test_aiortc.py",
    "tests/real/test_node_clients.py",
    "tests/real/test_openai.py",
)
SELECTION: Final = (
    "every_offer or offers_of or sdk or plain or stack or sideband_hears or round_trips_of"
)
PAGE: Final = ROOT / "docs" / "interop.md"

HEAD: Final = """\
# Interop

What stock clients do with an edge, each unmodified, on loopback or (Firefox) across a virtual link.
Written by `scripts/interop` from the same tests that run in CI: do not edit.
{tests}

## Clients

| client | version | media | channel | restart | setup ms | round trips to media | to the channel |
|---|---|---|---|---|---|---|---|
"""

NOTES: Final = """
- The setup time runs in the client from the POST of the offer to `connected`.
- Round trips are counted from the client's first datagram on, by a proxy that holds every datagram
  for 100 ms: the time until the first RTP packet, or until the client says that its channel is
  open, divided by 200 ms. What is over a whole number is the client's own computing and timers.
- "by PATCH" is an ICE restart as in WHIP, on a call that was opened in OpenAI's dialect. The
  packages never restart ICE: `@openai/agents-realtime` gives a call up, Pipecat's opens another.
- `@eyevinn/whip-web-client` trickles by PATCH and names the session by `ETag` where RFC 9725 has
  `If-Match`; both are taken. With audio alone it trickles nothing (it takes the mid 0 for none).
- Pipecat's runs with its `WavMediaManager`: its default one loads a script from the network. Its
  channel `chat` carries the session's events like `oai-events`.
- aiortc takes a round trip more: with an ICE-lite server it sends a second check, with
  USE-CANDIDATE, and DTLS waits for the answer. Its `open` waits until its OPEN is acknowledged.
- werift takes a quarter of a second even where nothing is held back; where it spends that was not
  looked into, so its round trips may be timers rather than turns.

## Round trips

By what the client offers ([SNAP](protocols.md#data-channels), [SPED](protocols.md#sped)), counted
as above: medians of five calls, and the most.

| client | version | offers | to media | most | to the channel | most |
|---|---|---|---|---|---|---|
{trips}
The last row is why an offer of SPED is answered. A Chromium whose offer is not may lose its first
flight, and wait for the repetition of ours: 4.1 and more, in some runs for every second call, in
others for none.

## Offers

One call each. "ok" means: connected, audio came back where the client listens and none where it
does not, and the session ended when the client closed. The DTLS role is ours; the setup time as
above, the first call of a process is slower than the others.

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
  the audio flows, and its data channel waits for them for ever. With max-bundle (not its default)
  neither is so, but it takes the candidates of the last section only: with a rejected section
  behind all that is served it never connects.
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
    rows = [msgspec.json.decode(line, type=Row | ClientRow | TripsRow) for line in lines]
    clients = [_client_line(row) for row in rows if isinstance(row, ClientRow)]
    offers = [_line(row) for row in rows if isinstance(row, Row)]
    trips = "".join(_trips_line(row) for row in rows if isinstance(row, TripsRow))
    head = HEAD.format(tests="".join(f"\n- `{test}`" for test in TESTS))
    return "".join((head, *clients, NOTES.format(trips=trips), *offers, TAIL))


def _client_line(row: ClientRow) -> str:
    trips = (_figure(each, 1) for each in (row.trips_to_media, row.trips_to_channel))
    shown = (row.media, row.channel, row.restart)
    cells = (row.client, row.version, *shown, _figure(row.setup_ms), *trips)
    return f"| {' | '.join(cells)} |\n"


def _trips_line(row: TripsRow) -> str:
    trips = (row.to_media, row.most_to_media, row.to_channel, row.most_to_channel)
    cells = (row.client, row.version, row.offer, *(_figure(each, 1) for each in trips))
    return f"| {' | '.join(cells)} |\n"


def _figure(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _line(row: Row) -> str:
    profile = row.srtp.removeprefix("SRTP_")
    cells = (row.client, row.version, row.what, row.result, profile, row.role)
    return f"| {' | '.join((*cells, _figure(row.setup_ms)))} |\n"


if __name__ == "__main__":
    sys.exit(main())
