"""The invariants of a graph, checked after the reader and after each pass.

``shape_of`` is the one place that says which shape an operator makes; the reader builds with it and
``check_graph`` re-derives with it, so that a pass that forgets to keep shapes, parameters or order
right is caught where it happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from verinn.ir.graph import Const, Graph, Node, Shape

ELEMENTWISE = frozenset(
    {
        "relu",
        "leaky_relu",
        "elu",
        "clip",
        "abs",
        "sigmoid",
        "tanh",
        "sign",
        "step",
        "floor",
        "ceil",
        "round",
        "hard_swish",
        "atan",
        "erf",
        "gelu",
        "gelu_tanh",
        "silu",
        "softplus",
        "mish",
        "exp",
        "log",
        "sqrt",
        "reciprocal",
        "pow",
        "sin",
        "cos",
        "tan",
    }
)


class GraphError(AssertionError):
    """A graph breaks an invariant: a defect of verinn, not of the input."""


def _need(condition: bool, text: str) -> None:
    if not condition:
        raise GraphError(text)


Attrs = Mapping[str, Any]
Params = Mapping[str, Const]
Rule = Callable[[Sequence[Shape], Attrs, Params, Shape], Shape]


def shape_of(op: str, inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape = ()) -> Shape:
    """The shape that ``op`` makes of inputs of these shapes; GraphError when they don't fit together.

    ``stated`` is what the node says; only reshape, expand and nothing else take their shape from it.
    """
    rule = _RULES.get(op)
    if rule is None:
        raise GraphError(f"'{op}' is no core operator")
    needed = _INPUTS.get(op, 1)
    _need(len(inputs) == needed if needed is not None else len(inputs) > 0, f"{op} has {len(inputs)} inputs")
    wanted_attrs, wanted_params, optional = _FIELDS.get(op, ((), (), ()))
    _need(set(attrs) == set(wanted_attrs), f"{op} has the attributes {sorted(attrs)}, not {sorted(wanted_attrs)}")
    _need(set(wanted_params) <= set(params) <= {*wanted_params, *optional}, f"{op} has the parameters {sorted(params)}")
    return rule(inputs, attrs, params, stated)


def window(size: int, kernel: int, stride: int, dilation: int, pads: int) -> int:
    """How many windows fit along one axis of a padded input (zero or less: none)."""
    return (size + pads - dilation * (kernel - 1) - 1) // stride + 1


def _windows(op: str, shape: Shape, kernel: Sequence[int], attrs: Attrs) -> Shape:
    spatial = len(shape) - 2
    strides, dilations, pads = attrs["strides"], attrs["dilations"], attrs["pads"]
    _need(spatial >= 1, f"{op} reads a tensor of rank {len(shape)}")
    fits = len(kernel) == len(strides) == len(dilations) == spatial and len(pads) == 2 * spatial
    _need(fits, f"{op} mixes ranks: input {shape}, kernel {tuple(kernel)}, strides {strides}, pads {pads}")
    _need(min(strides) > 0 and min(dilations) > 0 and min(kernel) > 0 and min(pads) >= 0, f"{op} has a bad window")
    out = tuple(
        window(shape[2 + i], kernel[i], strides[i], dilations[i], pads[i] + pads[spatial + i]) for i in range(spatial)
    )
    _need(min(out) > 0, f"{op}: its window is larger than the input {shape}")
    return out


def _linear(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    x, weight = inputs[0], params["weight"].shape
    _need(len(weight) == 2, f"linear has a weight of shape {weight}")
    _need(len(x) >= 1 and x[-1] == weight[0], f"linear multiplies {x} by {weight}")
    if "bias" in params:
        _need(params["bias"].shape == weight[1:], f"linear has a bias of shape {params['bias'].shape} for {weight}")
    return (*x[:-1], weight[1])


def _conv(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    x, weight, groups = inputs[0], params["weight"].shape, attrs["groups"]
    _need(len(weight) == len(x), f"conv of {x} by a kernel of shape {weight}")
    out = _windows("conv", x, weight[2:], attrs)
    _need(groups > 0 and weight[0] % groups == 0, f"conv has {weight[0]} output channels in {groups} groups")
    _need(x[1] == weight[1] * groups, f"conv of {x} by a kernel of shape {weight} in {groups} groups")
    if "bias" in params:
        _need(params["bias"].shape == weight[:1], f"conv has a bias of shape {params['bias'].shape} for {weight}")
    return (x[0], weight[0], *out)


def _max_pool(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    x = inputs[0]
    return (*x[:2], *_windows("max_pool", x, attrs["kernel"], attrs))


def _with_param(name: str) -> Rule:
    def rule(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
        fits = broadcasts(params[name].shape, inputs[0])
        _need(fits, f"{name} of shape {params[name].shape} doesn't broadcast to {inputs[0]}")
        if name == "divisor":
            _need(params[name].error is None and bool(np.all(params[name].value != 0)), "a divisor is inexact or zero")
        return inputs[0]

    return rule


def broadcasts(shape: Shape, target: Shape) -> bool:
    """Whether ``shape`` broadcasts to exactly ``target``."""
    if len(shape) > len(target):
        return False
    return all(a in (1, b) for a, b in zip(reversed(shape), reversed(target), strict=False))


def _sum(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    _need(len(set(inputs)) == 1, f"sum of different shapes {list(inputs)}")
    signs = attrs["signs"]
    _need(len(signs) == len(inputs) and all(sign in (1, -1) for sign in signs), f"sum has the signs {signs}")
    return inputs[0]


def _reshape(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    _need(math.prod(stated) == math.prod(inputs[0]), f"reshape from {inputs[0]} to {stated}")
    return stated


def _transpose(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    perm = attrs["perm"]
    _need(sorted(perm) == list(range(len(inputs[0]))), f"transpose of {inputs[0]} by {perm}")
    return tuple(inputs[0][axis] for axis in perm)


def _slice(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    x = inputs[0]
    starts, steps, sizes = attrs["starts"], attrs["steps"], attrs["sizes"]
    _need(len(x) == len(starts) == len(steps) == len(sizes), f"slice of {x} mixes ranks")
    for length, start, step, size in zip(x, starts, steps, sizes, strict=True):
        last = start + step * (size - 1)
        inside = size > 0 and step != 0 and 0 <= start < length and 0 <= last < length
        _need(inside, f"slice of {x} leaves it: start {start}, step {step}, size {size}")
    return tuple(sizes)


def _gather(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    x, axis, indices = inputs[0], attrs["axis"], attrs["indices"]
    _need(0 <= axis < len(x), f"gather along axis {axis} of {x}")
    inside = len(indices) > 0 and min(indices) >= 0 and max(indices) < x[axis]
    _need(inside, f"gather leaves axis {axis} of {x}")
    return (*x[:axis], len(indices), *x[axis + 1 :])


def _pad(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    x, pads = inputs[0], attrs["pads"]
    _need(len(pads) == 2 * len(x) and all(pad >= 0 for pad in pads), f"pad of {x} by {pads}")
    _need(math.isfinite(attrs["value"]), f"pad by the value {attrs['value']}")
    return tuple(pads[i] + size + pads[len(x) + i] for i, size in enumerate(x))


def _concat(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    axis = attrs["axis"]
    _need(0 <= axis < len(inputs[0]), f"concat along axis {axis} of {inputs[0]}")
    rest = {(*x[:axis], *x[axis + 1 :]) for x in inputs}
    _need(len(rest) == 1 and len({len(x) for x in inputs}) == 1, f"concat of {list(inputs)} along axis {axis}")
    return (*inputs[0][:axis], sum(x[axis] for x in inputs), *inputs[0][axis + 1 :])


def _expand(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    _need(broadcasts(inputs[0], stated), f"expand from {inputs[0]} to {stated}")
    return stated


def _reduce_sum(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    x, axes = inputs[0], attrs["axes"]
    _need(len(set(axes)) == len(axes) and all(0 <= axis < len(x) for axis in axes), f"a reduction of {x} over {axes}")
    return tuple(1 if axis in axes else size for axis, size in enumerate(x))


def _axis(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    _need(0 <= attrs["axis"] < len(inputs[0]), f"softmax along axis {attrs['axis']} of {inputs[0]}")
    return inputs[0]


def _mul(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    _need(inputs[0] == inputs[1], f"mul of the shapes {inputs[0]} and {inputs[1]}")
    return inputs[0]


def _matmul(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    x, y = inputs
    fits = len(x) == len(y) >= 2 and x[:-2] == y[:-2] and x[-1] == y[-2]
    _need(fits, f"matmul of the shapes {x} and {y}")
    return (*x[:-1], y[-1])


def _constant(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    return params["value"].shape


def _same(inputs: Sequence[Shape], attrs: Attrs, params: Params, stated: Shape) -> Shape:
    if "alpha" in attrs:
        _need(math.isfinite(attrs["alpha"]), f"a slope of {attrs['alpha']}")
    if "exponent" in attrs:
        _need(math.isfinite(attrs["exponent"]), f"an exponent of {attrs['exponent']}")
    if "strict" in attrs:
        _need(isinstance(attrs["strict"], bool), f"a step that is strict: {attrs['strict']!r}")
    if "lower" in attrs:
        _need(attrs["lower"] <= attrs["upper"], f"clip to [{attrs['lower']}, {attrs['upper']}]")
    return inputs[0]


_RULES: dict[str, Rule] = {
    "linear": _linear,
    "conv": _conv,
    "scale": _with_param("factor"),
    "divide": _with_param("divisor"),
    "shift": _with_param("offset"),
    "sum": _sum,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
    "concat": _concat,
    "expand": _expand,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_sum,
    "softmax": _axis,
    "log_softmax": _axis,
    "mul": _mul,
    "matmul": _matmul,
    "prelu": _with_param("slope"),
    "constant": _constant,
    "max_pool": _max_pool,
    **dict.fromkeys(ELEMENTWISE, _same),
}

# How many inputs, where it isn't one (None: any number).
_INPUTS: dict[str, int | None] = {"sum": None, "concat": None, "constant": 0, "mul": 2, "matmul": 2}

# Attributes, required parameters, optional parameters.
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "linear": ((), ("weight",), ("bias",)),
    "conv": (("strides", "dilations", "groups", "pads"), ("weight",), ("bias",)),
    "scale": ((), ("factor",), ()),
    "divide": ((), ("divisor",), ()),
    "shift": ((), ("offset",), ()),
    "sum": (("signs",), (), ()),
    "transpose": (("perm",), (), ()),
    "slice": (("starts", "steps", "sizes"), (), ()),
    "gather": (("axis", "indices"), (), ()),
    "pad": (("pads", "value"), (), ()),
    "concat": (("axis",), (), ()),
    "reduce_sum": (("axes",), (), ()),
    "constant": ((), ("value",), ()),
    "reduce_max": (("axes",), (), ()),
    "softmax": (("axis",), (), ()),
    "log_softmax": (("axis",), (), ()),
    "leaky_relu": (("alpha",), (), ()),
    "elu": (("alpha",), (), ()),
    "prelu": ((), ("slope",), ()),
    "step": (("strict",), (), ()),
    "pow": (("exponent",), (), ()),
    "clip": (("lower", "upper"), (), ()),
    "max_pool": (("kernel", "strides", "dilations", "pads"), (), ()),
}


def check_graph(graph: Graph, before: Graph | None = None) -> Graph:
    """Return the graph when every invariant holds; else raise GraphError naming the node.

    Names are unique, nodes come after what they read, operators are known, shapes follow from the
    inputs, parameters are finite float64 and outputs exist. Parameters shared with ``before``, a
    graph already checked, aren't scanned again.
    """
    known = set() if before is None else {id(const) for node in before.nodes for const in node.params.values()}
    shapes: dict[str, Shape] = {}
    for value in graph.inputs:
        _need(value.name not in shapes, f"two values are named '{value.name}'")
        _need(all(size > 0 for size in value.shape), f"input '{value.name}' has the shape {value.shape}")
        shapes[value.name] = value.shape
    for node in graph.nodes:
        _check_node(node, shapes, known)
        shapes[node.name] = node.shape
    names = [output.name for output in graph.outputs]
    _need(len(graph.outputs) > 0 and len(set(names)) == len(names), f"the outputs are {names}")
    for output in graph.outputs:
        _need(output.value in shapes, f"output '{output.name}' is the missing value '{output.value}'")
    return graph


def _check_node(node: Node, shapes: Mapping[str, Shape], known: set[int]) -> None:
    where = f"node '{node.name}' ({node.op})"
    _need(node.name not in shapes, f"two values are named '{node.name}'")
    for name in node.inputs:
        _need(name in shapes, f"{where} reads '{name}' before it is made")
    try:
        shape = shape_of(node.op, [shapes[name] for name in node.inputs], node.attrs, node.params, node.shape)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from None
    _need(shape == node.shape, f"{where} states the shape {node.shape} and makes {shape}")
    _need(all(type(size) is int and size > 0 for size in shape), f"{where} makes the shape {shape}")
    for name, const in node.params.items():
        if id(const) not in known:
            _check_const(const, f"{where}: {name}")


def _check_const(const: Const, where: str) -> None:
    _need(const.value.dtype == np.float64, f"{where} is {const.value.dtype}")
    _need(bool(np.all(np.isfinite(const.value))), f"{where} isn't finite")
    if const.error is not None:
        _need(const.error.shape == const.value.shape, f"{where} has an error of shape {const.error.shape}")
        sound = bool(np.all(np.isfinite(const.error)) and np.all(const.error >= 0))
        _need(sound, f"{where} has an error that is no bound")
