"""Rules that find one core function where an exporter wrote several operators, and rules of 0/1 values.

Each looks along edges only, and each is exact: where constants of the file differ from the function's
own (1/√2 in float32), the argument is rescaled, or the difference is bounded and becomes an error of a
constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from verinn.ir import const as c
from verinn.ir.check import ELEMENTWISE
from verinn.ir.fold import fold
from verinn.ir.graph import Const, Node, Shape, frozen
from verinn.passes.rewrite import Change, Sweep

_OFFSETS = {"scale": "factor", "divide": "divisor", "shift": "offset"}
_ROOT2 = Const(np.array(math.sqrt(2.0)), np.array(2.0**-52))
# The constants of the tanh form of GELU, and how far from them a file's may be.
_GELU, _CUBIC, _NEAR = math.sqrt(2.0 / math.pi), 0.044715, 1e-5


def number(const: Const) -> Const | None:
    """A constant that is one number everywhere, as shape ()."""
    flat = const.value.reshape(-1)
    if flat.size == 0 or not np.all(flat == flat[0]):
        return None
    error = None if const.error is None else np.array(const.error.max())
    return c.make(np.array(flat[0]), error)


def uniform(name: str, state: Sweep) -> tuple[str, Const, Const]:
    """(base, a, b) with the value a · base + b: scales and shifts by one number each, followed back."""
    factor, offset = Const(np.ones(())), Const(np.zeros(()))
    while (node := state.maker(name)) is not None and node.op in _OFFSETS:
        const = number(node.params[_OFFSETS[node.op]])
        if const is None:
            break
        if node.op == "shift":
            offset = c.add(offset, c.mul(factor, const))
        else:
            factor = (c.mul if node.op == "scale" else c.div)(factor, const)
        name = node.inputs[0]
    return name, factor, offset


def _exactly(const: Const, value: float) -> bool:
    return const.error is None and float(const.value) == value


def _scaled(state: Sweep, name: str, source: str, factor: Const, shape: Shape) -> tuple[list[Node], str]:
    """Nodes that multiply ``source`` by a number, and the name of the product (``source`` itself for 1)."""
    if _exactly(factor, 1.0):
        return [], source
    fresh = state.fresh(name)
    return [Node(fresh, "scale", (source,), shape, params=frozen({"factor": _spread(factor, shape)}))], fresh


def _spread(const: Const, shape: Shape) -> Const:
    return c.reshape(const, (1,)) if shape else const


def _function(node: Node, state: Sweep, op: str, source: str, inner: Const, outer: Const) -> list[Node]:
    """outer · op(inner · source) in place of a node."""
    before, name = _scaled(state, node.name, source, inner, node.shape)
    if _exactly(outer, 1.0):
        return [*before, Node(node.name, op, (name,), node.shape, source=node.source)]
    made = Node(state.fresh(node.name), op, (name,), node.shape, source=node.source)
    params = frozen({"factor": _spread(outer, node.shape)})
    return [*before, made, Node(node.name, "scale", (made.name,), node.shape, params=params, source=node.source)]


# -- products ----------------------------------------------------------------------------------------


def products(node: Node, state: Sweep) -> Change:
    """x · x, x · sigmoid(x), x · tanh(softplus(x)), x · clip(x + 3, 0, 6) and both forms of GELU."""
    if node.op != "mul":
        return None
    for left, right in (node.inputs, node.inputs[::-1]):
        x, alpha, zero = uniform(left, state)
        if not _exactly(zero, 0.0):
            continue
        gate, a, b = uniform(right, state)
        if gate == x and left == right:
            return _square(node, state, x, alpha)
        maker = state.maker(gate)
        if maker is None:
            continue
        change = _gated(node, state, x, c.mul(alpha, a), b, a, maker)
        if change is not None:
            return change
    return None


def _square(node: Node, state: Sweep, x: str, alpha: Const) -> Change:
    """(alpha · x)² as alpha² · x²."""
    made = Node(state.fresh(node.name), "pow", (x,), node.shape, frozen({"exponent": 2.0}), source=node.source)
    params = frozen({"factor": _spread(c.mul(alpha, alpha), node.shape)})
    return [made, Node(node.name, "scale", (made.name,), node.shape, params=params, source=node.source)]


def _gated(node: Node, state: Sweep, x: str, outer: Const, b: Const, a: Const, gate: Node) -> Change:
    """alpha · x times a · gate + b, with outer = alpha · a."""
    inner, k, shift = uniform(gate.inputs[0], state) if gate.inputs else ("", a, b)
    if gate.op in ("sigmoid", "clip"):
        if inner != x or not _exactly(b, 0.0):
            return None
        if gate.op == "clip":
            return _hard_swish(node, state, x, outer, gate, k, shift)
        plain = _exactly(shift, 0.0) and abs(float(k.value)) > float(c.error_of(k))
        return _function(node, state, "silu", x, k, c.div(outer, k)) if plain else None
    plus = state.maker(inner)
    if gate.op == "tanh" and _exactly(b, 0.0) and plus is not None and plus.op == "softplus":
        same = plus.inputs == (x,) and _exactly(k, 1.0) and _exactly(shift, 0.0)
        return _function(node, state, "mish", x, k, outer) if same else None
    # The gate of GELU is one plus a function, times any number.
    if b.error is not None or a.error is not None or float(a.value) != float(b.value) or float(a.value) == 0.0:
        return None
    if gate.op == "erf" and inner == x and _exactly(shift, 0.0) and float(k.value) > 0.0:
        stretch = c.mul(k, _ROOT2)
        return _function(node, state, "gelu", x, stretch, c.div(c.mul(Const(np.array(2.0)), outer), stretch))
    return _gelu_tanh(node, state, x, outer, gate) if gate.op == "tanh" else None


def _hard_swish(node: Node, state: Sweep, x: str, outer: Const, gate: Node, k: Const, shift: Const) -> Change:
    """x · clip(k · x + 3 m, 0, 6 m) = 6 m / s · hard_swish(s · x) with s = k / m."""
    top = float(gate.attrs["upper"])
    if gate.attrs["lower"] != 0.0 or not 0.0 < top < math.inf or not _exactly(shift, top / 2) or k.error is not None:
        return None
    if not float(k.value) > 0.0:
        return None
    stretch = c.div(c.mul(k, Const(np.array(6.0))), Const(np.array(top)))
    return _function(node, state, "hard_swish", x, stretch, c.div(c.mul(outer, Const(np.array(top))), stretch))


def _gelu_tanh(node: Node, state: Sweep, x: str, outer: Const, gate: Node) -> Change:
    """x · (1 + tanh(p · x + q · x³)) for p and q near those of GELU; the difference is an error of a constant.

    With t = √(2/π)(x + 0.044715 x³) and t' the file's argument, |t' − t| ≤ ε|t|, the two differ by at most
    |x| · ε|t| · sech²(ξ) for some ξ within ε|t| of t. Since |x| ≤ |t| / √(2/π) and t² sech²(t) < 0.44, that
    is below ε for ε ≤ 1e-5.
    """
    terms = _cubic(gate.inputs[0], x, state)
    if terms is None:
        return None
    linear, cubic = terms
    gap = max(abs(linear / _GELU - 1.0), abs(cubic / (_GELU * _CUBIC) - 1.0))
    if not gap <= _NEAR:
        return None
    made = Node(state.fresh(node.name), "gelu_tanh", (x,), node.shape, source=node.source)
    factor = c.mul(Const(np.array(2.0)), outer)
    error = (gap + 2.0**-48) * (abs(float(factor.value)) + float(c.error_of(factor))) * (1.0 + 2.0**-40)
    shape = (1,) if node.shape else ()
    scaled = Node(
        state.fresh(node.name),
        "scale",
        (made.name,),
        node.shape,
        params=frozen({"factor": _spread(factor, node.shape)}),
    )
    offset = Const(np.zeros(shape), np.full(shape, error))
    return [made, scaled, Node(node.name, "shift", (scaled.name,), node.shape, params=frozen({"offset": offset}))]


def _cubic(name: str, x: str, state: Sweep) -> tuple[float, float] | None:
    """(p, q) where a value is p · x + q · x³, each to within 2^-49 of itself."""
    base, factor, zero = uniform(name, state)
    total = state.maker(base)
    if not _exactly(zero, 0.0) or total is None or total.op not in ("sum", "mul"):
        return None
    if total.op == "mul":  # x · (1 + 0.044715 x²), times a number
        for left, right in (total.inputs, total.inputs[::-1]):
            (one, a, none), (square, q, p) = uniform(left, state), uniform(right, state)
            if one == x and _exactly(none, 0.0) and _power(square, x, state) == (2.0, 1.0):
                scale = float(factor.value) * float(a.value)
                return scale * float(p.value), scale * float(q.value)
        return None
    found = {1.0: 0.0, 3.0: 0.0}
    for sign, part in zip(total.attrs["signs"], total.inputs, strict=True):
        one, a, none = uniform(part, state)
        power = (1.0, 1.0) if one == x else _power(one, x, state)
        if power is None or power[0] not in found or not _exactly(none, 0.0):
            return None
        found[power[0]] += sign * float(a.value) * power[1] * float(factor.value)
    return found[1.0], found[3.0]


def _power(name: str, x: str, state: Sweep) -> tuple[float, float] | None:
    """(n, a) where a value is a · xⁿ."""
    base, a, zero = uniform(name, state)
    node = state.maker(base)
    if base == x and _exactly(zero, 0.0):
        return 1.0, float(a.value)
    if node is None or not _exactly(zero, 0.0):
        return None
    if node.op == "pow" and node.attrs["exponent"] in (2.0, 3.0):
        before = _power(node.inputs[0], x, state)
        n = node.attrs["exponent"]
        return None if before is None else (before[0] * n, float(a.value) * before[1] ** n)
    if node.op == "mul":
        parts = [_power(part, x, state) for part in node.inputs]
        if parts[0] is not None and parts[1] is not None:
            return parts[0][0] + parts[1][0], float(a.value) * parts[0][1] * parts[1][1]
    return None


def powers(node: Node, state: Sweep) -> Change:
    """xᵐ · xⁿ for whole exponents; (xᵐ)ⁿ for whole exponents."""
    if node.op == "mul":
        parts = [_whole_power(name, state) for name in node.inputs]
        if parts[0][0] != parts[1][0] or parts[0][1] + parts[1][1] > 16:
            return None
        exponent = float(parts[0][1] + parts[1][1])
        return [Node(node.name, "pow", (parts[0][0],), node.shape, frozen({"exponent": exponent}), source=node.source)]
    if node.op == "pow" and node.attrs["exponent"] == int(node.attrs["exponent"]):
        name, inner = _whole_power(node.inputs[0], state)
        exponent = inner * node.attrs["exponent"]
        if inner > 1 and 0 < exponent <= 16:
            return [replace(node, inputs=(name,), attrs=frozen({"exponent": float(exponent)}))]
    return None


def _whole_power(name: str, state: Sweep) -> tuple[str, int]:
    node = state.maker(name)
    if node is not None and node.op == "pow" and node.attrs["exponent"] in range(1, 16):
        return node.inputs[0], int(node.attrs["exponent"])
    return name, 1


# -- softmax -----------------------------------------------------------------------------------------


def softmaxes(node: Node, state: Sweep) -> Change:
    """exp(x) / Σ exp(x) along one axis; log(softmax(x))."""
    if node.op == "log":
        inner = state.maker(node.inputs[0])
        if inner is not None and inner.op == "softmax":
            return [replace(inner, name=node.name, op="log_softmax")]
    if node.op != "mul":
        return None
    for left, right in (node.inputs, node.inputs[::-1]):
        power, total = state.maker(left), _back(state.maker(right), state, "expand", "reciprocal")
        if power is None or power.op != "exp" or total is None or total.op != "reduce_sum":
            continue
        if total.inputs == (left,) and len(total.attrs["axes"]) == 1:
            attrs = frozen({"axis": total.attrs["axes"][0]})
            return [Node(node.name, "softmax", power.inputs, node.shape, attrs, source=node.source)]
    return None


def _back(node: Node | None, state: Sweep, *ops: str) -> Node | None:
    """The node before others of these kinds, each met at most once, in any order."""
    rest = list(ops)
    while node is not None and node.op in rest:
        rest.remove(node.op)
        node = state.maker(node.inputs[0])
    return node


def shifted_softmax(node: Node, state: Sweep) -> Change:
    """softmax doesn't see what is added to all entries alike: a maximum taken off, a constant along the axis."""
    if node.op not in ("softmax", "log_softmax"):
        return None
    axis, inner = node.attrs["axis"], state.maker(node.inputs[0])
    if inner is None:
        return None
    if inner.op == "shift":
        shape = inner.params["offset"].shape
        lead = len(inner.shape) - len(shape)
        if axis < lead or shape[axis - lead] == 1:
            return [replace(node, inputs=inner.inputs)]
    if inner.op != "sum" or len(inner.inputs) < 2:
        return None
    kept = [i for i, name in enumerate(inner.inputs) if not _alike(name, axis, state)]
    if not kept or len(kept) == len(inner.inputs):
        return None
    signs = tuple(inner.attrs["signs"][i] for i in kept)
    rest = Node(
        state.fresh(node.name), "sum", tuple(inner.inputs[i] for i in kept), inner.shape, frozen({"signs": signs})
    )
    return [rest, replace(node, inputs=(rest.name,))]


