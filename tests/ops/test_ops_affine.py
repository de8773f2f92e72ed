"""Affine operators, fuzzed: values, |L|, the transpose, and how many products are summed."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_graph import KNOWN, Build, exact, run
from ops_cases import CASES, whole
from ops_referee import CURVES

from verinn.bounds.interval import propagate
from verinn.ir.check import _RULES
from verinn.ir.graph import Const
from verinn.ops.base import Affine
from verinn.ops.program import Program, Step, _round
from verinn.ops.registry import OPS

torch.set_num_threads(1)

AFFINE = [name for name, op in OPS.items() if isinstance(op, Affine)]
DTYPES = [torch.float32, torch.float64]


def test_every_operator_is_fuzzed() -> None:
    """An operator without a fuzz entry, without a shape rule, or that the rational referee lacks, fails here."""
    assert set(CASES) == set(OPS) == set(_RULES)
    assert set(OPS) <= KNOWN | set(CURVES) | {"softmax", "log_softmax"}


def steps(op: str, count: int = 40) -> Iterator[tuple[Program, Step, np.random.Generator]]:
    for seed in range(count):
        rng = np.random.default_rng([seed, sorted(OPS).index(op)])
        program = Program.prepare(CASES[op](rng), torch.float64)
        (step,) = program.steps
        yield program, step, rng


def numbers(rng: np.random.Generator, shape: tuple[int, ...], batch: int = 3) -> torch.Tensor:
    return torch.from_numpy(rng.integers(-9, 10, (batch, *shape)).astype(np.float64))


def matrix(step: Step) -> list[torch.Tensor]:
    """L by columns for each input: (elements out, elements in)."""
    assert isinstance(step.op, Affine)
    found = []
    for k, shape in enumerate(step.shapes):
        size = int(np.prod(shape))
        xs = [torch.zeros((size, *s), dtype=torch.float64) for s in step.shapes]
        xs[k] = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        found.append(step.op.linear(step.node, xs, step.params).flatten(1).T)
    return found


@pytest.mark.parametrize("op", AFFINE)
def test_values_are_those_of_exact_arithmetic(op: str) -> None:
    for program, step, rng in steps(op):
        assert isinstance(step.op, Affine)
        xs = [numbers(rng, shape) for shape in step.shapes]
        found = step.op.apply(step.node, xs, step.params).expand(3, *step.node.shape)
        for d in range(3):
            inputs = [exact(x[d].numpy()) for x in xs] or [exact(np.zeros(1))]
            true = run(program.graph, inputs)[step.node.name].astype(np.float64)
            assert np.allclose(found[d].numpy(), true, rtol=1e-15 if op == "divide" else 0, atol=0)


@pytest.mark.parametrize("op", AFFINE)
def test_the_absolute_map_is_the_absolute_value(op: str) -> None:
    for _, step, rng in steps(op):
        assert isinstance(step.op, Affine)
        xs = [numbers(rng, shape).abs() for shape in step.shapes]
        found = step.op.linear(step.node, xs, step.magnitudes, absolute=True).flatten(1)
        true = sum((x.reshape(3, -1) @ m.abs().T for m, x in zip(matrix(step), xs, strict=True)), torch.zeros(1))
        assert torch.allclose(found, true.expand(found.shape).double(), rtol=1e-15, atol=0)


@pytest.mark.parametrize("op", AFFINE)
def test_back_is_the_transpose(op: str) -> None:
    """Against L by columns, and against automatic differentiation."""
    for _, step, rng in steps(op):
        assert isinstance(step.op, Affine)
        a = numbers(rng, step.node.shape, 4)
        found = step.op.back(step.node, a, step.params, step.shapes)
        automatic = Affine.back(step.op, step.node, a, step.params, step.shapes) if step.shapes else []
        assert len(found) == len(step.shapes)
        for back, auto, m, shape in zip(found, automatic, matrix(step), step.shapes, strict=True):
            assert back.shape == (4, *shape)
            assert torch.allclose(back.reshape(4, -1), a.reshape(4, -1) @ m, rtol=1e-15, atol=1e-13)
            assert torch.allclose(back, auto, rtol=1e-15, atol=1e-13)


@pytest.mark.parametrize("op", AFFINE)
def test_no_more_products_than_stated_are_summed(op: str) -> None:
    """Zero terms mean that numbers only move: forward as they are, backward perhaps with a sign."""
    for _, step, _ in steps(op):
        rows = torch.zeros(int(np.prod(step.node.shape)))
        for m in matrix(step):
            rows = rows + (m != 0).sum(1)
            columns = int((m != 0).sum(0).max())
            if step.back_terms:
                assert columns <= step.back_terms
            else:
                assert columns <= 1 and bool(((m == 0) | (m.abs() == 1)).all())
            if not step.forward_terms:
                assert bool(((m == 0) | (m == 1)).all())
        assert int(rows.max()) <= max(step.forward_terms, 1)


@pytest.mark.parametrize(
    "kernel, stride, dilation, met",
    [(4, 4, 1, 1), (5, 4, 1, 2), (3, 2, 1, 2), (4, 4, 2, 2), (3, 6, 4, 1), (3, 3, 3, 3)],
)
def test_windows_that_do_not_overlap_sum_little(kernel: int, stride: int, dilation: int, met: int) -> None:
    """Patches cut by a convolution whose stride is its kernel's width share no pixel: one product for each channel."""
    b = Build((1, 2, 30, 30))
    weight = whole(np.random.default_rng(0), (5, 2, kernel, kernel))
    attrs = {"strides": (stride, stride), "dilations": (dilation, dilation), "pads": (0, 0, 0, 0), "groups": 1}
    b.add("conv", "x0", params={"weight": weight}, **attrs)
    step = Program.prepare(b.graph(), torch.float64).steps[0]
    assert step.back_terms == 5 * met**2
    assert int((matrix(step)[0] != 0).sum(0).max()) == 5 * met**2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", AFFINE)
