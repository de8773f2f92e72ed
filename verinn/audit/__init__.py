"""Audits of verifiers: instances whose exact truth is known, and what a tool says of them.

Generators make networks with counterexamples that no attack finds, and twins without one; ``build`` writes a
suite of them. Nothing of the verifier itself is used to make one.
"""

from __future__ import annotations

from pathlib import Path

SIZES = ("quick", "committed", "full")


def build(seed: int, out: str | Path, size: str = "committed") -> None:
    """Write a fresh soundness suite to the folder ``out``; the same seed and size give the same files.

    ``size``: ``quick`` (some forty instances), ``committed`` (what ``soundness/`` holds) or ``full`` (as many
    trained networks, and as large, as in the paper; meant for a GPU). InputError for a bad size or place.
    """
    from verinn.audit.suite import write_suite

    write_suite(seed, Path(out), size)
