"""The bounds with parts of their rounding taken away: each must be caught by some crafted network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from verinn.bounds import crown, domain, interval
from verinn.ops import activation, program

Patch = pytest.MonkeyPatch


def gamma_of_crown(patch: Patch) -> None:
    patch.setattr(crown, "gamma", lambda terms, dtype: 0.0)


def gamma_of_intervals(patch: Patch) -> None:
    patch.setattr(interval, "gamma", lambda terms, dtype: 0.0)


def unit_of_crown(patch: Patch) -> None:
    """What coefficients times slopes and sums of coefficients lose, and the constants in float64."""
    patch.setattr(crown, "unit", lambda dtype: 0.0)


def outward(patch: Patch) -> None:
    patch.setattr(interval, "outward", lambda lower, upper: (lower, upper))


def plain_centre(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    return lower / 2 + upper / 2, (upper - lower) / 2


def centres(patch: Patch) -> None:
    patch.setattr(interval, "centre", plain_centre)
    patch.setattr(crown, "centre", plain_centre)


def narrow(patch: Patch) -> None:
    """The step from float64 back to the search's dtype."""
    patch.setattr(domain, "narrow", lambda x, dtype: x.to(dtype))


def ulps_of_lines(patch: Patch) -> None:
    patch.setattr(activation, "ulps", lambda x, count: torch.zeros_like(x))


def underflow(patch: Patch) -> None:
    """Everything that pays for underflow, relative terms left alone."""
    for module in (crown, interval):
        patch.setattr(module, "tiny", lambda dtype: 0.0)
    eps = torch.finfo
    patch.setattr(interval, "outward", lambda a, b: (a - a.abs() * eps(a.dtype).eps, b + b.abs() * eps(b.dtype).eps))
    for module in (crown, interval):
        patch.setattr(module, "centre", _centre_without_tiny)


def _centre_without_tiny(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    c = lower / 2 + upper / 2
    return c, torch.maximum(upper - c, c - lower) * (1 + 4 * torch.finfo(lower.dtype).eps)


def weight_errors(patch: Patch) -> None:
    """Weights taken as exact that are not."""
    known = program._round

    def careless(*args: object) -> tuple[Tensor, None]:
        return known(*args)[0], None  # type: ignore[arg-type]

    patch.setattr(program, "_round", careless)


def everything(patch: Patch) -> None:
    for part in (gamma_of_crown, gamma_of_intervals, unit_of_crown, underflow, outward, centres, narrow, ulps_of_lines):
        part(patch)
    patch.setattr(crown, "sum_slack", lambda terms, dtype: 1.0)


BOTH = (torch.float32, torch.float64)

#: each mutant with the dtypes in which it must be caught alone (in the others another term happens to pay)
MUTANTS: list[tuple[Callable[[Patch], None], tuple[torch.dtype, ...]]] = [
    (everything, BOTH),
    (gamma_of_crown, BOTH),
    (gamma_of_intervals, BOTH),
    (unit_of_crown, (torch.float64,)),
    (outward, BOTH),
    (ulps_of_lines, (torch.float32,)),
    (underflow, BOTH),
    (weight_errors, BOTH),
]
