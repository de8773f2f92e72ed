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
    if progress.left is not None:
        parts.append(f"{progress.left:.2%} left")
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


class Bar:
    """A progress bar over a number of steps on a terminal; one line a step anywhere else."""

    def __init__(self, total: int):
        self._total = total
        self._done = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if _is_terminal() and self._total:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def step(self, text: str) -> None:
        self._done += 1
        text = " ".join(text.split())
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=text)
        else:
            print(f"[{self._done}/{self._total}] {text}", file=sys.stderr, flush=True)

    def __exit__(self, *details: object) -> None:
        if self._bar is not None:
            self._bar.stop()
