"""Audits of verifiers: instances whose exact truth is known, and what a tool says of them.

Generators make networks with counterexamples that no attack finds, and twins without one; ``build`` writes a
suite of them. Nothing of the verifier itself is used to make one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

SIZES = ("quick", "committed", "full")


def build(
    seed: int,
    out: str | Path,
    size: str = "committed",
    recorded: str | Path | None = None,
    attack: bool = True,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Write a fresh soundness suite to the folder ``out``; the same seed and size give the same files.

    ``size``: ``quick`` (some fifty instances), ``committed`` (what ``soundness/`` holds) or ``full`` (as many
    trained networks, and as large, as in the paper; meant for a GPU). ``recorded``: a folder with trained weights and
    what attacks found, which are not computed again. ``attack``: whether planted counterexamples are attacked.
    InputError for a bad size or place.
    """
    from verinn.audit.suite import write_suite

    write_suite(seed, Path(out), size, None if recorded is None else Path(recorded), attack, progress)
