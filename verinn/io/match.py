"""Does the query speak about these models? Names, counts, shapes and element types, told before any bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from verinn.errors import InputError
from verinn.ir.graph import Graph
from verinn.ir.query import Kind, Network, Query, Variable

Model = TypeVar("Model")


def assign_models(query: Query, models: Model | Mapping[str, Model]) -> dict[str, Model]:
    """The model of each network of the query; an equal-to network has its target's.

    ``models`` is one model, or a mapping from network names. Raises InputError when a network has no
    model, or a model no network.
    """
    owners = [network for network in query.networks if network.equal_to is None]
    given: Mapping[str, Model]
    if isinstance(models, Mapping):
        given = models
        if query.version.startswith("1") and len(given) == 1:  # 1.0 names no network: any name will do
            given = {owners[0].name: next(iter(given.values()))}
    elif len(owners) == 1:
        given = {owners[0].name: models}
    else:
        names = ", ".join(network.name for network in owners)
        raise InputError(
            f"declares {len(owners)} networks ({names}), one model is given", file=query.file or None,
            hint="give one model for each: --network NAME=PATH",
        )  # fmt: skip
    _check_names(query, owners, given)
    return {network.name: given[network.equal_to or network.name] for network in query.networks}


def _check_names(query: Query, owners: list[Network], given: Mapping[str, object]) -> None:
    file = query.file or None
    for network in owners:
        if network.name not in given:
            raise InputError(
                f"no model is given for the network {network.name}", file=file,
                hint=f"add --network {network.name}=PATH",
            )  # fmt: skip
    known = {network.name: network for network in query.networks}
    for name in given:
        if name not in known:
            declared = ", ".join(network.name for network in owners)
            problem = f"declares no network {name}, but a model is given for it"
            raise InputError(problem, file=file, hint=f"declared: {declared}")
        if known[name].equal_to is not None:
            raise InputError(
                f"the network {name} is equal-to {known[name].equal_to}, so it takes no model", file=file,
                hint=f"leave out --network {name}",
            )  # fmt: skip


def match(query: Query, graphs: Mapping[str, Graph]) -> tuple[str, ...]:
    """Check every network's declarations against its graph; return warnings.

    ``graphs`` has a graph for each network, hidden tensors that the query names among its outputs.
    Raises InputError for a wrong count, size, element type or hidden name. A shape that differs
    only in how the same number of elements is laid out is a warning: row-major order is the same.
    """
    warnings: list[str] = []
    for network in query.networks:
        graph = graphs[network.name]
        try:
            if query.version.startswith("1"):
                _match_flat(network, graph)
            else:
                warnings.extend(_match_declared(network, graph))
        except InputError as error:
            raise error.in_file(query.file) if query.file else error from None
    return tuple(warnings)


def _of(network: Network, kind: Kind) -> list[Variable]:
    return [variable for variable in network.variables if variable.kind is kind]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _match_flat(network: Network, graph: Graph) -> None:
    """Version 1.0: X_i and Y_j number the elements of all inputs and all outputs, one after another."""
    shapes = graph.shapes()
    sides = (
        (Kind.INPUT, "input", [value.shape for value in graph.inputs]),
        (Kind.OUTPUT, "output", [shapes[value.value] for value in graph.outputs]),
    )
    for kind, word, held in sides:
        declared = sum(variable.size for variable in _of(network, kind))
        total = sum(_size(shape) for shape in held)
        if declared != total:
            listed = ", ".join(str(list(shape)) for shape in held)
            raise InputError(
                f"declares {declared} {word} elements, the model has {total} ({listed})",
                hint="check that property and model belong together",
            )


def _match_declared(network: Network, graph: Graph) -> list[str]:
    shapes = graph.shapes()
    hidden = _of(network, Kind.HIDDEN)
    outputs = _of(network, Kind.OUTPUT)
    # The reader appends hidden tensors to the model's own outputs, unless they are outputs anyhow.
    wanted = {variable.onnx_name for variable in hidden}
    own = list(graph.outputs)
    while len(own) > len(outputs) and own[-1].name in wanted:
        own.pop()
    inputs = [(value.name, value.shape, value.dtype) for value in graph.inputs]
    warnings = _compare(network, "input", _of(network, Kind.INPUT), inputs)
    warnings += _compare(network, "output", outputs, [(o.name, shapes[o.value], o.dtype) for o in own])
    named = {o.name: o for o in graph.outputs}
    for variable in hidden:
        if variable.onnx_name not in named:
            raise InputError(
                f'the model has no tensor "{variable.onnx_name}"', place=f"network {network.name}, {variable.name}",
                hint="name the output of a node",
            )  # fmt: skip
        tensor = named[str(variable.onnx_name)]
        warnings += _compare(network, "hidden", [variable], [(tensor.name, shapes[tensor.value], tensor.dtype)])
    return warnings


def _compare(
    network: Network, word: str, declared: list[Variable], held: list[tuple[str, tuple[int, ...], str]]
) -> list[str]:
    """Declarations against (name, shape, element type) of the model, in order."""
    if len(declared) != len(held):
        raise InputError(
            f"declares {len(declared)} {word}s, the model has {len(held)}", place=f"network {network.name}",
            hint="declare all of them, in the model's order",
        )  # fmt: skip
    warnings = []
    for variable, (name, shape, dtype) in zip(declared, held, strict=True):
        place = f"network {network.name}, {variable.name}"
        if variable.size != _size(shape):
            raise InputError(
                f"declared {list(variable.shape)}, the model's {word} `{name}` is {list(shape)}", place=place,
                hint="declare the model's shape",
            )  # fmt: skip
        if variable.dtype not in ("real", dtype):
            raise InputError(
                f"declared {variable.dtype}, the model's {word} `{name}` is {dtype}", place=place,
                hint=f"declare {dtype} or real",
            )  # fmt: skip
        if variable.shape != shape:
            warnings.append(f"{place}: declared {list(variable.shape)}, the model has {list(shape)}: taken row-major")
    return warnings
