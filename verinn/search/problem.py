"""The problem: one graph for all networks of a query, its property, and the replay of a witness."""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from verinn.attack.replay import SAMPLES, Original, agree
from verinn.errors import Unsupported
from verinn.io.match import assign_models, match
from verinn.io.onnx_reader import load_model, read_graph
from verinn.io.onnx_reader.load import Model
from verinn.ir.evaluate import holds
from verinn.ir.graph import Graph, Input, Node, Output
from verinn.ir.prop import Case, Property
from verinn.ir.query import Kind, Network, Query
from verinn.passes.averages import centre_averages
from verinn.passes.fixed import NARROW, fix_inputs, simpler
from verinn.passes.products import with_products
from verinn.passes.property import places_of, to_property
from verinn.passes.simplify import drop_identities, simplify
from verinn.passes.ties import merge_inputs, share_nodes
from verinn.result import Witness
from verinn.search.pinned import pinned

Source = str | Path | onnx.ModelProto


@dataclass(frozen=True, eq=False)
class Whole:
    """A graph with nothing folded in, and its property."""

    graph: Graph
    prop: Property


@dataclass(frozen=True, eq=False)
class Problem:
    """A graph whose inputs, side by side, are the property's x, and whose outputs are its y.

    ``index``: where each input of the query is in x; those that are equal are one. None: all as they are.
    ``whole``: graph and property before the inputs that the property fixes were folded in; None: they are not.
    """

    graph: Graph
    prop: Property
    query: Query
    originals: Mapping[str, Original]
    parts: Mapping[str, Graph]
    warnings: tuple[str, ...]
    index: np.ndarray | None = None
    whole: Whole | None = None

    def confirm(self, x: np.ndarray) -> Witness | None:
        """Replay float32 inputs (n,) in ONNX Runtime; a witness if the query holds exactly, else None."""
        values: dict[str, np.ndarray] = {}
        x = x if self.index is None else x[self.index]
        start = 0
        for network in self.query.networks:
            size = sum(variable.size for variable in network.variables if variable.kind is Kind.INPUT)
            self._replay(network, x[start : start + size].astype(np.float32), values)
            start += size
        return Witness(values) if holds(self.query, values) else None

    def _replay(self, network: Network, x: np.ndarray, values: dict[str, np.ndarray]) -> None:
        graph = self.parts[network.name]
        sizes = [int(np.prod(value.shape, dtype=np.int64)) for value in graph.inputs]
        pieces = np.split(x, np.cumsum(sizes)[:-1])
        feed = {value.name: piece for value, piece in zip(graph.inputs, pieces, strict=True)}
        found = self.originals[network.name].run(feed)
        outputs = [found[output.name] for output in graph.outputs]
        hidden = [v for v in network.variables if v.kind is Kind.HIDDEN]
        results = outputs[: len(outputs) - len(hidden)]
        inputs = [v for v in network.variables if v.kind is Kind.INPUT]
        declared = [v for v in network.variables if v.kind is Kind.OUTPUT]
        position = 0
        for variable in inputs:
            values[variable.name] = x[position : position + variable.size].reshape(variable.shape)
            position += variable.size
        for variable in hidden:
            values[variable.name] = found[variable.onnx_name or variable.name].reshape(variable.shape)
        if len(declared) == len(results):
            for variable, array in zip(declared, results, strict=True):
                values[variable.name] = array.reshape(variable.shape)
        else:  # version 1.0 numbers the elements of all outputs in one row
            values[declared[0].name] = np.concatenate([array.reshape(-1) for array in results])


def build(models: Source | Mapping[str, Source], query: Query, seed: int = 0) -> Problem:
    """Read the models, check them against the query and against ONNX Runtime, and join them.

    Raises InputError (Unsupported for what can't be handled yet).
    """
    with python_warnings.catch_warnings(record=True) as caught:
        python_warnings.simplefilter("always", UserWarning)
        loaded: dict[int, Model] = {}
        read: dict[tuple[Hashable, ...], tuple[Graph, Graph]] = {}  # as read, and simplified
        boxed: frozenset[str] = frozenset()
        raw: dict[str, Graph] = {}
        parts: dict[str, Graph] = {}
        originals: dict[str, Original] = {}
        for name, source in _assigned(query, models).items():
            model = loaded.setdefault(id(source), load_model(source))
            network = next(network for network in query.networks if network.name == name)
            hidden = [v.onnx_name or v.name for v in network.variables if v.kind is Kind.HIDDEN]
            key: tuple[Hashable, ...] = (id(source), tuple(hidden))
            if key not in read:
                graph, within = _read(model, hidden, query, name)
                boxed = boxed | {name} if within else boxed
                key = (*key, name) if within else key
                read[key] = graph, simplify(graph)
            raw[name], parts[name] = read[key]
            originals[name] = Original(model, hidden=hidden)
    notes = [str(entry.message) for entry in caught if issubclass(entry.category, UserWarning)]
    notes.extend(match(query, parts))
    prop = to_property(query)
    for name, graph in parts.items():
        boxes = _boxes(prop, query, name)
        # A graph that is right within the box only is compared there and nowhere else.
        tried = boxes * SAMPLES if name in boxed else boxes
        remark = agree(graph, originals[name], seed, tried, raw=raw[name])
        notes.extend([remark] if remark else [])
    graph = with_products(_join(query, parts), prop.products, places_of(query))
    graph, prop, index = merge_inputs(graph, prop)
    if len(parts) > 1:
        graph = share_nodes(drop_identities(graph))
    if len(prop.cases):
        graph = centre_averages(graph, *_hull(prop))
    warnings = (*query.warnings, *prop.warnings, *notes)
    fixed = _within(graph, prop)
    if fixed is graph:
        return Problem(graph, prop, query, originals, parts, warnings, index)
    held = pinned(fixed, prop)
    return Problem(fixed, held, query, originals, parts, warnings, index, Whole(graph, prop))


