"""Layers of a network: where a graph can be cut, the region η_k around an activation, and dimensions chosen in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch

from verinn.bounds.domain import relax
from verinn.bounds.rounding import exact_kernels
from verinn.errors import InputError
from verinn.ir.graph import Graph, Input, Node, Output, Shape
from verinn.ops.base import Affine
from verinn.ops.program import Program
from verinn.ops.registry import OPS
from verinn.region.grid import Grid, make_grid


@dataclass(frozen=True, eq=False)
class Layer:
    """L_k: a value that everything behind it hangs on. Layer 0 is the input; the others follow a nonlinear step."""

    number: int
    value: str
    shape: Shape
    tail: Graph  # from this layer to the outputs

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Region:
    """η_k(α_{x,k}): levels of the chosen dimensions (``grid``); the others stay at the activation ``centre``.

    ``dims``: the chosen dimensions, the most promising first. ``lower``/``upper``: bounds of the whole layer over
    the region of the layer before.
    """

    layer: Layer
    centre: np.ndarray
    dims: tuple[int, ...]
    grid: Grid
    lower: np.ndarray
    upper: np.ndarray

    @property
    def points(self) -> int:
        return self.grid.points

    def __str__(self) -> str:
        return f"layer {self.layer.number} ({self.layer.value}): {len(self.dims)} of {self.layer.size} dimensions"


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """The layers of a graph with one input, layer 0 first. Layers that a skip connection passes by are none."""
    if len(graph.inputs) != 1:
        raise InputError("the model has several inputs", hint="layers are searched in models with one input")
    shapes = graph.shapes()
    last_read = dict.fromkeys(shapes, -1)
    for i, node in enumerate(graph.nodes):
        for name in node.inputs:
            last_read[name] = i
    for out in graph.outputs:
        last_read[out.value] = len(graph.nodes)
    fixed = {node.name for node in graph.nodes if not node.inputs}
    makers = {node.name: node for node in graph.nodes}
    found = [Layer(0, graph.inputs[0].name, graph.inputs[0].shape, graph)]
    alive = {graph.inputs[0].name}
    for i, node in enumerate(graph.nodes[:-1]):
        alive = {name for name in alive | {node.name} if last_read[name] > i and name not in fixed}
        (only,) = alive if len(alive) == 1 else ("",)
        bent = only in makers and not isinstance(OPS[makers[only].op], Affine)
        if bent and only != found[-1].value and only not in {out.value for out in graph.outputs}:
            found.append(Layer(len(found), only, shapes[only], tail_of(graph, only)))
    return tuple(found)


def tail_of(graph: Graph, value: str) -> Graph:
    """The graph behind a value: its input is that value, in float32."""
    known = {value}
    nodes: list[Node] = []
    for node in graph.nodes:
        if not node.inputs or set(node.inputs) & known:
            nodes.append(node)
            if node.inputs:
                known.add(node.name)
    return _pruned(Graph((Input(value, graph.shapes()[value]),), tuple(nodes), graph.outputs))


def segment(graph: Graph, start: str, end: str) -> Graph:
    """The graph from one value to a later one."""
    from_start = graph if start == graph.inputs[0].name else tail_of(graph, start)
    return _pruned(replace(from_start, outputs=(Output(end, end),)))


def _pruned(graph: Graph) -> Graph:
    """Without the nodes that no output needs."""
    needed = {out.value for out in graph.outputs}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    return replace(graph, nodes=tuple(reversed(kept)))


def image(
    graph: Graph, start: Layer, end: Layer, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sound bounds (n_end,) of a later layer over a box of an earlier one."""
    if start.value == end.value:
        return lower, upper
    program = Program.prepare(segment(graph, start.value, end.value), torch.float64)
    with torch.no_grad(), exact_kernels():
        ends = relax(program, torch.from_numpy(lower)[None], torch.from_numpy(upper)[None]).intervals[end.value]
    low, high = (side.reshape(-1).numpy() for side in ends)
    return low, high


def activation(graph: Graph, layer: Layer, x: np.ndarray) -> np.ndarray:
    """α_{x,k} as float32, near the exact one (float64 rounded)."""
    program = Program.prepare(segment(graph, graph.inputs[0].name, layer.value), torch.float64)
    with torch.no_grad():
        values = program.run([torch.from_numpy(x.astype(np.float64)).reshape(1, *graph.inputs[0].shape)])
    return values[layer.value].reshape(-1).numpy().astype(np.float32)


def scores(layer: Layer, centre: np.ndarray, reach: np.ndarray, label: int, by: str) -> np.ndarray:
    """How promising each dimension is: |α(p) − mean α| (``activation``), or how far the margin between the class and
    its nearest rival moves when p moves over its reach (``gradient``)."""
    if by == "activation":
        value = np.abs(centre - centre.mean(dtype=np.float64)) + 1e-12
    else:
        program = Program.prepare(layer.tail, torch.float64)
        with torch.enable_grad():
            x = torch.from_numpy(centre.astype(np.float64))[None].requires_grad_(True)
            y = program.flat(x)[0]
            rival = torch.cat([y[:label], y[label + 1 :]]).max()
            (gradient,) = torch.autograd.grad(y[label] - rival, x)
        value = np.abs(gradient[0].numpy()) * reach + 1e-12 * reach
    return np.asarray(value)


