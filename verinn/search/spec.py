"""The output side of a property as tensors: rows of numbers that a violation needs to be at most zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from verinn.ir.prop import Case, Rows, SparseMatrix

#: conjunctions of one case that are bounded in one pass; more are decided in turns
MOST_CONJUNCTIONS = 256
#: numbers in the row matrices of one group
MOST_NUMBERS = 1 << 24


@dataclass(frozen=True, eq=False)
class Spec:
    """S cases of one layout: J conjunctions over R rows. All float64 but where said.

    Row r of case s is f = y[s, r]·Y + x[s, r]·X − rhs[s, r]; conjunction j is violated where f ≤ 0
    (f < 0 where ``strict``) for all its rows, those with ``owner`` == j. ``y_error``, ``x_error``:
    how far coefficients may be from the exact numbers, or None. ``cut``/``cut_c``: (S, G, n), (S, G),
    input constraints cut·X + cut_c ≤ 0. ``lower``/``upper``: (S, n) boxes; ``cases``: whom they came from.
    """

    y: Tensor
    x: Tensor | None
    rhs: Tensor
    strict: Tensor  # bool (S, R)
    owner: Tensor  # int64 (R,)
    y_error: Tensor | None
    x_error: Tensor | None
    cut: Tensor
    cut_c: Tensor
    lower: Tensor
    upper: Tensor
    cases: tuple[Case, ...]
    exact: bool

    @property
    def conjunctions(self) -> int:
        return int(self.owner.max()) + 1

    def values(self, case: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """f of all rows at points: case (P,), x (P, n), y (P, m) → (P, R)."""
        rows = self.y[case] if len(self.cases) > 1 else self.y[:1]
        f = (rows @ y.unsqueeze(-1)).squeeze(-1) - self.rhs[case]
        return f if self.x is None else f + (self.x[case] @ x.unsqueeze(-1)).squeeze(-1)

    def to(self, device: torch.device) -> Spec:
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]


def groups(cases: Sequence[Case]) -> Iterator[Spec]:
    """Cases gathered by layout, in order of first appearance; sizes are bounded, nothing is left out."""
    waiting: dict[tuple[int, ...], list[tuple[Case, tuple[Rows, ...]]]] = {}
    for case in cases:
        parts = case.conjunctions
        for start in range(0, len(parts), MOST_CONJUNCTIONS):
            some = parts[start : start + MOST_CONJUNCTIONS]
            key = (len(case.input_rows), *[len(rows) for rows in some])
            bucket = waiting.setdefault(key, [])
            bucket.append((case, some))
            height = max(1, sum(key[1:])) * max(1, _width(some))
            if len(bucket) * height >= MOST_NUMBERS:
                yield _build(waiting.pop(key))
    for bucket in waiting.values():
        yield _build(bucket)


def _width(parts: Sequence[Rows]) -> int:
    return max((rows.y.width for rows in parts), default=1)


def _build(bucket: Sequence[tuple[Case, tuple[Rows, ...]]]) -> Spec:
    owner = [j for j, rows in enumerate(bucket[0][1]) for _ in range(max(1, len(rows)))]
    y = np.stack([_stack([rows.y for rows in parts]) for _, parts in bucket])
    x = np.stack([_stack([rows.x for rows in parts]) for _, parts in bucket])
    y_error = np.stack([_stack([rows.y_error or _nothing(rows.y) for rows in parts]) for _, parts in bucket])
    x_error = np.stack([_stack([rows.x_error or _nothing(rows.x) for rows in parts]) for _, parts in bucket])
    rhs = np.stack([np.concatenate([rows.rhs if len(rows) else np.zeros(1) for rows in parts]) for _, parts in bucket])
    strict = np.stack(
        [np.concatenate([rows.strict if len(rows) else np.zeros(1, bool) for rows in parts]) for _, parts in bucket]
    )
    cut, cut_c = _cuts([case for case, _ in bucket])
    return Spec(
        y=torch.from_numpy(y),
        x=torch.from_numpy(x) if x.any() or x_error.any() else None,
        rhs=torch.from_numpy(rhs),
        strict=torch.from_numpy(strict),
        owner=torch.tensor(owner, dtype=torch.int64),
        y_error=torch.from_numpy(y_error) if y_error.any() else None,
        x_error=torch.from_numpy(x_error) if x_error.any() else None,
        cut=cut,
        cut_c=cut_c,
        lower=torch.from_numpy(np.stack([case.lower for case, _ in bucket])),
        upper=torch.from_numpy(np.stack([case.upper for case, _ in bucket])),
        cases=tuple(case for case, _ in bucket),
        exact=all(case.exact for case, _ in bucket),
    )


def _stack(parts: Sequence[SparseMatrix]) -> np.ndarray:
    """Dense rows one under the other; a conjunction without rows gets a row of zeros (0 ≤ 0 holds)."""
    return np.concatenate([part.dense() if part.rows else np.zeros((1, part.width)) for part in parts])


def _nothing(like: SparseMatrix) -> SparseMatrix:
    return SparseMatrix(like.indptr, like.index, np.zeros_like(like.value), like.width)


def _cuts(cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
    """Input constraints as rows a·x + c ≤ 0; inexact coefficients weaken c by what they can do in the box."""
    a = np.stack([case.input_rows.x.dense() for case in cases])
    c = np.stack([-case.input_rows.rhs for case in cases]).astype(np.float64)
    for s, case in enumerate(cases):
        if case.input_rows.x_error is not None:
            reach = np.maximum(abs(case.lower), abs(case.upper))
            cost = np.nan_to_num((case.input_rows.x_error.dense() * reach).sum(-1) * (1 + 1e-12), nan=np.inf)
            c[s] = np.nextafter(c[s] - cost, -np.inf)
    return torch.from_numpy(a), torch.from_numpy(c)
