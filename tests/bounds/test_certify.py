"""What multipliers prove holds in exact arithmetic, whatever they are; without its charges the same code is caught."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from certify_check import Known, violations
from crafted import f32, layer
from dual_nets import (
    EXACT,
    Bounded,
    bounded,
    element_rows,
    goals_of,
    height,
    random_multipliers,
    some_box,
    split_rows,
    width,
)
from exact_graph import Build, exact, run
from mutants import Patch, gamma_of_crown, weight_errors
from torch import Tensor

from verinn.bounds import certify, crown
from verinn.bounds.certify import certified
from verinn.bounds.climb import Goals, Multipliers, Rows, evaluate
from verinn.bounds.crown import LinearForm, Relaxation
from verinn.bounds.dual import columns_of
from verinn.ir.graph import Graph
from verinn.ops.program import Program

torch.set_num_threads(1)

DTYPES = [torch.float32, torch.float64]
Question = tuple[Goals | None, Rows]


def rng_of(*key: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def in_double(net: Bounded) -> Bounded:
    """The root in float64 with the intervals that were found in float32, as a search has it."""
    intervals = {name: (low.double(), high.double()) for name, (low, high) in net.root.intervals.items()}
    root = Relaxation(Program.prepare(net.graph, torch.float64), intervals)
    return replace(net, root=root, columns=columns_of(root))


def questions(net: Bounded, rng: np.random.Generator, size: int = 8) -> list[Question]:
    """Goals alone, elements alone and both, in domains with splits of their own."""
    found: list[Question] = [
        (goals_of(rng, net, 3, True), split_rows(rng, net, size, 3, 3)),
        (goals_of(rng, net, 1, False), split_rows(rng, net, size, 0, 1)),
    ]
    sources = list(dict.fromkeys([*net.columns.sources, *(out.value for out in net.graph.outputs)]))
    for source in (sources[-1], sources[int(rng.integers(len(sources)))]):
        for count in (0, 2):
            rows = element_rows(rng, net, split_rows(rng, net, size, 2, count), source)
            found.append((goals_of(rng, net, count, bool(rng.integers(2))), rows))
    return found


def garbage(rng: np.random.Generator, multipliers: Multipliers) -> Multipliers:
    """Huge, tiny, negative, zero: everything but NaN."""

    def some(like: Tensor) -> Tensor:
        size = rng.choice([-1.0, 1.0], like.shape) * 10.0 ** rng.uniform(-30, 9, like.shape)
        return torch.from_numpy(np.where(rng.random(like.shape) < 0.2, 0.0, size)).to(like.dtype)

    return Multipliers(some(multipliers.alpha), some(multipliers.beta), some(multipliers.gamma))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_what_is_certified_holds_exactly(name: str, dtype: torch.dtype) -> None:
    total = 0
    for seed in range(2):
        rng = rng_of(name, seed)
        graph = EXACT[name](rng)
        net = bounded(graph, *some_box(rng, width(graph)), dtype)
        known = Known.of(net, rng)
        both = [known, Known(in_double(net), known.points)] if dtype == torch.float32 else [known]
        for here in both:
            for goals, rows in questions(here.net, rng):
                fair = random_multipliers(rng, here.net, rows, 0 if goals is None else len(goals))
                for multipliers in (fair, garbage(rng, fair)):
                    bad, met = violations(here, goals, rows, multipliers)
                    assert bad == []
                    total += met
    assert total > 200


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1e-20, 1e-10, 1e10, 1e20])
def test_it_holds_at_every_scale(size: float, dtype: torch.dtype) -> None:
    """Boxes, weights and multipliers of all sizes; what overflows says nothing, and nothing wrong."""
    finite = 0
    for name in ("dense", "residual", "straight"):
        rng = rng_of(name, size)
        graph = scaled(EXACT[name](rng), size if name == "dense" else 1.0)
        lower, upper = (f32(end * (size if name != "dense" else 1.0)) for end in some_box(rng, width(graph)))
        known = Known.of(bounded(graph, lower, upper, dtype), rng, 6)
        for scale in (1.0, 1e-20, 1e20):
            for goals, rows in questions(known.net, rng, 4)[:4]:
                count = 0 if goals is None else len(goals)
                bad, met = violations(known, goals, rows, random_multipliers(rng, known.net, rows, count, scale))
                assert bad == []
                finite += met
    assert finite > 100


def scaled(graph: Graph, size: float) -> Graph:
    """The first layer's numbers times ``size``."""
    first = graph.nodes[0]
    params = {key: replace(const, value=f32(const.value * size)) for key, const in first.params.items()}
    return replace(graph, nodes=(replace(first, params=params), *graph.nodes[1:]))


