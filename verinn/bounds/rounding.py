"""Rounding, bounded and never ignored.

The standard model of floating point (Higham, *Accuracy and Stability of Numerical Algorithms*, ch. 3):
a sum of n products, in any order, with or without fused multiply-add, is off by at most
γₙ Σ|aᵢ||bᵢ| with γₙ = n·u/(1 − n·u), plus n times the underflow threshold. Kernels whose error this
does not cover (TF32, Winograd, FFT) are switched off by ``exact_kernels``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor


def unit(dtype: torch.dtype) -> float:
    """The unit roundoff u: half the distance from 1 to the next number."""
    return float(torch.finfo(dtype).eps) / 2


def tiny(dtype: torch.dtype) -> float:
    """Bounds the loss of one operation by underflow, also where kernels flush subnormal numbers."""
    return float(torch.finfo(dtype).tiny)


def gamma(terms: float, dtype: torch.dtype) -> float:
    """γ for ``terms`` operations, with room for its own rounding; infinite where it says nothing."""
    product = terms * unit(dtype)
    return math.inf if product >= 0.2 else product / (1 - product) * 1.0001


def sum_slack(terms: int, dtype: torch.dtype) -> float:
    """A factor ≥ 1: a computed sum of ``terms`` non-negative products times it is at least the true one."""
    return 1 + 2 * gamma(terms + 4, dtype)


def cast_down(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 → ``dtype``, never above x."""
    y = x.to(dtype)
    if dtype == torch.float64:
        return y
    return torch.where(y.double() > x, torch.nextafter(y, torch.full_like(y, -math.inf)), y)


def cast_up(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 → ``dtype``, never below x."""
    return -cast_down(-x, dtype)


def outward(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Moves both ends outward by an ulp: covers one rounded addition each."""
    eps, least = torch.finfo(lower.dtype).eps, torch.finfo(lower.dtype).tiny
    return lower - (lower.abs() * eps + least), upper + (upper.abs() * eps + least)


def centre(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """(c, r) in the dtype at hand with [c − r, c + r] ⊇ [lower, upper] in exact arithmetic."""
    c = lower / 2 + upper / 2
    r = torch.maximum(upper - c, c - lower)
    return c, r * (1 + 4 * torch.finfo(r.dtype).eps) + torch.finfo(r.dtype).tiny


@contextlib.contextmanager
def exact_kernels() -> Iterator[None]:
    """Only kernels that the standard model covers: no TF32 or bfloat16 products, no cuDNN and no NNPACK
    (they may pick Winograd or FFT)."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # set for CUDA alone by the older switch
        before = "high" if torch.backends.cuda.matmul.allow_tf32 else "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.backends.cudnn.flags(enabled=False, allow_tf32=False),
            torch.backends.nnpack.flags(enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
