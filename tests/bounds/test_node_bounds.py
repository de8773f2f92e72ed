"""``verinn.bounds``: bounds of any value over any set contain what points of the set give; gradients; bad calls."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

import verinn
from verinn import Ball, Box, InputError, Polytope, Substitutions
from verinn.bounds.perturbation import Perturbation
from verinn.ir.graph import Const, Graph, Input, Node, Output, frozen
from verinn.ops import evaluate

torch.set_num_threads(1)
RNG = np.random.default_rng(7)
W, V = RNG.standard_normal((4, 6)), RNG.standard_normal((6, 3))


def node(
    name: str, op: str, inputs: str, shape: tuple[int, ...], attrs: dict | None = None, **params: np.ndarray
) -> Node:  # type: ignore[type-arg]
    consts = {key: Const(np.asarray(value)) for key, value in params.items()}
    return Node(name, op, tuple(inputs.split()), shape, frozen(attrs), frozen(consts))


def dense(activation: str) -> Graph:
    nodes = (
        node("p", "linear", "x", (1, 6), weight=W, bias=np.linspace(-1, 1, 6)),
        node("r", activation, "p", (1, 6)),
        node("q", "linear", "r", (1, 6), weight=RNG.standard_normal((6, 6)) / 2),
        node("s", activation, "q", (1, 6)),
        node("y", "linear", "s", (1, 3), weight=V),
    )
    return Graph((Input("x", (1, 4)),), nodes, (Output("out", "y"),))


def attention() -> Graph:
    """Three positions of width four: softmax(x A xᵀ) x, with a product of two variables at each end."""
    nodes = (
        node("k", "linear", "x", (1, 3, 4), weight=RNG.standard_normal((4, 4)) / 2),
        node("t", "transpose", "x", (1, 4, 3), {"perm": (0, 2, 1)}),
        node("scores", "matmul", "k t", (1, 3, 3)),
        node("weights", "softmax", "scores", (1, 3, 3), {"axis": 2}),
        node("mixed", "matmul", "weights x", (1, 3, 4)),
        node("flat", "reshape", "mixed", (1, 12)),
        node("y", "linear", "flat", (1, 2), weight=RNG.standard_normal((12, 2))),
    )
    return Graph((Input("x", (1, 3, 4)),), nodes, (Output("out", "y"),))


def points(kind: str, shape: tuple[int, ...], count: int = 400) -> tuple[Perturbation, Tensor]:
    """A set, and points of it (count, *shape), some on its border."""
    generator = torch.Generator().manual_seed(1)
    n = math.prod(shape)
    centre = torch.randn(shape, generator=generator, dtype=torch.float64)
    d = torch.randn((count, n), generator=generator, dtype=torch.float64)
    d *= torch.rand((count, n), generator=generator) < 0.5
    far = torch.rand((count, 1), generator=generator, dtype=torch.float64).round(decimals=1)
    radius = 0.3
    if kind == "box":
        step = (d.sign() * far * radius).reshape(count, *shape)
        return Box(centre - radius, centre + radius), centre + step
    if kind in ("l1", "l2", "linf"):
        p = {"l1": 1.0, "l2": 2.0, "linf": math.inf}[kind]
        norm = d.norm(p=p, dim=1, keepdim=True).clamp(min=1e-9)
        return Ball(centre, radius, p), centre + (d / norm * far * radius * (1 - 1e-12)).reshape(count, *shape)
    if kind == "polytope":
        row = torch.randn(shape, generator=generator, dtype=torch.float64)
        limit = (row * centre).sum()
        x = centre + (d.sign() * far * radius).reshape(count, *shape)
        return Polytope(centre - radius, centre + radius, row.unsqueeze(0), limit.reshape(1)), x[
            ((x * row).reshape(count, -1).sum(1) < limit - 1e-9)
        ]
    words = [torch.randn((k, shape[-1]), generator=generator, dtype=torch.float64) / 2 for k in (2, 0, 3)]
    one = Substitutions(centre, words[: shape[-2]], 2)
    return one, torch.stack(list(one.each(shape)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["box", "l1", "l2", "linf", "polytope", "words"])
@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "attention"])
def test_points_are_within(name: str, kind: str, dtype: torch.dtype) -> None:
    graph = attention() if name == "attention" else dense(name)
    shape = graph.inputs[0].shape
    if kind == "words" and name != "attention":
        pytest.skip("substitutions are for sequences")
    one, x = points(kind, shape)
    values = evaluate(graph, [x])
    widths = []
    for method in ("ibp", "crown", "alpha-crown"):
        found = verinn.bounds(graph, one, method=method, dtype=dtype, steps=5, forms=True)
        y = values["y"]
        assert bool((found.lower <= y + 1e-9).all() and (found.upper >= y - 1e-9).all()), method
        widths.append(float((found.upper - found.lower).sum()))
        if method != "ibp":
            assert found.below is not None and found.above is not None
            for plane, side in ((found.below, 1), (found.above, -1)):
                a, c = plane.a["x"][0].double(), plane.c[0]
                form = x.flatten(1) @ a.flatten(1).T + c
                assert bool((side * (y.flatten(1) - form) >= -1e-9).all())
    assert widths[1] <= widths[0] * (1 + 1e-9) and widths[2] <= widths[1] * (1 + 1e-9)
    if name == "relu" and kind in ("l1", "l2", "polytope"):  # the set is smaller than its box
        low, high = one.enclosing(shape)
        boxed = verinn.bounds(graph, Box(low, high), dtype=dtype)
        assert widths[1] < 0.999 * float((boxed.upper - boxed.lower).sum())


@pytest.mark.parametrize("name", ["relu", "tanh", "attention"])
def test_bounds_of_inner_values_are_climbed_too(name: str) -> None:
    """They hold, are mostly tighter than with CROWN's inside, and say by gradients how they follow the set."""
    graph = attention() if name == "attention" else dense(name)
    for kind in ("box", "l2"):
        one, x = points(kind, graph.inputs[0].shape)
        y = evaluate(graph, [x])["y"]
        for method in ("crown", "alpha-crown"):
            plain, climbed = (verinn.bounds(graph, one, method=method, steps=5, inner_steps=k) for k in (0, 5))
            assert bool((climbed.lower <= y + 1e-9).all() and (climbed.upper >= y - 1e-9).all())
            widths = [float((found.upper - found.lower).sum()) for found in (plain, climbed)]
            # CROWN's guesses depend on intervals, so that nothing is certain; where much is nonlinear, much is won
            assert widths[1] <= widths[0] * (0.98 if name == "attention" else 1.02)
    radius = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    ball = Ball(torch.full(graph.inputs[0].shape, 0.2, dtype=torch.float64), radius, 2)
    verinn.bounds(graph, ball, inner_steps=3).lower.sum().backward()
    assert radius.grad is not None and float(radius.grad) < 0


