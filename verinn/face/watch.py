"""A thread that ends the run on time, or when it is interrupted, whatever the engine is doing."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LONGEST_WAIT = 3600.0


def watch(deadline: float | None, late: Callable[[], None], interrupted: Callable[[str], None]) -> None:
    """Call ``late`` at the deadline (time.monotonic()), ``interrupted(signal name)`` on SIGINT or SIGTERM.

    Both are called in a thread of their own and are expected not to return (os._exit): a Python signal
    handler has to wait until the main thread comes back from native code, which may take minutes. The
    signal reaches the thread through a pipe that the C-level handler writes to. Main thread only.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, _ignore)
    threading.Thread(target=_wait, args=(reader, deadline, late, interrupted), name="watch", daemon=True).start()


def _ignore(number: int, frame: FrameType | None) -> None:
    """In place of the default handlers: the watching thread acts, the main thread must not be disturbed."""


def _wait(reader: int, deadline: float | None, late: Callable[[], None], interrupted: Callable[[str], None]) -> None:
    while True:
        left = LONGEST_WAIT if deadline is None else deadline - time.monotonic()
        if left <= 0:
            late()
            return
        ready, _, _ = select.select([reader], [], [], min(left, LONGEST_WAIT))
        if not ready:
            continue
        names = {int(number): number.name for number in SIGNALS}
        for number in os.read(reader, 64):
            if number in names:
                interrupted(names[number])