def moves(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Which dimensions move by more than the rounding of their bounds: only they are chosen. No proof hangs on it."""
    return np.asarray(upper - lower > 1e-9 * (1 + np.maximum(np.abs(lower), np.abs(upper))))


def region_at(
    layer: Layer,
    centre: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray],
    count: int,
    number: int,
    label: int,
    by: str,
) -> Region:
    """η_k with ``number`` spans to the farther end of each chosen dimension's bounds, covering them.

    Only dimensions that the region before can move are chosen: in convolutions those within the receptive field.
    """
    lower, upper = bounds
    reach = np.maximum(np.maximum(upper - centre, centre - lower), 0.0)
    score = np.where(moves(lower, upper), scores(layer, centre, reach, label, by), 0.0)
    order = [int(p) for p in np.argsort(-score, kind="stable")[:count] if score[p] > 0]
    if not order:
        raise InputError(f"no dimension of layer {layer.number} can move", hint="a larger radius")
    offset = [Fraction(float(value)) for value in centre]
    step, low, high = [Fraction(1)] * layer.size, [0] * layer.size, [0] * layer.size
    for p in order:
        # a little more than the part of the reach, so that the last level is beyond it
        step[p] = Fraction(math.nextafter(float(reach[p]) / number, math.inf)) * Fraction(1 + 2.0**-40)
        low[p] = -max(0, math.ceil((offset[p] - Fraction(float(lower[p]))) / step[p]))
        high[p] = max(0, math.ceil((Fraction(float(upper[p])) - offset[p]) / step[p]))
    return Region(layer, centre, tuple(order), make_grid(offset, step, low, high), lower, upper)


@dataclass(frozen=True)
class Refinement:
    """What was checked of Δ_k refining Δ_{k−1}. ``covers`` (Definition 6): the image of η_{k−1} lies in η_k in the
    chosen dimensions, by bounds. ``checked`` manipulations of the layer before end, of them ``within`` a cell of η_k,
    reached by finitely many steps of Δ_k up to that cell, and ``exact`` on a point of it (Definitions 7, 8).
    ``others``: dimensions that the layer before can move and Δ_k does not.
    """

    covers: bool
    checked: int
    within: int
    exact: int
    others: int

    def __str__(self) -> str:
        covered = "covered" if self.covers else "NOT covered"
        return (
            f"image of the layer before {covered} in the chosen dimensions; of {self.checked} of its manipulations "
            f"{self.within} end in a cell, {self.exact} on a point; {self.others} moving dimensions are not chosen"
        )


def refinement(graph: Graph, before: Region, after: Region) -> Refinement:
    """Definitions 6 to 8 for two regions. Steps of Δ_{k−1} are taken from the centre and the corners of its grid."""
    grid, dims = before.grid, np.array(after.dims)
    low, high = image(graph, before.layer, after.layer, *grid.box(grid.low, grid.high))
    hull = after.grid.box(after.grid.low, after.grid.high)
    covers = bool((hull[0][dims] <= low[dims]).all() and (high[dims] <= hull[1][dims]).all())
    ends = _stepped(before)
    program = Program.prepare(segment(graph, before.layer.value, after.layer.value), torch.float64)
    with torch.no_grad():
        x = torch.from_numpy(grid.fed(ends).astype(np.float64)).reshape(len(ends), *before.layer.shape)
        values = program.run([x])[after.layer.value].reshape(len(ends), -1).numpy()
    step = np.array([float(after.grid.step[p]) for p in after.dims])
    place = (values[:, dims] - after.centre[dims]) / step
    within = ((place >= after.grid.low[dims] - 1e-9) & (place <= after.grid.high[dims] + 1e-9)).all(1)
    exact = (np.abs(place - np.rint(place)) < 1e-9).all(1) & within
    moving = moves(low, high)
    others = int(moving.sum() - moving[dims].sum())
    return Refinement(covers, len(ends), int(within.sum()), int(exact.sum()), others)


def _stepped(region: Region, most: int = 512) -> np.ndarray:
    """Ends (E, n) of single steps δ from the centre and from corners of a region's grid."""
    grid = region.grid
    rng = np.random.default_rng(0)
    starts = (
        [np.clip(np.zeros_like(grid.low), grid.low, grid.high)]
        if (grid.low <= 0).all() and (grid.high >= 0).all()
        else []
    )
    starts += [np.where(rng.random(grid.n) < 0.5, grid.low, grid.high) for _ in range(8)] + [grid.low, grid.high]
    ends = []
    for start in starts:
        for p in grid.free:
            for sign in (-1, 1):
                end = start.copy()
                end[p] += sign
                if grid.low[p] <= end[p] <= grid.high[p]:
                    ends.append(end)
    return np.array(ends[:most]) if ends else np.repeat(grid.low[None], 1, 0)


def features_of(dims: Sequence[int], size: int) -> tuple[tuple[int, ...], ...]:
    """The chosen dimensions in features of ``size`` each, in order of promise."""
    return tuple(tuple(dims[i : i + size]) for i in range(0, len(dims), size))
