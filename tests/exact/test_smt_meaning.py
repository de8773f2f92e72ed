"""What each operator means to the solvers, against fractions computed here: nothing more, nothing less."""

import itertools
import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from verinn.errors import Unsupported
from verinn.exact.encoding.builder import Builder
from verinn.exact.encoding.encode import Encoding
from verinn.exact.encoding.formula import Any as AnyOf
from verinn.exact.encoding.formula import Comparison, Form
from verinn.exact.encoding.goals import outside, within
from verinn.exact.encoding.meaning import PIECES, WHOLE, Site, meaning
from verinn.exact.smt.solver import Settings, SmtSolver, Status
from verinn.ir.graph import Const, Node, frozen

F = Fraction
POINTS = [F(n, 4) for n in range(-16, 17)] + [F(1, 3), F(-7, 3), F(10), F(-10), F(5, 2), F(7, 2)]


def clip(v: Fraction, low: float, high: float) -> Fraction:
    v = v if v >= low else F(low)
    return v if v <= high else F(high)


SCALAR: dict[str, tuple[str, dict[str, Any], Callable[[Fraction], Fraction]]] = {
    "relu": ("relu", {}, lambda v: max(v, F(0))),
    "leaky": ("leaky_relu", {"alpha": 0.25}, lambda v: v if v >= 0 else v / 4),
    "leaky steep": ("leaky_relu", {"alpha": 1.5}, lambda v: v if v >= 0 else v * F(3, 2)),
    "abs": ("abs", {}, abs),
    "clip": ("clip", {"lower": -1.0, "upper": 2.0}, lambda v: clip(v, -1.0, 2.0)),
    "clip below": ("clip", {"lower": -1.0, "upper": math.inf}, lambda v: clip(v, -1.0, math.inf)),
    "clip above": ("clip", {"lower": -math.inf, "upper": 2.0}, lambda v: clip(v, -math.inf, 2.0)),
    "clip empty": ("clip", {"lower": 3.0, "upper": 2.0}, lambda v: F(2)),
    "sign": ("sign", {}, lambda v: F((v > 0) - (v < 0))),
    "step": ("step", {"strict": False}, lambda v: F(v >= 0)),
    "step strict": ("step", {"strict": True}, lambda v: F(v > 0)),
    "floor": ("floor", {}, lambda v: F(math.floor(v))),
    "ceil": ("ceil", {}, lambda v: F(math.ceil(v))),
    "round": ("round", {}, lambda v: F(round(v))),
    "hard_swish": ("hard_swish", {}, lambda v: v * min(max(v + 3, F(0)), F(6)) / 6),
    "square": ("pow", {"exponent": 2.0}, lambda v: v**2),
    "cube": ("pow", {"exponent": 3.0}, lambda v: v**3),
}
#: kinds whose x would have no value, or that need a solution that is not rational
INVERSE: dict[str, tuple[str, dict[str, Any], Callable[[Fraction], Fraction]]] = {
    "reciprocal": ("reciprocal", {}, lambda v: 1 / v),
    "inverse square": ("pow", {"exponent": -2.0}, lambda v: 1 / v**2),
}


def solver_of(builder: Builder, made: list[Form]) -> SmtSolver:
    values = np.empty(len(made), dtype=object)
    values[:] = made
    return SmtSolver(Encoding(builder.formula(), {"y": values}, ()), Settings(memory=1000))


def site(
    builder: Builder, node: Node, ends: tuple[float, float] | None, *sizes: tuple[int, ...]
) -> tuple[Site, list[list[Form]]]:
    """A node over fresh variables of the shapes ``sizes``, all with the same ends."""
    inputs, forms = [], []
    for slot, size in enumerate(sizes):
        bounds = (None, None) if ends is None else (F(ends[0]), F(ends[1]))
        row = [builder.fresh(f"in{slot}.{i}", bounds) for i in range(math.prod(size))]
        array = np.empty(len(row), dtype=object)
        array[:] = row
        inputs.append(array)
        forms.append(row)
    return Site(node, tuple(inputs), sizes, (None,) * len(sizes), None), forms


def check_point(solver: SmtSolver, x: list[Form], at: list[Fraction], y: list[Form], want: list[Fraction]) -> None:
    """With x fixed, y has the values wanted and no others."""
    here = [within(x, at, at)]
    assert solver.check(extra=[*here, within(y, want, want)]).status is Status.SAT, (at, want)
    assert solver.check(extra=[*here, AnyOf(tuple(outside(y, want, want)))]).status is Status.UNSAT, (at, want)


@pytest.mark.parametrize("kind", SCALAR)
@pytest.mark.parametrize("ends", [None, (-10.0, 10.0), (-0.5, 1.25), (0.0, 4.0), (-4.0, 0.0), (2.0, 3.5)])
def test_a_function_of_one_variable(kind: str, ends: tuple[float, float] | None) -> None:
    op, attrs, function = SCALAR[kind]
    builder = Builder()
    here, ((x,),) = site(builder, Node("n", op, ("x",), (1,), frozen(attrs)), ends, (1,))
    made = meaning(builder, here)
    solver = solver_of(builder, made)
    some = [p for p in POINTS if ends is None or ends[0] <= p <= ends[1]]
    for point in random.Random(kind).sample(some, min(6, len(some))):
        check_point(solver, [x], [point], made, [function(point)])


@pytest.mark.parametrize("kind", INVERSE)
@pytest.mark.parametrize("ends", [(0.5, 4.0), (-4.0, -0.25)])
def test_inverses_of_what_is_not_zero(kind: str, ends: tuple[float, float]) -> None:
    op, attrs, function = INVERSE[kind]
    builder = Builder()
    here, ((x,),) = site(builder, Node("n", op, ("x",), (1,), frozen(attrs)), ends, (1,))
    made = meaning(builder, here)
    solver = solver_of(builder, made)
    for point in [p for p in POINTS if ends[0] <= p <= ends[1]][::3]:
        check_point(solver, [x], [point], made, [function(point)])


