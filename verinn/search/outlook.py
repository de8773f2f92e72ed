"""How long a search over ReLU phases may take, told from what its first levels of splits lift."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from verinn.bounds.climb import climb, evaluate
from verinn.search.neurons import PhaseTask, branch

#: first splits lift more than later ones: the levels that are told from them are too few by about this factor
HOPE = 1.4


def outlook(task: PhaseTask) -> float:
    """How many domains a search may take, told from what its first levels of splits lift: infinite for nothing.

    An estimate: it decides what is tried first, never what is true.
    """
    root = task.root()
    if not bool(root.free.any()):
        return 1.0  # a linear programme
    with torch.no_grad():
        primal = evaluate(task.frame, task.goals, root.rows(task.allowed), root.multipliers)
        children, _ = branch(task, replace(root, worst=primal.value.double().clamp(max=0)), primal)
        if children is None:
            return 1.0
        rows = children.rows(task.allowed)
        best, _, _ = climb(task.frame, task.goals, rows, children.multipliers, task.pace, 0.0, task.expired)
    levels = max(1.0, math.log2(len(children)))
    before = max(0.0, -float(primal.value[0]))
    lift = (before - float((-best).clamp(min=0).mean())) / levels
    return 2.0 ** min(64.0, HOPE * before / lift + 1) if lift > 0 else math.inf
