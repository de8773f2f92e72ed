"""What each nonlinear core operator means exactly: pieces, integers, products; curves for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from verinn.errors import Unsupported
from verinn.exact.encoding.builder import Builder, meet
from verinn.exact.encoding.formula import (
    ONE,
    ZERO,
    Any,
    Comparison,
    Curve,
    Form,
    Range,
    at_most,
    below,
    constant,
    equal,
    mixed,
)
from verinn.exact.encoding.lines import comparisons, curve_cell, lines_over, range_over
from verinn.exact.encoding.numbers import above, beneath, short
from verinn.ir.graph import Const, Node
from verinn.ops.base import Elementwise
from verinn.ops.pool import MaxPool
from verinn.ops.registry import OPS

HALF, THREE = Fraction(1, 2), Fraction(3)
#: integer powers that are written out as products
MOST_POWER = 16


@dataclass(frozen=True, eq=False)
class Site:
    """One node to be given its meaning: its inputs' forms (elements,) each, and the ends of its inputs' and its
    own elements, float64, where known."""

    node: Node
    inputs: tuple[np.ndarray, ...]
    shapes: tuple[tuple[int, ...], ...]
    ranges: tuple[tuple[np.ndarray, np.ndarray] | None, ...]
    own: tuple[np.ndarray, np.ndarray] | None

    def ends(self, builder: Builder, slot: int, element: int) -> Range:
        """What is known of an element of an input."""
        return meet(builder.range_of(self.inputs[slot][element]), _ends(self.ranges[slot], element))

    def result(self, element: int) -> Range:
        """What is known of an element of the node's value, in few digits."""
        if self.own is None:
            return None, None
        return short(float(self.own[0][element]), up=False), short(float(self.own[1][element]), up=True)

    def name(self, element: int) -> str:
        return f"{self.node.name}[{element}]"


def meaning(builder: Builder, site: Site) -> list[Form]:
    """The forms (elements,) of a nonlinear node's value. Raises Unsupported."""
    op = site.node.op
    if op in PIECES:
        return _piecewise(builder, site, PIECES[op])
    if op in WHOLE:
        return WHOLE[op](builder, site)
    if isinstance(OPS.get(op), Elementwise):
        return [_curved(builder, site, i) for i in range(len(site.inputs[0]))]
    raise Unsupported(f"the exact back end does not know the operator `{op}`", place=site.node.source or None)


# -- functions of one variable with straight pieces ------------------------------------------------


@dataclass(frozen=True)
class Straight:
    """y = slope·x + offset for x in [lower, upper] (None: no end); the slope is exact up to ``error``."""

    lower: Fraction | None
    upper: Fraction | None
    slope: Fraction
    offset: Fraction = ZERO
    error: Fraction = ZERO


def _relu(node: Node, element: int) -> list[Straight]:
    return [Straight(None, ZERO, ZERO), Straight(ZERO, None, ONE)]


def _leaky(node: Node, element: int) -> list[Straight]:
    return [Straight(None, ZERO, Fraction(float(node.attrs["alpha"]))), Straight(ZERO, None, ONE)]


def _prelu(node: Node, element: int) -> list[Straight]:
    slope, error = _parameter(node.params["slope"], node.shape, element)
    return [Straight(None, ZERO, slope, error=error), Straight(ZERO, None, ONE)]


def _abs(node: Node, element: int) -> list[Straight]:
    return [Straight(None, ZERO, -ONE), Straight(ZERO, None, ONE)]


def _clip(node: Node, element: int) -> list[Straight]:
    low, high = float(node.attrs["lower"]), float(node.attrs["upper"])
    if low >= high:  # min(max(x, low), high)
        return [Straight(None, None, ZERO, Fraction(high))]
    least = Fraction(low) if math.isfinite(low) else None
    most = Fraction(high) if math.isfinite(high) else None
    parts = [Straight(least, most, ONE)]
    if least is not None:
        parts.insert(0, Straight(None, least, ZERO, least))
    if most is not None:
        parts.append(Straight(most, None, ZERO, most))
    return parts


PIECES: dict[str, Callable[[Node, int], list[Straight]]] = {
    "relu": _relu,
    "leaky_relu": _leaky,
    "prelu": _prelu,
    "abs": _abs,
    "clip": _clip,
}