# --- boxes so narrow that rounding is all there is between a bound and the truth ---


def rounded(values: Any, dtype: torch.dtype) -> np.ndarray:
    """The nearest numbers of the dtype, as float64."""
    made = np.asarray(values).astype(np.float64)
    return f32(made) if dtype == torch.float32 else made


def on_the_edge(rng: np.random.Generator, dtype: torch.dtype) -> tuple[Graph, np.ndarray]:
    """A network and a point at which neurons are zero but for a rounding of a rounding: long sums cancel
    but for their last bits, and so do those with the bias. Stable or not: only rounding decides."""
    x = rounded(rng.normal(size=6), dtype)
    b = Build((6,))
    h = "x0"
    for outs in (5, 4):
        values = run(b.graph(h), [exact(x)])[h] if h != "x0" else exact(x)
        weight = rounded(rng.normal(size=(len(values), outs)) * 10.0 ** rng.uniform(-1, 1, (len(values), outs)), dtype)
        weight[-1] = rounded(-(values[:-1] @ exact(weight[:-1])) / values[-1], dtype)
        bent = b.add("relu", layer(b, h, weight, rounded(-(values @ exact(weight)), dtype)))
        # a part that is not zero, so that the next layer has something to cancel
        h = b.add("sum", bent, layer(b, h, rounded(rng.normal(size=weight.shape), dtype)), signs=(1, 1))
    layer(b, h, rounded(rng.normal(size=(4, 2)), dtype), rounded(rng.normal(size=2), dtype))
    return b.graph(), x


