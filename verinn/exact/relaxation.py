"""The triangle relaxation of a ReLU network as a linear programme, and multipliers from its duals.

Every unstable ReLU has an input z and an output h: h ≥ 0, h ≥ z, h below the chord where its phase is open
(Ehlers, ATVA 2017), h = z or h = 0 where it is chosen. Everything else, the stable ReLUs too, is affine and
is composed away. What a violation needs (goals at most zero, phases kept) may be exceeded by t, and t is
minimised: the programme always has an optimum, one above zero means that the domain holds no violation, and
its duals are slopes (alpha) and multipliers (beta, gamma) of a bound that proves it (Salman et al.,
NeurIPS 2019; Wang et al., NeurIPS 2021). With no phase open it is no relaxation: an optimum at or below zero
is a violation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import bmat, csc_matrix, csr_matrix, diags, hstack, identity, vstack
from torch import Tensor

from verinn.bounds.climb import Goals
from verinn.bounds.crown import Relaxation
from verinn.bounds.dual import Columns, Frame, Pieces
from verinn.exact.lp import Answer, Programme
from verinn.ops.base import Affine

#: rows that are pulled back to the inputs together
_BLOCK = 128
#: a dual that is zero but for rounding; programmes are scaled so that the sum of their duals is one
_NOTHING = 1e-8
#: no multiplier is greater: what it weighs is then finite
_MOST = 1e100


@dataclass(frozen=True, eq=False)
class Forms:
    """The affine maps of a network between its unstable ReLUs, rounded to float64.

    Inputs of the U ReLUs: z = inner·(x, h) + inner_c; goals: outer·(x, h) + outer_c, at most zero where a
    violation is. ``inner`` (U, n + U), ``outer`` (G, n + U); x the n inputs, h the ReLUs' outputs.
    ``lower``, ``upper`` (n,): the box. ``unit`` (U,): about the size of each z, to measure it in.
    """

    inner: csr_matrix
    inner_c: np.ndarray
    outer: csr_matrix
    outer_c: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    unit: np.ndarray

    @property
    def neurons(self) -> int:
        return len(self.inner_c)

    @cached_property
    def middle(self) -> np.ndarray:
        return np.asarray(self.lower / 2 + self.upper / 2)

    @cached_property
    def radius(self) -> np.ndarray:
        return np.asarray(np.maximum(self.upper - self.middle, self.middle - self.lower))


def supported(relaxation: Relaxation) -> bool:
    """Whether all of the network's nonlinear steps are ReLUs."""
    return all(isinstance(step.op, Affine) or step.node.op == "relu" for step in relaxation.program.steps)


def forms_of(relaxation: Relaxation, columns: Columns, goals: Goals, lower: Tensor, upper: Tensor) -> Forms:
    """Forms of a supported network; ``relaxation`` of one domain in float64, lower and upper (1, n)."""
    frame = Frame.of(relaxation, lower, upper, columns)
    blocks = [_neurons(frame, i, part) for i in range(len(columns.names)) for part in columns.index[i].split(_BLOCK)]
    one = torch.eye(len(goals), dtype=torch.float64, device=lower.device)
    outer, outer_c = _pulled(frame, *goals.start(relaxation.program, one))
    width = lower.shape[1] + columns.count
    inner = vstack([rows for rows, _ in blocks], format="csr") if blocks else csr_matrix((0, width))
    inner_c = np.concatenate([c for _, c in blocks]) if blocks else np.zeros(0)
    box = lower[0].cpu().numpy(), upper[0].cpu().numpy()
    return Forms(inner, inner_c, outer, outer_c, *box, _units(relaxation, columns))


def _units(relaxation: Relaxation, columns: Columns) -> np.ndarray:
    """None of them much smaller than the rest: of a neuron that hardly moves rounding would make all there is."""
    sizes = {name: relaxation.size(name) for name in columns.sources}
    size = columns.gather(sizes)[0].cpu().numpy() if columns.count else np.zeros(0)
    return np.asarray(np.maximum(size, max(size.max(initial=0.0) * 1e-4, 1e-30)))


def _neurons(frame: Frame, step: int, index: Tensor) -> tuple[csr_matrix, np.ndarray]:
    """Rows of some inputs of one ReLU step."""
    source, program = frame.columns.sources[step], frame.program
    shape = program.shapes[source]
    one = torch.zeros((len(index), torch.Size(shape).numel()), dtype=program.dtype, device=index.device)
    one.scatter_(1, index.unsqueeze(1), 1.0)
    return _pulled(frame, {source: one.reshape(-1, *shape)}, one.new_zeros(len(index)))


def _pulled(frame: Frame, start: dict[str, Tensor], const: Tensor) -> tuple[csr_matrix, np.ndarray]:
    """Rows over (x, h) of linear forms over values: unstable ReLUs pass nothing on."""
    count, size = frame.columns.count, len(const)
    nothing = const.new_zeros((1, count))
    trace = frame.back(start, const, Pieces(nothing, nothing, nothing, nothing.bool()), None)
    parts = [
        trace.inputs[v.name].flatten(1) if v.name in trace.inputs else const.new_zeros((size, math.prod(v.shape)))
        for v in frame.program.graph.inputs
    ]
    for i, index in enumerate(frame.columns.index):
        parts.append(trace.a[i] if i in trace.a else const.new_zeros((size, len(index))))
    return csr_matrix(torch.cat(parts, 1).cpu().numpy()), trace.const.expand(size).cpu().numpy()


@dataclass(frozen=True, eq=False)
class Duals:
    """Multipliers of one domain: ``alpha``, ``beta`` (U,), ``gamma`` (G,), and the point x (n,), t beside it.

    ``beta`` belongs to phases of all ReLUs that have one, z ≤ 0 or z ≥ 0. Together beta and gamma,
    weighed by the sizes of their rows, make one; ``value`` = t is then the bound. ``still`` bool (n,): inputs
    that the multipliers leave without a coefficient.
    """

    alpha: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray
    x: np.ndarray
    value: float
    still: np.ndarray


