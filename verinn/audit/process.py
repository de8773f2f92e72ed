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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: what is read of a tool's output, in bytes; a log that runs wild is no reason to run out of memory
MOST_OUTPUT = 64 << 20
_PROC = Path("/proc")
_LOOK = 0.1  # seconds between two looks at the memory in use
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True)
class Ended:
    """How a process ended. ``code`` is None when it was killed at a limit, negative when a signal ended it.

    ``seconds``: wall time from before the start to the end. ``cpu``: processor seconds, ``memory``: the peak
    of its resident set in MiB; both as the kernel counts them: with the children that were waited for, and
    for memory the largest of these processes, not their sum. ``limit``: which limit it was killed at.
    """

    code: int | None
    seconds: float
    cpu: float
    memory: float
    out: str
    err: str
    limit: str = ""  # "time" or "memory"


class Running:
    """The tools that run now, each in a session of its own, so that they can be ended together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: set[int] = set()
        self._closed = False

    def add(self, session: int) -> None:
        with self._lock:
            self._sessions.add(session)
            if self._closed:
                kill_session(session)

    def remove(self, session: int) -> None:
        with self._lock:
            self._sessions.discard(session)

    def kill(self) -> None:
        with self._lock:
            self._closed = True
            for session in self._sessions:
                kill_session(session)


def run(
    command: Sequence[str],
    limit: float,
    folder: Path,
    environment: Mapping[str, str],
    scratch: Path,
    memory: float | None = None,
    running: Running | None = None,
) -> Ended:
    """Run a command in ``folder``, in a session of its own, for at most ``limit`` seconds.

    ``memory``: MiB that its processes may hold together (their resident sets, looked at ten times a second;
    kept where there is a /proc). Output goes to files in ``scratch``: a pipe would need someone to empty it.
    Raises OSError when it can't be started.
    """
    paths = scratch / "stdout", scratch / "stderr"
    with open(paths[0], "wb") as out, open(paths[1], "wb") as err:
        begun = time.monotonic()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, env=dict(environment),
            start_new_session=True,
        )  # fmt: skip
        if running is not None:
            running.add(child.pid)
        guard = _Guard(child.pid, begun + limit, memory)
        seconds, usage = _wait(child, begun, guard, running)
    peak = usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
    killed = bool(guard.broken) and child.returncode == -signal.SIGKILL
    return Ended(
        code=None if killed else child.returncode,
        seconds=seconds,
        cpu=usage.ru_utime + usage.ru_stime,
        memory=peak,
        out=_text(paths[0]),
        err=_text(paths[1]),
        limit=guard.broken if killed else "",
    )


def _wait(
    child: subprocess.Popen[bytes], begun: float, guard: _Guard, running: Running | None
) -> tuple[float, resource.struct_rusage]:
    """Wait for a child, or kill it at a limit. An interrupt kills it, too, and is passed on."""
    guard.start()
    try:
        # Not reaped yet: until then the process and session ids are nobody else's, and killing is safe.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        seconds = time.monotonic() - begun
    finally:
        guard.stop()
        if running is not None:
            running.remove(child.pid)
        kill_session(child.pid)  # also what the child itself left running
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return seconds, usage


class _Guard(threading.Thread):
    """Kills a session when its time is up, or when it holds too much memory. ``broken`` tells which limit."""

    def __init__(self, session: int, end: float, memory: float | None):
        super().__init__(daemon=True)
        self.broken = ""
        self._session = session
        self._end = end
        self._memory = memory if memory is not None and _PROC.is_dir() else None
        self._done = threading.Event()

    def run(self) -> None:
        while not self.broken:
            left = self._end - time.monotonic()
            if left <= 0:
                self.broken = "time"
            elif self._memory is not None and _resident(self._session) > self._memory:
                self.broken = "memory"
            elif self._done.wait(left if self._memory is None else min(left, _LOOK)):
                return
        kill_session(self._session)

    def stop(self) -> None:
        self._done.set()
        self.join()


def _resident(session: int) -> float:
    """MiB held by the processes of a session."""
    pages = 0
    for process in _members(session):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages += int((_PROC / str(process) / "statm").read_text().split()[1])
    return pages * _PAGE / (1 << 20)


def kill_session(session: int) -> None:
    """Kill every process of a session; what is gone already is fine.

    A session outlives process groups: a tool's wrapper may put its child into a group of its own. Processes
    that are started while others are killed are found by looking again.
    """
    for _ in range(20):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session, signal.SIGKILL)
        alive = [process for process in _members(session) if process != session]
        if not alive:
            return
        for process in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)


def _members(session: int) -> Iterator[int]:
    """The living processes of a session, where there is a /proc to ask."""
    try:
        names = [name for name in os.listdir(_PROC) if name.isdigit()]
    except OSError:
        return
    for name in names:
        try:
            state, _, _, owner = (_PROC / name / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if owner == str(session) and state not in "ZX":
            yield int(name)


def _text(path: Path) -> str:
    with open(path, "rb") as stream:
        return stream.read(MOST_OUTPUT).decode(errors="replace")
