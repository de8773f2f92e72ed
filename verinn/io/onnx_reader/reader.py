"""The importer: ONNX nodes in topological order, each turned into core nodes or folded."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader import (
    affine,
    compare,
    constants,
    control,
    einsum,
    indices,
    masks,
    moves,
    normal,
    pools,
    quantised,
    recurrent,
    reduce,
    resize,
    scalar,
    sorting,
    transposed,
)
from verinn.io.onnx_reader.builder import Builder, Known, Ref, Value, limited
from verinn.io.onnx_reader.call import IMPORTERS, Call, Result
from verinn.io.onnx_reader.load import HOME, Model, check_names, inlined, label, load_model, needed_in_order, opset_of
from verinn.io.onnx_reader.masks import Masked
from verinn.io.onnx_reader.tensors import known_of, known_of_sparse, type_name
from verinn.io.onnx_reader.worlds import Forked, Many, in_worlds, met
from verinn.ir.check import check_graph
from verinn.ir.graph import Graph, Input, Node, Output, Shape

# Importing these modules filled the registry.
FAMILIES = (
    affine,
    compare,
    constants,
    control,
    einsum,
    indices,
    moves,
    normal,
    pools,
    quantised,
    recurrent,
    reduce,
    resize,
    scalar,
    sorting,
    transposed,
)


Box = tuple[np.ndarray, np.ndarray]
Tensors = Many | Masked


def read_graph(
    model: str | Path | onnx.ModelProto | Model, *, hidden: Sequence[str] = (), box: Box | None = None
) -> Graph:
    """Read an ONNX model as a graph of core operators (``verinn.ops``), constants folded, dead nodes gone.

    Shapes are those of the file, unknown dimensions 1, the batch axis included. Weights are float64,
    exact; folded arithmetic carries error bounds. ``hidden`` names further tensors of the file, which
    become outputs after the file's own. ``box``: lower and upper bounds of all inputs, flattened side by
    side; where the model slices at places that depend on the inputs, the graph is right within the box
    only, and without one such a model is Unsupported. Raises InputError for a bad model and Unsupported for an
    operator that isn't handled; both name the file and the node. Warns (UserWarning) where the shape
    that the file declares for an output is false, which ONNX Runtime ignores too. ``load_model`` parses
    a file once for this and for ``verinn.attack.replay.Original``.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    try:
        with np.errstate(all="ignore"):
            return _read(loaded, hidden, box)
    except InputError as error:
        raise _told(error, file=loaded.file) from None
    except Exception as error:  # whatever a hostile file trips over outside of its nodes
        text = f"{type(error).__name__}: {error}"[:200]
        raise InputError(f"can't be read ({text})", file=loaded.file, hint="the model is malformed") from None


def _read(loaded: Model, hidden: Sequence[str], box: Box | None) -> Graph:
    opset = opset_of(loaded.proto)
    proto = inlined(loaded.proto)
    graph = proto.graph
    check_names(graph)
    names = [value.name for value in graph.output]
    wanted = [*names, *(name for name in hidden if name not in names)]
    nodes = needed_in_order(graph, wanted)
    builder = Builder()
    values = _Values(graph, loaded.folder)
    inputs = _inputs(graph, builder, values, box)
    for node in nodes:
        _import(node, builder, values, opset)
    outputs = tuple(_output(name, builder, values) for name in wanted)
    result = Graph(inputs, _live(builder.nodes, outputs), outputs)
    _compare_declared(graph, result, loaded.file)
    return check_graph(result)


class _Values:
    """What each name of the file stands for. Weights are read when first asked for."""

    def __init__(self, graph: onnx.GraphProto, folder: Path | None, around: _Values | None = None) -> None:
        self.made: dict[str, Tensors] = {}
        self.folder = folder
        self.around = around  # of a subgraph: what stands around its node
        self.dense = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
        self.weights = {*self.dense, *self.sparse}

    def get(self, name: str) -> Tensors | None:
        """The value, or None when no such name exists (or its maker gives it no meaning)."""
        if name not in self.made and name in self.weights:
            try:
                if name in self.dense:
                    self.made[name] = known_of(self.dense[name], self.folder)
                else:
                    self.made[name] = known_of_sparse(self.sparse[name])
            except InputError as error:
                raise _told(error, place=f"weight '{name}'") from None
        if name not in self.made and self.around is not None:
            return self.around.get(name)
        return self.made.get(name)


