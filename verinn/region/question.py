"""What is asked: a model, a set of inputs on a grid, and what counts as a violation there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx

from verinn.attack.replay import Original
from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader import load_model, read_graph
from verinn.io.vnnlib import read_query
from verinn.ir.graph import Shape
from verinn.ir.prop import Case
from verinn.ir.query import And, Atom, Bounds, Formula, Kind, Network, Or, Query, Relation, Variable
from verinn.region.grid import MOST_LEVELS, Grid, levels_within, make_grid
from verinn.search.problem import Problem, build

Source = str | Path | onnx.ModelProto

#: how equal outputs are read: a tie is a violation, is none, or goes to the class with the lower number
TIES = ("violate", "allow", "first")


@dataclass(frozen=True, eq=False)
class Question:
    """A problem and, for each of its cases, the grid of inputs.

    ``centre``: levels of the image (n,), where there is one; ``label``: its class. ``assumptions``: what is taken
    for granted beyond the model and the grid, in words. ``moved``: how many inputs may move.
    """

    problem: Problem
    grids: tuple[tuple[Case, Grid], ...]
    shape: Shape
    text: str
    scale: Scale
    centre: np.ndarray | None = None
    label: int | None = None
    assumptions: tuple[str, ...] = ()
    ties: str = "violate"

    def pixels(self, x: np.ndarray) -> np.ndarray:
        """Inputs (n,) as pixels, in the shape of the model's input: for pictures, in float64."""
        _, mean, std = self.scale.spread(self.shape)
        flat = x.astype(np.float64) * [float(value) for value in std] + [float(value) for value in mean]
        return np.asarray(flat.reshape(self.shape))

    def original(self) -> np.ndarray | None:
        """The image's input (n,), where there is an image."""
        return None if self.centre is None else self.grids[0][1].fed(self.centre)

    @property
    def points(self) -> int:
        return sum(grid.points for _, grid in self.grids)

    @property
    def moved(self) -> int:
        return max((len(grid.free) for _, grid in self.grids), default=0)


@dataclass(frozen=True)
class Scale:
    """How pixels become inputs: input = (pixel − mean) / std, pixel = k · step for k in 0..levels−1.

    ``step``, ``mean``, ``std``: one number, or one for each channel. ``levels`` None: the grid has no ends and its
    origin is the image itself.
    """

    step: tuple[Fraction, ...] = (Fraction(1, 255),)
    mean: tuple[Fraction, ...] = (Fraction(0),)
    std: tuple[Fraction, ...] = (Fraction(1),)
    levels: int | None = 256

    def spread(self, shape: Shape) -> tuple[list[Fraction], list[Fraction], list[Fraction]]:
        """step, mean and std of every input, for an input tensor of that shape."""
        return _spread(self.step, shape, "step"), _spread(self.mean, shape, "mean"), _spread(self.std, shape, "std")


def _spread(values: tuple[Fraction, ...], shape: Shape, name: str) -> list[Fraction]:
    total = int(np.prod(shape, dtype=np.int64))
    if len(values) == 1:
        return list(values) * total
    if len(values) == total:
        return list(values)
    axes = [
        axis for axis in (len(shape) - 3, len(shape) - 1, 1) if 0 <= axis < len(shape) and shape[axis] == len(values)
    ]
    if not axes:
        raise InputError(
            f"{len(values)} numbers fit no channel axis of the input {list(shape)}", place=f"--{name}",
            hint="give one number, or one for each channel or input",
        )  # fmt: skip
    index = np.indices(shape)[axes[0]].ravel()
    return [values[at] for at in index]


