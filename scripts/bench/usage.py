"""What a process, and the machine, have used so far: /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Usage(msgspec.Struct, frozen=True):
    """What a process has used so far."""

    cpu_seconds: float
    resident_bytes: int

    @classmethod
    def read(cls, pid: int) -> Usage:
        """Read /proc; proc(5) numbers the fields of stat from 1, the name may hold spaces."""
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        utime, stime, resident_pages = int(stat[11]), int(stat[12]), int(stat[21])
        return cls((utime + stime) / TICKS_PER_SECOND, resident_pages * PAGE_BYTES)


def busy_seconds() -> float:
    """CPU time that all cores have spent on something; proc(5), stat."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND
