"""How much of a bound is lost in each ReLU's relaxation, counted through all the intervals that it widens.

Where intervals are bounded anew once a phase is known, a neuron of an early layer pays mostly by what the
intervals behind it become. This is the derivative of the bound by the neuron's share in the area above the
ReLU, as in BaBSR (Bunel et al., 2020), but taken through the bounds of later layers as well: by the chain
rule from the last layer to the first, each bound's own derivatives being read off the point at which it is
attained. It decides what is tried first, never what is true.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verinn.bounds.climb import Multipliers, Rows, evaluate
from verinn.search.lift import rows_of, wanted
from verinn.search.neurons import PhaseTask
from verinn.search.phases import Phases

#: the part of a layer's weight that the neurons carry through which the layers before it are weighed
MAIN = 0.7
#: where there is less hope than this part of what there is for later layers, earlier ones are left alone
AWAKE = 0.05
#: what is tightened makes up at most about this part of all that tightening may be expected to gain
MOST = 0.95


def leverage(box: PhaseTask, goal: PhaseTask) -> Tensor:
    """(U,): what the bound of ``goal`` would gain by the relaxation of each neuron being exact, to first order.

    ``box``: the same box without goals, with what is remembered of its bounds. −∞ where no phase is open.
    """
    root = goal.root()
    rows = root.rows(goal.allowed)
    score, lower, upper = _lost(goal, rows, root.multipliers, torch.ones_like(root.gamma[:, 0]))
    open_ = ((box.low < 0) & (box.high > 0))[0]
    for layer in reversed(range(len(box.columns.names))):
        part = box.columns.part(layer)
        some = open_[part].nonzero().squeeze(1)
        for block in some.split(rows_of(box) // 2) if len(some) else ():
            column = block + part.start
            # what a violation of the goal gains by a lower bound of z that is lower, by one of −z
            weight = torch.cat([lower[column], -upper[column]])
            asked, first = wanted(box, layer, block, box.low, box.high, box.alpha)
            more = _lost(box, asked, first, weight)
            score, lower, upper = score + more[0], lower + more[1], upper + more[2]
    return torch.where(open_, score, -torch.inf)


def weighty(task: PhaseTask, domain: Phases, part: float, hope: Tensor) -> tuple[Tensor, Tensor]:
    """(chosen bool (U,), weight (U,)): at most ``part`` of all columns, of whose intervals' being tightened the
    goals' bound may be expected to gain most in one domain, and what it would gain by each one's shrinking to nothing.

    The latter is a derivative; ``hope`` (L,), the part of their widths that a layer's intervals were found to lose,
    says how much of it may come. Layers are gone through from the last one, as long as there is hope for those before,
    and only the weightiest neurons of each are asked what they hang on themselves.
    """
    _, lower, upper = _lost(task, domain.rows(task.allowed), domain.multipliers, torch.ones_like(domain.gamma[:, 0]))
    weight, expected = torch.zeros_like(lower), torch.zeros_like(lower)
    width = (domain.upper - domain.lower)[0]
    best = 0.0
    for layer in reversed(range(len(task.columns.names))):
        columns = task.columns.part(layer)
        some = domain.free[0, columns].nonzero().squeeze(1)
        if not len(some):
            continue
        column = some + columns.start
        weight[column] = (lower[column].clamp(min=0) - upper[column].clamp(max=0)) * width[column]
        expected[column] = weight[column] * hope[layer]
        if bool((weight[column] > 0).any()):
            best = max(best, float(hope[layer]))
        if bool((hope[:layer] < AWAKE * best).all()):
            break
        order = weight[column].argsort(descending=True)
        total = weight[column][order].cumsum(0)
        main = some[order[: int((total < MAIN * total[-1]).sum()) + 1]].sort().values
        for block in main.split(rows_of(task) // 2):
            column = block + columns.start
            owed = torch.cat([lower[column], -upper[column]]).clamp(min=0)
            _, by_low, by_high = _lost(
                task, *wanted(task, layer, block, domain.lower, domain.upper, domain.alpha), owed
            )
            lower, upper = lower + by_low, upper + by_high
    chosen = torch.zeros_like(weight, dtype=torch.bool)
    first = expected.topk(max(1, int(part * len(weight))))
    chosen[first.indices[first.values.cumsum(0) - first.values < MOST * expected.sum()]] = True
    return chosen, weight


def _lost(task: PhaseTask, rows: Rows, multipliers: Multipliers, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums (U,) over bounds, weighed by ``weight`` (B,) ≥ 0: what is lost above each ReLU, and the derivatives by
    both ends of its interval.

    The upper line is u(z − l)/(u − l); where its coefficient is negative, it is what a bound charges.
    """
    primal = evaluate(task.frame, task.asked, rows, multipliers)
    low, high = rows.lower, rows.upper
    free = (low < 0) & (high > 0)
    width = torch.where(free, high - low, 1.0)
    charged = torch.where(free, (-primal.a).clamp(min=0), 0.0) * weight.unsqueeze(1)
    z = torch.minimum(torch.maximum(primal.z, low), high)
    lost = charged * (-low * high / width)
    by_low = charged * high * (high - z) / width**2
    by_high = charged * low * (z - low) / width**2
    return lost.sum(0), by_low.sum(0), by_high.sum(0)