def about_image(
    model: Source,
    image: np.ndarray,
    scale: Scale,
    radius: Fraction | None,
    label: int | None = None,
    dims: Sequence[int] | None = None,
    ties: str = "violate",
    seed: int = 0,
) -> Question:
    """All grid points within ``radius`` (in units of pixels, L∞) of an image of the class ``label``.

    ``image``: pixels (before mean and std), in the order of the model's input. ``dims``: the inputs that may move;
    None: all. ``radius`` None: every level. ``label`` None: what ONNX Runtime says. Raises InputError.
    """
    graph = read_graph(load_model(model))
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise Unsupported("the model has several inputs or outputs", hint="give a VNN-LIB property instead of an image")
    shape, name = graph.inputs[0].shape, str(model) if isinstance(model, (str, Path)) else "model"
    total = int(np.prod(shape, dtype=np.int64))
    if image.size != total:
        raise InputError(f"the image has {image.size} numbers, the model takes {list(shape)}", file=name)
    step, mean, std = scale.spread(shape)
    if any(value <= 0 for value in std) or any(value <= 0 for value in step):
        raise InputError("steps and standard deviations have to be above zero", place="--step, --std")
    flat = [Fraction(float(value)) for value in arranged(image, shape).astype(np.float64).ravel()]
    centre, origin = _levels(flat, step, scale.levels)
    low, high = _window(centre, step, scale.levels, radius, dims)
    offset = [(o - m) / s for o, m, s in zip(origin, mean, std, strict=True)]
    grid = make_grid(offset, [t / s for t, s in zip(step, std, strict=True)], low, high, name)
    count = int(np.prod(graph.shapes()[graph.outputs[0].value], dtype=np.int64))
    fed = grid.fed(np.array(centre))
    if label is None:
        label = int(np.argmax(next(iter(Original(model).run({graph.inputs[0].name: fed}).values()))))
    if not 0 <= label < count:
        raise InputError(f"the model has {count} classes, the label is {label}", place="--label")
    query = class_query(shape, graph.shapes()[graph.outputs[0].value], grid, label, ties)
    problem = build(model, query, seed)
    text = f"class {label} against {count - 1} others, ties {ties}, {len(grid.free)} of {total} inputs move"
    told = () if dims is None else (f"only {len(dims)} chosen inputs move, all others stay as they are",)
    cases = tuple((case, grid) for case in problem.prop.cases)
    return Question(problem, cases, shape, text, scale, np.array(centre), label, told, ties)


def arranged(image: np.ndarray, shape: Shape) -> np.ndarray:
    """The image in the order of an input of that shape: colours come first where the model has them first."""
    inner = tuple(size for size in shape if size != 1)
    front = np.moveaxis(image, -1, 0) if image.ndim == 3 else image
    if image.ndim == 3 and tuple(size for size in image.shape if size != 1) != inner and front.shape == inner:
        return front
    return image


def _levels(flat: list[Fraction], step: list[Fraction], levels: int | None) -> tuple[list[int], list[Fraction]]:
    """The image's level of every input, and the grid's origin."""
    if levels is None:
        return [0] * len(flat), flat
    centre = [round(value / s) for value, s in zip(flat, step, strict=True)]
    for at, (value, s, k) in enumerate(zip(flat, step, centre, strict=True)):
        if not 0 <= k < levels:
            raise InputError(f"pixel {at} is {float(value):g}, outside the grid's {levels} levels", place="--image")
        if abs(value - k * s) > s / 1000:
            raise InputError(
                f"pixel {at} is {float(value):g}, not a multiple of {s}", place="--image",
                hint="give the step that the image was made with, or --levels none for a grid around the image",
            )  # fmt: skip
    return centre, [Fraction(0)] * len(flat)