def test_a_reciprocal_of_zero_is_anything() -> None:
    builder = Builder()
    here, ((x,),) = site(builder, Node("n", "reciprocal", ("x",), (1,)), (-1.0, 1.0), (1,))
    made = meaning(builder, here)
    solver = solver_of(builder, made)
    for value in (-7, 0, 3):
        assert solver.check(extra=[within([x, made[0]], [F(0), F(value)], [F(0), F(value)])]).status is Status.SAT
    check_point(solver, [x], [F(-1, 2)], made, [F(-2)])


def test_square_roots() -> None:
    builder = Builder()
    here, ((x,),) = site(builder, Node("n", "sqrt", ("x",), (1,)), (0.0, 16.0), (1,))
    made = meaning(builder, here)
    solver = solver_of(builder, made)
    for root in (F(0), F(1, 3), F(5, 4), F(4)):
        check_point(solver, [x], [root**2], made, [root])
    two = solver.check(extra=[within([x], [F(2)], [F(2)])])
    (y,) = made[0].terms
    assert two.status is Status.SAT and not two.exact and abs(two.point[y] ** 2 - 2) < F(1, 10**30)


def test_a_prelu_whose_slope_is_known_to_an_interval() -> None:
    """Every slope of the interval is admitted, none else."""
    slope = Const(np.array([0.25, 0.5]), np.array([0.125, 0.0]))
    builder = Builder()
    node = Node("n", "prelu", ("x",), (2,), params=frozen({"slope": slope}))
    here, (xs,) = site(builder, node, (-4.0, 4.0), (2,))
    made = meaning(builder, here)
    solver = solver_of(builder, made)
    for y, status in ((F(-1, 2), "sat"), (F(-3, 2), "sat"), (F(-1), "sat"), (F(-25, 16), "unsat"), (F(-3, 8), "unsat")):
        assert solver.check(extra=[within([xs[0], made[0]], [F(-4), y], [F(-4), y])]).status.value == status
    check_point(solver, [xs[1]], [F(-3)], [made[1]], [F(-3, 2)])
    check_point(solver, [xs[0]], [F(3)], [made[0]], [F(3)])


def test_products_and_matrix_products() -> None:
    rng = random.Random(3)
    builder = Builder()
    here, (a, b) = site(builder, Node("n", "matmul", ("a", "b"), (2, 2)), (-3.0, 3.0), (2, 3), (3, 2))
    made = meaning(builder, here)
    solver = solver_of(builder, made)
    for _ in range(3):
        at = [F(rng.randint(-9, 9), 3) for _ in range(12)]
        want = [sum((at[3 * i + k] * at[6 + 2 * k + j] for k in range(3)), F(0)) for i in range(2) for j in range(2)]
        check_point(solver, [*a, *b], at, made, want)
    builder = Builder()
    here, (a, b) = site(builder, Node("n", "mul", ("a", "b"), (2,)), None, (2,), (2,))
    made = meaning(builder, here)
    check_point(solver_of(builder, made), [*a, *b], [F(3), F(-1, 2), F(2, 3), F(4)], made, [F(2), F(-2)])


@pytest.mark.parametrize("ends", [None, (-2.0, 2.0)])
def test_maxima(ends: tuple[float, float] | None) -> None:
    rng = random.Random(5)
    builder = Builder()
    here, (x,) = site(builder, Node("n", "reduce_max", ("x",), (2, 1, 2), frozen({"axes": (1,)})), ends, (2, 3, 2))
    made = meaning(builder, here)
    solver = solver_of(builder, made)
    pool = Builder()
    attrs = {"kernel": (2, 2), "strides": (1, 2), "dilations": (1, 1), "pads": (0, 1, 0, 0)}
    there, (z,) = site(pool, Node("n", "max_pool", ("x",), (1, 1, 2, 2), frozen(attrs)), ends, (1, 1, 3, 3))
    pooled = meaning(pool, there)
    second = solver_of(pool, pooled)
    for _ in range(5):
        at = [F(rng.randint(-4, 4), 2) for _ in range(12)]
        want = [max(at[6 * i + 2 * k + j] for k in range(3)) for i, j in itertools.product(range(2), range(2))]
        check_point(solver, x, at, made, want)
        at = at[:9]
        windows = [[0, 3], [1, 2, 4, 5], [3, 6], [4, 5, 7, 8]]
        check_point(second, z, at, pooled, [max(at[k] for k in window) for window in windows])


def test_arguments_that_leave_one_piece_make_no_choice() -> None:
    for kind, ends in itertools.product(SCALAR, [(5.0, 5.25), (-6.0, -5.5)]):
        op, attrs, _ = SCALAR[kind]
        if op in PIECES:
            builder = Builder()
            meaning(builder, site(builder, Node("n", op, ("x",), (1,), frozen(attrs)), ends, (1,))[0])
            assert not builder.choices, kind


def test_an_operator_without_a_meaning_is_told() -> None:
    assert "shuffle" not in {*PIECES, *WHOLE}
    builder = Builder()
    with pytest.raises(Unsupported, match="shuffle"):
        meaning(builder, site(builder, Node("n", "shuffle", ("x",), (1,)), None, (1,))[0])


def test_comparisons_hold_as_they_say() -> None:
    form = Form({0: F(2)}, F(-1))
    for x, want in ((F(0), (True, True, False)), (F(1, 2), (True, False, True)), (F(1), (False, False, False))):
        assert tuple(Comparison(form, relation).holds([x]) for relation in ("<=", "<", "==")) == want
