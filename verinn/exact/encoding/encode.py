"""From a graph to an exact formula: affine steps by exact numbers, each argument of a nonlinear step a variable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from verinn.bounds.crown import Relaxation
from verinn.bounds.domain import relax
from verinn.exact.encoding.builder import Builder
from verinn.exact.encoding.formula import Encoding, Form, Range, mixed, variable
from verinn.exact.encoding.matrices import Map, map_of
from verinn.exact.encoding.meaning import Site, meaning
from verinn.exact.encoding.numbers import fraction, short
from verinn.exact.rational import TooLarge
from verinn.ops.base import Affine
from verinn.ops.program import Program, Step

Ends = tuple[np.ndarray, np.ndarray]

#: terms of all definitions together
MOST_TERMS = 1_000_000


@dataclass(frozen=True, eq=False)
class Draft:
    """A network's formula to which more may be added. ``values``: by name an object array (elements,) of forms;
    ``inputs``: the variables of x; ``ranges``: float64 ends (elements,) by name, where known."""

    program: Program
    builder: Builder
    values: Mapping[str, np.ndarray]
    inputs: tuple[int, ...]
    ranges: Mapping[str, Ends]

    def finished(self) -> Encoding:
        """The formula as it is now."""
        return Encoding(self.builder.formula(), self.values, self.inputs, self.ranges)

    @property
    def x(self) -> list[Form]:
        """The inputs, side by side."""
        return [variable(number) for number in self.inputs]

    @property
    def y(self) -> list[Form]:
        """The outputs, side by side."""
        return [form for out in self.program.graph.outputs for form in self.values[out.value]]


def encode(
    program: Program,
    lower: np.ndarray,
    upper: np.ndarray,
    wanted: Sequence[str] | None = None,
    relaxation: Relaxation | None = None,
    over: Callable[[], bool] = lambda: False,
) -> Draft:
    """The network over a box of inputs (n,), float64.

    ``program`` in float64. ``wanted``: the values to encode (default: the outputs); only what they hang on is
    encoded. ``relaxation``: of the box, if there is one already. A box without ends is encoded without ranges.
    ``over``: whether time is up, asked now and then.

    Raises TooLarge (also where time is up), and Unsupported for an operator without an exact meaning.
    """
    builder = Builder()
    needed = _needed(program, [out.value for out in program.graph.outputs] if wanted is None else wanted)
    ranges = _ranges(program, lower, upper, relaxation)
    values: dict[str, np.ndarray] = {}
    inputs: list[int] = []
    position = 0
    for value in program.graph.inputs:
        size = math.prod(value.shape)
        forms = []
        for i in range(position, position + size):
            ends = fraction(float(lower[i])), fraction(float(upper[i]))
            form = builder.fresh(f"x[{i}]", ends)
            inputs.extend(form.terms)
            forms.append(form)
        values[value.name] = _array(forms)
        position += size
    terms = 0
    for step in program.steps:
        if step.node.name not in needed:
            continue
        encoded = _affine if isinstance(step.op, Affine) else _nonlinear
        made = encoded(builder, step, values, ranges, over)
        values[step.node.name] = _array(made)
        terms += sum(len(form.terms) for form in made)
        if terms > MOST_TERMS:
            raise TooLarge("the network has too many weights for an exact formula")
    return Draft(program, builder, values, tuple(inputs), ranges)


def _needed(program: Program, wanted: Iterable[str]) -> set[str]:
    needed = set(wanted)
    for step in reversed(program.steps):
        if step.node.name in needed:
            needed.update(step.node.inputs)
    return needed


def _ranges(program: Program, lower: np.ndarray, upper: np.ndarray, relaxation: Relaxation | None) -> dict[str, Ends]:
    """Sound ends of all values by name; none for a box without ends."""
    if relaxation is None:
        if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
            return {}
        with torch.no_grad():
            relaxation = relax(program, torch.from_numpy(lower).unsqueeze(0), torch.from_numpy(upper).unsqueeze(0))
    return {
        name: (_ends(low, program.shapes[name]), _ends(high, program.shapes[name]))
        for name, (low, high) in relaxation.intervals.items()
    }


def _ends(end: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    return np.array(end.double().expand(1, *shape).flatten().cpu().numpy())


def _array(forms: Sequence[Form]) -> np.ndarray:
    array = np.empty(len(forms), dtype=object)
    array[:] = forms
    return array


def _check(over: Callable[[], bool]) -> None:
    if over():
        raise TooLarge("time ran out while its formula was written")


def _nonlinear(
    builder: Builder,
    step: Step,
    values: Mapping[str, np.ndarray],
    ranges: Mapping[str, Ends],
    over: Callable[[], bool],
) -> list[Form]:
    _check(over)
    sources = step.node.inputs
    site = Site(
        step.node,
        tuple(values[name] for name in sources),
        step.shapes,
        tuple(ranges.get(name) for name in sources),
        ranges.get(step.node.name),
    )
    return meaning(builder, site)


def _affine(
    builder: Builder,
    step: Step,
    values: dict[str, np.ndarray],
    ranges: Mapping[str, Ends],
    over: Callable[[], bool],
) -> list[Form]:
    found = map_of(step)
    mixes = [slot for slot, matrix in enumerate(found.matrices) if matrix.shape[0] and np.diff(matrix.indptr).max() > 1]
    several = len(found.matrices) > 1 and step.node.op == "sum"
    for slot in range(len(found.matrices)) if several else mixes:
        name = step.node.inputs[slot]
        if not _small(values[name]):
            values[name] = _defined(builder, name, values[name], ranges.get(name))
    sources = [values[name] for name in step.node.inputs]
    known = [ranges.get(name) for name in step.node.inputs]
    made = []
    for i in range(math.prod(step.node.shape)):
        _check(over)
        made.append(_row(builder, found, i, f"{step.node.name}[{i}]", sources, known))
    return made


def _small(forms: np.ndarray) -> bool:
    """Whether forms are over no more variables than there are of them: then what mixes them is no longer for
    being composed, and a solver's programme has fewer variables."""
    used: set[int] = set()
    for form in forms:
        used.update(form.terms)
    return len(used) <= sum(not form.constant for form in forms)