def test_inner_values_and_batches() -> None:
    graph = dense("relu")
    centre = torch.randn((5, 1, 4), dtype=torch.float64)
    together = verinn.bounds(graph, Ball(centre, torch.linspace(0, 0.5, 5), 2), "q")
    assert together.lower.shape == (5, 1, 6)
    for i in range(5):
        alone = verinn.bounds(graph, Ball(centre[i], i * 0.125, 2), "q")
        assert alone.lower.shape == (1, 6)
        assert torch.allclose(alone.lower, together.lower[i], atol=1e-12)
    assert torch.allclose(together.lower[0], together.upper[0], atol=1e-12)


def test_combinations() -> None:
    """A margin is bounded tighter as one than as a difference of two bounds; every sample is above it."""
    graph, (one, x) = dense("relu"), points("l2", (1, 4))
    rows = np.asarray([[1.0, -1.0, 0.0], [0.5, 0.0, 2.0]])
    found, apart = verinn.bounds(graph, one, rows=rows), verinn.bounds(graph, one)
    y = evaluate(graph, [x])["y"].flatten(1) @ torch.from_numpy(rows).T
    assert bool((found.lower <= y + 1e-9).all() and (y <= found.upper + 1e-9).all())
    assert float(found.lower[0]) > float(apart.lower[0, 0] - apart.upper[0, 1])
    with pytest.raises(InputError, match="for 3 elements"):
        verinn.bounds(graph, one, rows=np.ones((2, 4)))