@dataclass(frozen=True, eq=False)
class Domain:
    """The programme of one domain. ``low``, ``high`` (U,): intervals of the ReLUs' inputs, float64.

    Variables in units of their size: x about the box's middle, z, h, and t. Rows: what z is; h − z; h under
    its chord; phases; goals.
    """

    forms: Forms
    low: np.ndarray
    high: np.ndarray

    @cached_property
    def free(self) -> np.ndarray:
        return (self.low < 0) & (self.high > 0)

    @cached_property
    def phase(self) -> np.ndarray:
        """1 where z ≤ 0, −1 where z ≥ 0, 0 where open."""
        return np.where(self.high <= 0, 1.0, np.where(self.low >= 0, -1.0, 0.0))

    @cached_property
    def _inner(self) -> csr_matrix:
        scale = diags(np.concatenate([self.forms.radius, self.forms.unit]))
        return (diags(1 / self.forms.unit) @ self.forms.inner @ scale).tocsr()

    @cached_property
    def _outer(self) -> tuple[csr_matrix, np.ndarray, np.ndarray]:
        """Goals in units of their size (rows, constants), and that size."""
        forms = self.forms
        rows = (forms.outer @ diags(np.concatenate([forms.radius, self.forms.unit]))).tocsr()
        c = forms.outer_c + forms.outer[:, : len(forms.middle)] @ forms.middle
        size = np.maximum(np.asarray(abs(rows).max(1).todense()).ravel(), np.abs(c) * 1e-3)
        size = np.where(size > 0, size, 1.0)
        return (diags(1 / size) @ rows).tocsr(), c / size, size

    @cached_property
    def programme(self) -> Programme:
        forms, count, n = self.forms, self.forms.neurons, len(self.forms.middle)
        free, phase, unit = self.free, self.phase, forms.unit
        outer, outer_c, _ = self._outer
        up = np.where(free, self.high / np.where(free, self.high - self.low, 1.0), 0.0)
        eye = identity(count, format="csr")
        one, inner = np.ones((count, 1)), self._inner
        fixed = np.flatnonzero(phase)
        matrix = (
            bmat(
                [
                    [-inner[:, :n], eye, -inner[:, n:], None],
                    [None, -eye, eye, None],
                    [None, -diags(up).tocsr()[free], eye[free], None],
                    [None, diags(phase).tocsr()[fixed], None, -one[fixed]],
                    [outer[:, :n], None, outer[:, n:], -np.ones((outer.shape[0], 1))],
                ],
                format="csc",
            )
            if count
            else hstack([outer, -np.ones((outer.shape[0], 1))], format="csc")
        )
        centre = (forms.inner_c + forms.inner[:, :n] @ forms.middle) / unit
        shut = (phase > 0) & (self.low < 0)  # h = 0, however z
        endless, some = np.full(count, np.inf), np.zeros(len(fixed) + len(outer_c))
        cost = np.zeros(matrix.shape[1])
        cost[-1] = 1.0
        wide = np.ones(n)
        return Programme(
            cost,
            csc_matrix(matrix),
            np.concatenate([centre, np.where(shut, -np.inf, 0.0), np.full(free.sum() + len(some), -np.inf)]),
            np.concatenate(
                [
                    centre,
                    np.where(self.low >= 0, 0.0, np.inf),
                    (-up * self.low / unit)[free],
                    some[: len(fixed)],
                    -outer_c,
                ]
            ),
            np.concatenate([-wide, -endless, np.where(free | shut, 0.0, -np.inf), [-np.inf]]),
            np.concatenate([wide, endless, np.where(shut, 0.0, np.inf), [np.inf]]),
        )

    @property
    def inside(self) -> Programme:
        """The programme of a point that keeps the goals and is as far inside the phases as can be: one that
        rounding doesn't take out of them."""
        whole = self.programme
        matrix = whole.matrix.tolil()
        matrix[len(whole.row_upper) - self.forms.outer.shape[0] :, -1] = 0.0
        lower = whole.lower.copy()
        lower[-1] = -1.0  # phases are in units of their neurons
        return replace(whole, matrix=csc_matrix(matrix), lower=lower)

    def duals(self, answer: Answer) -> Duals:
        """Multipliers from a claimed optimum: whatever it claims, they are finite and of the right sign."""
        count, n = self.forms.neurons, len(self.forms.middle)
        widths = np.cumsum([count, count, self.free.sum(), np.count_nonzero(self.phase)])
        _, over, _, kept, goals = np.split(answer.row_dual, widths)
        steep = np.where(self.free, over.clip(min=0), 0.0)
        flat = answer.reduced[n + count : n + 2 * count].clip(min=0)
        total = steep + flat
        alpha = np.divide(steep, total, out=np.zeros(count), where=total > 0)
        beta = np.zeros(count)
        beta[self.phase != 0] = (-kept).clip(min=0)
        gamma = (-goals).clip(min=0)
        return Duals(
            alpha,
            (beta / self.forms.unit).clip(max=_MOST),
            (gamma / self._outer[2]).clip(max=_MOST),
            self.point(answer),
            float(answer.x[-1]),
            (np.abs(answer.reduced[:n]) < _NOTHING) & (self.forms.radius > 0),
        )

    def point(self, answer: Answer) -> np.ndarray:
        """The inputs (n,) of an answer, inside the box."""
        x = self.forms.middle + answer.x[: len(self.forms.middle)] * self.forms.radius
        return np.asarray(np.minimum(np.maximum(x, self.forms.lower), self.forms.upper))