def _parameter(const: Const, shape: tuple[int, ...], element: int) -> tuple[Fraction, Fraction]:
    """One element of a parameter that broadcasts to a node's shape, and its error."""
    place = np.unravel_index(element, shape)
    value = np.broadcast_to(const.value, shape)[place]
    error = 0.0 if const.error is None else np.broadcast_to(const.error, shape)[place]
    return Fraction(float(value)), Fraction(float(error))


def _piecewise(builder: Builder, site: Site, pieces: Callable[[Node, int], list[Straight]]) -> list[Form]:
    made, open_ = [], []
    for i in range(len(site.inputs[0])):
        left = _possible(pieces(site.node, i), site.ends(builder, 0, i))
        form, x = _pieced(builder, site, i, left)
        made.append(form)
        if x is not None:
            open_.append((i, x))
    _weaken(builder, site, open_, made)
    return made


def _possible(pieces: Sequence[Straight], ends: Range) -> list[tuple[int, Straight]]:
    """The pieces, numbered, that an argument in ``ends`` can be in; one that is only touched is its neighbour's."""
    low, high = ends
    left: list[tuple[int, Straight]] = []
    for k, piece in enumerate(pieces):
        last = k == len(pieces) - 1
        if not last and low is not None and piece.upper is not None and low >= piece.upper:
            continue
        if left and high is not None and piece.lower is not None and high <= piece.lower:
            continue
        left.append((k, piece))
    return left


def _pieced(builder: Builder, site: Site, element: int, left: list[tuple[int, Straight]]) -> tuple[Form, Form | None]:
    """One element's form, and its argument as a variable where more than one piece is possible."""
    source = site.inputs[0][element]
    if len(left) == 1 and not left[0][1].error:
        return (source * left[0][1].slope).shifted(left[0][1].offset), None
    name = site.name(element)
    x = builder.define(f"{name}.x", source, site.ends(builder, 0, element))
    y = builder.fresh(name, site.result(element))
    builder.choose(site.node.name, element, [(k, tuple(_straight(piece, x, y))) for k, piece in left])
    return y, x


def _straight(piece: Straight, x: Form, y: Form) -> list[Comparison]:
    found = []
    if piece.lower is not None:
        found.append(at_most(constant(piece.lower), x))
    if piece.upper is not None:
        found.append(at_most(x, constant(piece.upper)))
    line = (x * piece.slope).shifted(piece.offset)
    if not piece.error:
        return [*found, equal(y, line)]
    # x ≤ 0 here: the slopes' ends change sides
    return [*found, at_most(y, line - x * piece.error), at_most(line + x * piece.error, y)]


def _weaken(builder: Builder, site: Site, open_: Sequence[tuple[int, Form]], made: Sequence[Form]) -> None:
    """Lines of the operator's own relaxation, where arguments have ends."""
    if not open_ or site.ranges[0] is None:
        return
    shape = site.node.shape
    low, high = (torch.from_numpy(end.reshape(1, *shape)) for end in site.ranges[0])
    every = lines_over(site.node, low, high)
    for i, x in open_:
        place = (0, *map(int, np.unravel_index(i, shape)))
        ends = float(site.ranges[0][0][i]), float(site.ranges[0][1][i])
        if all(map(math.isfinite, ends)):
            builder.weak.extend(comparisons(every, place, x, made[i], ends))


# -- steps and integers ---------------------------------------------------------------------------


def _stepped(builder: Builder, site: Site, pieces: Callable[[Form, Form], list[tuple[Comparison, ...]]]) -> list[Form]:
    """Functions whose pieces are constant: each element a choice of those that its ends leave."""
    made = []
    for i, source in enumerate(site.inputs[0]):
        name = site.name(i)
        x = source if source.constant else builder.define(f"{name}.x", source, site.ends(builder, 0, i))
        y = builder.fresh(name, site.result(i))
        ends = site.ends(builder, 0, i)
        left = [(k, piece) for k, piece in enumerate(pieces(x, y)) if _can(builder, piece[0], ends, x)]
        builder.choose(site.node.name, i, left)
        made.append(y)
    return made


def _can(builder: Builder, guard: Comparison, ends: Range, x: Form) -> bool:
    """Whether a guard over x alone, x REL 0 or −x REL 0, may hold for x in ``ends``."""
    low, high = ends
    if guard.relation == "==":
        return (low is None or low <= 0) and (high is None or high >= 0)
    least = low if guard.form == x else None if high is None else -high
    return least is None or least < 0 or (least == 0 and guard.relation == "<=")


