"""Ends of single neurons, moved by linear programmes over the exact formula of the layers before them.

What a neuron's end lacks is a row of that formula: z ≤ its lower end, −z ≤ −its upper one. However far HiGHS says that
the row must be exceeded, only the multipliers count: the rows that they weigh, added up with rounding counted
(``System.least``), say by how much at least. One programme is the triangle relaxation (Ehlers, ATVA 2017); a tree over
the phases before the neuron, the least promising domain first, is the neuron's MILP (Tjeng, Xiao and Tedrake, ICLR
2019) with a bound at any time: the least of its open domains.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import count

import numpy as np
from torch import Tensor

from verinn.bounds.crown import Relaxation
from verinn.errors import Unsupported
from verinn.exact.domains import Domain
from verinn.exact.encoding.encode import TooLarge, encode
from verinn.exact.encoding.formula import ONE, Any, Comparison, Form, Key
from verinn.exact.milp.programme import Guess, Programme
from verinn.exact.milp.system import Fork, System, system_of
from verinn.exact.milp.tree import Places

#: a point that breaks no choice by more than this, in units of rows, is one of the network: no split moves it
_KEPT = 1e-9

Ends = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Effort:
    """What refining one layer may take. ``left``: seconds that there still are; ``each``: seconds for one end;
    ``nodes``: programmes for one end, 1 for the relaxation alone; ``workers``: threads."""

    left: Callable[[], float]
    each: float = 2.0
    nodes: float = math.inf
    workers: int = 1


def refined(
    relaxation: Relaxation, lower: Tensor, upper: Tensor, source: str, index: np.ndarray, effort: Effort
) -> Ends:
    """Ends (K,), float64, of some elements of a value, which hold for every input of the box and are never wider
    than the relaxation's; the first elements have their turn first.

    ``relaxation`` of one box (1, n) in float64; ``index`` (K,) into the flattened value. What time leaves over, or
    what has no exact formula, keeps the ends that it has.
    """
    known = relaxation.intervals[source]
    low, high = (np.array(end[0].double().flatten().cpu().numpy()[index]) for end in known)
    some = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
    if not len(some) or effort.left() <= 0:
        return low, high
    try:
        system = _system(relaxation, lower, upper, source, index[some], (low[some], high[some]), effort)
    except (TooLarge, Unsupported):
        return low, high

    def worked(first: int) -> None:
        """Every so manieth neuron; no two threads write to the same."""
        ends = _Ends(system, effort)
        for number in range(first, len(some), effort.workers):
            if effort.left() <= 0:
                return
            at = some[number]
            low[at], high[at] = ends.of(number, float(low[at]), float(high[at]))

    if effort.workers > 1:
        with ThreadPoolExecutor(effort.workers) as pool:
            list(pool.map(worked, range(effort.workers)))
    else:
        worked(0)
    return low, high


def _system(
    relaxation: Relaxation, lower: Tensor, upper: Tensor, source: str, index: np.ndarray, ends: Ends, effort: Effort
) -> System:
    """The layers before the neurons, and a choice of which end is asked for: 2k and 2k + 1 are those of neuron k.

    Raises TooLarge (also where time is up) and Unsupported.
    """
    low_x, high_x = (end[0].double().cpu().numpy() for end in (lower, upper))
    draft = encode(relaxation.program, low_x, high_x, [source], relaxation, lambda: effort.left() <= 0)
    ways = []
    for place, low, high in zip(index.tolist(), ends[0].tolist(), ends[1].tolist(), strict=True):
        form: Form = draft.values[source][place]
        ways.append(Comparison(form.shifted(-Fraction(low)), "<="))
        ways.append(Comparison((form * -ONE).shifted(Fraction(high)), "<="))
    draft.builder.conditions.append(Any(tuple(ways)))
    return system_of(draft.finished())


class _Ends:
    """One thread's programme, asked end after end."""

    def __init__(self, system: System, effort: Effort):
        self.system, self.effort = system, effort
        self.programme, self.places = Programme(system), Places.of(system)
        self.ways: Fork = next(fork for fork in system.choices if fork.goal)
        self.box = system.box(Domain())

    def of(self, neuron: int, low: float, high: float) -> tuple[float, float]:
        """Ends of a neuron, at least as narrow. An end that leaves one phase only is not moved on."""
        up = self._least(2 * neuron, -low if low < 0 else math.inf)
        if 0 < up < math.inf:
            low = min(max(low, math.nextafter(low + up, -math.inf)), high)
        if low < 0 < high:
            down = self._least(2 * neuron + 1, high)
            if 0 < down < math.inf:
                high = max(min(high, math.nextafter(high - down, math.inf)), low)
        return low, high

    def _least(self, way: int, enough: float) -> float:
        """By how much, at least, every point of the network stays inside an end; ``enough`` ends the search."""
        row = int(self.ways.rows[way][0])
        enough = math.nextafter(enough, math.inf) * (1 + 1e-12)  # what is cut off by rounding is not missed
        number, until = count(), time.monotonic() + min(self.effort.each, self.effort.left())
        first: dict[Key, int] = {self.ways.key: way}
        open_, done, nodes = [(0.0, next(number), first)], math.inf, 0
        while open_ and open_[0][0] < done and nodes < self.effort.nodes:
            seconds = until - time.monotonic()
            if seconds <= 0:
                break
            gain, _, phases = heapq.heappop(open_)
            domain, nodes = Domain(phases=phases), nodes + 1
            guess = self.programme.solved(self.system.active(phases), *self.box, seconds)
            if guess is not None:
                gain = max(gain, self._proved(guess, domain, row))
            fork = None if gain >= enough else self._next(domain, guess)
            if fork is None:
                done = min(done, gain)
                continue
            for phase in fork.phases:
                heapq.heappush(open_, (gain, next(number), {**phases, fork.key: phase}))
        return min(done, open_[0][0]) if open_ else done

    def _proved(self, guess: Guess, domain: Domain, row: int) -> float:
        """What multipliers prove of the value of one row in a domain; ∞: that no point is in it."""
        active = self.system.active(domain.phases)
        best = -math.inf
        for sign in (1.0, -1.0) if guess.point is None else (1.0,):  # a ray may point either way
            found = self.system.least(np.where(active, sign * guess.weights, 0.0), *self.box)
            weight = float(found.weights[row])
            if found.value > 0:
                best = max(best, math.nextafter(found.value / weight, 0.0) if weight > 0 else math.inf)
        return best

    def _next(self, domain: Domain, guess: Guess | None) -> Fork | None:
        """The choice to split; None: there is none, or none that would change anything."""
        if guess is None or guess.point is None:
            return self.places.worst(domain, None, np.zeros(self.system.rows))
        broken = self.places.broken(guess.point)
        some = [n for n, fork in enumerate(self.system.choices) if fork.key not in domain.phases]
        if not some or broken[some].max() <= _KEPT:
            return None
        return self.places.worst(domain, guess.point, guess.weights)


__all__ = ["Effort", "refined"]
