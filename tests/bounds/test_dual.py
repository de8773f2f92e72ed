"""The dual: its value against a naive one, its gradients against differences, and what climbing may do to it."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dual_nets import (
    NETS,
    Bounded,
    bounded,
    dense,
    element_rows,
    goals_of,
    random_multipliers,
    some_box,
    split_rows,
    width,
)
from torch import Tensor

from verinn.bounds import climb as climbing
from verinn.bounds.climb import Goals, Multipliers, Pace, Rows, climb, evaluate
from verinn.bounds.domain import split_inputs
from verinn.bounds.dual import Primal, columns_of
from verinn.ops.base import Affine
from verinn.ops.pool import MaxPool
from verinn.ops.program import Step

torch.set_num_threads(1)

#: rows of a net, the goals beside them, what they are called
Question = tuple[Goals | None, Rows, str]


def rng_of(*key: Any) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def net_of(name: str, seed: int) -> Bounded:
    """A network of which some neurons are unstable."""
    for attempt in range(20):
        rng = rng_of(name, seed, attempt)
        graph = NETS[name](rng)
        net = bounded(graph, *some_box(rng, width(graph)))
        if net.columns.count >= 3:
            return net
    raise AssertionError("no unstable neuron")


def questions(net: Bounded, rng: np.random.Generator, size: int = 6) -> list[Question]:
    """Goals alone, elements alone, both; of hidden values and of outputs; with and without rows over inputs."""
    found: list[Question] = []
    for count, inputs in ((1, False), (3, True)):
        found.append((goals_of(rng, net, count, inputs), split_rows(rng, net, size, 3, count), f"{count} goals"))
    for source in dict.fromkeys([*net.columns.sources, *(out.value for out in net.graph.outputs)]):
        for count in (0, 2):
            rows = element_rows(rng, net, split_rows(rng, net, size, 2, count), source)
            found.append((goals_of(rng, net, count, bool(rng.integers(2))), rows, f"{source} and {count} goals"))
    return found


# --- the same dual, written naively: dense matrices, one row and one neuron at a time, gradients by autograd ---


def matrices(step: Step) -> tuple[list[Tensor], Tensor]:
    """What an affine step does to each of its inputs, as matrices (out, in), and its offset."""
    assert isinstance(step.op, Affine)
    zeros = [torch.zeros((1, *shape), dtype=torch.float64) for shape in step.shapes]
    offset = step.op.apply(step.node, zeros, step.params).expand(1, *step.node.shape).flatten()
    found = []
    for i, zero in enumerate(zeros):
        basis = torch.eye(zero.numel(), dtype=torch.float64).reshape(-1, *step.shapes[i])
        xs = [basis if j == i else other.expand(len(basis), *other.shape[1:]) for j, other in enumerate(zeros)]
        found.append((step.op.apply(step.node, xs, step.params).flatten(1) - offset).T)
    return found, offset


def naive(net: Bounded, goals: Goals | None, rows: Rows, b: int, alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """The bound of row b from its multipliers (U,), (K,), (G,)."""
    pending: dict[str, Tensor] = {}
    const = torch.zeros((), dtype=torch.float64)

    def add(name: str, part: Tensor) -> None:
        pending[name] = pending[name] + part if name in pending else part

    if goals is not None:
        const = const - gamma @ goals.rhs
        start = 0
        for out in net.graph.outputs:
            size = int(np.prod(net.program.shapes[out.value]))
            add(out.value, gamma @ goals.y[:, start : start + size])
            start += size
        if goals.x is not None:
            for name, part in split_inputs(net.program, goals.x).items():
                add(name, gamma @ part.flatten(1))
    if rows.source is not None:
        assert rows.index is not None and rows.sign is not None
        one = torch.zeros(int(np.prod(net.program.shapes[rows.source])), dtype=torch.float64)
        one[rows.index[b]] = rows.sign[b]
        add(rows.source, one)
    for step in reversed(net.program.steps):
        if step.node.name not in pending:
            continue
        a = pending.pop(step.node.name)
        if isinstance(step.op, Affine):
            parts, offset = matrices(step)
            const = const + a @ offset
            for source, matrix in zip(step.node.inputs, parts, strict=True):
                add(source, a @ matrix)
        elif step.node.op == "relu":
            back, cost = naive_relu(net, step, a, rows, b, alpha, beta)
            const = const + cost
            add(step.node.inputs[0], back)
        elif isinstance(step.op, MaxPool):
            back, cost = naive_pool(net, step, a)
            const = const + cost
            add(step.node.inputs[0], back)
        else:
            lines = net.root.lines(step)
            assert lines.lower_offset is not None
            up = a < 0
            const = const + (a * torch.where(up, lines.upper_offset.flatten(), lines.lower_offset.flatten())).sum()
            add(step.node.inputs[0], a * torch.where(up, lines.upper_slope.flatten(), lines.lower_slope.flatten()))
    start = 0
    for value in net.graph.inputs:
        size = int(np.prod(value.shape))
        if value.name in pending:
            a = pending[value.name]
            low, high = (torch.from_numpy(end[start : start + size]) for end in (net.lower, net.upper))
            const = const + torch.minimum(a * low, a * high).sum()
        start += size
    return const


def naive_relu(
    net: Bounded, step: Step, a: Tensor, rows: Rows, b: int, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """(coefficients of the input, cost): a line for each neuron, and the multipliers of its splits."""
    number = net.columns.names.index(step.node.name)
    column = {int(i): net.columns.start[number] + k for k, i in enumerate(net.columns.index[number])}
    low, high = (end.flatten() for end in net.root.intervals[step.node.inputs[0]])
    back, cost = [], torch.zeros((), dtype=torch.float64)
    for i in range(len(a)):
        u = column.get(i)
        at = (
            (low[i], high[i]) if u is None else (rows.lower[b % len(rows.lower), u], rows.upper[b % len(rows.upper), u])
        )
        bottom, top = at
        if bottom >= 0:
            new = a[i]
        elif top <= 0:
            new = 0 * a[i]
        elif a[i] > 0:
            assert u is not None
            new = a[i] * alpha[u]
        else:
            slope = a[i] * top / (top - bottom)
            new, cost = slope, cost - slope * bottom
        for k in range(rows.splits.shape[1]):
            if u is not None and int(rows.splits[b, k]) == u:
                new = new + beta[k] * rows.phase[b, k]
        back.append(new)
    return torch.stack(back), cost


def naive_pool(net: Bounded, step: Step, a: Tensor) -> tuple[Tensor, Tensor]:
    """Below, a window's maximum is at least its entry with the greatest lower bound; above, a constant."""
    low, high = (end.flatten() for end in net.root.intervals[step.node.inputs[0]])
    numbers = torch.arange(len(low), dtype=torch.float64).reshape(1, *step.shapes[0])
    assert isinstance(step.op, MaxPool)
    windows = step.op.windows(step.node, numbers, -1.0).reshape(len(a), -1).long()
    back, cost = torch.zeros(len(low), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for i, window in enumerate(windows):
        inside = [int(j) for j in window if j >= 0]
        best = max(inside, key=lambda j: float(low[j]))
        sole = all(float(low[best]) >= float(high[j]) for j in inside if j != best)
        if a[i] >= 0 or sole:
            back = back.index_add(0, torch.tensor([best]), a[i : i + 1])
        else:
            cost = cost + a[i] * max(float(high[j]) for j in inside)
    return back, cost


@pytest.mark.parametrize("name", NETS)
def test_the_value_is_that_of_a_naive_dual(name: str) -> None:
    for seed in range(2):
        net, rng = net_of(name, seed), rng_of(name, seed, "value")
        for goals, rows, text in questions(net, rng, 3):
            count = 0 if goals is None else len(goals)
            multipliers = random_multipliers(rng, net, rows, count)
            primal = evaluate(net.frame, goals, rows, multipliers)
            small = evaluate(net.frame, goals, rows, multipliers, primal=False)
            assert torch.equal(primal.value, small.value) and torch.equal(primal.a, small.a)
            for b in range(len(rows.splits)):
                alpha, beta, gamma = (m[b] for m in (multipliers.alpha, multipliers.beta, multipliers.gamma))
                true = float(naive(net, goals, rows, b, alpha, beta, gamma))
                assert float(primal.value[b]) == pytest.approx(true, rel=1e-9, abs=1e-9), (seed, text, b)


def test_what_all_rows_share_needs_no_copy(name: str = "residual") -> None:
    """Intervals of one row stand for all rows."""
    net, rng = net_of(name, 3), rng_of("shared")
    goals = goals_of(rng, net, 2, True)
    wide = Rows(*net.known, -torch.ones((4, 0)).long(), torch.zeros((4, 0)).double(), torch.ones((1, 2)).bool())
    multipliers = random_multipliers(rng, net, wide, 2)
    copied = replace(wide, lower=wide.lower.expand(4, -1), upper=wide.upper.expand(4, -1))
    one, two = (evaluate(net.frame, goals, rows, multipliers) for rows in (wide, copied))
    assert torch.equal(one.value, two.value) and torch.equal(one.z, two.z)


# --- gradients ---


def gradients(rows: Rows, primal: Primal) -> Multipliers:
    """What the primal point says of the derivatives by alpha, beta and gamma."""
    free = (rows.lower < 0) & (rows.upper > 0)
    alpha = torch.where(free, primal.a.clamp(min=0) * primal.z, 0.0)
    beta = primal.z.gather(1, rows.splits.clamp(min=0)) * rows.phase
    return Multipliers(alpha, beta, primal.goals)


def differences(net: Bounded, goals: Goals | None, rows: Rows, at: Multipliers, step: float = 1e-6) -> Multipliers:
    """Central differences of every row's value by every multiplier."""
    found = {}
    for name in ("alpha", "beta", "gamma"):
        value: Tensor = getattr(at, name)
        columns = []
        for j in range(value.shape[1]):
            ends = []
            for way in (step, -step):
                moved = value.clone()
                moved[:, j] += way
                ends.append(evaluate(net.frame, goals, rows, replace(at, **{name: moved}), primal=False).value)
            columns.append((ends[0] - ends[1]) / (2 * step))
        found[name] = torch.stack(columns, 1) if columns else torch.zeros_like(value)
    return Multipliers(**found)


@pytest.mark.parametrize("name", NETS)
def test_the_primal_point_gives_the_gradients(name: str) -> None:
    net, rng = net_of(name, 0), rng_of(name, "gradient")
    for goals, rows, text in questions(net, rng, 4):
        multipliers = random_multipliers(rng, net, rows, 0 if goals is None else len(goals))
        primal = evaluate(net.frame, goals, rows, multipliers)
        told, true = gradients(rows, primal), differences(net, goals, rows, multipliers)
        for part in ("alpha", "beta", "gamma"):
            if getattr(true, part).numel():
                torch.testing.assert_close(
                    getattr(told, part), getattr(true, part), rtol=1e-5, atol=1e-6, msg=f"{part}, {text}"
                )


def test_the_point_attains_the_value() -> None:
    """The Lagrangian at the primal point, from its values alone: goals weighed, and splits by their z."""
    for name in NETS:
        net, rng = net_of(name, 1), rng_of(name, "attained")
        goals, rows, _ = questions(net, rng)[1]
        assert goals is not None
        multipliers = random_multipliers(rng, net, rows, len(goals))
        primal = evaluate(net.frame, goals, rows, multipliers)
        slope = gradients(rows, primal)
        total = (multipliers.gamma * primal.goals).sum(1) + (multipliers.beta * slope.beta).sum(1)
        torch.testing.assert_close(total, primal.value, rtol=1e-8, atol=1e-8)
        low, high = net.box
        assert bool(((primal.corner == low) | (primal.corner == high)).all())
        assert bool((primal.z >= -1e9).all()) and primal.z.shape == primal.h.shape == multipliers.alpha.shape


# --- climbing ---


def normed(rows: Rows, multipliers: Multipliers) -> Multipliers:
    """Where no element is asked for, a mix of goals has sum one."""
    if rows.source is not None:
        return multipliers
    return replace(multipliers, gamma=multipliers.gamma / multipliers.gamma.sum(1, keepdim=True))


@pytest.mark.parametrize("name", NETS)
def test_a_small_step_climbs_as_the_gradient_says(name: str) -> None:
    """Adam's first step is the gradient's sign times the rate: alpha alone, and multipliers alone."""
    net, rng, tiny = net_of(name, 2), rng_of(name, "small"), 1e-6
    for goals, rows, text in questions(net, rng, 4):
        multipliers = normed(rows, random_multipliers(rng, net, rows, 0 if goals is None else len(goals)))
        first = evaluate(net.frame, goals, rows, multipliers)
        true = gradients(rows, first)
        best, found, _ = climb(net.frame, goals, rows, multipliers, Pace(1, tiny, 0.0), torch.inf)
        rise = true.alpha.abs().sum(1)
        torch.testing.assert_close(best - first.value, tiny * rise, rtol=1e-2, atol=1e-11, msg=text)
        moved = (found.alpha - multipliers.alpha)[rise > 1e-3]
        clear = true.alpha[rise > 1e-3].abs() > 1e-6
        assert torch.equal(moved.sign()[clear], true.alpha[rise > 1e-3].sign()[clear])
        # a slope counts only where its line is used
        assert bool(((found.alpha == multipliers.alpha) | (first.a > 0)).all()), text
        if rows.source is None:
            continue  # the mix is normed there
        best, found, _ = climb(net.frame, goals, rows, multipliers, Pace(1, 0.0, tiny), torch.inf)
        rose = best > first.value
        for part in ("beta", "gamma"):
            moved, slope = getattr(found, part) - getattr(multipliers, part), getattr(true, part)
            clear = rose.unsqueeze(1) & (slope.abs() > 1e-6)
            assert torch.equal(moved.sign()[clear], slope.sign()[clear]), (part, text)
        strong = (true.beta.abs().sum(1) > 1e-3) | (true.gamma.abs().sum(1) > 1e-3)
        strong &= (first.a.abs() > 1e-3).any(1)  # multipliers are measured by the coefficients around them
        assert bool(rose[strong].all()), text


@pytest.mark.parametrize("name", NETS)
def test_climbing_never_falls_and_says_what_it_did(name: str) -> None:
    net, rng = net_of(name, 1), rng_of(name, "climb")
    for goals, rows, text in questions(net, rng):
        multipliers = random_multipliers(rng, net, rows, 0 if goals is None else len(goals))
        multipliers = normed(rows, multipliers)
        kept = replace(multipliers, **{k: v.clone() for k, v in vars(multipliers).items()})
        first = evaluate(net.frame, goals, rows, multipliers).value
        last = first
        for steps in (0, 1, 5, 20):
            best, found, _ = climb(net.frame, goals, rows, multipliers, Pace(steps), torch.inf)
            assert bool((best >= last).all()), (steps, text)
            torch.testing.assert_close(evaluate(net.frame, goals, rows, found).value, best, rtol=1e-9, atol=1e-9)
            assert bool((found.alpha >= 0).all() and (found.alpha <= 1).all() and (found.beta >= 0).all())
            assert bool((found.gamma >= 0).all())
            if rows.source is None:
                torch.testing.assert_close(found.gamma.sum(1), torch.ones_like(best))
            last = best
        for field in ("alpha", "beta", "gamma"):  # what was given is left alone
            assert torch.equal(getattr(kept, field), getattr(multipliers, field))


@pytest.mark.parametrize("name", NETS)
def test_no_value_lies_above_the_network(name: str) -> None:
    """Points of the box that fulfil a row's phases, by float64: what climbs stays below the mix it bounds."""
    net, rng = net_of(name, 4), rng_of(name, "sound")
    low, high = net.box
    x = low + (high - low) * torch.from_numpy(rng.uniform(size=(400, low.shape[1])))
    inputs = list(split_inputs(net.program, x).values())
    values = net.program.run(inputs)
    z, y = net.columns.gather(values), net.program.flat(x)
    tested = 0
    for goals, rows, text in questions(net, rng):
        count = 0 if goals is None else len(goals)
        _, found, _ = climb(net.frame, goals, rows, random_multipliers(rng, net, rows, count), Pace(8), torch.inf)
        best = evaluate(net.frame, goals, rows, found).value
        mix = torch.zeros((len(x), len(best)), dtype=torch.float64)
        if goals is not None:
            f = y @ goals.y.T - goals.rhs + (0 if goals.x is None else x @ goals.x.T)
            mix = f @ found.gamma.T
        if rows.source is not None:
            assert rows.index is not None and rows.sign is not None
            mix = mix + values[rows.source].flatten(1)[:, rows.index] * rows.sign
        there = ((z.unsqueeze(1) >= rows.lower) & (z.unsqueeze(1) <= rows.upper)).all(2)
        tested += int(there.sum())
        assert bool((mix >= best - 1e-9)[there].all()), text
    assert tested > 100


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every evaluation from here on."""
    sizes: list[int] = []

    def counted(frame: Any, goals: Any, rows: Rows, multipliers: Multipliers, primal: bool = True) -> Primal:
        sizes.append(len(multipliers.alpha))
        return evaluate(frame, goals, rows, multipliers, primal)

    monkeypatch.setattr(climbing, "evaluate", counted)
    return sizes


def test_it_stops_when_all_is_proved_or_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    net, rng = net_of("dense", 5), rng_of("stop")
    goals, rows, _ = questions(net, rng)[0]
    multipliers = random_multipliers(rng, net, rows, 1)
    first = evaluate(net.frame, goals, rows, multipliers).value
    sizes = calls(monkeypatch)
    best, found, _ = climb(net.frame, goals, rows, multipliers, Pace(1000), float(first.min()) - 1.0)
    assert len(sizes) == 1 and torch.equal(best, first) and torch.equal(found.alpha, multipliers.alpha)
    sizes.clear()
    best, _, _ = climb(net.frame, goals, rows, multipliers, Pace(1000), torch.inf, lambda: True)
    assert len(sizes) == 1 and torch.equal(best, first)
    sizes.clear()
    climb(net.frame, goals, rows, multipliers, Pace(7), torch.inf)
    assert sizes == [len(best)] * 8


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("name", ["dense", "residual", "two_ends", "pooled"])
def test_rows_are_kept_apart(name: str, each: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are proved leave; what the others reach, with what multipliers, and where, is what each
    reaches alone. ``each``: every row has a level of its own."""
    net, rng = net_of(name, 6), rng_of(name, "apart")
    left = 0
    for goals, rows, text in questions(net, rng, 12)[:: 2 if each else 3]:
        count = 0 if goals is None else len(goals)
        multipliers = random_multipliers(rng, net, rows, count)
        pace = Pace(10)
        far, _, _ = climb(net.frame, goals, rows, multipliers, pace, torch.inf)
        near = evaluate(net.frame, goals, rows, multipliers).value
        odd = torch.arange(12) % 2 == 1
        # levels that no row touches exactly: some are passed early, some never
        own = torch.where(odd, far + 1, (near + far) / 2 - 1e-6)
        enough: Tensor | float = own if each else float(far.sort().values[5:7].mean())
        sizes = calls(monkeypatch)
        best, found, last = climb(net.frame, goals, rows, multipliers, pace, enough)
        monkeypatch.undo()
        left += len(set(sizes)) > 1
        for b in range(12):
            level = float(enough[b]) if isinstance(enough, Tensor) else enough
            one = torch.tensor([b])
            alone = climb(net.frame, goals, rows.select(one), multipliers.select(one), pace, level)
            if float(alone[0]) > level:  # how much further it went in company is of no interest
                assert float(best[b]) > level and float(best[b]) >= float(alone[0]) - 1e-9, (text, b)
                continue
            torch.testing.assert_close(best[b], alone[0][0], rtol=1e-7, atol=1e-7, msg=text)
            for mine, its in ((found.select(one), alone[1]), (last.select(one), alone[2])):
                for field, value in vars(its).items():
                    torch.testing.assert_close(getattr(mine, field), value, rtol=1e-5, atol=1e-5, msg=f"{text} {field}")
    assert left > 1, "no row ever left: the test shows nothing"


def test_goals_that_are_not_allowed_stay_out() -> None:
    """Rows of several conjunctions are climbed together; each mixes its own goals only."""
    net, rng = net_of("dense", 7), rng_of("allowed")
    goals = goals_of(rng, net, 4, True)
    assert goals is not None
    rows = split_rows(rng, net, 3, 0, 4)
    mine = torch.tensor([[True, True, False, False], [False, False, True, True], [False, True, False, False]])
    rows = replace(rows, allowed=mine)
    multipliers = random_multipliers(rng, net, rows, 4)
    weights = multipliers.gamma * mine
    multipliers = replace(multipliers, gamma=weights / weights.sum(1, keepdim=True))
    best, found, _ = climb(net.frame, goals, rows, multipliers, Pace(10), torch.inf)
    assert bool((found.gamma[~mine] == 0).all())
    for b in range(3):
        own = Goals(goals.y[mine[b]], None if goals.x is None else goals.x[mine[b]], goals.rhs[mine[b]])
        one = torch.tensor([b])
        here = replace(rows.select(one), allowed=torch.ones((1, int(mine[b].sum())), dtype=torch.bool))
        start = replace(multipliers.select(one), gamma=multipliers.gamma[b : b + 1, mine[b]])
        alone, _, _ = climb(net.frame, own, here, start, Pace(10), torch.inf)
        torch.testing.assert_close(best[b], alone[0], rtol=1e-7, atol=1e-7)


def test_a_box_without_unstable_neurons_is_bounded_too() -> None:
    """Nothing to climb but the mix of the goals."""
    rng = rng_of("stable")
    graph = dense(rng)
    lower = some_box(rng, 3)[0]
    net = bounded(graph, lower, lower)
    assert net.columns.count == 0 and columns_of(net.root).start[-1] == 0
    goals = goals_of(rng, net, 3, True)
    assert goals is not None
    rows = split_rows(rng, net, 1, 0, 3)
    multipliers = replace(random_multipliers(rng, net, rows, 3), gamma=torch.full((1, 3), 1 / 3).double())
    best, found, _ = climb(net.frame, goals, rows, multipliers, Pace(30), torch.inf)
    x = net.box[0]
    f = net.program.flat(x) @ goals.y.T - goals.rhs + (0 if goals.x is None else x @ goals.x.T)
    torch.testing.assert_close(best, (found.gamma * f).sum(1))
    assert float(f.max()) - 0.05 * float(f.max() - f.mean()) < float(best) <= float(f.max()) + 1e-9
