"""Coefficients of rows over one value, in the least form that holds them, and what can be asked of any form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verinn.bounds.patches import Patches

#: up to this many terms a dot product is left to the kernel; pieces of longer ones are added in float64
SHORT = 2048


@dataclass(frozen=True, eq=False)
class OneHot:
    """Rows that pick single elements of a value: ``index`` (D|1, R) into it flattened, ``sign`` (R,) or (D, R)."""

    index: Tensor
    sign: Tensor

    def dense(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        a = torch.zeros((*self.index.shape, torch.Size(shape).numel()), dtype=dtype, device=self.index.device)
        sign = self.sign.to(dtype).expand(self.index.shape).unsqueeze(-1)
        return a.scatter_(-1, self.index.unsqueeze(-1), sign).reshape(*self.index.shape, *shape)


#: coefficients (D|1, R, …) of rows over one value, in the least form that holds them
Rows = Tensor | OneHot | Patches


def flat(x: Tensor, leading: int = 1) -> Tensor:
    """x with all axes after the leading ones made one, also where there is none."""
    return x.reshape(*x.shape[:leading], -1)


def dot_terms(size: int, dtype: torch.dtype) -> int:
    """How many terms of rounding in the working dtype a ``dot`` over ``size`` elements has."""
    return size if dtype == torch.float64 else min(size, SHORT)


def dot(a: Tensor | Patches, v: Tensor) -> Tensor:
    """Σ a·v over all but the first two axes of a (D|1, R, …) and the first of v (D|1, …): float64 (D, R)."""
    if isinstance(a, Patches):
        return a.dot(v, SHORT)
    a, v = flat(a, 2), flat(v)
    if v.shape[-1] > SHORT:
        pieces = zip(a.split(SHORT, -1), v.split(SHORT, -1), strict=True)
        return torch.stack([dot(part, weights) for part, weights in pieces]).sum(0)
    if a.shape[0] == 1:
        return (v @ a[0].T).double()
    if v.shape[0] == 1:
        return (a @ v[0]).double()
    return torch.bmm(a, v.unsqueeze(-1)).squeeze(-1).double()


def pick(v: Tensor, index: Tensor) -> Tensor:
    """Elements of v (D|1, *S) flattened, by ``index`` (D|1, R): (D|1, R)."""
    values = flat(v)
    batch = max(values.shape[0], index.shape[0])
    return values.expand(batch, -1).gather(1, index.expand(batch, -1))
