"""Tiny networks and random properties, and their truth by Z3 over the reals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import z3
from onnx import TensorProto, helper, numpy_helper

Rng = np.random.Generator
Layers = list[tuple[np.ndarray, np.ndarray]]


def model(layers: Layers, first_relu: bool = False) -> onnx.ModelProto:
    """Gemm, ReLU, Gemm, … (no ReLU at the end; one at the start if asked for)."""
    nodes, weights, last = [], [], "x"
    if first_relu:
        nodes.append(helper.make_node("Relu", ["x"], ["r"]))
        last = "r"
    for k, (weight, bias) in enumerate(layers):
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{k}"))
        weights.append(numpy_helper.from_array(bias.astype(np.float32), f"b{k}"))
        end = k == len(layers) - 1
        nodes.append(helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], ["y" if end else f"z{k}"]))
        if not end:
            nodes.append(helper.make_node("Relu", [f"z{k}"], [f"h{k}"]))
            last = f"h{k}"
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, layers[0][0].shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, layers[-1][0].shape[1]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def random_layers(rng: Rng, sizes: Sequence[int]) -> Layers:
    """Weights that are eighths: float32 evaluates such networks without rounding at dyadic points."""
    return [(rng.integers(-12, 13, (a, b)) / 8, rng.integers(-8, 9, b) / 8) for a, b in itertools.pairwise(sizes)]


def evaluate(layers: Layers, x: np.ndarray, first_relu: bool = False) -> np.ndarray:
    """Outputs (P, m) at points (P, n), in float64."""
    x = np.maximum(x, 0) if first_relu else x
    for k, (weight, bias) in enumerate(layers):
        x = x @ weight + bias
        x = np.maximum(x, 0) if k < len(layers) - 1 else x
    return x


def decimal(value: Fraction | float) -> str:
    """All digits of a dyadic number."""
    value = Fraction(value)
    power = value.denominator.bit_length() - 1
    assert value.denominator == 1 << power
    digits = str(abs(value.numerator) * 5**power).rjust(power + 1, "0")
    whole, part = digits[: len(digits) - power], digits[len(digits) - power :]
    return ("-" if value < 0 else "") + whole + ("." + part if part else "")


@dataclass(frozen=True)
class Row:
    """Σ terms REL constant; terms are (coefficient, variable name)."""

    terms: tuple[tuple[Fraction, str], ...]
    relation: str
    constant: Fraction

    def text(self) -> str:
        parts = [name if c == 1 else f"(* {decimal(c)} {name})" for c, name in self.terms]
        left = parts[0] if len(parts) == 1 else f"(+ {' '.join(parts)})"
        return f"({self.relation} {left} {decimal(self.constant)})"

    def formula(self, names: dict[str, Any]) -> Any:
        left = z3.Sum([_real(c) * names[name] for c, name in self.terms])
        right = _real(self.constant)
        return {"<=": left <= right, ">=": left >= right, "<": left < right, ">": left > right}[self.relation]


@dataclass(frozen=True)
class Tree:
    """A conjunction or disjunction."""

    op: str
    parts: tuple[Any, ...]

    def text(self) -> str:
        return f"({self.op} {' '.join(part.text() for part in self.parts)})"

    def formula(self, names: dict[str, Any]) -> Any:
        parts = [part.formula(names) for part in self.parts]
        return z3.And(parts) if self.op == "and" else z3.Or(parts)


def row(relation: str, constant: float | Fraction, *terms: tuple[float, str]) -> Row:
    return Row(tuple((Fraction(c), name) for c, name in terms), relation, Fraction(constant))


def bounds(lower: Sequence[float], upper: Sequence[float]) -> list[Row]:
    made = []
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        made += [row(">=", low, (1, f"X_{i}")), row("<=", high, (1, f"X_{i}"))]
    return made


def write(path: Path, n: int, m: int, asserts: Sequence[Row | Tree]) -> Path:
    """A VNN-LIB 1.0 file."""
    lines = [f"(declare-const {v}_{i} Real)" for v, count in (("X", n), ("Y", m)) for i in range(count)]
    path.write_text("\n".join([*lines, *[f"(assert {part.text()})" for part in asserts]]) + "\n")
    return path


def truth(layers: Layers, asserts: Sequence[Row | Tree], first_relu: bool = False) -> str:
    """sat, unsat or unknown, over the reals."""
    n = layers[0][0].shape[0]
    values = [z3.Real(f"X_{i}") for i in range(n)]
    names: dict[str, Any] = {f"X_{i}": v for i, v in enumerate(values)}
    if first_relu:
        values = [z3.If(v > 0, v, 0) for v in values]
    solver = z3.Solver()
    solver.set("timeout", 5000)
    for k, (weight, bias) in enumerate(layers):
        made = []
        for j in range(weight.shape[1]):
            z = z3.Real(f"z_{k}_{j}")
            terms = [_real(weight[i, j]) * v for i, v in enumerate(values)]
            solver.add(z == z3.Sum([*terms, _real(bias[j])]))
            made.append(z if k == len(layers) - 1 else z3.If(z > 0, z, 0))
        values = made
    names.update({f"Y_{j}": v for j, v in enumerate(values)})
    solver.add(*[part.formula(names) for part in asserts])
    return str(solver.check())


def _real(value: Fraction | float) -> Any:
    value = Fraction(value)
    return z3.Q(value.numerator, value.denominator)


def random_box(rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sixteenths; sometimes a side is a point."""
    lower = rng.integers(-24, 17, n) / 16
    return lower, lower + rng.integers(0, 32, n) * rng.integers(0, 5, n).clip(max=1) / 16