def _alike(name: str, axis: int, state: Sweep) -> bool:
    """Whether a value was broadcast along an axis."""
    node = state.maker(name)
    if node is None or node.op != "expand":
        return False
    shape = state.shapes[node.inputs[0]]
    lead = len(node.shape) - len(shape)
    return axis < lead or (shape[axis - lead] == 1 and node.shape[axis] > 1)


# -- 0/1 values --------------------------------------------------------------------------------------

_MOVES = ("reshape", "transpose", "slice", "gather", "expand")


@dataclass(frozen=True, eq=False)
class _OfStep:
    """A value each of whose elements is affine in one element of a step's: what it is where the step is 0 and where
    it is 1, the step's element that it depends on, and the moves that lead there."""

    step: Node
    element: np.ndarray
    ends: tuple[Const, Const]
    moves: tuple[Node, ...]


def _of_step(name: str, state: Sweep, seen: dict[str, _OfStep | None]) -> _OfStep | None:
    """What a value is of a step, by moves, scales, shifts, and sums of such over the same elements."""
    if name not in seen:
        seen[name] = _followed(state.maker(name), state, seen)
    return seen[name]


def _followed(maker: Node | None, state: Sweep, seen: dict[str, _OfStep | None]) -> _OfStep | None:
    if maker is None or math.prod(maker.shape) > 1 << 20:
        return None
    if maker.op == "step":
        low, high = (c.expand(Const(np.array(level)), maker.shape) for level in (0.0, 1.0))
        return _OfStep(maker, np.arange(math.prod(maker.shape)).reshape(maker.shape), (low, high), ())
    if maker.op not in _MOVES and maker.op not in _OFFSETS and maker.op != "sum":
        return None
    parts = [_of_step(source, state, seen) for source in maker.inputs]
    first = parts[0]
    if first is None:
        return None
    if maker.op != "sum":
        low, high = (_applied(maker, end) for end in first.ends)
        if maker.op in _OFFSETS:
            return replace(first, ends=(low, high))
        element = _applied(maker, Const(first.element)).value
        return replace(first, element=element, ends=(low, high), moves=(*first.moves, maker))
    known = [part for part in parts if part is not None]
    alike = [part.step is first.step and np.array_equal(part.element, first.element) for part in known]
    if len(known) < len(parts) or not all(alike):
        return None
    signed = [part.ends if s > 0 else (c.neg(part.ends[0]), c.neg(part.ends[1])) for part, s in _signed(known, maker)]
    low, high = (reduce(c.add, ends) for ends in zip(*signed, strict=True))
    return replace(first, ends=(low, high))


