"""Every setting there is, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

#: what decides: halved boxes, split ReLU phases, split values of any graph, Z3, or integer programmes
ENGINES = ("auto", "boxes", "phases", "values", "smt", "milp")

#: what moves the ends of single neurons before phases are split: nothing, one linear programme each, or a tree of them
REFINEMENTS = ("none", "lp", "milp")


@dataclass(frozen=True)
class Options:
    """Settings of one run. Nothing here is tuned to an instance: the plan looks at the problem.

    ``deadline`` is a time.monotonic() value; None means no limit.
    ``device``: "auto", "cpu" or "cuda". ``memory``: bytes that one batch of domains may take.
    ``engine``: one of ``ENGINES``; "auto" leaves it to the plan.
    ``refine``: one of ``REFINEMENTS``; it acts where phases are split.
    """

    deadline: float | None = None
    device: str = "auto"
    seed: int = 0
    memory: int = 2 << 30
    attack: bool = True
    threads: int | None = None
    engine: str = "auto"
    refine: str = "none"
