"""Searches over general graphs against the truth of a fine grid, and what must never close a domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from general_nets import FAMILIES, Net, below, grid
from torch import Tensor

from verinn.attack.pgd import pgd
from verinn.ir.graph import Graph
from verinn.ir.prop import Case
from verinn.ops.program import Program
from verinn.result import Verdict, Witness
from verinn.search import bab
from verinn.search import general as module
from verinn.search.bab import Limits, Outcome
from verinn.search.candidates import options
from verinn.search.general import GeneralTask, empty, split, watched, with_halves
from verinn.search.nonlinear import Effort, Root, search_general
from verinn.search.pieces import Pieces
from verinn.search.spec import groups
from verinn.search.task import Task

torch.set_num_threads(1)

Engine = Callable[..., Outcome]


def limits(spec: Any, graph: Graph, seconds: float = 20.0) -> tuple[Limits, Callable[[Tensor, Tensor], Witness | None]]:
    """Limits of a search, and a replay of points in float64."""
    import time

    until = time.monotonic() + seconds
    program = Program.prepare(graph, torch.float64)

    def attempt(point: Tensor, case: Tensor) -> Witness | None:
        y = program.flat(point.unsqueeze(0))
        hit = bool((spec.values(case.reshape(1), point.unsqueeze(0), y) <= 0).all())
        return Witness({"x": point.numpy(), "y": y.numpy()}) if hit else None

    def attack(domains: Any) -> Witness | None:
        found = pgd(Program.prepare(graph, torch.float32), spec, 64, 20, len(domains), lambda: False)
        tried = (attempt(x, case) for points, cases in found for x, case in zip(points[:3], cases[:3], strict=True))
        return next((witness for witness in tried if witness is not None), None)

    return Limits(32, False, lambda: time.monotonic() > until, attack), attempt


def general(
    graph: Graph, case: Case, dtype: torch.dtype = torch.float32, seconds: float = 20.0, **effort: Any
) -> Outcome:
    """The search that splits values."""
    (spec,) = groups([case])
    given: dict[str, Any] = {"width": 32, "budget": 16 << 20, "halves": 0, "refine": False, "left": lambda: 20.0}
    limit, attempt = limits(spec, graph, seconds)
    program, referee = Program.prepare(graph, dtype), Program.prepare(graph, torch.float64)
    return search_general(program, referee, spec, limit, attempt, lambda *_: None, Effort(**given | effort))


def boxes(graph: Graph, case: Case, seconds: float = 20.0) -> Outcome:
    """The search that splits boxes."""
    (spec,) = groups([case])
    limit, attempt = limits(spec, graph, seconds)
    program = Program.prepare(graph, torch.float64)
    return bab.search(Task(program, spec, program), limit, attempt, lambda *_: None)


ENGINES: dict[str, Engine] = {
    "values": general,
    "both": lambda g, c, **more: general(g, c, halves=2, refine=True, **more),
    "boxes": boxes,
}


def verdicts(family: str, engine: str, seconds: float) -> Outcome:
    """The search finds a violation that a grid knows; what it says where there is none."""
    graph = FAMILIES[family](np.random.default_rng(sum(map(ord, family))))
    _, y = grid(graph)
    least, span = float(y.min()), float(y.max() - y.min())
    assert span > 1e-3
    assert ENGINES[engine](graph, below(least + 0.02 * span), seconds=60.0).verdict is Verdict.SAT
    outcome = ENGINES[engine](graph, below(least - 0.15 * span), seconds=seconds)
    assert outcome.verdict is not Verdict.SAT
    return outcome


#: what CI looks at; the slow test takes all
SOME = ["sigmoid", "gelu", "abs", "round", "square", "reciprocal", "product", "attention", "greatest", "gated"]


@pytest.mark.parametrize("family", [*SOME, "binarised"])
def test_verdicts(family: str) -> None:
    assert verdicts(family, "both", 60.0).verdict is Verdict.UNSAT


@pytest.mark.parametrize("family", ["tanh", "leaky", "exp", "log", "product", "attention"])
def test_verdicts_by_boxes(family: str) -> None:
    assert verdicts(family, "boxes", 60.0).verdict is Verdict.UNSAT


@pytest.mark.parametrize("family", ["sigmoid", "clip", "leaky", "round", "binarised"])
def test_verdicts_by_values(family: str) -> None:
    assert verdicts(family, "values", 60.0).verdict is Verdict.UNSAT


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("engine", ENGINES)
def test_no_verdict_is_wrong(family: str, engine: str) -> None:
    verdicts(family, engine, 10.0)


def pieces_of(graph: Graph, case: Case, dtype: torch.dtype = torch.float32) -> tuple[GeneralTask, Pieces]:
    """A task with its root, whatever the root proves."""
    (spec,) = groups([case])
    program, referee = Program.prepare(graph, dtype), Program.prepare(graph, torch.float64)
    root = Root(program, referee, spec, 0, lambda: False, Effort(8, 16 << 20, 2, False, lambda: 20.0))
    root.found.clear()
    task = root.started(torch.arange(spec.conjunctions))
    return task, task.root()


def held_by(graph: Graph, domains: Pieces, names: tuple[str, ...], x: Tensor) -> Tensor:
    """Which points (P, n) lie in which domains (D,), by boxes, intervals and splits: bool (D, P)."""
    values = Program.prepare(graph, torch.float64).run([x.reshape(-1, *graph.inputs[0].shape)])
    inside = ((x >= domains.lower.unsqueeze(1)) & (x <= domains.upper.unsqueeze(1))).all(2)
    for name, (low, high) in domains.known.items():
        v = values[name].reshape(1, len(x), -1)
        low, high = (end.double().reshape(len(domains), 1, -1) for end in (low, high))
        inside &= ((v >= low - 1e-9) & (v <= high + 1e-9)).all(2)
    for i in range(len(domains)):
        for k in range(domains.value.shape[1]):
            if domains.value[i, k] >= 0:
                v = values[names[domains.value[i, k]]].reshape(len(x), -1)[:, domains.index[i, k]]
                inside[i] &= domains.sign[i, k] * (v - domains.point[i, k]) <= 1e-9
    return inside


def splits_cover(family: str) -> bool:
    """Whether every sampled point of a domain is in one of its halves, over some rounds of random splits."""
    rng = np.random.default_rng(7)
    graph = FAMILIES[family](rng)
    task, domains = pieces_of(graph, below(0.0))
    x = torch.from_numpy(np.concatenate([rng.uniform(-1, 1, (3000, 2)), rng.integers(-1, 2, (9, 2))]))
    with torch.no_grad():
        for _ in range(5):
            relaxation = task.relaxed(domains)
            ask, now = task.ask(domains), domains.parameters(torch.float32)
            _, form, met = watched(relaxation, ask, now, *task.box(domains))
            some = with_halves(task, domains, options(relaxation, met, task.names, 6), form.a[:, 0].abs())
            pick = torch.from_numpy(rng.integers(0, some.value.shape[1], (len(domains), 1)))
            chosen = (held.gather(1, pick)[:, 0] for held in (some.value, some.index, some.point))
            before = held_by(graph, domains, task.names, x)
            halves = split(task, domains, *chosen)
            after = held_by(graph, halves, task.names, x).reshape(2, *before.shape).any(0)
            if bool((before & ~after).any()):
                return False
            domains = halves.select(~empty(task.relaxed(halves), halves))
    return True


@pytest.mark.parametrize("family", ["sigmoid", "floor", "round", "binarised", "gated", "product", "attention"])
def test_halves_cover_their_domain(family: str) -> None:
    assert splits_cover(family)


def test_a_split_that_loses_points_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants: the upper half begins a little late; a jump's range leaves its lower values out."""
    real = module.narrowed

    def late(interval: Any, here: Tensor, index: Tensor, point: Tensor, sign: float) -> Any:
        return real(interval, here, index, point if sign > 0 else point + 0.05, sign)

    monkeypatch.setattr(module, "narrowed", late)
    assert not splits_cover("sigmoid")
    monkeypatch.setattr(module, "narrowed", real)
    landed = module.landings

    def higher(step: Any, point: Tensor, low: Tensor) -> Any:
        below, above, fine = landed(step, point, low)
        return below - 1, above, fine

    monkeypatch.setattr(module, "landings", higher)
    assert not splits_cover("floor")


