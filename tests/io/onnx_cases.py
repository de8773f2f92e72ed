"""More random models for comparison with ONNX Runtime: what came after the affine operators and ReLU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Rng, floats, ints, maker, opset, partner, pick, shape_of_rank, windows

FLOAT, INT64, INT32, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL
UINT8, INT8 = TensorProto.UINT8, TensorProto.INT8


class Typed:
    """A variable that the node sees as another type, times ``scale`` and clipped to ± ``limit`` before it is cast."""

    def __init__(self, shape: tuple[int, ...], kind: int, scale: float = 3.0, limit: float | None = None) -> None:
        self.shape, self.kind, self.scale, self.limit = shape, kind, scale, limit


class Positive:
    """A variable that the node sees as |x| + 0.1."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


class Narrow:
    """A variable that the node sees times a factor."""

    def __init__(self, shape: tuple[int, ...], scale: float) -> None:
        self.shape, self.scale = shape, scale


def net(
    op: str,
    inputs: Sequence[Any],
    attrs: Mapping[str, Any] | None = None,
    version: int = 13,
    outputs: Sequence[int | None] = (FLOAT,),
    domain: str = "",
) -> onnx.ModelProto:
    """One node, whose outputs of other types are cast to float; None outputs are left out."""
    names, variables, weights, before, after = [], [], [], [], []
    for index, item in enumerate(inputs):
        if item is None:
            names.append("")
            continue
        name = f"x{index}"
        if isinstance(item, np.ndarray):
            weights.append(numpy_helper.from_array(item, name))
            names.append(name)
            continue
        shape = item if isinstance(item, tuple) else item.shape
        variables.append(helper.make_tensor_value_info(name, FLOAT, shape))
        if isinstance(item, Typed | Narrow):
            weights.append(numpy_helper.from_array(np.array(item.scale, np.float32), f"s{index}"))
            before.append(helper.make_node("Mul", [name, f"s{index}"], [f"m{index}"]))
            if isinstance(item, Typed) and item.limit is not None:
                ends = [scalar(-item.limit), scalar(item.limit)]
                weights.extend(numpy_helper.from_array(end, f"{k}{index}") for k, end in zip("lh", ends, strict=True))
                before[-1].output[0] = f"u{index}"
                before.append(helper.make_node("Clip", [f"u{index}", f"l{index}", f"h{index}"], [f"m{index}"]))
            if isinstance(item, Typed):
                before.append(helper.make_node("Cast", [f"m{index}"], [f"t{index}"], to=item.kind))
            names.append(f"t{index}" if isinstance(item, Typed) else f"m{index}")
        elif isinstance(item, Positive):
            weights.append(numpy_helper.from_array(np.array(0.1, np.float32), f"s{index}"))
            before.append(helper.make_node("Abs", [name], [f"m{index}"]))
            before.append(helper.make_node("Add", [f"m{index}", f"s{index}"], [f"t{index}"]))
            names.append(f"t{index}")
        else:
            names.append(name)
    made, results = [], []
    for index, kind in enumerate(outputs):
        made.append("" if kind is None else f"r{index}")
        if kind is not None:
            results.append(f"y{index}")
            after.append(helper.make_node("Cast", [f"r{index}"], [f"y{index}"], to=FLOAT))
    node = helper.make_node(op, names, made, **{k: v for k, v in (attrs or {}).items() if v is not None})
    infos = [helper.make_tensor_value_info(name, FLOAT, None) for name in results]
    graph = helper.make_graph([*before, node, *after], "one", variables, infos, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, version)], ir_version=10)


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


# -- scalar functions ------------------------------------------------------------------------------

for _op, _versions in {
    "Sign": (9, 13), "Floor": (7, 13), "Ceil": (7, 13), "Round": (11, 22), "HardSwish": (14, 22), "Atan": (7, 22),
    "Erf": (9, 13), "Softplus": (7, 22), "Softsign": (7, 22), "Mish": (18, 22), "Exp": (7, 13), "Sin": (7, 22),
    "Cos": (7, 22), "Tan": (7, 22), "Sinh": (9, 22), "Cosh": (9, 22),
}.items():  # fmt: skip

    @maker(_op)
    def _scalar(rng: Rng, op: str = _op, versions: tuple[int, ...] = _versions) -> onnx.ModelProto:
        shape = shape_of_rank(rng, 0, 3)
        return net(op, [Narrow(shape, 0.4) if op == "Tan" else shape], version=opset(rng, *versions))