def _told(error: InputError, *, file: str | None = None, place: str | None = None) -> InputError:
    """The same error, of the same class, with file and place filled in where they are open."""
    return type(error)(error.problem, file=error.file or file, place=error.place or place, hint=error.hint)


def _inputs(graph: onnx.GraphProto, builder: Builder, values: _Values, box: Box | None) -> tuple[Input, ...]:
    inputs, start = [], 0
    box = box if box is None or box[0].size == _elements(graph, values) else None
    for info in graph.input:
        if info.name in values.weights:  # older files list their weights as inputs too
            continue
        shape, elem_type = _placed_input(info)
        inputs.append(Input(info.name, shape, type_name(elem_type)))
        end = start + math.prod(shape)
        part = None if box is None else (box[0][start:end].reshape(shape), box[1][start:end].reshape(shape))
        values.made[info.name] = builder.take_input(info.name, shape, elem_type, part)
        start = end
    if not inputs:
        raise InputError("has no inputs", hint="a network needs at least one")
    return tuple(inputs)


def _elements(graph: onnx.GraphProto, values: _Values) -> int:
    """How many numbers all inputs hold together."""
    shapes = [_placed_input(info)[0] for info in graph.input if info.name not in values.weights]
    return sum(math.prod(shape) for shape in shapes)


def _placed_input(info: onnx.ValueInfoProto) -> tuple[Shape, int]:
    """Shape and element type of an input; what is wrong with them names it."""
    try:
        return _declared_input(info)
    except InputError as error:
        raise _told(error, place=f"input '{info.name}'") from None


def _declared_input(info: onnx.ValueInfoProto) -> tuple[Shape, int]:
    if info.type.WhichOneof("value") != "tensor_type":
        raise Unsupported("isn't a tensor")
    tensor = info.type.tensor_type
    if tensor.elem_type == onnx.TensorProto.STRING:
        raise Unsupported("holds strings", hint="only float networks can be verified")
    if not tensor.HasField("shape"):
        raise InputError("has no shape", hint="state it in the model")
    shape = []
    for axis, dim in enumerate(tensor.shape.dim):
        size = dim.dim_value if dim.HasField("dim_value") else 1
        if size == 0:
            raise InputError(f"has the size 0 along axis {axis}", hint="an input can't be empty")
        shape.append(max(1, int(size)))
    limited(shape)
    return tuple(shape), tensor.elem_type


def _import(node: onnx.NodeProto, builder: Builder, values: _Values, opset: int) -> None:
    """Import one node: its outputs become known to ``values``."""
    place = label(node)
    if node.domain not in HOME:
        raise Unsupported(
            f"operator {node.op_type} of the domain '{node.domain}' isn't supported",
            place=place,
            hint="only operators of ONNX itself are",
        )
    function = IMPORTERS.get(node.op_type)
    if function is None:
        raise Unsupported(f"operator {node.op_type} isn't supported", place=place, hint="no verdict is possible yet")
    builder.here = node.name or next(filter(None, node.output), "")
    builder.base = next(filter(None, node.output), builder.here)
    try:
        given = [_argument(name, values) for name in node.input]
        made = _made(node, given, builder, opset, values)
    except InputError as error:
        raise _told(error, place=place) from None
    except Exception as error:  # a malformed node: whatever it trips over, it is told as bad input
        text = f"{type(error).__name__}: {error}"[:200]
        raise InputError(f"can't be read ({text})", place=place, hint="the node is malformed") from None
    for name, value in zip(node.output, made, strict=True):
        if name and value is not None:
            values.made[name] = value


