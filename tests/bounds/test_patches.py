"""Coefficients on windows are those of the dense pass, hold in exact arithmetic, and refer to nothing outside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bounds_check import interval_violations, tensors, truth
from crafted import boxes, f32, spread
from exact_graph import Build
from torch import Tensor

from verinn.bounds import crown, patches
from verinn.bounds.crown import Backward, OneHot, Relaxation
from verinn.bounds.domain import relax
from verinn.bounds.patches import Patches, Window, footprint, passes, places
from verinn.ir.graph import Graph
from verinn.ops.conv import transposed
from verinn.ops.program import Program

torch.set_num_threads(1)

DTYPES = [torch.float32, torch.float64]
Rng = np.random.Generator


def conv(b: Build, x: str, rng: Rng, out: int, kernel: tuple[int, int], bias: bool = True, **given: object) -> str:
    """A convolution with random weights; pads are such that the image doesn't vanish."""
    _, channels, height, width = b.shapes[x]
    attrs = {"strides": (1, 1), "dilations": (1, 1), "groups": 1, "pads": None, **given}
    if attrs["pads"] is None:
        need = [max(0, k - size) for k, size in zip(kernel, (height, width), strict=True)]
        attrs["pads"] = tuple(int(n) for n in (*rng.integers(0, 3, 2), *(rng.integers(0, 3, 2) + need)))
    weight = f32(rng.normal(size=(out, channels // int(str(attrs["groups"])), *kernel)))
    params = {"weight": weight, "bias": spread(rng, (out,), 1)} if bias else {"weight": weight}
    return b.add("conv", x, params=params, **attrs)


def pair(rng: Rng, low: int, high: int) -> tuple[int, int]:
    return int(rng.integers(low, high)), int(rng.integers(low, high))


def chain(rng: Rng, size: tuple[int, int] = (7, 5)) -> Graph:
    """Convolutions of any stride, kernel and pads, also right behind each other; a linear layer at the end."""
    b = Build((1, 2, *size))
    h = "x0"
    for k in range(4):
        kernel = (1, 1) if rng.integers(4) == 0 else pair(rng, 1, 5)
        h = conv(b, h, rng, int(rng.integers(1, 4)), kernel, strides=pair(rng, 1, 3), bias=bool(k % 2))
        if rng.integers(3):
            h = b.add("leaky_relu", h, alpha=0.1) if rng.integers(3) == 0 else b.add("relu", h)
    count = int(np.prod(b.shapes[h]))
    b.add("linear", b.add("reshape", h, shape=(1, count)), params={"weight": f32(rng.normal(size=(count, 2)))})
    return b.graph()


def residual(rng: Rng, size: tuple[int, int] = (6, 7)) -> Graph:
    """Branches that meet: by strides alike and with windows of several sizes; scales and shifts between."""
    b = Build((1, 2, *size))
    h = b.add("relu", conv(b, "x0", rng, 3, (3, 2), pads=(1, 0, 1, 1)))
    stride = pair(rng, 1, 3)
    long = b.add("relu", conv(b, h, rng, 4, (3, 3), strides=stride, pads=(1, 1, 1, 1)))
    long = conv(b, long, rng, 4, (3, 3), pads=(1, 1, 1, 1))
    long = b.add("scale", long, params={"factor": f32(rng.normal(size=(4, 1, 1)))})
    short = conv(b, h, rng, 4, (1, 1), strides=stride, pads=(0, 0, 0, 0), bias=False)
    short = b.add("shift", short, params={"offset": f32(rng.normal(size=b.shapes[short]))})
    h = b.add("relu", b.add("sum", short, long, signs=(1, -1)))
    h = b.add("sum", h, conv(b, h, rng, 4, (3, 3), groups=2, pads=(1, 1, 1, 1)), signs=(1, 1))
    h = conv(b, b.add("abs", h), rng, 2, (2, 2), dilations=(2, 1), pads=(1, 0, 1, 1))
    b.add("relu", b.add("divide", h, params={"divisor": f32(rng.uniform(1, 2, size=b.shapes[h]))}))
    return b.graph()


NETS = {"chain": chain, "residual": residual}


def instance(name: str, seed: int, dtype: torch.dtype) -> tuple[Program, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    graph = NETS[name](rng)
    lower, upper = boxes(rng, int(np.prod(graph.inputs[0].shape)))
    return Program.prepare(graph, dtype), *tensors(lower[:4], upper[:4], dtype)


def neurons(relaxation: Relaxation, name: str, box: tuple[Tensor, Tensor]) -> Tensor:
    """Least values (D, 2, n) of each element of a value and of its negative, bounded by CROWN."""
    count = relaxation.intervals[name][0][0].numel()
    index = torch.arange(count).repeat(1, 2)
    sign = torch.tensor([1.0, -1.0]).repeat_interleave(count)
    backward = Backward(relaxation)
    return backward.minimum({name: OneHot(index, sign)}, *box).expand(len(box[0]), -1).unflatten(1, (2, count))


def images(program: Program) -> list[str]:
    return [step.node.name for step in program.steps if passes(step) and step.affine]


@pytest.fixture(params=["large windows", "small windows only"])
def any_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows however large, and as large as they pay: small images have few of the second kind."""
    if request.param == "large windows":
        monkeypatch.setattr(patches, "LARGEST_PART", 1e9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_windows_give_the_bounds_of_the_dense_pass(
    name: str, dtype: torch.dtype, any_size: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    for seed in range(12):
        program, *box = instance(name, seed, dtype)
        with torch.no_grad():
            relaxation = relax(program, box[0], box[1], refine=False)
            for value in images(program):
                found = neurons(relaxation, value, (box[0], box[1]))
                with monkeypatch.context() as patch:
                    patch.setattr(crown, "passes", lambda step: False)
                    dense = neurons(relaxation, value, (box[0], box[1]))
                eps = 1e3 * torch.finfo(dtype).eps
                assert bool(((found - dense).abs() <= eps * dense.abs().amax(-1, keepdim=True)).all())
                seen += 1
    assert seen > 20


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_windows_hold_exactly(name: str, dtype: torch.dtype, any_size: None) -> None:
    assert violations(name, dtype) == 0


def violations(name: str, dtype: torch.dtype) -> int:
    """How many neurons' bounds an exact value breaks."""
    bad = 0
    for seed in range(2):
        rng = np.random.default_rng(seed)
        graph = NETS[name](rng, (4, 3))
        lower, upper = boxes(rng, int(np.prod(graph.inputs[0].shape)))
        known = truth(graph, lower, upper, rng, 3)
        bad += len(interval_violations(graph, lower, upper, known, dtype, True))
        program = Program.prepare(graph, dtype)
        box = tensors(lower, upper, dtype)
        with torch.no_grad():
            relaxation = relax(program, *box)
            for value in images(program):
                least = neurons(relaxation, value, box)
                for bounds, here in zip(least.tolist(), known, strict=True):
                    for exact in (values[value].reshape(-1) for values in here):
                        bad += sum(b > v for b, v in zip(bounds[0], exact, strict=True))
                        bad += sum(b > -v for b, v in zip(bounds[1], exact, strict=True))
    return bad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_without_rounding_windows_are_caught(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "LARGEST_PART", 1e9)
    monkeypatch.setattr(crown, "gamma", lambda terms, dtype: 0.0)
    assert violations("chain", dtype) + violations("residual", dtype) > 0


def test_coefficients_left_outside_the_image_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "LARGEST_PART", 1e9)
    monkeypatch.setattr(Patches, "_cut", lambda self: self)
    assert violations("chain", torch.float64) + violations("residual", torch.float64) > 0


def test_outside_the_image_is_zero() -> None:
    """Whatever steps rows went through: writing windows out and summing all of it loses nothing."""
    rng = np.random.default_rng(0)
    b = Build((1, 2, 5, 6))
    h = conv(b, "x0", rng, 3, (3, 3), pads=(2, 1, 0, 2))
    h = conv(b, h, rng, 2, (2, 4), strides=(2, 1), pads=(1, 2, 1, 3))
    program = Program.prepare(b.graph(), torch.float64)
    count = int(np.prod(b.shapes[h]))
    rows = Patches.pick(torch.arange(count).reshape(1, -1), torch.ones(count), b.shapes[h], torch.float64)
    for step in reversed(program.steps):
        assert rows is not None
        (rows,) = rows.back(step)
        dense = rows.dense()
        assert torch.equal(rows.a.count_nonzero(), dense.count_nonzero())
        assert torch.allclose(rows.a.flatten(3).sum(-1).flatten(1), dense.flatten(2).sum(-1))


def test_the_gradient_of_alphas_passes_windows(any_size: None, monkeypatch: pytest.MonkeyPatch) -> None:
    program, lower, upper = instance("residual", 1, torch.float64)
    with torch.no_grad():
        relaxation = relax(program, lower, upper)
    name = images(program)[-1]

    def gradients() -> list[Tensor]:
        alphas = {
            step.node.name: torch.full((len(lower), *step.node.shape), 0.3, dtype=torch.float64, requires_grad=True)
            for step in program.steps
            if step.node.op == "relu"
        }
        neurons(replace(relaxation, alphas=alphas, _lines={}), name, (lower, upper)).sum().backward()
        return [torch.zeros_like(a) if a.grad is None else a.grad for a in alphas.values()]

    found = gradients()
    monkeypatch.setattr(crown, "passes", lambda step: False)
    for one, other in zip(found, gradients(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))
    assert any(bool(g.any()) for g in found)


def test_blocks_reach_every_element_once_or_again() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        shape = (1, int(rng.integers(1, 9)), *pair(rng, 1, 7))
        mask = torch.from_numpy(rng.random(int(np.prod(shape))) < rng.random())
        most = int(rng.integers(1, 40))
        blocks = list(places(mask, shape, most))
        together = torch.cat([block.flatten() for block in blocks]) if blocks else torch.zeros(0, dtype=torch.int64)
        assert sorted(set(together.tolist())) == mask.nonzero().flatten().tolist()
        for block in blocks:
            assert block.shape[1] * block.shape[2] <= most
            assert bool((block % (shape[2] * shape[3]) == block[..., :1] % (shape[2] * shape[3])).all())


def test_rows_never_take_more_room_than_was_said(any_size: None, monkeypatch: pytest.MonkeyPatch) -> None:
    most = [0]
    add = Backward._add

    def spy(self: Backward, name: str, a: crown.Rows, debt: float) -> None:
        add(self, name, a, debt)
        held = self.pending[name][0]
        if isinstance(held, Tensor):
            most[0] = max(most[0], held[0, 0].numel())
        elif isinstance(held, Patches):
            most[0] = max(most[0], held.a[0, 0, 0].numel())

    monkeypatch.setattr(Backward, "_add", spy)
    for name in NETS:
        for seed in range(8):
            program, lower, upper = instance(name, seed, torch.float64)
            with torch.no_grad():
                relaxation = relax(program, lower, upper, refine=False)
                for value in images(program):
                    most[0] = 0
                    neurons(relaxation, value, (lower, upper))
                    assert 0 < most[0] <= footprint(program, value)


def test_rows_of_each_domain_alone_are_dense() -> None:
    assert Patches.pick(torch.zeros((2, 3), dtype=torch.int64), torch.ones(3), (1, 2, 3, 3), torch.float32) is None
    assert Patches.pick(torch.zeros((1, 3), dtype=torch.int64), torch.ones(3), (2, 3, 3), torch.float32) is None


def test_windows_that_move_apart_do_not_join() -> None:
    here = Window((4, 4))
    assert here.union(Window((4, 4), stride=(2, 1))) is None
    assert here.union(Window((5, 4))) is None
    assert here.union(Window((4, 4), offset=(-1, 2), size=(2, 3))) == Window((4, 4), offset=(-1, 0), size=(2, 5))


@pytest.mark.parametrize("seed", range(6))
def test_the_transpose_of_a_convolution_is_that_of_autograd(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    for _ in range(120):
        strides, kernel, size = pair(rng, 1, 5), pair(rng, 1, 6), pair(rng, 1, 10)
        dilations, groups = (pair(rng, 1, 3), int(rng.integers(1, 3))) if rng.integers(2) else ((1, 1), 1)
        channels, out = (groups * int(rng.choice([1, 3, 16])) for _ in range(2))
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        top, left = pair(rng, 0, 6)
        bottom, right = (
            max(0, r - n - b) + int(rng.integers(0, 6)) for r, n, b in zip(reach, size, (top, left), strict=True)
        )
        x = torch.zeros((2, channels, *size), dtype=torch.float64, requires_grad=True)
        weight = torch.randn((out, channels // groups, *kernel), dtype=torch.float64)
        y = F.conv2d(F.pad(x, (left, right, top, bottom)), weight, None, strides, 0, dilations, groups)
        a = torch.randn_like(y)
        (known,) = torch.autograd.grad(y, x, a)
        attrs = {"strides": strides, "dilations": dilations, "groups": groups}
        found = transposed(a, weight, attrs, (top, left), size)
        assert found.shape == known.shape and torch.allclose(found, known, rtol=1e-9, atol=1e-9)