for _op in ("Log", "Sqrt", "Reciprocal"):

    @maker(_op)
    def _positive(rng: Rng, op: str = _op) -> onnx.ModelProto:
        return net(op, [Positive(shape_of_rank(rng, 0, 3))], version=opset(rng, 7, 13))


for _op, _attrs, _versions in (
    ("Elu", {"alpha": (None, 0.3, 2.0)}, (7, 22)),
    ("Selu", {"alpha": (None, 0.5), "gamma": (None, 2.0)}, (7, 22)),
    ("Celu", {"alpha": (None, 0.4, 2.0)}, (12,)),
    ("ThresholdedRelu", {"alpha": (None, 0.3, -0.5, 0.0)}, (10, 22)),
    ("Shrink", {"bias": (None, 0.5, 0.1), "lambd": (None, 0.2)}, (9,)),
    ("Gelu", {"approximate": (None, "none", "tanh")}, (20,)),
    ("Swish", {"alpha": (None, 1.0, 0.5)}, (24,)),
):

    @maker(_op)
    def _with_attrs(
        rng: Rng, op: str = _op, attrs: Any = _attrs, versions: tuple[int, ...] = _versions
    ) -> onnx.ModelProto:
        drawn = {key: pick(rng, *values) for key, values in attrs.items()}
        return net(op, [shape_of_rank(rng, 1, 3)], drawn, opset(rng, *versions))


@maker("PReluVariable")
def _prelu_variable(rng: Rng) -> onnx.ModelProto:
    return net("PRelu", [(2, 3, 4), pick(rng, (1,), (3, 1), floats(rng, 3, 1))], version=opset(rng, 9, 16))


@maker("ClipVariable")
def _clip_variable(rng: Rng) -> onnx.ModelProto:
    low, high = pick(rng, None, (), scalar(-0.2)), pick(rng, None, (), scalar(0.4))
    return net("Clip", [(2, 3), low, high], version=opset(rng, 11, 13))


@maker("PowGeneral")
def _pow_general(rng: Rng) -> onnx.ModelProto:
    version = opset(rng, 7, 12, 13, 15)
    kind = int(rng.integers(5))
    if kind == 0:
        return net("Pow", [(2, 3), scalar(pick(rng, 2.0, 3.0, 4.0, 1.0, 0.0))], version=version)
    if kind == 1:
        return net("Pow", [Positive((2, 3)), scalar(pick(rng, 0.5, 1.5, -1.0, -2.0, -0.5, 0.3))], version=version)
    if kind == 2:
        return net("Pow", [np.abs(floats(rng, 3)) + np.float32(0.2), (2, 3)], version=version)
    if kind == 3:
        return net("Pow", [Positive((2, 3)), pick(rng, (3,), (2, 1))], version=version)
    return net("Pow", [(2, 3), np.array(pick(rng, 2, 3), np.int64)], version=max(12, version))


@maker("ModVariable")
def _mod(rng: Rng) -> onnx.ModelProto:
    if rng.random() < 0.5:
        return net("Mod", [Narrow((2, 3), 3.0), scalar(pick(rng, 1.5, 0.7))], {"fmod": 1}, opset(rng, 10, 13))
    divisor = ints(3, 2, 5) * pick(rng, 1, -1)
    return net("Mod", [Typed((2, 3), INT64, 9.0), divisor], {"fmod": pick(rng, None, 0, 1)}, 13, (INT64,))


@maker("BinaryVariable")
def _binary_variable(rng: Rng) -> onnx.ModelProto:
    x = shape_of_rank(rng, 1, 4)
    y = partner(rng, x)
    version = opset(rng, 7, 13, 14)
    if rng.random() < 0.5:
        return net("Mul", [x, y] if rng.random() < 0.5 else [y, x], version=version)
    return net("Div", [pick(rng, x, floats(rng, *x)), Positive(y)], version=version)


@maker("DivInteger")
def _div_integer(rng: Rng) -> onnx.ModelProto:
    return net("Div", [Typed((2, 3), pick(rng, INT64, INT32), 9.0), np.array([3, -2, 5])], None, 14, (INT64,))


# -- comparisons and choices -----------------------------------------------------------------------

