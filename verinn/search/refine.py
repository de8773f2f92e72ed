"""Single neurons of a box refined by linear programmes, those first whose relaxation costs the open bounds most."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import relax
from verinn.exact.neurons import Effort
from verinn.exact.neurons import refined as ends_of
from verinn.search.box import Box, Open, narrowed
from verinn.search.leverage import leverage
from verinn.search.lift import sharp

#: the part of the time that is left, and the seconds where there is no end
SHARE, SECONDS = 0.25, 60.0
#: seconds for one end, and programmes
EACH = {"lp": 10.0, "milp": 2.0}
NODES = {"lp": 1.0, "milp": math.inf}


def refined(box: Box, left: list[Open]) -> Box:
    """The box with intervals of unstable neurons moved for all its inputs, layer by layer from the second on.

    ``left``: what is open in this box; the farthest from a proof speaks for all.
    """
    refinement, setting = box.setting.refinement, box.setting
    if refinement is None or not left:
        return box
    free, columns = box.free(), box.columns
    worst = min(left, key=lambda one: one.bound).task
    score = leverage(free, replace(worst, low=free.low, high=free.high))
    plain = sharp(free)
    layers = [i for i in range(len(columns.names)) if i not in plain and bool(box.open[columns.part(i)].any())]
    now, given = time.monotonic(), SHARE * refinement.left()
    until = now + (given if math.isfinite(given) else SECONDS)
    intervals = dict(box.careful.intervals)
    for number, layer in enumerate(layers):
        part, source = columns.part(layer), columns.sources[layer]
        end = time.monotonic() + (until - time.monotonic()) / (len(layers) - number)
        order = score[part].argsort(descending=True)
        order = order[score[part][order].isfinite()]
        effort = Effort(partial(_left, end), EACH[refinement.kind], NODES[refinement.kind], setting.workers)
        index = columns.index[layer][order]
        known = Relaxation(box.careful.program, intervals)
        low, high = ends_of(known, box.lower, box.upper, source, index.cpu().numpy(), effort)
        ends = tuple(torch.from_numpy(np.ascontiguousarray(one)).to(box.lower).unsqueeze(0) for one in (low, high))
        intervals[source] = narrowed(intervals[source], index, (ends[0], ends[1]))
    behind = relax(
        box.careful.program, box.lower, box.upper, intervals,
        budget=setting.budget, workers=setting.workers, relevant=setting.relevant, expired=setting.expired,
    )  # fmt: skip
    return Box.of(setting, box.lower, box.upper, behind, True, box.depth)


def _left(until: float) -> float:
    return until - time.monotonic()