def test_intervals_contain_exact_values(op: str, dtype: torch.dtype) -> None:
    """Boxes wide, narrow and of one point, and numbers that no float32 is."""
    for program, _, rng in steps(op, 15):
        held = Program.prepare(program.graph, dtype)
        (step,) = held.steps
        middle = [rng.normal(size=(4, *s)) * 10.0 ** rng.uniform(-6, 6, (4, *s)) for s in step.shapes]
        width = [np.abs(rng.normal(size=m.shape)) * 10.0 ** rng.uniform(-9, 3, m.shape) for m in middle]
        pairs = []
        for m, w in zip(middle, width, strict=True):
            w[0] = 0
            pairs.append((torch.from_numpy(m - w).to(dtype), torch.from_numpy(m + w).to(dtype)))
        low, high = propagate(step, pairs)
        for d in range(4):
            for _ in range(4):
                inputs = []
                for lower, upper in pairs:
                    l, u = exact(lower[d].double().numpy()), exact(upper[d].double().numpy())  # noqa: E741
                    inputs.append(l + (u - l) * exact(rng.integers(0, 2, lower[d].shape)))
                value = run(program.graph, inputs or [exact(np.zeros(1))])[step.node.name].reshape(-1)
                box = d if len(low) > 1 else 0
                for a, v, b in zip(low[box].reshape(-1).tolist(), value, high[box].reshape(-1).tolist(), strict=True):
                    assert a <= v <= b


def test_weights_are_rounded_and_the_loss_is_counted() -> None:
    """|exact − held| ≤ error for every weight, in both dtypes, subnormal and huge ones too."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=300) * 10.0 ** rng.uniform(-50, 38, 300)
    errors = np.abs(values) * 10.0 ** rng.uniform(-18, -3, 300) * rng.integers(0, 2, 300)
    values[:3] = 5e-324, -1e-310, 0.0
    for dtype in DTYPES:
        for const in (Const(values), Const(values, errors)):
            held, error = _round(const, dtype, torch.device("cpu"))
            lost = torch.zeros_like(held) if error is None else error
            ends = exact(np.zeros(300)) if const.error is None else exact(const.error)
            for v, e, h, s in zip(exact(values), ends, held.tolist(), lost.tolist(), strict=True):
                assert abs(v - Fraction(h)) + e <= Fraction(s)
                assert h == 0 or abs(h) >= torch.finfo(dtype).tiny