def _assigned(query: Query, models: Source | Mapping[str, Source]) -> dict[str, Source]:
    return assign_models(query, models)


def corners(problem: Problem) -> list[Problem]:
    """The problem with what its property fixes folded in at the decimal numbers, and at their float32 roundings.

    A violation is at one or the other, so the problem is violated where one of these is. Their constants are
    exact, or nearly: an interval of a rounding's width is nothing to a linear bound, but grows beyond all measure
    in the interval arithmetic of a deep network. The problem itself where nothing was folded in.
    """
    if problem.whole is None:
        return [problem]
    graph, prop = problem.whole.graph, problem.whole.prop
    lower, upper = _hull(prop)
    fixed = upper - lower <= NARROW * np.maximum(np.abs(lower), np.abs(upper))
    found = []
    for low, high in _places(prop.cases):
        folded = simplify(fix_inputs(graph, np.where(fixed, low, lower), np.where(fixed, high, upper)))
        found.append(replace(problem, graph=folded, prop=pinned(folded, prop), whole=None))
    return found


def _places(cases: Sequence[Case]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The hulls of all cases' decimal boxes, and of their ranges of witnesses where those reach further."""
    boxes = [_decimal(case) for case in cases]
    low, high = np.min([box[0] for box in boxes], axis=0), np.max([box[1] for box in boxes], axis=0)
    first = np.min([case.witness_lower for case in cases], axis=0).astype(np.float64)
    last = np.max([case.witness_upper for case in cases], axis=0).astype(np.float64)
    inside = bool(np.all((low <= first) & (last <= high)))
    return [(low, high)] if inside else [(low, high), (first, last)]


def _decimal(case: Case) -> tuple[np.ndarray, np.ndarray]:
    if case.decimal_lower is None or case.decimal_upper is None:
        return case.lower, case.upper
    return case.decimal_lower, case.decimal_upper


def _within(graph: Graph, prop: Property) -> Graph:
    """The graph with inputs that all cases fix folded in, where that makes it simpler; it is searched in them only."""
    if not len(prop.cases):
        return graph
    fixed = fix_inputs(graph, *_hull(prop))
    if fixed is graph:
        return graph
    fixed = simplify(fixed)
    return fixed if simpler(graph, fixed) else graph


def _read(model: Model, hidden: Sequence[str], query: Query, name: str) -> tuple[Graph, bool]:
    """The graph of one network, and whether it is right within the property's boxes only.

    That is so where the model has tensors whose places depend on its inputs and can't be read without bounds.
    """
    try:
        return read_graph(model, hidden=hidden), False
    except Unsupported as error:
        prop = to_property(query)
        if not len(prop.cases):
            raise
        lower, upper = (side[_span(query, name)] for side in _hull(prop))
        if not np.all(lower <= upper):
            raise error from None
        return read_graph(model, hidden=hidden, box=(lower, upper)), True


def _hull(prop: Property) -> tuple[np.ndarray, np.ndarray]:
    """The box around the boxes of all cases."""
    lower, upper = prop.cases[0].lower.copy(), prop.cases[0].upper.copy()
    for case in prop.cases:
        np.minimum(lower, case.lower, out=lower)
        np.maximum(upper, case.upper, out=upper)
    return lower, upper


def _span(query: Query, name: str) -> slice:
    """Where one network's inputs lie among all inputs side by side."""
    start = 0
    for network in query.networks:
        size = sum(variable.size for variable in network.variables if variable.kind is Kind.INPUT)
        if network.name == name:
            return slice(start, start + size)
        start += size
    raise KeyError(name)


def _boxes(prop: Property, query: Query, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """A box of the property, cut to one network's inputs: the comparison should look there too."""
    if not len(prop.cases):
        return []
    case, span = prop.cases[0], _span(query, name)
    return [(np.nan_to_num(case.lower[span]), np.nan_to_num(case.upper[span]))]


def _join(query: Query, parts: Mapping[str, Graph]) -> Graph:
    """All networks side by side, values prefixed by the network's name; outputs in the order of y.

    Numbers (rank 0) become vectors of one element, so that every value has an axis.
    """
    inputs: list[Input] = []
    nodes: list[Node] = []
    outputs: list[Output] = []
    for network in query.networks:
        graph = parts[network.name]
        inputs.extend(
            replace(value, name=f"{network.name}/{value.name}", shape=value.shape or (1,)) for value in graph.inputs
        )
        for node in graph.nodes:
            sources = tuple(f"{network.name}/{source}" for source in node.inputs)
            nodes.append(replace(node, name=f"{network.name}/{node.name}", inputs=sources, shape=node.shape or (1,)))
        renamed = [replace(o, value=f"{network.name}/{o.value}") for o in graph.outputs]
        count = sum(variable.kind is Kind.HIDDEN for variable in network.variables)
        ordered = _ordered_hidden(network, renamed) + renamed[: len(renamed) - count]
        outputs.extend(replace(o, name=f"{network.name}/{o.name}") for o in ordered)
    return Graph(tuple(inputs), tuple(nodes), tuple(outputs))


def _ordered_hidden(network: Network, outputs: Sequence[Output]) -> list[Output]:
    by_name = {output.name: output for output in outputs}
    return [by_name[v.onnx_name or v.name] for v in network.variables if v.kind is Kind.HIDDEN]