def _sign(builder: Builder, site: Site) -> list[Form]:
    def pieces(x: Form, y: Form) -> list[tuple[Comparison, ...]]:
        return [
            (Comparison(x, "<"), equal(y, constant(-1))),
            (Comparison(x, "=="), equal(y, constant(0))),
            (Comparison(x * -ONE, "<"), equal(y, constant(1))),
        ]

    return _stepped(builder, site, pieces)


def _step(builder: Builder, site: Site) -> list[Form]:
    strict = bool(site.node.attrs.get("strict", False))

    def pieces(x: Form, y: Form) -> list[tuple[Comparison, ...]]:
        return [
            (Comparison(x, "<=" if strict else "<"), equal(y, constant(0))),
            (Comparison(x * -ONE, "<" if strict else "<="), equal(y, constant(1))),
        ]

    return _stepped(builder, site, pieces)


def _whole(builder: Builder, site: Site) -> list[Form]:
    """floor, ceil and round (half to even): an integer beside the argument."""
    op = site.node.op
    function: Callable[[Fraction], int] = {"floor": math.floor, "ceil": math.ceil, "round": round}[op]  # type: ignore[assignment]
    made = []
    for i, source in enumerate(site.inputs[0]):
        low, high = (None if end is None else Fraction(function(end)) for end in site.ends(builder, 0, i))
        if low is not None and low == high:  # all three are monotone
            made.append(constant(low))
            continue
        x = builder.define(f"{site.name(i)}.x", source, site.ends(builder, 0, i))
        k = builder.fresh(site.name(i), (low, high), integer=True)
        if op == "floor":
            builder.facts += [at_most(k, x), below(x, k.shifted(ONE))]
        elif op == "ceil":
            builder.facts += [at_most(x, k), below(k.shifted(-ONE), x)]
        else:
            builder.facts += [at_most(k.shifted(-HALF), x), at_most(x, k.shifted(HALF))]
            half = builder.fresh(f"{site.name(i)}.half", integer=True)
            even = Comparison(mixed([(ONE, k), (Fraction(-2), half)]), "==")
            for inside in (below(x, k.shifted(HALF)), below(k.shifted(-HALF), x)):
                builder.conditions.append(Any((inside, even)))
        made.append(k)
    return made


# -- maxima ---------------------------------------------------------------------------------------


def _max_pool(builder: Builder, site: Site) -> list[Form]:
    op = OPS[site.node.op]
    assert isinstance(op, MaxPool)
    count = len(site.inputs[0])
    places = torch.arange(count, dtype=torch.float64).reshape(1, *site.shapes[0])
    windows = op.windows(site.node, places, -1.0).reshape(-1, math.prod(site.node.attrs["kernel"]))
    return [_greatest(builder, site, i, [int(p) for p in row if p >= 0]) for i, row in enumerate(windows.tolist())]


def _reduce_max(builder: Builder, site: Site) -> list[Form]:
    shape = site.shapes[0]
    places = np.arange(len(site.inputs[0])).reshape(shape)
    axes = tuple(axis % len(shape) for axis in site.node.attrs["axes"])
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    rows = places.transpose(*kept, *axes).reshape(math.prod(shape[axis] for axis in kept), -1)
    return [_greatest(builder, site, i, row.tolist()) for i, row in enumerate(rows)]


def _greatest(builder: Builder, site: Site, element: int, places: Sequence[int]) -> Form:
    """The maximum of some elements; phase k: the k-th is the greatest."""
    ends = [site.ends(builder, 0, place) for place in places]
    lows = [low for low, _ in ends if low is not None]
    floor = max(lows, default=None)
    rivals = [k for k, (_, high) in enumerate(ends) if floor is None or high is None or high > floor]
    best = next((k for k, (low, _) in enumerate(ends) if floor is not None and low == floor), None)
    if best is not None and best not in rivals:
        rivals.append(best)
    forms: list[Form] = [site.inputs[0][place] for place in places]
    if len(rivals) == 1:
        return forms[rivals[0]]
    y = builder.fresh(site.name(element), site.result(element))
    pieces = []
    for k in sorted(rivals):
        x = forms[k]
        if not x.constant:
            x = builder.define(f"{site.name(element)}.{k}", x, ends[k])
        builder.facts.append(at_most(x, y))
        pieces.append((k, (equal(y, x),)))
    builder.choose(site.node.name, element, pieces)
    return y


# -- polynomials ----------------------------------------------------------------------------------


