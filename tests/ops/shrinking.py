"""A box over which bounds are wrong, made small by Hypothesis: fewer elements, rounder ends, a smaller graph."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from random import Random

import numpy as np
from gate import Report, check_graph_boxes
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from ops_cases import CASES

from verinn.ir.graph import Graph
from verinn.ops.registry import OPS

#: graphs of the operator, with attributes of their own, that are tried beside the one that failed
GRAPHS = 40
#: what becomes of an element's interval: the point 0, ends of so many digits; above, it stays as it is
DIGITS = {1: 0, 2: 1, 3: 3}
#: most draws leave an element, or the graph, as it is, so that the failure itself is among the first
STAYS = 60


@dataclass(frozen=True, eq=False)
class Failure:
    """A graph of one node and a box (n,) of float32 over which a bound is wrong."""

    graph: Graph
    low: np.ndarray
    high: np.ndarray
    wrong: str

    def __str__(self) -> str:
        shapes = " and ".join(str(list(value.shape)) for value in self.graph.inputs)
        return f"{self.wrong} (inputs {shapes}, {self.low.tolist()} to {self.high.tolist()})"


def check(graph: Graph, low: np.ndarray, high: np.ndarray) -> list[str]:
    """What is wrong with the bounds over one box; the same points are looked at each time."""
    report = Report(graph.nodes[0].op)
    check_graph_boxes(np.random.default_rng(0), graph, low[None], high[None], report, 12)
    return report.wrong


def shrunk(graph: Graph, low: np.ndarray, high: np.ndarray, tries: int = 200) -> Failure:
    """The smallest failure that Hypothesis comes to from one: of the same operator, over one box (n,) of float32."""
    op = graph.nodes[0].op
    rngs = [np.random.default_rng([1, number, sorted(OPS).index(op)]) for number in range(GRAPHS)]
    graphs = [*sorted((CASES[op](rng) for rng in rngs), key=_size), graph]
    level = st.integers(0, STAYS)
    cases = st.tuples(st.tuples(*[level] * len(low)), st.integers(0, GRAPHS + STAYS)).map(
        lambda drawn: _simpler(graphs[min(drawn[1], GRAPHS)], graph, low, high, drawn[0])
    )
    rules = settings(
        max_examples=tries,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    small = (graph, low, high)
    with contextlib.suppress(NoSuchExample):
        small = find(cases, lambda case: bool(check(*case)), settings=rules, random=Random(0))
    return Failure(*small, wrong=(check(*small) or ["it is gone at the points looked at here"])[0])


def _size(graph: Graph) -> int:
    return sum(math.prod(value.shape) for value in graph.inputs) + math.prod(graph.nodes[0].shape)


def _simpler(
    chosen: Graph, graph: Graph, low: np.ndarray, high: np.ndarray, levels: tuple[int, ...]
) -> tuple[Graph, np.ndarray, np.ndarray]:
    """A box of a graph from the one that failed. Another graph gets the elements that are not 0 first."""
    ends = [_rounded(float(a), float(b), level) for a, b, level in zip(low, high, levels, strict=True)]
    if chosen is not graph:
        ends = sorted(ends, key=lambda pair: pair == (0.0, 0.0))
        ends = [*ends, *[(0.0, 0.0)] * _size(chosen)][: sum(math.prod(value.shape) for value in chosen.inputs)]
    box = np.array(ends, np.float32).reshape(-1, 2)
    return chosen, box[:, 0], box[:, 1]


def _rounded(low: float, high: float, level: int) -> tuple[float, float]:
    if level == 0:
        return 0.0, 0.0
    digits = DIGITS.get(level)
    return (low, high) if digits is None else (round(low, digits), round(high, digits))


def smallest(report: Report) -> Failure | str:
    """The first failure of a report, shrunk; what it was where it isn't met again."""
    if report.failed is None:
        return "nothing is wrong"
    graph, lows, highs = report.failed
    for low, high in zip(lows, highs, strict=True):
        if check(graph, low, high):
            return shrunk(graph, low, high)
    return f"at other points than are looked at here: {report.wrong[0]}"