def random_asserts(rng: Rng, shape: str, layers: Layers, first_relu: bool) -> list[Row | Tree]:
    """A random property of one shape, its constants near what the network reaches, so that truth is close."""
    n, m = layers[0][0].shape[0], layers[-1][0].shape[1]
    lower, upper = random_box(rng, n)
    if shape == "point":
        upper = lower

    hard = shape in ("disjunction", "cases")  # many parts: each seldom holds

    def rows(count: int, low: np.ndarray, high: np.ndarray, strict: bool = False, mixed: bool = False) -> list[Row]:
        x = low + (high - low) * rng.integers(0, 17, (60, n)) / 16
        y = evaluate(layers, x, first_relu)
        anchor = rng.integers(60)
        made = []
        for _ in range(count):
            c = rng.integers(-2, 3, m)
            c[rng.integers(m)] = rng.choice([-1, 1])
            d = rng.integers(-1, 2, n) if mixed else np.zeros(n, dtype=int)
            d[0] = d[0] or mixed
            value = y @ c + x @ d
            level = value[anchor] if count > 1 and rng.random() < 0.6 else value.max()
            level = level + rng.choice([0.0, 1 / 64, 0.25, 0.25] if hard else [-0.25, -1 / 64, 0.0, 0.0, 1 / 64, 0.25])
            terms = [(float(k), f"Y_{i}") for i, k in enumerate(c) if k] + [
                (float(k), f"X_{i}") for i, k in enumerate(d) if k
            ]
            made.append(row(">" if strict else ">=", float(level), *terms))
        return made

    def region(low: np.ndarray, high: np.ndarray) -> list[Row]:
        """Rows over the inputs only, through a point of the box or just beyond it."""
        made = []
        for _ in range(int(rng.integers(1, 3))):
            d = rng.integers(-2, 3, n)
            d[: min(2, n)] = rng.choice([-1, 1], min(2, n))
            level = float(d @ low + rng.integers(0, 17, n) / 16 @ (d * (high - low)))
            made.append(row("<=", level, *[(float(k), f"X_{i}") for i, k in enumerate(d) if k]))
        return made

    box = bounds(lower, upper)
    if shape == "one":
        return [*box, *rows(1, lower, upper)]
    if shape in ("conjunction", "point"):
        return [*box, *rows(int(rng.integers(2, 4)), lower, upper)]
    if shape == "disjunction":
        parts = [
            Tree("and", tuple(rows(int(rng.integers(1, 3)), lower, upper))) for _ in range(int(rng.integers(2, 4)))
        ]
        return [*box, Tree("or", tuple(parts))]
    if shape == "cases":
        parts = []
        for _ in range(int(rng.integers(2, 4))):
            low, high = random_box(rng, n)
            parts.append(Tree("and", (*bounds(low, high), *rows(int(rng.integers(1, 3)), low, high))))
        return [Tree("or", tuple(parts))]
    if shape == "strict":
        return [*box, *rows(int(rng.integers(1, 3)), lower, upper, strict=True)]
    if shape == "mixed":
        return [*box, *rows(int(rng.integers(1, 3)), lower, upper, mixed=True)]
    if shape == "region":
        return [*box, *region(lower, upper), *rows(int(rng.integers(1, 3)), lower, upper)]
    assert shape == "inputs only"
    return [*box, *region(lower, upper), *region(lower, upper)]


SHAPES = ("one", "conjunction", "point", "disjunction", "cases", "strict", "mixed", "region", "inputs only")
