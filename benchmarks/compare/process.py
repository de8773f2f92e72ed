"""One run of one tool: its time, its memory, what it said; and nothing of it left running afterwards."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: what is read of a tool's output, in bytes; a log that runs wild is no reason to run out of memory
MOST_OUTPUT = 64 << 20


@dataclass(frozen=True)
class Ended:
    """How a process ended. ``code`` is None when it was killed at the limit, negative when a signal ended it.

    ``seconds``: wall time from before the start to the end. ``cpu``: processor seconds, ``memory``: the peak
    of its resident set in MiB; both as the kernel counts them: with the children that were waited for, and
    for memory the largest of these processes, not their sum.
    """

    code: int | None
    seconds: float
    cpu: float
    memory: float
    out: str
    err: str


def run(command: Sequence[str], limit: float, folder: Path, environment: Mapping[str, str], scratch: Path) -> Ended:
    """Run a command in ``folder``, in a process group of its own, for at most ``limit`` seconds.

    Its output goes to files in ``scratch``: a pipe would need someone to empty it. Raises OSError when it
    can't be started.
    """
    paths = scratch / "stdout", scratch / "stderr"
    with open(paths[0], "wb") as out, open(paths[1], "wb") as err:
        begun = time.monotonic()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, env=dict(environment),
            start_new_session=True,
        )  # fmt: skip
        code, seconds, usage = _wait(child, begun, limit)
    memory = usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
    cpu = usage.ru_utime + usage.ru_stime
    return Ended(code, seconds, cpu, memory, _text(paths[0]), _text(paths[1]))


def _wait(
    child: subprocess.Popen[bytes], begun: float, limit: float
) -> tuple[int | None, float, resource.struct_rusage]:
    """Wait for a child, or kill it when the time is up. An interrupt kills it, too, and is passed on."""
    late = threading.Event()
    alarm = threading.Timer(max(0.0, limit - (time.monotonic() - begun)), _ring, (late, child.pid))
    alarm.daemon = True
    alarm.start()
    try:
        # Not reaped yet: until then the process and group ids are nobody else's, and killing is safe.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.monotonic() - begun
    finally:
        alarm.cancel()
        alarm.join()
        kill_group(child.pid)  # also what the child itself left running
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    killed = late.is_set() and child.returncode == -signal.SIGKILL
    return None if killed else child.returncode, seconds, usage


def _ring(late: threading.Event, group: int) -> None:
    late.set()
    kill_group(group)


def kill_group(group: int) -> None:
    """Kill every process of a group; one that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _text(path: Path) -> str:
    with open(path, "rb") as stream:
        return stream.read(MOST_OUTPUT).decode(errors="replace")