def _signed(parts: list[_OfStep], node: Node) -> list[tuple[_OfStep, int]]:
    return list(zip(parts, node.attrs["signs"], strict=True))


def of_steps(node: Node, state: Sweep) -> Change:
    """Any function of a · s + b with s from a step is affine in s: f(b) + s · (f(a + b) − f(b))."""
    if node.op not in ELEMENTWISE:
        return None
    known = _of_step(node.inputs[0], state, {})
    if known is None:
        return None
    name, moved = known.step.name, []
    for part in known.moves:
        moved.append(replace(part, name=state.fresh(node.name), inputs=(name,)))
        name = moved[-1].name
    try:
        low, high = (fold(node.op, end, node.attrs, node.params) for end in known.ends)
    except ValueError:
        return None
    slope = c.sub(high, low)
    scaled = Node(state.fresh(node.name), "scale", (name,), node.shape, params=frozen({"factor": _small(slope)}))
    shift = Node(node.name, "shift", (scaled.name,), node.shape, params=frozen({"offset": _small(low)}))
    return [*moved, scaled, replace(shift, source=node.source)]


def _small(const: Const) -> Const:
    """One number instead of many that are equal."""
    one = number(const)
    return const if one is None or not const.shape else c.reshape(one, (1,))


def _applied(node: Node, x: Const) -> Const:
    """A move, scale or shift of a constant of the input's shape."""
    attrs = node.attrs
    match node.op:
        case "scale":
            return c.mul(x, node.params["factor"])
        case "divide":
            return c.div(x, node.params["divisor"])
        case "shift":
            return c.add(x, node.params["offset"])
        case "reshape":
            return c.reshape(x, node.shape)
        case "expand":
            return c.expand(x, node.shape)
        case "transpose":
            return c.transpose(x, attrs["perm"])
        case "gather":
            return c.move(x, lambda array: np.take(array, attrs["indices"], axis=attrs["axis"]))
        case _:
            specs = zip(attrs["starts"], attrs["steps"], attrs["sizes"], strict=True)
            index = np.ix_(*[start + step * np.arange(size) for start, step, size in specs])
            return c.move(x, lambda array: array[index])


RULES = (products, powers, softmaxes, shifted_softmax, of_steps)
