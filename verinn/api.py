"""The Python API: ``verify`` a property of a model, ``describe`` both, ``bounds`` of any value of a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from verinn.bounds.node import Bounds, Climb, bound_value
from verinn.bounds.perturbation import Perturbation
from verinn.errors import InputError
from verinn.io.onnx_reader import load_model, read_graph
from verinn.io.onnx_reader.weights import weights_as_inputs
from verinn.io.vnnlib import read_query
from verinn.ir.graph import Graph
from verinn.ir.query import Query
from verinn.options import Options
from verinn.passes.simplify import simplify
from verinn.progress import Progress
from verinn.result import Result
from verinn.search.plan import NONLINEAR, facts_of, plan_of
from verinn.search.problem import Problem, Source, build
from verinn.search.run import solve

DEFAULTS = Options()


def verify(
    models: Source | Mapping[str, Source],
    prop: str | Path | Query,
    options: Options = DEFAULTS,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Decide whether some input of the model fulfils the query (`sat`) or none does (`unsat`).

    ``models``: a path or onnx.ModelProto, or a mapping from network names to such. ``prop``: a VNN-LIB
    file (1.0 or 2.0) or a Query. Raises InputError for anything that can't be read or is not supported.
    """
    query = prop if isinstance(prop, Query) else read_query(prop)
    return solve(build(models, query, options.seed), options, progress)


def load(model: Source, weights: Sequence[str] = (), nodes: Sequence[str] = ()) -> Graph:
    """A model as the graph that ``bounds`` computes with: to read it once and bound it often.

    ``weights``: initializers that become inputs of the graph, so that they can be perturbed, or trained.
    ``nodes``: inner tensors to be bounded. Raises InputError like ``verify``.
    """
    loaded = load_model(model)
    if weights:
        loaded = weights_as_inputs(loaded, weights)
    return simplify(read_graph(loaded, hidden=list(nodes)))


def bounds(
    model: Source | Graph,
    sets: Perturbation | Mapping[str, Perturbation],
    node: str | None = None,
    *,
    method: str = "crown",
    dtype: torch.dtype = torch.float64,
    forms: bool = False,
    steps: int = 20,
    rows: Any = None,
    inner_steps: int = 0,
) -> Bounds:
    """Lower and upper bounds of a tensor of a model over perturbed inputs and weights, differentiable.

    ``model``: a path, an onnx.ModelProto, or a graph from ``load``. ``sets``: what each input may be (Box, Ball,
    Polytope, Substitutions), by name; a set alone is the only input's. A name of an initializer perturbs that
    weight. ``node``: the name of an output or of an inner tensor; the first output when left out.
    ``method``: "ibp", "crown", or "alpha-crown" with ``steps`` steps of ascent. ``dtype``: of the backward passes,
    float64 or float32; bounds hold in exact arithmetic with either, and are float64. ``forms``: return the
    linear forms, too. ``rows`` (M, elements): bound these combinations of the tensor's elements, such as margins
    between classes, instead of the elements. ``inner_steps``: steps of ascent for the bounds of each value that a
    nonlinear step reads ("crown" and "alpha-crown"): tighter, and dearer by far.
    Gradients flow to the tensors that the sets are made of.

    Raises InputError.
    """
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"bounds in {dtype} are not supported", hint="take float64 or float32")
    graph = model if isinstance(model, Graph) else _graph_for(model, sets, node)
    if isinstance(sets, Perturbation):
        sets = {graph.inputs[0].name: sets}
    inner = Climb(inner_steps) if inner_steps > 0 else None
    return bound_value(graph, sets, node or graph.outputs[0].name, method, dtype, forms, Climb(steps), rows, inner)


def _graph_for(model: Source, sets: Perturbation | Mapping[str, Perturbation], node: str | None) -> Graph:
    """The graph of a model with the weights that are perturbed as inputs."""
    loaded = load_model(model)
    held = {tensor.name for tensor in loaded.proto.graph.initializer}
    weights = [name for name in sets if name in held] if isinstance(sets, Mapping) else []
    outputs = {value.name for value in loaded.proto.graph.output}
    return load(model, weights, [] if node is None or node in outputs else [node])


@dataclass(frozen=True)
class Description:
    """What ``describe`` found. ``unstable``: neurons that CROWN leaves unstable in the first case."""

    inputs: tuple[tuple[str, tuple[int, ...], str], ...]
    outputs: tuple[tuple[str, tuple[int, ...], str], ...]
    operators: Mapping[str, int]  # as the file has them
    core: Mapping[str, int]  # after reading and simplifying
    parameters: int
    neurons: int
    unstable: int | None = None
    cases: int | None = None
    conjunctions: int | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def describe(model: Source, prop: str | Path | Query | None = None, options: Options = DEFAULTS) -> Description:
    """A summary of one model and, if given, a property of it. Raises InputError like ``verify``."""
    loaded = load_model(model)
    problem: Problem | None = None
    if prop is None:
        graph = simplify(read_graph(loaded))
    else:  # the property's bounds may be needed to read the model
        query = prop if isinstance(prop, Query) else read_query(prop)
        problem = build(model, query, options.seed)
        graph = next(iter(problem.parts.values()))
    shapes = graph.shapes()
    nonlinear = [node for node in graph.nodes if node.op in NONLINEAR]
    parameters = sum(param.value.size for node in graph.nodes for param in node.params.values())
    basic: dict[str, Any] = {
        "inputs": tuple((value.name, value.shape, value.dtype) for value in graph.inputs),
        "outputs": tuple((value.name, shapes[value.value], value.dtype) for value in graph.outputs),
        "operators": dict(Counter(node.op_type for node in loaded.proto.graph.node)),
        "core": dict(Counter(node.op for node in graph.nodes)),
        "parameters": parameters,
        "neurons": sum(torch.Size(node.shape).numel() for node in nonlinear),
    }
    if problem is None:
        return Description(**basic)
    facts = facts_of(problem)
    return Description(
        **basic,
        unstable=_unstable(problem),
        cases=len(problem.prop.cases),
        conjunctions=sum(len(case.conjunctions) for case in problem.prop.cases),
        plan={"facts": vars(facts), "plan": vars(plan_of(facts, options))},
        warnings=problem.warnings,
    )


def _unstable(problem: Problem) -> int | None:
    """Unstable neurons of the first case, by intervals and CROWN where they leave something open."""
    from verinn.bounds.domain import relax
    from verinn.ops.program import Program

    if not len(problem.prop.cases):
        return None
    case = problem.prop.cases[0]
    program = Program.prepare(problem.graph, torch.float64)
    lower, upper = torch.from_numpy(case.lower).unsqueeze(0), torch.from_numpy(case.upper).unsqueeze(0)
    if not bool((lower.isfinite() & upper.isfinite()).all()):
        return None
    with torch.no_grad():
        last = torch.Size(program.shapes[program.steps[-1].node.name]).numel() if program.steps else 0
        relaxation = relax(program, lower, upper, refine=last < 4096)
    count = 0
    for step in program.steps:
        if not step.affine:
            boxes = [relaxation.intervals[source] for source in step.node.inputs]
            count += max(int(loose.sum()) for loose in step.loose(boxes))
    return count


__all__ = ["DEFAULTS", "Bounds", "Description", "Options", "bounds", "describe", "load", "verify"]