def _window(
    centre: list[int], step: list[Fraction], levels: int | None, radius: Fraction | None, dims: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    if radius is None and levels is None:
        raise InputError("a grid without ends needs a radius", place="--radius")
    if radius is not None and radius < 0:
        raise InputError("a radius is not below zero", place="--radius")
    if dims is not None and not all(0 <= dim < len(centre) for dim in dims):
        raise InputError(f"the inputs are numbered 0 to {len(centre) - 1}", place="--dims")
    moving = set(range(len(centre)) if dims is None else dims)
    low, high = [], []
    for at, (k, s) in enumerate(zip(centre, step, strict=True)):
        reach = 0 if at not in moving else (levels or 0) if radius is None else int(radius / s)
        if reach > MOST_LEVELS:
            raise InputError("the radius holds too many grid steps", place="--radius", hint="a coarser step")
        low.append(k - reach if levels is None else max(0, k - reach))
        high.append(k + reach if levels is None else min(levels - 1, k + reach))
    return low, high


def class_query(shape: Shape, out: Shape, grid: Grid, label: int, ties: str) -> Query:
    """The query that another class than ``label`` wins somewhere in the grid's box (its corners as float32)."""
    n, m = grid.n, int(np.prod(out, dtype=np.int64))
    x = Variable("X", Kind.INPUT, "float32", shape, 0)
    y = Variable("Y", Kind.OUTPUT, "float32", out, n)
    ends = np.concatenate([grid.fed(grid.low), grid.fed(grid.high)]).astype(np.float64)
    bounds = Bounds(np.tile(np.arange(n), 2), np.repeat([False, True], n), ends, decimals(ends))
    return Query("2.0", (Network("N", (x, y)),), And((bounds, rivals(n, m, label, ties))))


def rivals(start: int, m: int, label: int, ties: str) -> Formula:
    """Some class j ≠ label with y_label − y_j ≤ 0 (< 0 where a tie is no violation)."""
    atoms = []
    for j in range(m):
        if j != label:
            strict = ties == "allow" or (ties == "first" and j > label)
            terms = tuple(sorted([((start + label,), Fraction(1)), ((start + j,), Fraction(-1))]))
            atoms.append(Atom(terms, Relation.LT if strict else Relation.LE))
    if not atoms:
        raise InputError("the model has a single output, so no other class can win")
    return Or(tuple(atoms)) if len(atoms) > 1 else atoms[0]


def decimals(values: np.ndarray) -> np.ndarray:
    """Floats as exact decimals, as the query keeps them."""
    texts = []
    for value in values.tolist():
        above, below = value.as_integer_ratio()
        power = below.bit_length() - 1
        texts.append(f"{above * 5**power}e-{power}".encode())
    return np.array(texts)


def about_property(model: Source, path: str | Path, scale: Scale, seed: int = 0) -> Question:
    """The grid points of a VNN-LIB property's input boxes. Raises InputError, Unsupported."""
    problem = build(model, read_query(path), seed)
    if len(problem.graph.inputs) != 1:
        raise Unsupported("the property speaks of several inputs", file=str(path))
    shape = problem.graph.inputs[0].shape
    step, mean, std = scale.spread(shape)
    grids = []
    for number in range(len(problem.prop.cases)):
        case = problem.prop.cases[number]
        if len(case.input_rows):
            raise Unsupported("constraints between inputs have no grid", file=str(path), hint="give boxes only")
        if not (np.isfinite(case.lower).all() and np.isfinite(case.upper).all()):
            raise InputError("an input is unbounded", file=str(path), hint="bound every input")
        grids.append((case, _within(case, step, mean, std, scale.levels, str(path))))
    text = f"{len(grids)} {'case' if len(grids) == 1 else 'cases'} of the property"
    return Question(problem, tuple(grids), shape, text, scale)


def _within(
    case: Case, step: list[Fraction], mean: list[Fraction], std: list[Fraction], levels: int | None, file: str
) -> Grid:
    """The grid points whose float32 lies in a case's witness box."""
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    steps = [t / s for t, s in zip(step, std, strict=True)]
    low, high = [], []
    known: dict[tuple[Fraction, Fraction, float, float], tuple[int, int]] = {}
    for at in range(len(offset)):
        ends = case.witness_lower[at], case.witness_upper[at]
        if ends[0] == ends[1]:  # what the property fixes stays, on the grid or not
            offset[at] = Fraction(float(ends[0]))
            low.append(0)
            high.append(0)
            continue
        key = offset[at], steps[at], float(ends[0]), float(ends[1])
        if key not in known:
            if (Fraction(float(ends[1])) - Fraction(float(ends[0]))) / steps[at] > MOST_LEVELS:
                raise InputError("a box holds too many grid steps", file=file, hint="a coarser step")
            known[key] = levels_within(offset[at], steps[at], *ends)
        first, last = known[key]
        low.append(first if levels is None else max(0, first))
        high.append(last if levels is None else min(levels - 1, last))
    return make_grid(offset, steps, low, high, file)


def restricted(question: Question, case: Case, grid: Grid) -> Problem:
    """The problem of one case alone, its box shrunk to the hull of the grid."""
    low, high = grid.box(grid.low, grid.high)
    shrunk = replace(
        case,
        lower=np.maximum(low, case.lower),
        upper=np.minimum(high, case.upper),
        witness_lower=np.maximum(grid.fed(grid.low), case.witness_lower),
        witness_upper=np.minimum(grid.fed(grid.high), case.witness_upper),
    )
    return replace(question.problem, prop=replace(question.problem.prop, cases=(shrunk,)))