def _mul(builder: Builder, site: Site) -> list[Form]:
    left, right = site.inputs if len(site.inputs) == 2 else (site.inputs[0], site.inputs[0])
    return [
        builder.product(site.name(i), a, b, site.result(i)) for i, (a, b) in enumerate(zip(left, right, strict=True))
    ]


def _matmul(builder: Builder, site: Site) -> list[Form]:
    left = site.inputs[0].reshape(site.shapes[0])
    right = site.inputs[1].reshape(site.shapes[1])
    made: list[Form] = []
    for place in np.ndindex(*site.node.shape):
        *lead, i, j = place
        row, column = left[(*lead, i)], right[(*lead, slice(None), j)]
        name = site.name(len(made))
        parts = [builder.product(f"{name}.{k}", a, b) for k, (a, b) in enumerate(zip(row, column, strict=True))]
        made.append(mixed([(ONE, part) for part in parts]))
    return made


def _hard_swish(builder: Builder, site: Site) -> list[Form]:
    """x·min(max(x + 3, 0), 6)/6."""
    made = []
    for i, source in enumerate(site.inputs[0]):
        left = _possible(
            [Straight(None, -THREE, ZERO), Straight(-THREE, THREE, ONE), Straight(THREE, None, ONE)],
            site.ends(builder, 0, i),
        )
        kinds = [k for k, _ in left]
        if kinds in ([0], [2]):
            made.append(source if kinds == [2] else constant(0))
            continue
        x = builder.define(f"{site.name(i)}.x", source, site.ends(builder, 0, i))
        square = builder.product(f"{site.name(i)}.sq", x, x)
        middle = mixed([(Fraction(1, 6), square), (HALF, x)])
        y = builder.fresh(site.name(i), site.result(i))
        pieces = []
        for k, piece in left:
            guard = [c for c in _straight(piece, x, y) if c.relation == "<="]
            pieces.append((k, (*guard, equal(y, (constant(0), middle, x)[k]))))
        builder.choose(site.node.name, i, pieces)
        made.append(y)
    return made


def _reciprocal(builder: Builder, site: Site) -> list[Form]:
    return [_inverse(builder, site.name(i), x, site.result(i)) for i, x in enumerate(site.inputs[0])]


def _inverse(builder: Builder, name: str, x: Form, ends: Range) -> Form:
    """1/x; nothing is said where x is zero."""
    if x.constant and x.const:
        return constant(1 / x.const)
    low, high = builder.range_of(x)
    y = builder.fresh(name, ends)
    one = builder.product(f"{name}.one", x, y)
    if (low is not None and low > 0) or (high is not None and high < 0):
        builder.facts.append(equal(one, constant(1)))
    else:
        builder.conditions.append(Any((Comparison(x, "=="), equal(one, constant(1)))))
    return y


def _power(builder: Builder, site: Site) -> list[Form]:
    exponent = float(site.node.attrs["exponent"])
    if exponent == 0.5:
        return _sqrt(builder, site)
    if not exponent.is_integer() or not 0 < abs(exponent) <= MOST_POWER:
        return [_curved(builder, site, i) for i in range(len(site.inputs[0]))]
    made = []
    for i, x in enumerate(site.inputs[0]):
        last = site.result(i) if exponent > 0 else (None, None)
        power = _raised(builder, site.name(i), x, int(abs(exponent)), last)
        made.append(power if exponent > 0 else _inverse(builder, f"{site.name(i)}.inv", power, site.result(i)))
    return made