def _defined(builder: Builder, name: str, forms: np.ndarray, ends: Ends | None) -> np.ndarray:
    """The same value with every form of several terms made a variable: what mixes them stays short."""
    made = []
    for i, form in enumerate(forms):
        known: Range = (None, None)
        if ends is not None:
            known = short(float(ends[0][i]), up=False), short(float(ends[1][i]), up=True)
        made.append(builder.define(f"{name}[{i}]", form, known) if len(form.terms) > 1 else form)
    return _array(made)


def _row(
    builder: Builder,
    found: Map,
    i: int,
    name: str,
    sources: Sequence[np.ndarray],
    known: Sequence[Ends | None],
) -> Form:
    """One element of an affine step; where weights are known to an interval only, with a variable for what that
    can make of it."""
    parts = []
    for matrix, source in zip(found.matrices, sources, strict=True):
        row = slice(matrix.indptr[i], matrix.indptr[i + 1])
        for j, value in zip(matrix.indices[row].tolist(), matrix.data[row].tolist(), strict=True):
            parts.append((found.weight(value), source[j]))
    form = mixed(parts, Fraction(0) if found.offset is None else Fraction(float(found.offset[i])))
    slack = _slack(builder, found, i, sources, known)
    if slack is None:
        return builder.fresh(name)  # nothing is known
    if not slack:
        return form
    return form + builder.fresh(f"{name}.error", (-slack, slack))


def _slack(
    builder: Builder, found: Map, i: int, sources: Sequence[np.ndarray], known: Sequence[Ends | None]
) -> Fraction | None:
    """How far inexact weights can move an element; None: no end is known."""
    total = Fraction(0) if found.offset_error is None else Fraction(float(found.offset_error[i]))
    for slot, errors in enumerate(found.errors or ()):
        row = slice(errors.indptr[i], errors.indptr[i + 1])
        for j, error in zip(errors.indices[row].tolist(), errors.data[row].tolist(), strict=True):
            if error:
                reach = _reach(builder, sources[slot][j], known[slot], j)
                if reach is None:
                    return None
                total += Fraction(error) * reach
    return total


def _reach(builder: Builder, form: Form, known: Ends | None, element: int) -> Fraction | None:
    ends = builder.range_of(form) if known is None else (
        fraction(float(known[0][element])), fraction(float(known[1][element]))
    )  # fmt: skip
    low, high = ends
    return None if low is None or high is None else max(abs(low), abs(high))


__all__ = ["Draft", "Encoding", "TooLarge", "encode"]
