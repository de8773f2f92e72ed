"""Grids in rational arithmetic, and networks evaluated in whole numbers against Fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from region_brute import random_net

from verinn.bounds.rounding import exact_kernels
from verinn.errors import InputError
from verinn.io.onnx_reader import read_graph
from verinn.ops.program import Program
from verinn.region.grid import below, levels_within, make_grid, nearest32
from verinn.region.integers import Inexact, outputs
from verinn.region.spaces import Cells, Points

torch.set_num_threads(1)


def test_nearest_float32() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        base = np.float32(rng.normal())
        half = (Fraction(float(base)) + Fraction(float(np.nextafter(base, np.float32(9))))) / 2
        for value in (
            half,
            half + Fraction(1, 1 << 90),
            half - Fraction(1, 1 << 90),
            Fraction(int(rng.integers(1, 999)), 255),
        ):
            near = nearest32(value)
            away = abs(Fraction(float(near)) - value)
            for side in (-np.inf, np.inf):
                assert away <= abs(Fraction(float(np.nextafter(near, np.float32(side)))) - value)
            assert Fraction(below(value)) <= value < Fraction(float(np.nextafter(below(value), np.inf)))
    assert all(nearest32(Fraction(k, 255)) == np.float32(k) / np.float32(255) for k in range(256))


def test_boxes_hold_points_and_rationals() -> None:
    rng = np.random.default_rng(1)
    mean, std = Fraction("0.4914"), Fraction("0.2023")
    offset, step = [Fraction(0), -mean / std], [Fraction(1, 255), Fraction(1, 255) / std]
    grid = make_grid(offset, step, [0, 0], [255, 255])
    for _ in range(200):
        low = rng.integers(0, 200, 2)
        high = low + rng.integers(0, 55, 2)
        lower, upper = grid.box(low, high)
        assert (lower <= grid.fed(low)).all() and (grid.fed(high) <= upper).all()
        for i in range(2):
            assert Fraction(lower[i]) <= offset[i] + int(low[i]) * step[i]
            assert offset[i] + int(high[i]) * step[i] <= Fraction(upper[i])
        first, last = grid.inward(lower[None], upper[None])
        assert (first <= low).all() and (last >= high).all() and (first >= low - 1).all() and (last <= high + 1).all()
        centre = (low + high) // 2
        assert (grid.nearest(grid.fed(centre)) == centre).all()
    ends = np.float32(0.1), np.float32(0.7)
    first, last = levels_within(offset[1], step[1], *ends)
    values = [nearest32(offset[1] + k * step[1]) for k in (first - 1, first, last, last + 1)]
    assert values[0] < ends[0] <= values[1] and values[2] <= ends[1] < values[3]


def test_cells_cover_and_planes_are_outside() -> None:
    offset, step = [Fraction(1, 3), Fraction(-7, 9)], [Fraction(1, 255), Fraction(2, 7)]
    grid = make_grid(offset, step, [-3, 2], [4, 9])
    cells = Cells.of(grid)
    low, high = (end[None] for end in cells.root)
    assert cells.count(low[0], high[0]) == 7 * 7 * cells.parts
    rng, whole = np.random.default_rng(2), cells.count(low[0], high[0])
    for _ in range(60):  # halves share a plane, which both contain
        at = rng.integers(0, 2, 1)
        below_, above = cells.halves(low, high, at)
        first, second = high.copy(), low.copy()
        first[0, at], second[0, at] = below_, above
        assert cells.count(low[0], first[0]) + cells.count(second[0], high[0]) == cells.count(low[0], high[0])
        plane = offset[at[0]] + Fraction(int(below_[0]), 1 << cells.bits) * step[at[0]]
        assert Fraction(cells.real(low, first)[1][0, at[0]]) >= plane >= Fraction(cells.real(second, high)[0][0, at[0]])
        chosen = (low, first) if rng.random() < 0.5 else (second, high)
        if (chosen[1] - chosen[0] > 1).all():
            low, high = chosen
    assert cells.count(low[0], high[0]) < whole


def test_points_are_listed_once() -> None:
    grid = make_grid([Fraction(0)] * 3, [Fraction(1)] * 3, [0, 5, 1], [2, 5, 3])
    space = Points(grid)
    listed = space.listed(*space.root)
    assert len(listed) == grid.points == 9 and len({tuple(row) for row in listed.tolist()}) == 9
    assert (space.all(listed)[:, 1] == 5).all()


def test_points_of_many_inputs_are_listed() -> None:
    """More inputs than an array may have axes, most of them fixed."""
    low, high = np.zeros(100, np.int64), np.zeros(100, np.int64)
    high[[3, 50, 99]] = (1, 2, 3)
    grid = make_grid([Fraction(0)] * 100, [Fraction(1)] * 100, [0] * 100, [5] * 100)
    listed = Points(grid).listed(low, high)
    expected = {(a, b, c) for a in range(2) for b in range(3) for c in range(4)}
    assert len(listed) == 24 and {tuple(row[[3, 50, 99]].tolist()) for row in listed} == expected
    assert (np.delete(listed, [3, 50, 99], 1) == 0).all()


@pytest.mark.parametrize(("low", "high", "step"), [(0, -1, 1), (0, 1, 0), (0, 1 << 23, 1)])
def test_bad_grids(low: int, high: int, step: int) -> None:
    with pytest.raises(InputError):
        make_grid([Fraction(0)], [Fraction(step)], [low], [high])


def exact_dense(layers: list[tuple[np.ndarray, np.ndarray]], x: list[Fraction]) -> list[Fraction]:
    for k, (weight, bias) in enumerate(layers):
        x = [
            sum((Fraction(float(w)) * value for w, value in zip(column, x, strict=True)), Fraction(float(b)))
            for column, b in zip(weight.T, bias, strict=True)
        ]
        if k < len(layers) - 1:
            x = [max(value, Fraction(0)) for value in x]
    return x


def test_whole_numbers_are_exact() -> None:
    """Random float32 weights of very different sizes: every bit counts."""
    rng = np.random.default_rng(3)
    for _ in range(10):
        sizes = rng.integers(2, 7, 4).tolist()
        layers = [
            (
                (rng.normal(size=(a, b)) * 2.0 ** rng.integers(-20, 20, (a, b))).astype(np.float32),
                rng.normal(size=b).astype(np.float32),
            )
            for a, b in itertools.pairwise(sizes)
        ]
        net = random_net(rng, 2)
        program = Program.prepare(read_graph(type(net)(tuple(layers), ("Relu", "Relu")).model()), torch.float64)
        x = rng.normal(size=sizes[0]).astype(np.float32)
        with exact_kernels():
            assert outputs(program, x) == exact_dense(layers, [Fraction(float(value)) for value in x])


def conv_model(last: str) -> onnx.ModelProto:
    rng = np.random.default_rng(4)
    weights = [
        numpy_helper.from_array(rng.normal(size=(2, 1, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.normal(size=2).astype(np.float32), "b"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("LeakyRelu", ["c"], ["r"], alpha=0.1),
        helper.make_node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node(last, ["m"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 1, 4, 4]), ("y", [1, 2, 2, 2]))
    ]
    graph = helper.make_graph(nodes, "c", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_whole_numbers_of_a_convolution() -> None:
    program = Program.prepare(read_graph(conv_model("Abs")), torch.float64)
    x = np.random.default_rng(5).normal(size=16).astype(np.float32)
    with exact_kernels():
        found = outputs(program, x)
    near = program.flat(torch.from_numpy(x.astype(np.float64))[None])[0].numpy()
    assert np.abs(np.array([float(value) for value in found]) - near).max() < 1e-14
    assert any(Fraction(value) != exact for value, exact in zip(near.tolist(), found, strict=True))


def test_what_is_not_rational_is_told() -> None:
    program = Program.prepare(read_graph(conv_model("Tanh")), torch.float64)
    with pytest.raises(Inexact):
        outputs(program, np.zeros(16))