def all_split(rng: np.random.Generator, known: Known, size: int, goals: int) -> Rows:
    """Domains in which most neurons' phases are chosen, as a point of the box has them: little is relaxed."""
    low, high = (end.expand(size, -1).clone() for end in known.net.known)
    count = known.net.columns.count
    splits, phase = -torch.ones((size, count), dtype=torch.int64), torch.zeros((size, count), dtype=low.dtype)
    for b in range(size):
        z = known.z(known.points[b % len(known.points)])
        for k, u in enumerate(rng.permutation(count)[: int(rng.integers(count // 2, count + 1))].tolist()):
            down = z[u] < 0 or (z[u] == 0 and rng.random() < 0.5)
            splits[b, k], phase[b, k] = u, 1.0 if down else -1.0
            (high if down else low)[b, u] = 0.0
    return Rows(low, high, splits, phase, torch.ones((1, goals), dtype=torch.bool))


def edge_cases(dtype: torch.dtype, seed: int) -> list[tuple[Known, Goals, Rows, Multipliers]]:
    """Points and boxes a few ulps wide, goals that cancel, multipliers of every size."""
    found = []
    kind, toward = (np.float32, np.float32) if dtype == torch.float32 else (np.float64, np.float64)
    for ulps in (0, 1):
        rng = rng_of("edge", ulps, seed)
        graph, x = on_the_edge(rng, dtype)
        lower = upper = x
        for _ in range(ulps):
            lower = np.nextafter(lower.astype(kind), toward(-np.inf)).astype(np.float64)
            upper = np.nextafter(upper.astype(kind), toward(np.inf)).astype(np.float64)
        known = Known.of(bounded(graph, lower, upper, dtype), rng, 4)
        for scale in (1.0, 1e6):
            for element in (False, True):
                goals, rows = cancelling(rng, known.net), all_split(rng, known, 12, 4)
                if element:
                    rows = element_rows(rng, known.net, rows, graph.outputs[0].value)
                multipliers = random_multipliers(rng, known.net, rows, 4)
                multipliers = replace(multipliers, beta=multipliers.beta * scale)
                found.append((known, goals, rows, multipliers))
                found.append((known, goals, rows, even(multipliers)))
                if element:
                    found.append((known, goals, rows, replace(multipliers, gamma=multipliers.gamma * 0)))
    return found


def cancelling(rng: np.random.Generator, net: Bounded) -> Goals:
    """Goals whose mixes almost vanish: rows and their negatives, their right sides too."""
    y = torch.from_numpy(rng.normal(size=(2, height(net.graph))) * 1e5)
    x = torch.from_numpy(rng.normal(size=(2, width(net.graph))) * 1e5)
    rhs = torch.from_numpy(rng.normal(size=2) * 1e5)
    return Goals(torch.cat([y, -y]), torch.cat([x, -x]), torch.cat([rhs, -rhs]))


def even(multipliers: Multipliers) -> Multipliers:
    """Equal weights on a goal and its negative, so that they cancel."""
    gamma = multipliers.gamma[:, :2]
    return replace(multipliers, gamma=torch.cat([gamma, gamma * (1 + 1e-7)], 1))


def caught(dtype: torch.dtype, seeds: range) -> bool:
    cases = (case for seed in seeds for case in edge_cases(dtype, seed))
    return any(violations(*case)[0] for case in cases)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neurons_that_only_rounding_decides(dtype: torch.dtype) -> None:
    met = unstable = 0
    for seed in range(4):
        for case in edge_cases(dtype, seed):
            unstable += case[0].net.columns.count
            bad, count = violations(*case)
            assert bad == []
            met += count
    assert met > 300 and unstable > 100


# --- goals ---


def stable_net(
    dtype: torch.dtype, rng: np.random.Generator, weight: float = 1.0, size: float = 1.0, radius: float = 0.0
) -> Known:
    """One ReLU layer and two outputs over a box that is a point, or a narrow one."""
    b = Build((4,))
    h = b.add("relu", layer(b, "x0", rounded(rng.normal(size=(4, 4)) * weight, dtype)))
    layer(b, h, rounded(rng.normal(size=(4, 2)), dtype))
    x = rounded(rng.normal(size=4) * size, dtype)
    reach = rounded(np.abs(x) * radius, dtype)
    return Known.of(bounded(b.graph(), rounded(x - reach, dtype), rounded(x + reach, dtype), dtype), rng, 4)


def goals_alone(known: Known, size: int, goals: int) -> Rows:
    none = torch.zeros((size, 0), dtype=known.net.program.dtype)
    return Rows(*known.net.known, none.long(), none, torch.ones((1, goals), dtype=torch.bool))


def weighed(known: Known, gamma: Tensor) -> Multipliers:
    none = torch.zeros((len(gamma), 0), dtype=known.net.program.dtype)
    alpha = torch.full((len(gamma), known.net.columns.count), 0.5, dtype=none.dtype)
    return Multipliers(alpha, none, gamma.to(none.dtype))


def inexact_goals(rng: np.random.Generator, known: Known, size: float) -> Goals:
    """Rows known only up to an error: those over outputs, those over inputs, or both."""
    y, x = (torch.from_numpy(rng.normal(size=(4, n))) for n in (height(known.net.graph), width(known.net.graph)))
    some = torch.tensor([[1.0], [0.0], [1.0], [1.0]]).double()
    return Goals(y, x, torch.from_numpy(rng.normal(size=4)), y.abs() * size * some, x.abs() * size * some.flip(0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_goals_known_up_to_an_error(dtype: torch.dtype) -> None:
    for seed in range(4):
        rng = rng_of("errors", seed)
        known = stable_net(dtype, rng)
        gamma = torch.from_numpy(rng.uniform(size=(16, 4)))
        for size in (1e-3, 1e-9, 1e-17):
            goals = inexact_goals(rng, known, size)
            for given in (goals, replace(goals, x_error=None), replace(goals, y_error=None)):
                bad, met = violations(known, given, goals_alone(known, 16, 4), weighed(known, gamma))
                assert bad == [] and met == 64


def errors_caught(dtype: torch.dtype) -> bool:
    rng = rng_of("errors", 0)
    known = stable_net(dtype, rng)
    gamma = torch.from_numpy(rng.uniform(size=(16, 4)))
    return bool(violations(known, inexact_goals(rng, known, 1e-3), goals_alone(known, 16, 4), weighed(known, gamma))[0])


@pytest.mark.parametrize(("power", "size"), [(-30, 1e30), (-120, 1e120), (-170, 1e200), (-200, 1e300), (-300, 1e300)])
def test_weights_and_goals_whose_products_vanish(power: int, size: float) -> None:
    """Products of weights and goals underflow, and the box is so large that they would not be nothing."""
    rng = rng_of("vanish", power)
    for weight in (1.0, 1 / size):
        known = stable_net(torch.float64, rng, weight, size)
        y, x, c = (torch.from_numpy(rng.normal(size=s) * 10.0**power) for s in ((2, 2), (2, 4), (2,)))
        for goals in (Goals(y, x, c), Goals(y * 0, x, c * 0), Goals(y, None, c * 0)):
            for least in (0, power):
                gamma = torch.from_numpy(np.abs(rng.normal(size=(16, 2))) * 10.0 ** rng.uniform(power, least, (16, 2)))
                bad, met = violations(known, goals, goals_alone(known, 16, 2), weighed(known, gamma))
                assert bad == [] and met == 64


def test_only_the_goals_of_a_row_count() -> None:
    """Weights on goals of other conjunctions are nothing, as are negative ones."""
    rng = rng_of("allowed")
    graph = EXACT["dense"](rng)
    known = Known.of(bounded(graph, *some_box(rng, width(graph))), rng)
    goals = goals_of(rng, known.net, 4, True)
    rows = replace(split_rows(rng, known.net, 6, 2, 4), allowed=torch.from_numpy(rng.random((6, 4)) < 0.5))
    multipliers = random_multipliers(rng, known.net, rows, 4)
    signed = multipliers.gamma * torch.from_numpy(rng.choice([-1.0, 1.0, 1.0], (6, 4)))
    bad, met = violations(known, goals, rows, replace(multipliers, gamma=signed))
    assert bad == [] and met > 10
    same(known.net, goals, rows, replace(multipliers, gamma=signed), signed.clamp(min=0) * rows.allowed)


def same(net: Bounded, goals: Goals | None, rows: Rows, multipliers: Multipliers, gamma: Tensor) -> None:
    """Multipliers prove as much as with these weights on the goals."""
    one, two = (form(net, goals, rows, m) for m in (multipliers, replace(multipliers, gamma=gamma)))
    assert torch.equal(one.a, two.a) and torch.equal(one.c, two.c)


def form(net: Bounded, goals: Goals | None, rows: Rows, multipliers: Multipliers) -> LinearForm:
    with torch.no_grad():
        return certified(net.root, net.columns, goals, rows, multipliers)


# --- multipliers that are not allowed ---


@pytest.mark.parametrize("name", ["dense", "residual", "straight"])
def test_what_is_not_allowed_is_moved_to_where_it_is(name: str) -> None:
    """Slopes beyond [0, 1]; split multipliers of the wrong sign, on neurons whose phase is open, and too many."""
    rng = rng_of(name, "moved")
    graph = EXACT[name](rng)
    net = bounded(graph, *some_box(rng, width(graph)))
    for goals, rows in questions(net, rng):
        fair = random_multipliers(rng, net, rows, 0 if goals is None else len(goals))
        wild = replace(fair, alpha=(fair.alpha - 0.5) * 100)
        equal(form(net, goals, rows, wild), form(net, goals, rows, replace(wild, alpha=wild.alpha.clamp(0, 1))))
        none = replace(fair, beta=fair.beta * 0)
        equal(form(net, goals, rows, replace(fair, beta=-fair.beta)), form(net, goals, rows, none))
        low, high = net.known
        size = len(rows.splits)
        open_ = replace(rows, lower=low.expand(size, -1), upper=high.expand(size, -1))
        equal(form(net, goals, open_, fair), form(net, goals, open_, none))
        turned = replace(rows, phase=-rows.phase)
        equal(form(net, goals, turned, fair), form(net, goals, rows, none))


def equal(one: LinearForm, two: LinearForm) -> None:
    assert torch.equal(one.a, two.a) and torch.equal(one.c, two.c)


def test_two_splits_of_one_neuron_add_up() -> None:
    rng = rng_of("twice")
    graph = EXACT["dense"](rng)
    net = bounded(graph, *some_box(rng, width(graph)))
    goals, rows = questions(net, rng)[0]
    fair = random_multipliers(rng, net, rows, 3)
    twice = replace(rows, splits=torch.cat([rows.splits] * 2, 1), phase=torch.cat([rows.phase] * 2, 1))
    half = replace(fair, beta=torch.cat([fair.beta * 0.25, fair.beta * 0.75], 1))
    one, two = form(net, goals, rows, fair), form(net, goals, twice, half)
    torch.testing.assert_close(one.a, two.a)
    torch.testing.assert_close(one.c, two.c)


@pytest.mark.parametrize("name", [name for name in EXACT if name != "straight"])
def test_little_is_lost_to_rounding(name: str) -> None:
    """What is certified is what was climbed, but for the last digits; so the tests above are of bounds that say
    something. (Two ReLUs that read the same value share their splits here, but not in the dual.)"""
    rng = rng_of(name, "close")
    graph = EXACT[name](rng)
    net = bounded(graph, *some_box(rng, width(graph)))
    for goals, rows in questions(net, rng):
        fair = random_multipliers(rng, net, rows, 0 if goals is None else len(goals))
        value = evaluate(net.frame, goals, rows, fair).value
        proved = form(net, goals, rows, fair).minimum(*net.box)[:, 0]
        loss = 1e-9 if name != "inexact" else 1e-2
        assert bool((proved >= value - loss * (1 + value.abs())).all())


# --- the same code without its care ---


def without_costs(patch: Patch) -> None:
    """What the mix of goals loses, and what their own errors may do."""
    patch.setattr(certify, "_cost", lambda relaxation, name, loss: torch.zeros((len(loss), 1), dtype=torch.float64))


def any_pull(patch: Patch) -> None:
    """Split multipliers wherever they are, whatever their sign."""
    patch.setattr(crown.Relaxation, "pull", lambda self, step: self.pulls.get(step.node.name))


def free_steps(patch: Patch) -> None:
    """No toll at affine steps, though coefficients are pulled through them."""
    real = Relaxation.toll

    def toll(self: Relaxation, step: Any) -> crown.Toll:
        made = real(self, step)
        return crown.Toll(made.rate * 0, made.base * 0)

    patch.setattr(Relaxation, "toll", toll)


def loose_constants(patch: Patch) -> None:
    """What the mix of the right sides loses."""
    real = certify.mixed

    def mixed(relaxation: Relaxation, goals: Goals, weights: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return real(relaxation, goals, weights)[0], -(weights @ goals.rhs).unsqueeze(1)

    patch.setattr(certify, "mixed", mixed)


def wild_caught(dtype: torch.dtype) -> bool:
    """Whether split multipliers of the wrong sign prove too much."""
    rng = rng_of("wild")
    graph = EXACT["dense"](rng)
    known = Known.of(bounded(graph, *some_box(rng, width(graph)), dtype), rng)
    for goals, rows in questions(known.net, rng):
        fair = random_multipliers(rng, known.net, rows, 0 if goals is None else len(goals))
        if violations(known, goals, rows, replace(fair, beta=-10 * fair.beta))[0]:
            return True
    return False


def inexact_caught(dtype: torch.dtype) -> bool:
    """Whether weights that are not exact are taken for exact."""
    for seed in range(8):
        rng = rng_of("inexact", seed)
        graph = EXACT["inexact"](rng)
        x = rounded(rng.normal(size=width(graph)), dtype)
        known = Known.of(bounded(graph, x, x, dtype), rng, 6)
        for goals, rows in questions(known.net, rng):
            fair = random_multipliers(rng, known.net, rows, 0 if goals is None else len(goals))
            if violations(known, goals, rows, fair)[0]:
                return True
    return False


def edge_caught(dtype: torch.dtype) -> bool:
    return caught(dtype, range(4))


def sums_caught(dtype: torch.dtype) -> bool:
    """Whether sums of coefficients that cancel are taken for exact. One input, so that nothing else loses much."""
    for seed in range(8):
        rng = rng_of("sums", seed)
        first, last = (rounded(rng.normal(size=64), dtype) for _ in range(2))
        last[-1] = rounded(-(first[:-1] @ last[:-1]) / first[-1], dtype)
        b = Build((1,))
        wide = layer(b, "x0", first[None, :], np.zeros(64))
        bent = b.add("relu", layer(b, "x0", np.ones((1, 1)), np.zeros(1)))
        b.add("sum", bent, layer(b, wide, last[:, None], np.zeros(1)), signs=(1, 1))
        known = Known.of(bounded(b.graph(), np.ones(1), np.ones(1), dtype), rng, 1)
        sides = torch.tensor([[1.0], [-1.0]]).double()
        goals = Goals(sides, -sides, torch.zeros(2).double())  # relu(1) − 1 is nothing
        gamma = torch.eye(2, dtype=torch.float64)
        if violations(known, goals, goals_alone(known, 2, 2), weighed(known, gamma))[0]:
            return True
    return False


Caught = Callable[[torch.dtype], bool]
BOTH = (torch.float32, torch.float64)
#: mutants, what catches them, and in which dtypes (in the others another charge happens to pay). There is none
#: without the debt of pulls: a slope or a pull that is rounded is a slope or a pull that is allowed.
MUTANTS: list[tuple[Callable[[Patch], None], Caught, tuple[torch.dtype, ...]]] = [
    (without_costs, errors_caught, BOTH),
    (without_costs, edge_caught, (torch.float64,)),
    (loose_constants, edge_caught, (torch.float64,)),
    (free_steps, sums_caught, (torch.float32,)),
    (gamma_of_crown, edge_caught, BOTH),
    (any_pull, wild_caught, BOTH),
    (weight_errors, inexact_caught, (torch.float64,)),
]


@pytest.mark.parametrize(
    ("mutant", "catches", "dtype"),
    [(mutant, catches, dtype) for mutant, catches, dtypes in MUTANTS for dtype in dtypes],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_without_its_care_the_same_code_is_caught(
    mutant: Callable[[Patch], None], catches: Caught, dtype: torch.dtype, monkeypatch: Patch
) -> None:
    assert not catches(dtype)
    mutant(monkeypatch)
    assert catches(dtype)
