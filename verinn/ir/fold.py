"""Elementwise core operators of constants: the value in float64 and a bound on its distance from the exact one.

Piecewise-linear functions and steps are exact where their argument is. Of the others NumPy's float64
functions are taken to err by at most 16 units in the last place; an argument's own error is carried
through by a Lipschitz constant, or by the values at both ends where the function is monotone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from verinn.ir import const as c
from verinn.ir.graph import Const

_EPS = 2.0**-52
_ROUNDING = 16 * _EPS
_ONE = Const(np.ones(()))
_HALF = 0.7071067811865476  # 1/√2
_GELU = 0.7978845608028654  # √(2/π)

Array = np.ndarray
Function = Callable[[Array], Array]


class DomainError(ValueError):
    """A function is asked for a value that it hasn't: the text says which."""


def fold(op: str, x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    """``op`` (a core operator of one input) of a float constant. ValueError when it can't be bounded."""
    special = _SPECIAL.get(op)
    if special is not None:
        return special(x, attrs, params)
    if op in _STEPS:
        return c.whole(x, _STEPS[op])
    if op in _LIPSCHITZ:
        function, constant = _LIPSCHITZ[op]
        return _carried(x, function(x.value), lambda error: error * constant)
    return _monotone(x, *_MONOTONE[op])


def _carried(x: Const, value: Array, carry: Callable[[Array], Array]) -> Const:
    lost = _ROUNDING * (1.0 + np.abs(value) + np.abs(x.value))
    return c.make(value, c.up(lost if x.error is None else lost + carry(x.error)))


def _monotone(x: Const, function: Function, relative: bool) -> Const:
    low, high = (x.value, x.value) if x.error is None else (x.value - x.error, x.value + x.error)
    value = function(x.value)
    size = np.abs(value)
    lost = _ROUNDING * size + c.TINY * 16 if relative else _ROUNDING * (1.0 + size)
    if x.error is not None:
        ends = np.abs(function(low) - value), np.abs(function(high) - value)
        lost = lost + np.maximum(*ends) + _ROUNDING * (size + np.maximum(*ends))
    return c.make(value, c.up(lost))


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _softplus(x: Array) -> Array:
    return np.asarray(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


def _piecewise(x: Const, slope: Const) -> Const:
    """x for x ≥ 0, slope · x below."""
    zero = Const(np.zeros(()))
    positive, negative = c.maximum(x, zero), c.minimum(x, zero)
    return c.add(positive, c.mul(negative, slope))


def _clip(x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    low = c.maximum(x, Const(np.array(float(attrs["lower"]))))
    return c.minimum(low, Const(np.array(float(attrs["upper"]))))


def _hard_swish(x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    """x · clip(x / 6 + 1/2, 0, 1)."""
    line = c.add(c.div(x, Const(np.array(6.0))), Const(np.array(0.5)))
    return c.mul(x, _clip(line, {"lower": 0.0, "upper": 1.0}, {}))


def _elu(x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    alpha = float(attrs["alpha"])
    negative = np.minimum(x.value, 0.0)
    value = np.where(x.value > 0.0, x.value, alpha * np.expm1(negative))
    return _carried(x, value, lambda error: error * max(1.0, abs(alpha)) * (1.0 + _EPS))


def _step(x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    if attrs["strict"]:
        return c.whole(x, lambda v: (v > 0).astype(np.float64))
    return c.whole(x, lambda v: (v >= 0).astype(np.float64))


def _reciprocal(x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    if np.any(np.abs(x.value) <= c.error_of(x)):
        raise DomainError("takes the reciprocal of zero")
    return c.div(_ONE, x)


def _sqrt(x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    if np.any(x.value - c.error_of(x) < 0.0):
        raise DomainError("takes the root of a negative number")
    return c.sqrt(x)


def _log(x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    if np.any(x.value - c.error_of(x) <= 0.0):
        raise DomainError("takes the logarithm of a number that isn't positive")
    return _monotone(x, np.log, False)


def _tan(x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    if x.error is not None:
        raise ValueError("takes the tangent of a constant that isn't known exactly")
    return _monotone(x, np.tan, True)


def _pow(x: Const, attrs: Mapping[str, Any], params: Mapping[str, Const]) -> Const:
    exponent = float(attrs["exponent"])
    if exponent == int(exponent) and abs(exponent) <= 64:
        result = Const(np.ones(x.shape))
        for _ in range(abs(int(exponent))):
            result = c.mul(result, x)
        return result if exponent >= 0 else _reciprocal(result, {}, {})
    if exponent == 0.5:
        return _sqrt(x, {}, {})
    if exponent == int(exponent) or np.any(x.value - c.error_of(x) <= 0.0):
        raise DomainError(f"takes the power {exponent:g} of a number that isn't positive")
    return _monotone(x, lambda v: np.power(v, exponent), True)


_SPECIAL: dict[str, Callable[[Const, Mapping[str, Any], Mapping[str, Const]], Const]] = {
    "relu": lambda x, attrs, params: c.maximum(x, Const(np.zeros(()))),
    "abs": lambda x, attrs, params: c.absolute(x),
    "leaky_relu": lambda x, attrs, params: _piecewise(x, Const(np.array(float(attrs["alpha"])))),
    "prelu": lambda x, attrs, params: _piecewise(x, params["slope"]),
    "clip": _clip,
    "hard_swish": _hard_swish,
    "elu": _elu,
    "step": _step,
    "reciprocal": _reciprocal,
    "sqrt": _sqrt,
    "log": _log,
    "tan": _tan,
    "pow": _pow,
}
_STEPS: dict[str, Function] = {"sign": np.sign, "floor": np.floor, "ceil": np.ceil, "round": np.rint}
# Function and Lipschitz constant.
_LIPSCHITZ: dict[str, tuple[Function, float]] = {
    "sin": (np.sin, 1.0),
    "cos": (np.cos, 1.0),
    "gelu": (lambda x: x * 0.5 * (1.0 + _erf(x * _HALF)), 1.2),
    "gelu_tanh": (lambda x: x * 0.5 * (1.0 + np.tanh(_GELU * (x + 0.044715 * x * x * x))), 1.2),
    "silu": (lambda x: x * _sigmoid(x), 1.2),
    "mish": (lambda x: x * np.tanh(_softplus(x)), 1.2),
}
# Function, and whether its error is relative to its value.
_MONOTONE: dict[str, tuple[Function, bool]] = {
    "sigmoid": (_sigmoid, False),
    "tanh": (np.tanh, False),
    "atan": (np.arctan, False),
    "erf": (_erf, False),
    "softplus": (_softplus, False),
    "exp": (np.exp, True),
}
