"""When this process started, and when it has to stop."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

# How much earlier than promised the engine is told to stop, and the watch says `timeout`: the first
# leaves room to hand back what was found, the second to write it. Both shrink with small limits.
ENGINE_MARGIN = 0.4
WATCH_MARGIN = 0.15
LONGEST_START = 5.0  # seconds that an interpreter may take to start


@dataclass(frozen=True)
class Deadlines:
    """time.monotonic() values. ``engine`` < ``watch`` < the moment that the user named."""

    engine: float
    watch: float


def process_start() -> float:
    """The start of this process on the time.monotonic() scale.

    Linux tells it in /proc/self/stat (in clock ticks since boot). Elsewhere, or where that can't be, the
    best guess is now, less the processor time used so far. It can't be where it is long ago: a shell that
    ends in `exec verinn` hands its own start on, and some sandboxes tell nonsense.
    """
    now = time.monotonic()
    try:
        with open("/proc/self/stat", "rb") as stream:
            # The command name may hold spaces and brackets: count fields from its closing bracket.
            fields = stream.read().rpartition(b")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        age = -1.0
    if not 0.0 <= age <= LONGEST_START:
        age = time.process_time()
    return now - age


def deadlines(timeout: float | None, start: float) -> Deadlines | None:
    """The deadlines of a run that may take ``timeout`` seconds from ``start``; None without a limit."""
    if timeout is None:
        return None
    end = start + timeout
    return Deadlines(
        engine=end - min(ENGINE_MARGIN, 0.1 * timeout),
        watch=end - min(WATCH_MARGIN, 0.03 * timeout),
    )
