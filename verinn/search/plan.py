"""Facts in, plan out: what a problem is like, and how it is attacked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from verinn.errors import InputError
from verinn.ops.base import Affine
from verinn.ops.registry import OPS
from verinn.ops.stairs import Stairs
from verinn.options import Options
from verinn.search.problem import Problem

#: multiplications of a small network
SMALL = 2_000_000
#: operators whose elements count as neurons
NONLINEAR = frozenset(name for name, op in OPS.items() if not isinstance(op, Affine))


@dataclass(frozen=True)
class Facts:
    """What a plan looks at."""

    inputs: int
    free_inputs: int  # inputs whose bounds differ, in the widest case
    outputs: int
    neurons: int  # elements of nonlinear steps
    relus: int
    jumps: int  # elements of functions with jumps
    widest: int  # elements of the largest value
    elements: int  # of all values
    products: int  # multiplications of one evaluation
    cases: int
    conjunctions: int
    rows: int
    largest: float = 0.0  # |constant|


@dataclass(frozen=True)
class Plan:
    """How a problem is attacked. All of it follows from the facts and the options."""

    engine: str  # what is split: "boxes" of inputs (and late ReLUs), "phases" of ReLUs, "values"; or "smt", "milp"
    device: str
    dtype: str  # of the search
    points: int  # of the first attack
    steps: int
    batch: int
    helper: bool  # whether a second process may join the search
    crowd: int  # domains that must wait before it does
    threads: int  # of each kernel
    workers: int  # that bound blocks of the root's neurons, a thread each
    neurons: int  # see Task
    depth: int  # see Task


def facts_of(problem: Problem) -> Facts:
    """The facts of a problem; linear in its size."""
    graph, cases = problem.graph, problem.prop.cases
    program_shapes = graph.shapes()
    nonlinear = [node for node in graph.nodes if node.op in NONLINEAR]
    some = [cases[i] for i in range(min(len(cases), 64))]
    return Facts(
        inputs=problem.prop.n,
        free_inputs=max((int((case.upper > case.lower).sum()) for case in some), default=0),
        outputs=problem.prop.m,
        neurons=sum(math.prod(node.shape) for node in nonlinear),
        relus=sum(math.prod(node.shape) for node in nonlinear if node.op == "relu"),
        jumps=sum(math.prod(node.shape) for node in nonlinear if isinstance(OPS[node.op], Stairs)),
        widest=max(math.prod(shape) for shape in program_shapes.values()),
        elements=sum(math.prod(shape) for shape in program_shapes.values()),
        products=_products(problem),
        cases=len(cases),
        conjunctions=sum(len(case.conjunctions) for case in some),
        rows=max((sum(map(len, case.conjunctions)) for case in some), default=0),
        largest=max(
            (float(abs(p.value).max(initial=0)) for node in graph.nodes for p in node.params.values()), default=0
        ),
    )


def _products(problem: Problem) -> int:
    total = 0
    for node in problem.graph.nodes:
        if "weight" in node.params:
            weight = node.params["weight"].value
            per = weight.shape[0] if node.op == "linear" else math.prod(weight.shape[1:])
            total += per * math.prod(node.shape)
    return max(1, total)


def plan_of(facts: Facts, options: Options) -> Plan:
    """Where inputs are few, boxes are split, else ReLUs; small networks' boxes are searched in float64."""
    device = _device(options.device)
    cores = options.threads or min(2, torch.get_num_threads())
    small = facts.products <= SMALL and device == "cpu"
    work = facts.products + 30 * facts.elements  # of one evaluation; an element costs memory traffic too
    per_domain = 8 * facts.widest * max(8, min(facts.widest, 128)) * 6
    fit = max(1, options.memory // per_domain)
    engine = _engine(facts, options.engine, small)
    phases = engine in ("phases", "values")
    if phases:  # some tens of tensors of the size of all values, for each domain
        fit = max(1, options.memory // (4 * 40 * facts.elements))
    return Plan(
        engine=engine,
        device=device,
        # sums with masks of attention, often float32's least number, have no bound in float32
        dtype="float64" if (small and not phases) or facts.largest > 1e30 else "float32",
        points=int(min(4096, max(16, 20_000_000_000 // (work * 40 * 3)))),
        steps=40,
        batch=int(min((64 if phases else 512) if device == "cpu" else 8192, fit)),
        helper=(small or phases) and cores > 1 and device == "cpu",
        crowd=32 if phases else 64,
        threads=1 if small or (phases and device == "cpu") else cores,
        workers=cores if phases and device == "cpu" else 1,
        neurons=60 if facts.free_inputs <= 32 else 1 << 30,
        depth=max(6, round(2.4 * facts.free_inputs)),
    )


def _engine(facts: Facts, wanted: str, small: bool) -> str:
    if wanted == "phases" and not facts.relus:
        raise InputError("the network has no ReLU to split", place="--engine phases", hint="use auto, boxes or smt")
    if wanted != "auto":
        return wanted
    few = not facts.neurons or facts.free_inputs <= (32 if small else 8)
    if few and (small or not facts.jumps):  # jumps of large networks are split where they are
        return "boxes"
    return "phases" if facts.relus == facts.neurons else "values"


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is available", place="--device cuda", hint="use --device cpu or auto")
    return wanted
