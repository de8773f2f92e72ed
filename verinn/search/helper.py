"""A second process for a search: on two cores it is faster than a thread, which shares one interpreter.

It is forked from the running search, so it has the program and the spec already, and lives on a pipe:
domains go in, what was explored comes back (or any other function of the task). When the pipe closes it ends.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

import torch

from verinn.search.explore import Explored
from verinn.search.store import Batch
from verinn.search.work import Work


class Helper:
    """A forked process for one task. ``explore`` blocks without holding the interpreter, so call it in a thread."""

    def __init__(self, task: Work):
        to_child, to_close = os.pipe()
        from_close, from_child = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(to_close)
            os.close(from_close)
            _serve(task, to_child, from_child)
        os.close(to_child)
        os.close(from_child)
        # files close themselves when nobody holds them: a thread may still be reading when the search ends
        self._target = os.fdopen(to_close, "wb", buffering=0)
        self._source = os.fdopen(from_close, "rb", buffering=0)

    @staticmethod
    def possible() -> bool:
        """Whether this platform forks."""
        return hasattr(os, "fork") and sys.platform.startswith("linux")

    def explore(self, domains: Batch) -> Explored:
        """What the task's ``explore`` returns, or its exception. EOFError or OSError when the process died."""
        answer = self.call(_explored, domains)
        assert isinstance(answer, Explored)
        return answer

    def call(self, function: Callable[..., Any], *given: Any) -> Any:
        """``function(task, *given)`` as the process sees the task; the function is found by its name."""
        _send(self._target.fileno(), (function, given))
        answer = _receive(self._source.fileno())
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, also in the middle of its work."""
        pid, self._pid = self._pid, 0  # once it was waited for, its number may be another's
        if pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _serve(task: Work, source: int, target: int) -> None:
    """The child's life. It never returns, prints nothing and leaves the parent's files alone."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gives the answer, and then closes the pipe
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        torch.set_num_threads(1)
        while True:
            function, given = _receive(source)
            try:
                with torch.no_grad():
                    answer: Any = function(task, *given)
            except Exception as error:
                answer = RuntimeError(f"{type(error).__name__}: {error}")
                if isinstance(error, MemoryError):
                    answer = MemoryError(str(error))
            _send(target, answer)
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)


def _explored(task: Work, domains: Batch) -> Explored:
    return task.explore(domains)


def _send(handle: int, value: object) -> None:
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    view = memoryview(struct.pack("<Q", len(data)) + data)
    while view:
        view = view[os.write(handle, view) :]


def _receive(handle: int) -> Any:
    (size,) = struct.unpack("<Q", _read(handle, 8))
    return pickle.loads(_read(handle, size))


def _read(handle: int, size: int) -> bytes:
    pieces = []
    while size:
        piece = os.read(handle, min(size, 1 << 20))
        if not piece:
            raise EOFError("the helper process ended")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
