"""From a path or bytes to a ModelProto whose frame (opset, functions, names, order) is sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from verinn.errors import InputError, Unsupported
from verinn.io.files import read_bytes

# The newest opset whose operator definitions the importers were written for.
OLDEST, NEWEST = 7, 28
HOME = ("", "ai.onnx")


@dataclass(frozen=True, eq=False)
class Model:
    """A parsed model, the bytes it came from (None for a ModelProto), its name and its folder."""

    proto: onnx.ModelProto
    data: bytes | None
    file: str
    folder: Path | None


def load_model(model: str | Path | onnx.ModelProto) -> Model:
    """Parse a model. Files may be gzipped, whatever their name. InputError when it is no ONNX model."""
    if isinstance(model, onnx.ModelProto):
        return Model(model, None, model.graph.name or "model", None)
    file = str(model)
    data = read_bytes(model)
    if not data:
        raise InputError("is empty", file=file, hint="fetch or export the model again")
    try:
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, RuntimeError, ValueError):
        raise InputError("is no ONNX model or is truncated", file=file, hint="fetch or export it again") from None
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise InputError("holds no graph: no ONNX model, or truncated", file=file, hint="fetch or export it again")
    return Model(proto, data, file, Path(model).parent)


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of the ONNX operators that the model is written in. InputError outside OLDEST…NEWEST."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in HOME]
    if not versions:
        raise InputError("imports no version of the ONNX operators", hint="export the model again")
    version = int(max(versions))
    if version < OLDEST:
        raise Unsupported(
            f"is written in opset {version}, older than {OLDEST}", hint="convert it with onnx.version_converter"
        )
    if version > NEWEST:
        raise Unsupported(f"is written in opset {version}, newer than {NEWEST}", hint="export it with an older opset")
    return version


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its own functions expanded."""
    if not proto.functions:
        return proto
    from onnx import inliner  # rare, so not imported up front

    try:
        return inliner.inline_local_functions(proto)
    except Exception as error:
        raise InputError(f"has functions that can't be expanded ({error})") from None


def label(node: onnx.NodeProto) -> str:
    """How a node is called in messages: its name, or else its first output."""
    name = node.name or next((output for output in node.output if output), "without name")
    return f"node '{name}' ({node.op_type})"


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g


def reads(node: onnx.NodeProto) -> set[str]:
    """The names that a node reads, those that its subgraphs take from around it among them."""
    return {*filter(None, node.input), *(name for body in bodies(node) for name in _captured(body))}


def _captured(graph: onnx.GraphProto) -> set[str]:
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    return read - own


def check_names(graph: onnx.GraphProto, around: frozenset[str] = frozenset()) -> None:
    """Every value is made once, and every name that is read or returned is made.

    ``around``: of a subgraph, what exists around it. Its names may hide those.
    """
    initial = [tensor.name for tensor in graph.initializer]
    initial += [tensor.values.name for tensor in graph.sparse_initializer]
    _unique(initial, "weights")
    _unique([value.name for value in graph.input], "inputs")
    given = {*initial, *(value.name for value in graph.input)}
    made = set(given)
    for node in graph.node:
        for name in filter(None, node.output):
            if name in made:
                raise InputError(f"makes '{name}', which exists already", place=label(node), hint="names are unique")
            made.add(name)
    for node in graph.node:
        for name in filter(None, node.input):
            if name not in made and name not in around:
                raise InputError(f"reads '{name}', which nothing makes", place=label(node), hint="the model is damaged")
        for body in bodies(node):
            check_names(body, around | made)
    if not graph.output:
        raise InputError("has no outputs", hint="the model is damaged")
    _unique([value.name for value in graph.output], "outputs")
    for value in graph.output:
        if value.name not in made and value.name not in around:
            raise InputError("nothing makes it", place=f"output '{value.name}'", hint="the model is damaged")


def _unique(names: Iterable[str], what: str) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise InputError(f"two {what} are named '{name}'", hint="names are unique")
        seen.add(name)


def needed_in_order(graph: onnx.GraphProto, wanted: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted values depend on, sorted topologically (files needn't be).

    InputError when the nodes form a cycle, wherever it is.
    """
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    waits = [{makers[name] for name in reads(node) if name in makers} for node in graph.node]
    users: dict[int, list[int]] = {}
    for index, sources in enumerate(waits):
        for source in sources:
            users.setdefault(source, []).append(index)
    open_sources = [len(sources) for sources in waits]
    ready = [index for index, count in enumerate(open_sources) if count == 0]
    order = []
    for index in ready:  # grows while it is read
        order.append(index)
        for user in users.get(index, ()):
            open_sources[user] -= 1
            if open_sources[user] == 0:
                ready.append(user)
    if len(order) < len(waits):
        place = label(graph.node[_on_cycle(waits, open_sources)])
        raise InputError("its inputs depend on its own output", place=place, hint="remove the cycle")
    live: set[int] = set()
    agenda = [makers[name] for name in wanted if name in makers]
    while agenda:
        index = agenda.pop()
        if index not in live:
            live.add(index)
            agenda.extend(waits[index])
    return [graph.node[index] for index in order if index in live]


def _on_cycle(waits: Sequence[set[int]], open_sources: Sequence[int]) -> int:
    """A node on a cycle: from a node that never became ready, back along such nodes until one repeats."""
    index = next(index for index, count in enumerate(open_sources) if count > 0)
    seen: set[int] = set()
    while index not in seen:
        seen.add(index)
        index = min(source for source in waits[index] if open_sources[source] > 0)
    return index