def test_time_is_up() -> None:
    graph = FAMILIES["attention"](np.random.default_rng(0))
    (spec,) = groups([below(-1.0)])
    limit, attempt = limits(spec, graph, 0.0)
    program = Program.prepare(graph, torch.float32)
    effort = Effort(8, 16 << 20, 2, True, lambda: 0.0)
    assert search_general(program, program, spec, limit, attempt, lambda *_: None, effort).verdict is Verdict.TIMEOUT


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_defined_proves_nothing(engine: str) -> None:
    """A logarithm of what may be negative has no bounds; neither has a reciprocal across zero."""
    for op in ("log", "reciprocal"):
        net = Net(np.random.default_rng(1))
        net.dense(net.add(op, net.dense("x", 1)), 1)
        assert ENGINES[engine](net.graph(), below(-1e6), seconds=1.0).verdict is not Verdict.UNSAT


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tie_is_never_closed(engine: str) -> None:
    """The least value is reached, at a corner or inside: y ≤ least is fulfilled there."""
    for weight in ([[1.0], [1.0]], [[1.0], [-0.5]]):
        net = Net(np.random.default_rng(1))
        h = net.add("linear", "x", params={"weight": np.array(weight)})
        net.add("sigmoid", net.add("abs", h))
        assert ENGINES[engine](net.graph(), below(0.5), seconds=2.0).verdict is not Verdict.UNSAT
        assert engine == "values" or ENGINES[engine](net.graph(), below(0.4999, True)).verdict is Verdict.UNSAT
