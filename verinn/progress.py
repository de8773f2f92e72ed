"""What a run tells while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A moment of a run: handed to the ``progress`` callback of ``verify``, never kept.

    ``phase``: one word, such as "attack" or "search". ``open``/``closed``: domains (parts of the input
    space) still to decide and already decided. ``worst``: the lowest margin that is still to be proved
    positive, None before there is one. ``left``: the share of the search that the splits made so far
    leave open, None before there is one. ``elapsed``: seconds since the run began.
    """

    phase: str
    open: int = 0
    closed: int = 0
    worst: float | None = None
    elapsed: float = 0.0
    left: float | None = None