for _op, _versions in {
    "Less": (9, 13),
    "Greater": (9, 13),
    "LessOrEqual": (12, 16),
    "GreaterOrEqual": (12, 16),
}.items():

    @maker(_op)
    def _compare(rng: Rng, op: str = _op, versions: tuple[int, ...] = _versions) -> onnx.ModelProto:
        kind = pick(rng, None, INT64, INT32)
        x = shape_of_rank(rng, 1, 3)
        y = partner(rng, x)
        if kind is not None:
            return net(op, [Typed(x, kind), Typed(y, kind)], None, opset(rng, *versions), (BOOL,))
        return net(op, [x, pick(rng, y, floats(rng, *y))], None, opset(rng, *versions), (BOOL,))


@maker("Equal")
def _equal(rng: Rng) -> onnx.ModelProto:
    kind = pick(rng, INT64, INT32, BOOL)
    other = pick(rng, Typed((3,), kind, 1.0), np.array([0, 1, 2]).astype(helper.tensor_dtype_to_np_dtype(kind)))
    return net("Equal", [Typed((2, 3), kind, 1.0), other], None, opset(rng, 11, 13, 19), (BOOL,))


for _op in ("And", "Or", "Xor"):

    @maker(_op)
    def _logic(rng: Rng, op: str = _op) -> onnx.ModelProto:
        other = pick(rng, Typed((3,), BOOL, 0.4), np.array([True, False, True]))
        # Casting to bool tells zero from the rest, so a variable is made of whole numbers first.
        return _bools(op, [(2, 3), other], rng)


def _bools(op: str, items: Sequence[Any], rng: Rng) -> onnx.ModelProto:
    """Booleans by comparison: x > 0."""
    names, variables, weights, nodes = [], [], [numpy_helper.from_array(scalar(0.0), "zero")], []
    for index, item in enumerate(items):
        if isinstance(item, np.ndarray):
            weights.append(numpy_helper.from_array(item, f"b{index}"))
        else:
            shape = item if isinstance(item, tuple) else item.shape
            variables.append(helper.make_tensor_value_info(f"x{index}", FLOAT, shape))
            nodes.append(helper.make_node("Greater", [f"x{index}", "zero"], [f"b{index}"]))
        names.append(f"b{index}")
    nodes.append(helper.make_node(op, names, ["r"]))
    nodes.append(helper.make_node("Cast", ["r"], ["y"], to=FLOAT))
    graph = helper.make_graph(nodes, "one", variables, [helper.make_tensor_value_info("y", FLOAT, None)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset(rng, 9, 13))], ir_version=10)


@maker("Not")
def _not(rng: Rng) -> onnx.ModelProto:
    return _bools("Not", [shape_of_rank(rng, 1, 3)], rng)