def test_an_affine_network_is_bounded_tightly_and_soundly() -> None:
    """The exact extreme of an affine function over an l1 ball, in fractions, is within, by almost nothing."""
    graph = Graph((Input("x", (1, 4)),), (node("y", "linear", "x", (1, 3), weight=W[:, :3]),), (Output("y", "y"),))
    centre = np.asarray([[0.1, -0.7, 1 / 3, 2.0]])
    found = verinn.bounds(graph, Ball(centre, 0.1, 1))
    for j in range(3):
        w = [Fraction(float(v)) for v in W[:, j]]
        middle = sum(a * Fraction(float(b)) for a, b in zip(w, centre[0], strict=True))
        far = Fraction(0.1) * max(map(abs, w))
        assert (
            Fraction(float(found.lower[0, j])) <= middle - far <= Fraction(float(found.lower[0, j])) + Fraction(1e-12)
        )
        assert (
            Fraction(float(found.upper[0, j])) >= middle + far >= Fraction(float(found.upper[0, j])) - Fraction(1e-12)
        )


@pytest.mark.parametrize("method", ["ibp", "crown", "alpha-crown"])
@pytest.mark.parametrize("name", ["relu", "tanh", "attention"])
def test_gradients_flow_to_the_set(name: str, method: str) -> None:
    """A step against the gradient of a lower bound lowers it, by about what the gradient says."""
    graph = attention() if name == "attention" else dense(name)
    centre = torch.full(graph.inputs[0].shape, 0.2, dtype=torch.float64, requires_grad=True)
    radius = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def low(c: Tensor, r: Tensor) -> Tensor:
        return verinn.bounds(graph, Ball(c, r, 2), method=method, steps=3).lower.sum()

    value = low(centre, radius)
    slopes = torch.autograd.grad(value, (centre, radius))
    assert float(slopes[1]) < 0
    step = 1e-6
    moved = low(centre.detach() - step * slopes[0], radius.detach() - step * slopes[1])
    expected = -step * (slopes[0].square().sum() + slopes[1].square())
    change = float((moved - value).detach() / expected)
    if name == "relu":
        assert change == pytest.approx(1, abs=0.1)
    else:  # where curves are touched is not followed: the gradient is that of the bound with fixed tangent points
        assert change > 0.2


