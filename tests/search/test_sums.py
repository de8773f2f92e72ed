"""Products of matrices whose second one is summed first: planes and bounds against samples, and what they are worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from general_nets import Net, below
from torch import Tensor

from verinn.bounds.crown import Backward, Relaxation
from verinn.bounds.domain import relax
from verinn.bounds.gathered import Sums, gathered
from verinn.bounds.optimise import Ask, Pace, climb, evaluate, first, summed, tightened
from verinn.ir.graph import Graph
from verinn.ops.product import Matmul
from verinn.ops.program import Program, Step
from verinn.search.nonlinear import Effort, Root
from verinn.search.spec import groups

torch.set_num_threads(1)
M, K, N = 2, 3, 8


class Moving:
    """x in a box; y = centre + G·z for z in [−1, 1]², so that its elements move together."""

    def __init__(self, seed: int, dtype: torch.dtype):
        self.rng = torch.Generator().manual_seed(seed)
        self.low = self.random(1, M, K).to(dtype)
        self.high = self.low + self.random(1, M, K).abs().to(dtype)
        self.centre, self.g = self.random(1, K, N), self.random(1, K, N, 2)
        reach = self.g.abs().sum(-1) * (1 + 1e-6)
        self.y = (self.centre - reach).to(dtype), (self.centre + reach).to(dtype)
        self.a = self.random(1, M, N).to(dtype)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng, dtype=torch.float64)

    def sums(self, a: Tensor) -> Sums:
        middle = a.double() @ self.centre.mT
        reach = torch.einsum("bmn,bknz->bmkz", a.double(), self.g).abs().sum(-1) + 1e-9
        return Sums(a, middle - reach, middle + reach)

    def points(self) -> tuple[Tensor, Tensor]:
        """Corners and points within: x (P, M, K), y (P, K, N)."""
        part = torch.rand((4000, M, K), generator=self.rng, dtype=torch.float64)
        z = torch.rand((4000, 1, 1, 2), generator=self.rng, dtype=torch.float64) * 2 - 1
        part[::2], z[::2] = part[::2].round(), z[::2].sign()
        return self.low.double() * (1 - part) + self.high.double() * part, self.centre + (self.g * z).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(6))
def test_planes_lie_below(seed: int, dtype: torch.dtype) -> None:
    """For the coefficients known, and for others near them and far from them."""
    made = Moving(seed, dtype)
    x, y = made.points()
    for off in (0.0, 0.1, 10.0):
        a = made.a + off * made.random(1, M, N).to(dtype)
        mix = torch.rand((1, M, K), generator=made.rng, dtype=torch.float64).to(dtype)
        plane = gathered([(made.low, made.high), made.y], made.sums(made.a), a.unsqueeze(1), mix, 8)
        true = (a.double() * (x @ y)).sum((1, 2))
        said = (plane.x[0].double() * x).sum((1, 2)) + (plane.y[0].double() * y).sum((1, 2)) + plane.c[0, 0]
        assert bool((said <= true + true.abs() * 1e-13 + 1e-13).all())
        slack = (true - said).min()  # and it is not merely low: some corner nearly touches it
        assert off > 5 or slack < 0.35 * (true.max() - true.min())


def test_worth() -> None:
    """Where y moves in two directions only, a good part of what the planes of single products lose is won."""
    made = Moving(3, torch.float64)
    boxes = [(made.low, made.high), made.y]
    x, y = made.points()
    plane = gathered(boxes, made.sums(made.a), made.a.unsqueeze(1), torch.full((1, M, K), 0.5), 8)
    step = products(attention(0))[-1]
    single = Matmul().planes(step.node, [(low.unsqueeze(1), high.unsqueeze(1)) for low, high in boxes])
    a = made.a.reshape(1, 1, 1, M, N)
    of_x, of_y = single.back(a.clamp(min=0), a.clamp(max=0))
    c = (a.clamp(min=0) * single.lower_offset + a.clamp(max=0) * single.upper_offset).sum()
    true = (made.a * (x @ y)).sum((1, 2))
    new = (plane.x[0] * x).sum((1, 2)) + (plane.y[0] * y).sum((1, 2)) + plane.c[0, 0]
    old = (of_x[0, 0] * x).sum((1, 2)) + (of_y[0, 0] * y).sum((1, 2)) + c
    assert float((true - new).mean()) < 0.75 * float((true - old).mean())


def products(graph: Graph, dtype: torch.dtype = torch.float64) -> list[Step]:
    return [step for step in Program.prepare(graph, dtype).steps if step.node.op == "matmul"]


def attention(seed: int) -> Graph:
    """Attention over three places with eight columns, and a ReLU network behind it."""
    net = Net(np.random.default_rng(seed))

    def matrix(rows: int, columns: int) -> str:
        return net.add("reshape", net.dense("x", rows * columns, 0.7), shape=(1, rows, columns))

    scores = net.add("softmax", net.add("matmul", matrix(M, 4), matrix(4, K)), axis=2)
    mixed = net.add("matmul", scores, matrix(K, N))
    flat = net.add("reshape", mixed, shape=(1, M * N))
    net.dense(net.add("relu", net.dense(flat, 6)), 1)
    return net.graph()


def sampled(graph: Graph) -> dict[str, Tensor]:
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (3000, 2)))
    x[::2] = x[::2].sign()
    return Program.prepare(graph, torch.float64).run([x.reshape(-1, *graph.inputs[0].shape)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_goals_and_elements(seed: int, dtype: torch.dtype) -> None:
    """What is found with sums, climbed and not, holds at every sample; the sums themselves do."""
    graph = attention(seed)
    program, values = Program.prepare(graph, dtype), sampled(graph)
    ends = torch.full((1, 2), -1.0, dtype=dtype), torch.ones((1, 2), dtype=dtype)
    with torch.no_grad():
        relaxation = relax(program, *ends)
        step = products(graph, dtype)[-1]
        for name in (graph.nodes[-2].inputs[0], graph.outputs[0].value):
            size = values[name][0].numel()
            index = torch.arange(size).repeat(2)
            sign = torch.ones(2 * size).index_fill(0, torch.arange(size, 2 * size), -1.0)
            ask = Ask(source=name, index=index, sign=sign)
            now = first(relaxation, len(index))
            ask = summed(relaxation, ask, now, *ends, 1 << 20)
            (sums,) = ask.sums.values()
            true = sums.a.double().unsqueeze(1) @ values[step.node.inputs[1]].mT
            assert bool((true >= sums.low.unsqueeze(1) - 1e-9).all() and (true <= sums.high.unsqueeze(1) + 1e-9).all())
            least = (values[name].flatten(1)[:, index] * sign).amin(0)
            for value in (
                evaluate(relaxation, ask, now, *ends)[0],
                climb(relaxation, ask, now, *ends, Pace(8), torch.inf).value,
            ):
                assert bool((value <= least + 1e-9).all())
                assert bool(value.isfinite().all())


def test_sums_lift_bounds() -> None:
    """A goal's bound is better with them, with the same parameters."""
    graph = attention(1)
    program = Program.prepare(graph, torch.float64)
    ends = torch.full((1, 2), -1.0, dtype=torch.float64), torch.ones((1, 2), dtype=torch.float64)
    with torch.no_grad():
        relaxation = relax(program, *ends)
        ask = Ask(source=graph.outputs[0].value, index=torch.tensor([0, 0]), sign=torch.tensor([1.0, -1.0]))
        now = first(relaxation, 2)
        plain, _ = evaluate(relaxation, ask, now, *ends)
        lifted, _ = evaluate(relaxation, summed(relaxation, ask, now, *ends, 1 << 20), now, *ends)
    assert bool((lifted > plain + 0.02 * plain.abs()).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tightened_intervals_hold(dtype: torch.dtype) -> None:
    """They hold at every sample, are nowhere wider, and some are narrower."""
    graph = attention(3)
    program, values = Program.prepare(graph, dtype), sampled(graph)
    ends = torch.full((1, 2), -1.0, dtype=dtype), torch.ones((1, 2), dtype=dtype)
    with torch.no_grad():
        base = relax(program, *ends)
        better = tightened(base, *ends, Pace(5, alpha=0.3), 1 << 22)
    narrower = 0
    for name, (low, high) in better.intervals.items():
        assert bool((low - 1e-5 <= values[name]).all() and (values[name] <= high + 1e-5).all())
        assert bool((low >= base.intervals[name][0]).all() and (high <= base.intervals[name][1]).all())
        narrower += bool((high - low < base.intervals[name][1] - base.intervals[name][0] - 1e-3).any())
    assert narrower


def test_the_search_hands_them_to_each_domain_by_its_goal() -> None:
    """Goals are numbered in the case, whatever is left open; others' sums say nothing."""
    graph = attention(2)
    (spec,) = groups([below(float(sampled(graph)[graph.outputs[0].value].min()) + 0.1)])
    program, referee = Program.prepare(graph, torch.float32), Program.prepare(graph, torch.float64)
    with torch.no_grad():
        root = Root(program, referee, spec, 0, lambda: False, Effort(8, 16 << 20, 0, False, lambda: 20.0))
        task = root.started(torch.arange(1))
        domains = task.root().select(torch.zeros(3, dtype=torch.int64))
        (mine,) = task.ask(domains).sums.values()
    (whole,) = task.sums.values()
    assert len(mine.a) == 3 and bool((mine.a == whole.a[:1]).all())
    spread = whole.spread(torch.tensor([2]), 4)
    assert bool((spread.a[2] == whole.a[0]).all()) and not bool(spread.a[[0, 1, 3]].any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_level_of_softmax_holds(dtype: torch.dtype) -> None:
    """Coefficients of a softmax are counted from their median by widths: bounds hold whichever value is widest."""
    net = Net(np.random.default_rng(4))
    spread = np.random.default_rng(4).uniform(0.05, 3.0, (1, 5))
    p = net.add("softmax", net.add("scale", net.dense("x", 5), params={"factor": spread}), axis=1)
    net.dense(p, 6)
    graph = net.graph()
    values, program = sampled(graph)[graph.outputs[0].value], Program.prepare(graph, dtype)
    ends = torch.full((1, 2), -1.0, dtype=dtype), torch.ones((1, 2), dtype=dtype)
    with torch.no_grad():
        relaxation = relax(program, *ends)
        rows = torch.cat([torch.eye(6), -torch.eye(6)]).to(dtype).reshape(1, 12, 1, 6)
        found = Backward(relaxation).minimum({graph.outputs[0].value: rows}, *ends)[0]
    true = (values.reshape(-1, 6) @ rows[0, :, 0].double().mT).amin(0)
    assert bool((found <= true + 1e-9).all())
    assert bool((found > true - 3.0).all())
    parts = (1, 2, 8)  # the same rows over several domains: each as if it were alone
    several = [torch.cat([end / part for part in parts]) for end in ends]
    with torch.no_grad():
        each = Backward(relax(program, *several)).minimum({graph.outputs[0].value: rows}, *several)
        for found, part in zip(each, parts, strict=True):
            box = [end / part for end in ends]
            alone = Backward(relax(program, *box)).minimum({graph.outputs[0].value: rows}, *box)[0]
            assert torch.allclose(found, alone, atol=1e-3)


def test_an_empty_domain_of_a_softmax_is_bounded_like_any() -> None:
    """A split may leave a softmax's value no range at all: its width counts as none."""
    net = Net(np.random.default_rng(4))
    p = net.add("softmax", net.dense("x", 5), axis=1)
    net.dense(p, 2)
    graph = net.graph()
    program = Program.prepare(graph, torch.float32)
    ends = torch.full((1, 2), -1.0), torch.ones((1, 2))
    with torch.no_grad():
        known = relax(program, *ends).intervals
        low, high = known[p]
        crossed = Relaxation(program, {**known, p: (high + 0.1, low)})
        rows = torch.eye(2).reshape(1, 2, 1, 2)
        found = Backward(crossed).minimum({graph.outputs[0].value: rows}, *ends)
    assert found.shape == (1, 2)
