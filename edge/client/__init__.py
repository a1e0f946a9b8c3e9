"""Our own stack in the client's role: many calls in one process, measured packet by packet.

A load generator and a probe, not a softphone: its "audio" is numbered, time-stamped payloads that
look like 20 ms Opus frames, so that every echo tells which packet it answers and how long it took.
"""

from edge.client.caller import CallStatistics, SetupTimes
from edge.client.load import CallRefused, Load, LoadClient, open_load

__all__ = ["CallRefused", "CallStatistics", "Load", "LoadClient", "SetupTimes", "open_load"]
