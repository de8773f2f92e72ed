"""The catalogue of smooth scalar functions: what is special about each."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verinn.ir.graph import Node
from verinn.ops.curve import ELEMENTARY, TINY, Bends, Curve

#: beyond this, the reduction of an argument by multiples of π is not worth its error: sin and cos are anywhere
FAR = 1e6
_GELU = math.sqrt(2 / math.pi)


class SShaped(Curve):
    """Convex left of zero, concave right of it."""

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        return Bends((1, -1), ((0.0, 0.0),))


class Tanh(SShaped):
    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.tanh()

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return 1 - x.tanh().square()

    def range(self, node: Node) -> tuple[float, float]:
        return -1.0, 1.0


class Sigmoid(SShaped):
    """1/(1 + exp(−x))."""

    def slope(self, node: Node, x: Tensor) -> Tensor:
        y = x.sigmoid()
        return y * (1 - y)

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.sigmoid()

    def error(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(y, 4 * ELEMENTARY)

    def range(self, node: Node) -> tuple[float, float]:
        return 0.0, 1.0


class Atan(SShaped):
    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.atan()

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return 1 / (1 + x.square())


class Erf(SShaped):
    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.erf()

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return 2 / math.sqrt(math.pi) * torch.exp(-x.square())

    def range(self, node: Node) -> tuple[float, float]:
        return -1.0, 1.0


class Exp(Curve):
    steep = 0.0

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return x.exp()

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        return Bends((1,))

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.exp()

    def range(self, node: Node) -> tuple[float, float]:
        return 0.0, math.inf


class Softplus(Curve):
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(−|x|))."""

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return x.sigmoid()

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        return Bends((1,))

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    def error(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        return y.abs() * (4 * ELEMENTARY) + TINY

    def range(self, node: Node) -> tuple[float, float]:
        return 0.0, math.inf


class Elu(Curve):
    """x for x ≥ 0, alpha·(exp(x) − 1) below (attrs alpha)."""

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return torch.where(x > 0, 1.0, node.attrs["alpha"] * torch.exp(x.clamp(max=0)))

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        alpha = node.attrs["alpha"]
        return Bends((math.copysign(1, alpha), 0), ((0.0, 0.0),), (float(np.sign(1 - alpha)),))

    def value(self, node: Node, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, node.attrs["alpha"] * torch.expm1(x.clamp(max=0)))

    def error(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        return y.abs() * (2 * ELEMENTARY) + TINY

    def extremes(self, node: Node, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, float]]:
        return [((lower <= 0) & (upper >= 0), 0.0)]  # where alpha < 0


class Log(Curve):
    steep = 0.0
    margin = 1e-4

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return 1 / x

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        return Bends((-1,))

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.log()

    def defined(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor | None:
        return lower > 0


class Sqrt(Curve):
    steep = 0.0
    margin = 1e-4

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return 0.5 / x.sqrt()

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        return Bends((-1,))

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.sqrt()

    def defined(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor | None:
        return lower >= 0

    def range(self, node: Node) -> tuple[float, float]:
        return 0.0, math.inf


class Reciprocal(Curve):
    """1/x; infinite bounds where an interval reaches zero."""

    steep = 0.0
    margin = 1e-4

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return -1 / x.square()

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        return Bends((lower.sign(),))

    def value(self, node: Node, x: Tensor) -> Tensor:
        return 1 / x

    def defined(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor | None:
        return (lower > 0) | (upper < 0)


class Pow(Curve):
    """x^exponent (attrs exponent), over the reals for whole exponents, else for x ≥ 0 (x > 0 if negative)."""

    steep = 0.0

    def slope(self, node: Node, x: Tensor) -> Tensor:
        p = float(node.attrs["exponent"])
        return torch.zeros_like(x) if p == 0 else p * x.pow(p - 1)

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        p = float(node.attrs["exponent"])
        right = float(np.sign(p * (p - 1)))
        if not p.is_integer() or p % 2 == 0:
            return Bends((right,))
        if p < 0:
            return Bends((lower.sign() * right,))
        return Bends((-right, right), ((0.0, 0.0),))

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.pow(float(node.attrs["exponent"]))

    def error(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        return y.abs() * (4 * ELEMENTARY) + TINY

    def defined(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor | None:
        p = float(node.attrs["exponent"])
        if p.is_integer():
            return None if p >= 0 else (lower > 0) | (upper < 0)
        return lower >= 0 if p > 0 else lower > 0

    def extremes(self, node: Node, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, float]]:
        p = float(node.attrs["exponent"])
        return [((lower <= 0) & (upper >= 0), 0.0)] if p > 0 and p % 2 == 0 else []


class Sin(Curve):
    """sin; ``phase`` · π/2 is added to the argument's place in the period."""

    phase = 0.0

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.sin()

    def error(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(x.abs() <= FAR, ELEMENTARY, 2.0).to(y)

    def range(self, node: Node) -> tuple[float, float]:
        return -1.0, 1.0

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return x.cos()

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        """Concave where the function is positive; three zeros are enough for less than a period."""
        shift = self.phase / 2
        slack = 1e-12 + lower.abs() * 1e-14
        first = (lower / math.pi + shift - slack).floor() + 1  # the number of the first zero in reach
        near = (lower.abs() < FAR) & (upper.abs() < FAR) & (upper - lower < 2 * math.pi)
        zeros = [(first + k - shift) * math.pi for k in range(3)]
        error = [zero.abs() * 4e-16 for zero in zeros]
        odd = 1 - 2 * (first - 1).remainder(2)  # +1: positive between zeros number first − 1 and first
        breaks = [(zero - e, zero + e) for zero, e in zip(zeros, error, strict=True)]
        return Bends((-odd, odd, -odd, odd), breaks, valid=near)

    def extremes(self, node: Node, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, float]]:
        first = lower / (2 * math.pi) + self.phase / 4
        last = upper / (2 * math.pi) + self.phase / 4
        slack = 1e-12 + (lower.abs() + upper.abs()) * 1e-14
        wide = ~(upper - lower < 2 * math.pi) | (lower.abs() > FAR) | (upper.abs() > FAR)

        def inside(place: float) -> Tensor:
            return wide | ((last + slack - place).floor() > (first - slack - place).floor())

        return [(inside(0.25), 1.0), (inside(0.75), -1.0)]


class Cos(Sin):
    phase = 1.0

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.cos()

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return -x.sin()


class Tan(Curve):
    """tan; infinite bounds where an interval reaches a pole, and far from zero."""

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return 1 + x.tan().square()

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        zero = (lower / (2 * math.pi) + upper / (2 * math.pi)).round() * math.pi
        error = zero.abs() * 4e-16
        return Bends((-1, 1), ((zero - error, zero + error),))

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x.tan()

    def defined(self, node: Node, lower: Tensor, upper: Tensor) -> Tensor | None:
        first, last = lower / math.pi + 0.5, upper / math.pi + 0.5
        slack = 1e-12 + (lower.abs() + upper.abs()) * 1e-14
        near = (lower.abs() < FAR) & (upper.abs() < FAR)
        return near & ((first - slack).floor() == (last + slack).floor())


class _Dipped(Curve):
    """x times a sigmoidal function: falls to one minimum left of zero, then rises."""

    #: an interval that holds the place of the minimum, and a lower bound of it
    dip: tuple[float, float]
    least: float
    #: where it turns from concave to convex, and back, to within the last places
    turns: tuple[float, float]

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        return Bends((-1, 1, -1), [(turn - 4e-15, turn + 4e-15) for turn in self.turns])

    def range(self, node: Node) -> tuple[float, float]:
        return self.least, math.inf

    def error(self, node: Node, x: Tensor, y: Tensor) -> Tensor:
        return x.abs() * (6 * ELEMENTARY) + TINY

    def extremes(self, node: Node, lower: Tensor, upper: Tensor) -> list[tuple[Tensor, float]]:
        return [((lower <= self.dip[1]) & (upper >= self.dip[0]), self.least)]


class Gelu(_Dipped):
    """x Φ(x), Φ(x) = (1 + erf(x/√2))/2."""

    dip, least = (-0.751791524693566, -0.751791524693563), -0.169971207479904

    turns = -math.sqrt(2), math.sqrt(2)

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x * (0.5 * (1 + torch.erf(x * math.sqrt(0.5))))

    def slope(self, node: Node, x: Tensor) -> Tensor:
        density = torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(x * math.sqrt(0.5))) + x * density


class GeluTanh(_Dipped):
    """x (1 + tanh(√(2/π)(x + 0.044715 x³)))/2."""

    dip, least = (-0.752461422071018, -0.752461422071015), -0.170040750571255

    turns = -1.4185040087908284, 1.4185040087908284

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x * (0.5 * (1 + torch.tanh(self._inner(x))))

    def slope(self, node: Node, x: Tensor) -> Tensor:
        y, near = torch.tanh(self._inner(x)), x.clamp(-30, 30)
        return 0.5 * (1 + y) + near * (0.5 * (1 - y * y)) * _GELU * (1 + 3 * 0.044715 * near.square())

    def _inner(self, x: Tensor) -> Tensor:
        near = x.clamp(-30, 30)  # where tanh is ±1 to the last place
        return _GELU * (near + 0.044715 * near.pow(3))


class Silu(_Dipped):
    """x/(1 + exp(−x))."""

    dip, least = (-1.278464542761076, -1.278464542761072), -0.278464542761074

    turns = -2.3993572805154677, 2.3993572805154677

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x * x.sigmoid()

    def slope(self, node: Node, x: Tensor) -> Tensor:
        y = x.sigmoid()
        return y + x * y * (-x).sigmoid()


class Mish(_Dipped):
    """x tanh(log(1 + exp(x))) = x (e² + 2e)/(e² + 2e + 2), e = exp(x)."""

    dip, least = (-1.192431214515498, -1.192431214515493), -0.308843413017251

    turns = -2.256376396360793, 1.4905711794854284

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x * torch.tanh(F.softplus(x, threshold=50.0))

    def slope(self, node: Node, x: Tensor) -> Tensor:
        y = torch.tanh(F.softplus(x, threshold=50.0))
        return y + x * (1 - y * y) * x.sigmoid()


class HardSwish(_Dipped):
    """x · min(max(x + 3, 0), 6)/6."""

    dip, least = (-1.5, -1.5), -0.375

    turns = -3.0, 3.0

    def value(self, node: Node, x: Tensor) -> Tensor:
        return x * ((x + 3).clamp(0, 6) / 6)

    def slope(self, node: Node, x: Tensor) -> Tensor:
        return torch.where(x > 3, 1.0, torch.where(x < -3, 0.0, x / 3 + 0.5))

    def bends(self, node: Node, lower: Tensor, upper: Tensor) -> Bends:
        return Bends((0, 1, 0), ((-3.0, -3.0), (3.0, 3.0)), (-1, -1))
