"""Inputs that nothing reads: any value of them will do, so they don't count as free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np
import torch

from verinn.bounds.relevance import relevance
from verinn.ir.graph import Graph
from verinn.ir.prop import Case, Property
from verinn.ops.program import Program


def pinned(graph: Graph, prop: Property) -> Property:
    """The property with each input that neither the graph nor a row reads held at one value of its range.

    An input is read where a path of weights that aren't zero leads from it to an output. A violation can be
    moved to the value held, and back: nothing that is compared depends on it. The value is one that a witness
    may show.
    """
    unread = ~_read(graph)
    return replace(prop, cases=Pinned(prop.cases, unread)) if unread.any() else prop


class Pinned(Sequence[Case]):
    """Cases with inputs of ``unread`` (bool (n,)) held, each made when asked for, as those that they are made of."""

    def __init__(self, cases: Sequence[Case], unread: np.ndarray) -> None:
        self.cases, self.unread = cases, unread

    def __len__(self) -> int:
        return len(self.cases)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...
    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        if isinstance(index, slice):
            return Pinned(self.cases[index], self.unread)
        case = self.cases[index]
        return _pinned(case, self.unread & ~_mentioned(case))


def _read(graph: Graph) -> np.ndarray:
    """Which inputs (n,), flattened side by side, the outputs depend on."""
    program = Program.prepare(graph, torch.float32)
    start = {
        o.value: torch.ones((1, *program.shapes[o.value]), dtype=torch.bool, device=program.device)
        for o in graph.outputs
    }
    found = relevance(program, start)
    masks = [
        found.get(value.name, torch.zeros(value.shape, dtype=torch.bool, device=program.device))
        for value in graph.inputs
    ]
    return np.concatenate([mask.numpy().reshape(-1) for mask in masks])


def _mentioned(case: Case) -> np.ndarray:
    """Which inputs (n,) a case's rows read themselves."""
    mask = np.zeros(len(case.lower), bool)
    for rows in (case.input_rows, *case.conjunctions):
        mask[rows.x.index] = True
        if rows.x_error is not None:
            mask[rows.x_error.index] = True
    return mask


def _pinned(case: Case, mask: np.ndarray) -> Case:
    """A case whose inputs in ``mask`` are held where a witness may be; ranges without one stay as they are."""
    low, high = (end.astype(np.float64) for end in (case.witness_lower, case.witness_upper))
    value = np.minimum(np.maximum(0.0, low), high)
    mask = mask & np.isfinite(value) & (case.lower <= value) & (value <= case.upper)
    return replace(case, lower=np.where(mask, value, case.lower), upper=np.where(mask, value, case.upper))