def model(activation: str = "Relu") -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["p"]),
        helper.make_node(activation, ["p"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in (("W", W), ("V", V))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_perturbed_weights(tmp_path: Path) -> None:
    """Both weights and the input move at once; every sample is within."""
    onnx.save(model(), tmp_path / "m.onnx")
    w, v = (torch.from_numpy(a.astype(np.float32)).double() for a in (W, V))
    x = torch.randn((1, 4), dtype=torch.float64)
    sets = {"x": Box(x - 0.05, x + 0.05), "W": Ball(w, 0.1, 2), "V": Box(v - 0.02, v + 0.02)}
    found = verinn.bounds(tmp_path / "m.onnx", sets, method="crown")
    wide = verinn.bounds(tmp_path / "m.onnx", sets, method="ibp")
    assert bool((wide.upper - wide.lower >= found.upper - found.lower - 1e-12).all())
    for _ in range(300):
        d = torch.randn_like(w)
        one = w + d / d.norm() * 0.0999
        two = v + 0.02 * torch.randn_like(v).sign() * (1 - 1e-12)
        y = ((x + 0.05 * (torch.rand_like(x) * 2 - 1)) @ one).relu() @ two
        assert bool((found.lower <= y).all() and (y <= found.upper).all())
    still = verinn.bounds(tmp_path / "m.onnx", {"x": Box(x, x), "W": Box(w, w)})
    assert torch.allclose(still.lower, (x @ w).relu() @ v, atol=1e-6)


def test_certified_training_raises_the_bound() -> None:
    """Weights as points with gradients: a few steps on the bound of a margin lift it."""
    graph = verinn.load(model(), weights=["W", "V"])
    w, v = (torch.from_numpy(a).clone().requires_grad_(True) for a in (W, V))
    x = torch.tensor([[0.3, -0.2, 0.5, 0.1]], dtype=torch.float64)
    margins = []
    for _ in range(6):
        bound = verinn.bounds(graph, {"x": Ball(x, 0.2, 2), "W": Box(w, w), "V": Box(v, v)})
        margins.append(bound.lower[0, 0] - bound.upper[0, 1:].amax())
        slopes = torch.autograd.grad(margins[-1], (w, v))
        with torch.no_grad():
            for weight, slope in zip((w, v), slopes, strict=True):
                weight += 0.02 * slope
    assert float((margins[-1] - margins[0]).detach()) > 0.1
    assert all(after > before for before, after in pairwise(margins))


@pytest.mark.parametrize(
    "sets, node_, more, text",
    [
        ({}, None, {}, "nothing is said of the input 'x'"),
        ({"z": Box(0, 1)}, None, {}, "no input 'z'"),
        (Box(0, 1), "nowhere", {}, "no value 'nowhere'"),
        (Box(0, 1), None, {"method": "magic"}, "unknown method 'magic'"),
        (Box(0, 1), None, {"dtype": torch.float16}, "float16"),
        (Ball(np.zeros((1, 5)), 1.0), None, {}, "the input"),
    ],
)
def test_bad_calls(sets: object, node_: str | None, more: dict, text: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=text):
        verinn.bounds(dense("relu"), sets, node_, **more)


def test_bad_models() -> None:
    with pytest.raises(InputError, match="no initializer 'U'"):
        verinn.load(model(), weights=["U"])
    with pytest.raises(InputError, match="nowhere"):
        verinn.bounds(model(), Box(0, 1), "nowhere")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_softmax_adds_up_to_one(dtype: torch.dtype) -> None:
    """What its coefficients have in common is exact; mixes stay sound."""
    graph = Graph((Input("x", (2, 3)),), (node("y", "softmax", "x", (2, 3), {"axis": 1}),), (Output("y", "y"),))
    rows = np.asarray([[1, 1, 1, 0, 0, 0], [0, 0, 0, -2, -2, -2], [3, 1, 1, 0, 0.5, 0], [1, 0, 0, 1, 0, 0]], float)
    found = verinn.bounds(graph, Box(-np.ones((2, 3)), np.full((2, 3), 2.0)), rows=rows, dtype=dtype)
    slack = 1e-12 if dtype == torch.float64 else 1e-5
    assert float(found.lower[0]) <= 1 <= float(found.upper[0]) <= 1 + slack
    assert -2 - slack <= float(found.lower[1]) <= -2 <= float(found.upper[1])
    x = torch.rand((4000, 2, 3), dtype=torch.float64) * 3 - 1
    y = x.softmax(-1).flatten(1) @ torch.from_numpy(rows).T
    assert bool((found.lower <= y + 1e-12).all() and (y <= found.upper + 1e-12).all())


def test_values_without_axes_are_bounded() -> None:
    """As in models that are quantised as they run, whose scales are numbers."""
    nodes = (
        node("m", "reduce_max", "x", (1, 1), {"axes": (1,)}),
        node("n", "reshape", "m", ()),
        node("r", "relu", "n", ()),
        node("e", "expand", "r", (1, 3)),
        node("y", "mul", "e x", (1, 3)),
    )
    graph = Graph((Input("x", (1, 3)),), nodes, (Output("out", "y"),))
    centre = torch.tensor([[0.2, -0.1, 0.1]], dtype=torch.float64)
    for method in ("ibp", "crown", "alpha-crown"):
        found = verinn.bounds(graph, Box(centre - 0.3, centre + 0.3), method=method)
        share = torch.rand((200, 3), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for x in centre - 0.3 + 0.6 * share:
            y = x.max().clamp(min=0) * x
            assert bool((found.lower <= y).all() and (y <= found.upper).all())