def _raised(builder: Builder, name: str, x: Form, n: int, ends: Range) -> Form:
    """x to the n ≥ 1, by squaring: squares are known not to be negative."""
    if n == 1:
        return x
    if n % 2:
        return builder.product(name, _raised(builder, f"{name}.{n - 1}", x, n - 1, (None, None)), x, ends)
    half = _raised(builder, f"{name}.{n // 2}", x, n // 2, (None, None))
    return builder.product(name, half, half, ends)


def _sqrt(builder: Builder, site: Site) -> list[Form]:
    """The y ≥ 0 with y² = x; nothing but y ≥ 0 is said where x is negative."""
    made = []
    for i, x in enumerate(site.inputs[0]):
        low, high = site.result(i)
        y = builder.fresh(site.name(i), (max(low or ZERO, ZERO), high))
        square = builder.product(f"{site.name(i)}.sq", y, y)
        builder.conditions.append(Any((Comparison(x, "<"), equal(square, x))))
        made.append(y)
    return made


# -- curves ---------------------------------------------------------------------------------------


def _curved(builder: Builder, site: Site, element: int) -> Form:
    x = site.inputs[0][element]
    return curved(builder, site.node, element, x, site.ends(builder, 0, element), site.result(element))


def curved(builder: Builder, node: Node, element: int, source: Form, ends: Range, result: Range) -> Form:
    """y = f(x) as far as the operator's ranges and lines over ``ends`` tell; solvers refine it on demand."""
    name = f"{node.name}[{element}]"
    x = builder.fresh(f"{name}.x", ends)
    builder.facts.append(equal(x, source))
    y = builder.fresh(name, result)
    (u,), (v,) = x.terms, y.terms
    low = -math.inf if ends[0] is None else beneath(ends[0])
    high = math.inf if ends[1] is None else above(ends[1])
    curve = Curve(node, element, u, v, low, high)
    builder.curves.append(curve)
    builder.facts.extend(curve_cell(curve, low, high, exactly=False))
    return y


def _small(builder: Builder, op: str, name: str, source: Form, ends: Range) -> Form:
    """An elementwise operator that no node of the graph has, on one form."""
    node = Node(name, op, (), (1,))
    low = -math.inf if ends[0] is None else beneath(ends[0])
    high = math.inf if ends[1] is None else above(ends[1])
    made = range_over(node, torch.tensor([[low]], dtype=torch.float64), torch.tensor([[high]], dtype=torch.float64))
    result = short(float(made[0][0, 0]), up=False), short(float(made[1][0, 0]), up=True)
    return curved(builder, node, 0, source, ends, result)


def _softmax(builder: Builder, site: Site) -> list[Form]:
    """1 / Σⱼ exp(xⱼ − xᵢ): what does not overflow; with it, that they sum to one."""
    made: list[Form] = [constant(0)] * len(site.inputs[0])
    for row in _rows(site):
        for i in row:
            y = _inverse(builder, site.name(i), _exponentials(builder, site, row, i), site.result(i))
            made[i] = y
        builder.weak.append(equal(mixed([(ONE, made[i]) for i in row]), constant(1)))
    return made


def _log_softmax(builder: Builder, site: Site) -> list[Form]:
    """−log Σⱼ exp(xⱼ − xᵢ)."""
    made: list[Form] = [constant(0)] * len(site.inputs[0])
    for row in _rows(site):
        for i in row:
            total = _exponentials(builder, site, row, i)
            log = _small(builder, "log", f"{site.name(i)}.log", total, builder.range_of(total))
            made[i] = log * -ONE
    return made


def _exponentials(builder: Builder, site: Site, row: Sequence[int], i: int) -> Form:
    parts = [(ONE, constant(1))]
    for j in row:
        if j == i:
            continue
        one, other = site.ends(builder, 0, j), site.ends(builder, 0, i)
        low = None if one[0] is None or other[1] is None else one[0] - other[1]
        high = None if one[1] is None or other[0] is None else one[1] - other[0]
        form = site.inputs[0][j] - site.inputs[0][i]
        parts.append((ONE, _small(builder, "exp", f"{site.name(i)}.exp{j}", form, (low, high))))
    return builder.define(f"{site.name(i)}.sum", mixed(parts), builder.range_of(mixed(parts)))


def _rows(site: Site) -> list[list[int]]:
    """The elements, grouped along the node's axis."""
    shape = site.shapes[0]
    places = np.arange(math.prod(shape)).reshape(shape)
    axis = site.node.attrs["axis"]
    return np.moveaxis(places, axis, -1).reshape(-1, shape[axis]).tolist()


WHOLE: dict[str, Callable[[Builder, Site], list[Form]]] = {
    "sign": _sign,
    "step": _step,
    "floor": _whole,
    "ceil": _whole,
    "round": _whole,
    "max_pool": _max_pool,
    "reduce_max": _reduce_max,
    "mul": _mul,
    "matmul": _matmul,
    "hard_swish": _hard_swish,
    "reciprocal": _reciprocal,
    "pow": _power,
    "sqrt": _sqrt,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
}


def _ends(array: tuple[np.ndarray, np.ndarray] | None, element: int) -> Range:
    if array is None:
        return None, None
    low, high = float(array[0][element]), float(array[1][element])
    return (Fraction(low) if math.isfinite(low) else None), (Fraction(high) if math.isfinite(high) else None)


__all__ = ["Site", "curved", "meaning"]
