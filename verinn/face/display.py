"""The live line on stderr, when stderr is a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from verinn.progress import Progress


def progress_text(progress: Progress) -> str:
    """Phase, domains, worst margin, time: one line."""
    parts = [progress.phase, f"{progress.open} open", f"{progress.closed} closed"]
    if progress.worst is not None:
        parts.append(f"worst {progress.worst:.4g}")
    parts.append(f"{progress.elapsed:.1f} s")
    return " · ".join(parts)


class Display:
    """Shows progress on a terminal, and nothing anywhere else. ``rich`` is imported for the first line."""

    def __init__(self, start: float):
        self._active = _is_terminal()
        self._start = start
        self._live: Any = None

    def show(self, progress: Progress) -> None:
        if not self._active:
            return
        text = progress_text(progress)
        if self._live is None:
            from rich.console import Console
            from rich.live import Live
            from rich.text import Text

            self._text = Text
            self._live = Live(Text(text), console=Console(stderr=True), transient=True, refresh_per_second=8)
            self._live.start()
        else:
            self._live.update(self._text(text, no_wrap=True, overflow="ellipsis"))

    def stop(self) -> None:
        """Take the line away (from the thread that shows it)."""
        if self._live is not None:
            with contextlib.suppress(Exception):
                self._live.stop()
            self._live = None
        self._active = False

    def wipe(self) -> None:
        """Take the line away from another thread, without waiting for any lock."""
        if self._live is not None:
            with contextlib.suppress(OSError):
                os.write(2, b"\r\x1b[2K\x1b[?25h")


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False