def _made(
    node: onnx.NodeProto, given: Sequence[Tensors | None], builder: Builder, opset: int, values: _Values
) -> Sequence[Tensors | None]:
    """What a node makes, in all worlds that its inputs come from."""
    function, count = IMPORTERS[node.op_type], len(node.output)
    if masks.concerns(node.op_type, given):
        plain = [value for value in given if not isinstance(value, Forked)]
        if len(plain) < len(given):
            raise Unsupported("reads minus infinity and a size that depends on the input")
        results: Sequence[Tensors | None] = masks.read(Call(node, masks.finite(plain), builder, opset), plain)
        return [results[k] if k < len(results) else None for k in range(count)]
    clear = [value for value in given if not isinstance(value, Masked)]
    reader = partial(_read_body, builder=builder, around=values, opset=opset)
    found = in_worlds(builder, clear, lambda inputs: _results(function(Call(node, inputs, builder, opset, reader))))
    entries = [[(world, made[k] if k < len(made) else None) for world, made in found] for k in range(count)]
    return [met(builder, entry) for entry in entries]


def _read_body(
    graph: onnx.GraphProto, inputs: Sequence[Value], builder: Builder, around: _Values, opset: int
) -> list[Value]:
    """The outputs of a subgraph."""
    if builder.world:
        raise Unsupported("is reached with a size that depends on the input")
    kept = builder.here, builder.base
    values = _Values(graph, around.folder, around)
    values.made.update(zip((info.name for info in graph.input), inputs, strict=True))
    names = [output.name for output in graph.output]
    for node in needed_in_order(graph, names):
        _import(node, builder, values, opset)
    builder.here, builder.base = kept
    outputs = [values.get(name) for name in names]
    made = [value for value in outputs if isinstance(value, Known | Ref)]
    if len(made) < len(outputs):
        raise Unsupported("makes something whose size depends on the input, or that is minus infinity")
    return made


def _results(result: Result) -> Sequence[Value | None]:
    return [result] if not isinstance(result, Sequence) else result


def _argument(name: str, values: _Values) -> Tensors | None:
    if not name:
        return None
    value = values.get(name)
    if value is None:
        raise Unsupported(f"reads '{name}', a secondary output that isn't supported")
    return value


def _output(name: str, builder: Builder, values: _Values) -> Output:
    place = f"output '{name}'"
    value = values.get(name)
    if isinstance(value, Forked):
        raise Unsupported("has a size that depends on the input", place=place, hint="only fixed sizes are supported")
    if isinstance(value, Masked):
        raise Unsupported("is minus infinity in part", place=place, hint="only numbers are supported")
    if value is None:
        raise InputError("no such tensor in the model", place=f"tensor '{name}'", hint="check the name")
    if math.prod(value.shape) == 0:
        raise InputError("is empty", place=place, hint="the model is damaged")
    builder.here, builder.base = name, name
    try:
        ref = builder.ref(value)
    except InputError as error:
        raise _told(error, place=place) from None
    return Output(name, ref.name, type_name(value.dtype))


def _live(nodes: Sequence[Node], outputs: Sequence[Output]) -> tuple[Node, ...]:
    """The nodes that outputs depend on, in order."""
    used = {output.value for output in outputs}
    kept = []
    for node in reversed(nodes):
        if node.name in used:
            used.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def _compare_declared(graph: onnx.GraphProto, result: Graph, file: str) -> None:
    shapes: Mapping[str, Shape] = result.shapes()
    made = {output.name: shapes[output.value] for output in result.outputs}
    for info in graph.output:
        tensor = info.type.tensor_type
        if info.name not in made or not tensor.HasField("shape"):
            continue
        shape = made[info.name]
        declared = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
        fits = len(declared) == len(shape) and all(a in (None, b) for a, b in zip(declared, shape, strict=True))
        if not fits:
            shown = ["?" if size is None else size for size in declared]
            warnings.warn(
                f"{file}: output '{info.name}' is declared with the shape {shown} and has the shape {list(shape)}",
                stacklevel=4,
            )