@maker("WhereVariable")
def _where_variable(rng: Rng) -> onnx.ModelProto:
    sides = [pick(rng, (2, 3), (3,), floats(rng, 3)), pick(rng, (2, 1), floats(rng, 2, 3))]
    model = net("Where", [Typed((2, 3), BOOL, 0.7), *sides], version=opset(rng, 9, 16))
    for node in model.graph.node:
        if node.op_type == "Cast" and node.output[0] == "t0":
            node.op_type = "Sign"  # x > 0 instead of x ≠ 0
            del node.attribute[:]
            node.output[0] = "u0"
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Sign")
    relu = helper.make_node("Relu", ["u0"], ["v0"])
    cast = helper.make_node("Cast", ["v0"], ["t0"], to=BOOL)
    nodes = [*model.graph.node[: at + 1], relu, cast, *model.graph.node[at + 1 :]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@maker("CastVariable")
def _cast_variable(rng: Rng) -> onnx.ModelProto:
    to = pick(rng, INT64, INT32, BOOL, TensorProto.DOUBLE, FLOAT)
    return net("Cast", [Narrow((2, 3), 4.0)], {"to": to}, opset(rng, 9, 13, 21), (to,))


@maker("CastLike")
def _cast_like(rng: Rng) -> onnx.ModelProto:
    return net("CastLike", [Narrow((2, 3), 4.0), pick(rng, ints(1), scalar(1.0))], None, opset(rng, 15, 19), (FLOAT,))


for _op in ("IsNaN", "IsInf"):

    @maker(_op)
    def _special(rng: Rng, op: str = _op) -> onnx.ModelProto:
        return net(op, [(2, 3)], None, 13, (BOOL,))


# -- reductions ------------------------------------------------------------------------------------

_REDUCED = ("Max", "Min", "L1", "L2", "SumSquare", "Prod", "LogSum", "LogSumExp", "Mean", "Sum")
for _op in _REDUCED:

    @maker(f"Reduce{_op}")
    def _reduction(rng: Rng, op: str = _op) -> onnx.ModelProto:
        shape = pick(rng, (2, 3, 4), (1, 5, 2), (4,))
        rank = len(shape)
        axes = pick(rng, None, [0], [-1], [0, -1] if rank > 1 else [0], list(range(rank)))
        keep = pick(rng, None, 0, 1)
        x = Positive(shape) if op == "LogSum" else shape
        newer = 13 if op == "Sum" else 18
        if rng.random() < 0.5:
            return net(
                f"Reduce{op}", [x], {"axes": axes, "keepdims": keep}, opset(rng, 7, 11, newer - 1 if newer > 13 else 12)
            )
        given = [] if axes is None else [ints(*axes)]
        noop = None if op not in ("Sum", "Mean", "Max", "Min", "Prod") else pick(rng, None, 1)
        return net(f"Reduce{op}", [x, *given], {"keepdims": keep, "noop_with_empty_axes": noop}, opset(rng, newer, 20))


for _op in ("ArgMax", "ArgMin"):

    @maker(_op)
    def _places(rng: Rng, op: str = _op) -> onnx.ModelProto:
        shape = pick(rng, (2, 3, 4), (5,), (1, 1, 3), (2, 40))
        version = opset(rng, 7, 11, 12, 13)
        attrs = {"axis": int(rng.integers(-len(shape), len(shape))), "keepdims": pick(rng, None, 0, 1)}
        if version < 11:
            attrs["axis"] %= len(shape)
        if version >= 12:
            attrs["select_last_index"] = pick(rng, None, 0, 1)
        x: Any = shape if rng.random() < 0.7 else Typed(shape, INT32, 1.0)
        return net(op, [x], attrs, version, (INT64,))


for _op in ("Softmax", "LogSoftmax", "Hardmax"):

    @maker(_op)
    def _softmax(rng: Rng, op: str = _op) -> onnx.ModelProto:
        version = opset(rng, 7, 11, 12, 13)
        axis = pick(rng, None, 0, 1, 2) if version < 11 else pick(rng, None, 0, 1, -1, -2)
        return net(op, [(2, 3, 4)], {"axis": axis}, version)


@maker("OneHot")
def _one_hot(rng: Rng) -> onnx.ModelProto:
    indices = Typed(pick(rng, (3,), (2, 2)), pick(rng, INT64, INT32), 2.0)
    levels = pick(rng, np.array([0, 1], np.float32), np.array([-1.5, 2], np.float32), (2,))
    return net("OneHot", [indices, ints(3), levels], {"axis": pick(rng, None, 0, 1, -1)}, opset(rng, 9, 11))


# -- shapes ----------------------------------------------------------------------------------------


@maker("ConvTranspose")
def _conv_transpose(rng: Rng) -> onnx.ModelProto:
    half, group = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    attrs = windows(rng, half)
    strides = attrs.get("strides", [1] * half)
    dilations = attrs.get("dilations", [1] * half)
    if rng.random() < 0.4:
        attrs["output_padding"] = [int(rng.integers(0, max(a, b))) for a, b in zip(strides, dilations, strict=True)]
    size = [int(n) for n in rng.integers(2, 5, half)]
    if rng.random() < 0.2:
        attrs.pop("pads", None)
        attrs.pop("output_padding", None)
        reach = [dilations[i] * (attrs["kernel_shape"][i] - 1) + 1 for i in range(half)]
        full = [(size[i] - 1) * strides[i] + reach[i] for i in range(half)]
        attrs["output_shape"] = [max(1, full[i] - int(rng.integers(0, 3))) for i in range(half)]
    inner, out = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    weights = [floats(rng, group * inner, out, *attrs["kernel_shape"])]
    if rng.random() < 0.5:
        weights.append(floats(rng, group * out))
    if rng.random() < 0.3:
        del attrs["kernel_shape"]
    return net("ConvTranspose", [(1, group * inner, *size), *weights], {**attrs, "group": group}, opset(rng, 7, 11, 22))


@maker("Resize")
def _resize(rng: Rng) -> onnx.ModelProto:
    mode = pick(rng, "nearest", "nearest", "linear", "cubic")
    x = (1, 2, 4, 5)
    if rng.random() < 0.15 and mode != "cubic":
        return net("Resize", [x, np.array([1, 1, 2, pick(rng, 2, 0.6)], np.float32)], {"mode": mode}, 10)
    transform = pick(
        rng, None, "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric",
        "tf_crop_and_resize",
    )  # fmt: skip
    version = opset(rng, 11, 13, 18, 19)
    version = max(version, 19) if transform == "half_pixel_symmetric" else version
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        attrs["nearest_mode"] = pick(rng, None, "floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    if mode == "cubic":
        attrs["cubic_coeff_a"] = pick(rng, None, -0.5)
        attrs["exclude_outside"] = pick(rng, None, 1)
    region = None
    if transform == "tf_crop_and_resize":
        region = np.array([0, 0, pick(rng, 0, 0.1), 0.2, 1, 1, 0.9, pick(rng, 0.8, 1.2)], np.float32)
        attrs["extrapolation_value"] = pick(rng, None, 2.0)
    empty = np.zeros(0, np.float32)
    if rng.random() < 0.5:
        scales = np.array([1, 1, pick(rng, 0.5, 1, 2, 1.7), pick(rng, 0.6, 1, 2, 3)], np.float32)
        return net("Resize", [x, empty if region is None else region, scales], attrs, version)
    sizes = ints(1, 2, int(rng.integers(1, 9)), int(rng.integers(1, 9)))
    return net(
        "Resize", [x, region if region is not None else empty, None if version >= 13 else empty, sizes], attrs, version
    )


@maker("Upsample")
def _upsample(rng: Rng) -> onnx.ModelProto:
    mode, scales = pick(rng, "nearest", "linear"), [1.0, 1.0, pick(rng, 1.0, 2.0, 2.5), 3.0]
    if rng.random() < 0.5:
        return net("Upsample", [(1, 2, 3, 4)], {"mode": mode, "scales": scales}, 7)
    return net("Upsample", [(1, 2, 3, 4), np.array(scales, np.float32)], {"mode": mode}, 9)


@maker("GatherND")
def _gather_nd(rng: Rng) -> onnx.ModelProto:
    batch = int(rng.integers(0, 2))
    depth = int(rng.integers(1, 4 - batch))
    x = (2, 3, 4)
    lead = (2, 3) if batch else pick(rng, (3,), (2, 2), ())
    indices = np.stack([rng.integers(-x[batch + k], x[batch + k], lead) for k in range(depth)], -1)
    return net("GatherND", [x, indices], {"batch_dims": batch}, opset(rng, 12, 13))


@maker("GatherElements")
def _gather_elements(rng: Rng) -> onnx.ModelProto:
    axis = int(rng.integers(-2, 2))
    shape = (2, 4) if axis % 2 else (5, 3)
    return net("GatherElements", [(3, 4)[:2], rng.integers(-3, 3, shape if axis % 2 else (5, 3))], {"axis": axis}, 13)


@maker("GatherVariable")
def _gather_variable(rng: Rng) -> onnx.ModelProto:
    axis = int(rng.integers(0, 2))
    index = np.array([0, 2]) if rng.random() < 0.2 else Typed(pick(rng, (), (2,), (2, 1)), INT64, 2.0, 4.5)
    return net("Gather", [pick(rng, (6, 5), floats(rng, 6, 5)), index], {"axis": axis}, opset(rng, 11, 13))


@maker("ScatterND")
def _scatter_nd(rng: Rng) -> onnx.ModelProto:
    depth, version = int(rng.integers(1, 4)), opset(rng, 11, 13, 16, 18)
    x, lead = (3, 4, 2), pick(rng, (2,), (3,), (2, 2))
    flat = rng.permutation(int(np.prod(x[:depth])))[: int(np.prod(lead))]
    repeated = version >= 16 and rng.random() < 0.6
    attrs = {"reduction": pick(rng, "add", "mul", *(["max", "min"] if version >= 18 else []))} if repeated else {}
    flat = (
        rng.integers(0, int(np.prod(x[:depth])), int(np.prod(lead)))
        if repeated
        else np.resize(flat, int(np.prod(lead)))
    )
    indices = np.stack(np.unravel_index(flat, x[:depth]), -1).reshape(*lead, depth)
    updates = (*lead, *x[depth:])
    sides = [pick(rng, x, floats(rng, *x)), indices.astype(np.int64), pick(rng, updates, floats(rng, *updates))]
    return net("ScatterND", sides, attrs, version)


@maker("ScatterNDVariable")
def _scatter_variable(rng: Rng) -> onnx.ModelProto:
    updates = pick(rng, (1, 2), floats(rng, 1, 2))
    index = Typed((1, 2), INT64, 2.0, 2.5)
    return net("ScatterND", [pick(rng, (3, 4, 2), floats(rng, 3, 4, 2)), index, updates], None, 13)


for _op in ("ScatterElements", "Scatter"):

    @maker(_op)
    def _scatter_elements(rng: Rng, op: str = _op) -> onnx.ModelProto:
        axis = pick(rng, None, 0, 1) if op == "Scatter" else pick(rng, None, 0, 1, -1)
        version = 9 if op == "Scatter" else opset(rng, 11, 13, 16, 18)
        attrs: dict[str, Any] = {"axis": axis}
        if version >= 16:
            attrs["reduction"] = pick(rng, None, "add", "mul", *(["max", "min"] if version >= 18 else []))
        along = 3 if axis in (None, 0) else 4
        if attrs.get("reduction"):
            indices = rng.integers(0, along, (2, 2))
        else:
            indices = np.stack([rng.permutation(along)[:2] for _ in range(2)], 0 if along == 4 else 1)
        updates = pick(rng, (2, 2), floats(rng, 2, 2))
        return net(op, [pick(rng, (3, 4), floats(rng, 3, 4)), indices, updates], attrs, version)


@maker("CumSum")
def _cum_sum(rng: Rng) -> onnx.ModelProto:
    attrs = {"exclusive": pick(rng, None, 1), "reverse": pick(rng, None, 1)}
    return net(
        "CumSum", [(2, 3, 4), np.array(pick(rng, 0, 1, -1), pick(rng, np.int64, np.int32))], attrs, opset(rng, 11, 14)
    )


@maker("Trilu")
def _trilu(rng: Rng) -> onnx.ModelProto:
    k = pick(rng, None, np.array(0), np.array(1), np.array(-1))
    return net(
        "Trilu", [pick(rng, (3, 4), (2, 3, 3)), *([] if k is None else [k])], {"upper": pick(rng, None, 0, 1)}, 14
    )


@maker("Einsum")
def _einsum(rng: Rng) -> onnx.ModelProto:
    equation, shapes = pick(
        rng,
        ("ij,jk->ik", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(2, 2, 3), (2, 3, 4)]), ("ij->ji", [(2, 3)]),
        ("ij->i", [(2, 3)]), ("ii->i", [(3, 3)]), ("ii", [(3, 3)]), ("...ij,...jk->...ik", [(2, 2, 3), (2, 3, 4)]),
        ("bhqd,bhkd->bhqk", [(1, 2, 3, 4), (1, 2, 3, 4)]), ("i,j->ij", [(3,), (2,)]), ("i,i->", [(3,), (3,)]),
        ("ij,ij->ij", [(2, 3), (2, 3)]), ("ij,j", [(2, 3), (3,)]), ("ij,jk,kl->il", [(2, 3), (3, 2), (2, 4)]),
        ("nchw,c->nhw", [(1, 3, 2, 2), (3,)]), ("...i->...", [(2, 3, 4)]),
    )  # fmt: skip
    sides = [shape if rng.random() < 0.6 else floats(rng, *shape) for shape in shapes]
    return net("Einsum", sides, {"equation": equation}, 12)


@maker("ReverseSequence")
def _reverse(rng: Rng) -> onnx.ModelProto:
    time = int(rng.integers(0, 2))
    return net("ReverseSequence", [(3, 3, 2), ints(1, 3, 2)], {"time_axis": time, "batch_axis": 1 - time}, 10)


@maker("EyeLike")
def _eye(rng: Rng) -> onnx.ModelProto:
    return net("EyeLike", [(3, 4)], {"k": pick(rng, None, 1, -1)}, opset(rng, 9, 22))


@maker("ShapeAndSize")
def _shape(rng: Rng) -> onnx.ModelProto:
    if rng.random() < 0.3:
        return net("Size", [(2, 3, 4)], None, opset(rng, 7, 13), (INT64,))
    version = opset(rng, 13, 15, 21)
    bounds = {"start": pick(rng, None, 1, -2, -9), "end": pick(rng, None, 2, -1, 9)} if version >= 15 else {}
    return net("Shape", [(2, 3, 4)], bounds, version, (INT64,))


@maker("MatMulVariable")
def _matmul_variable(rng: Rng) -> onnx.ModelProto:
    k, n, m, b = (int(size) for size in rng.integers(1, 5, 4))
    x = pick(rng, (k,), (n, k), (b, n, k), (2, b, n, k), (1, n, k))
    y = pick(rng, (k,), (k, m), (b, k, m), (2, 1, k, m), (1, k, m))
    return net("MatMul", [x, y], version=opset(rng, 7, 9, 13))


@maker("GemmVariable")
def _gemm_variable(rng: Rng) -> onnx.ModelProto:
    attrs = {"transA": int(rng.integers(2)), "transB": int(rng.integers(2)), "alpha": pick(rng, None, 0.3)}
    x, y = (3, 2) if attrs["transA"] else (2, 3), (4, 3) if attrs["transB"] else (3, 4)
    return net("Gemm", [x, y, pick(rng, (4,), (2, 4), floats(rng, 4))], {**attrs, "beta": pick(rng, None, 0.7)}, 13)


@maker("LpPool")
def _lp_pool(rng: Rng) -> onnx.ModelProto:
    if rng.random() < 0.3:
        return net("GlobalLpPool", [(1, 2, 3, 4)], {"p": pick(rng, None, 1)}, 7)
    attrs = windows(rng, 2, False)
    return net("LpPool", [(1, 2, 5, 6)], {**attrs, "p": pick(rng, None, 1)}, opset(rng, 7, 11, 18))


# -- normalisation ---------------------------------------------------------------------------------


@maker("LayerNormalization")
def _layer(rng: Rng) -> onnx.ModelProto:
    axis = pick(rng, None, -1, 1, -2)
    rest = (2, 3, 4)[-1 if axis in (None, -1) else 1 :] if axis != -1 else (4,)
    rest = (4,) if axis in (None, -1) else (3, 4)
    sides = [(2, 3, 4), floats(rng, *rest), *([floats(rng, *rest)] if rng.random() < 0.7 else [])]
    outputs: tuple[int | None, ...] = pick(rng, (FLOAT,), (FLOAT, FLOAT, FLOAT))
    return net("LayerNormalization", sides, {"axis": axis, "epsilon": pick(rng, None, 1e-2)}, 17, outputs)


@maker("RMSNormalization")
def _rms(rng: Rng) -> onnx.ModelProto:
    return net("RMSNormalization", [(2, 3, 4), floats(rng, 4)], {"epsilon": pick(rng, None, 1e-2)}, 23)


@maker("InstanceNormalization")
def _instance(rng: Rng) -> onnx.ModelProto:
    attrs = {"epsilon": pick(rng, None, 1e-2)}
    return net("InstanceNormalization", [(2, 3, 4, 2), floats(rng, 3), floats(rng, 3)], attrs, opset(rng, 7, 22))


@maker("GroupNormalization")
def _group(rng: Rng) -> onnx.ModelProto:
    version = opset(rng, 18, 21)
    size = 2 if version < 21 else 4
    return net("GroupNormalization", [(2, 4, 3, 2), floats(rng, size), floats(rng, size)], {"num_groups": 2}, version)


@maker("MeanVarianceNormalization")
def _mean_variance(rng: Rng) -> onnx.ModelProto:
    return net(
        "MeanVarianceNormalization", [(2, 3, 4, 2)], {"axes": pick(rng, None, [2, 3], [0, 2, 3])}, opset(rng, 9, 13)
    )


@maker("LpNormalization")
def _lp(rng: Rng) -> onnx.ModelProto:
    return net(
        "LpNormalization", [(2, 3, 4)], {"axis": pick(rng, None, 0, 1), "p": pick(rng, None, 1)}, opset(rng, 7, 22)
    )


@maker("LRN")
def _lrn(rng: Rng) -> onnx.ModelProto:
    attrs = {
        "size": pick(rng, 1, 3, 5),
        "alpha": pick(rng, None, 0.5),
        "beta": pick(rng, None, 0.5),
        "bias": pick(rng, None, 2.0),
    }
    return net("LRN", [(1, 4, 2, 3)], attrs, opset(rng, 7, 13))


@maker("BatchVariable")
def _batch_variable(rng: Rng) -> onnx.ModelProto:
    sides = [(3,), floats(rng, 3), pick(rng, (3,), floats(rng, 3)), Positive((3,))]
    return net("BatchNormalization", [(2, 3, 2), *sides], None, opset(rng, 9, 14, 15))
