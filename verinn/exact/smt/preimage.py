"""Exact preimages: is there an input of a box, perhaps of a grid, whose hidden values lie in a given box?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verinn.errors import Unsupported
from verinn.exact.domains import Domain, Status
from verinn.exact.encoding.encode import TooLarge, encode
from verinn.exact.encoding.formula import Any, Condition, Form
from verinn.exact.encoding.goals import on_grid, outside, within
from verinn.exact.smt.refine import Refined
from verinn.exact.smt.solver import Settings, SmtSolver
from verinn.ops.program import Program

Number = Fraction | float

#: a value's box: lower and upper ends of its elements, row-major; infinite ends are none
Ends = tuple[Sequence[Number] | np.ndarray, Sequence[Number] | np.ndarray]


@dataclass(frozen=True)
class Grid:
    """Inputs offset + k·step for integers k: exact numbers, one of each per input."""

    steps: tuple[Fraction, ...]
    offsets: tuple[Fraction, ...]

    @staticmethod
    def even(n: int, step: Fraction, offset: Fraction = Fraction(0)) -> Grid:
        """The same step and offset for n inputs."""
        return Grid((step,) * n, (offset,) * n)


@dataclass(frozen=True)
class Found:
    """`sat`: the input ``x`` (n,) is in the preimage, exactly, unless ``exact`` is False (then only nearly: an
    algebraic number was approximated, or the network has curves). `unsat`: the preimage is empty. `unknown`:
    ``reason`` tells why."""

    status: Status
    x: tuple[Fraction, ...] = ()
    exact: bool = True
    reason: str = ""


class Preimages:
    """Preimages in one network, asked for again and again; what Z3 learns is kept.

    ``program``: the graph in float64. ``lower``, ``upper`` (n,): the box of all inputs, flattened side by side.
    ``names``: the values that will be constrained; only what they hang on is encoded. ``grid``: of the inputs.
    Raises TooLarge, and Unsupported for an operator without an exact meaning.
    """

    def __init__(
        self,
        program: Program,
        lower: np.ndarray,
        upper: np.ndarray,
        names: Sequence[str],
        grid: Grid | None = None,
        settings: Settings | None = None,
        expired: Callable[[], bool] = lambda: False,
    ):
        self.draft = encode(program, np.asarray(lower, np.float64), np.asarray(upper, np.float64), names)
        if grid is not None:
            builder = self.draft.builder
            builder.conditions.append(on_grid(builder, self.draft.x, grid.steps, grid.offsets))
        self.encoding = self.draft.finished()
        self.solver = SmtSolver(self.encoding, settings, expired)
        self._refined = Refined(self.solver)

    def value(self, name: str) -> list[Form]:
        """The forms of a value's elements, to build conditions with."""
        return list(self.draft.values[name])

    def find(
        self,
        targets: Mapping[str, Ends],
        seconds: float = math.inf,
        domain: Domain | None = None,
        also: Sequence[Condition] = (),
        apart: Sequence[Ends] = (),
    ) -> Found:
        """An input whose values lie in ``targets`` (by name of the value; a point is a box without width).

        ``domain``: a smaller box of inputs, and phases. ``also``: further conditions. ``apart``: boxes of inputs
        in which x must not be.
        """
        conditions = [within(self.value(name), *_listed(ends)) for name, ends in targets.items()]
        conditions += [Any(tuple(outside(self.draft.x, *_listed(ends)))) for ends in apart]
        until = time.monotonic() + seconds
        answer = self._refined.check(domain, lambda: until - time.monotonic(), [*conditions, *also])
        if answer.status is not Status.SAT:
            return Found(answer.status, reason=answer.reason)
        return Found(Status.SAT, tuple(answer.point[v] for v in self.encoding.inputs), answer.exact)


def preimage(
    program: Program,
    lower: np.ndarray,
    upper: np.ndarray,
    targets: Mapping[str, Ends],
    grid: Grid | None = None,
    seconds: float = math.inf,
    expired: Callable[[], bool] = lambda: False,
) -> Found:
    """One question to ``Preimages``; a network that can't be encoded is `unknown`."""
    try:
        asked = Preimages(program, lower, upper, list(targets), grid, expired=expired)
    except (TooLarge, Unsupported) as error:
        return Found(Status.UNKNOWN, reason=str(error))
    return asked.find(targets, seconds)


def _listed(ends: Ends) -> tuple[list[Number], list[Number]]:
    low, high = ([v if isinstance(v, Fraction) else float(v) for v in np.asarray(side).reshape(-1)] for side in ends)
    return low, high
