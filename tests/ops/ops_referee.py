"""The smooth functions of the catalogue to many digits, and values of any single operator at exact points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
from exact_graph import KNOWN, apply

from verinn.ir.graph import Node

Attrs = Mapping[str, Any]


def _softplus(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x)) if x < 0 else x + mpmath.log1p(mpmath.exp(-x))


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def _gelu_tanh(x: Any) -> Any:
    c = mpmath.mpf(0.044715)
    return x * _sigmoid(2 * mpmath.sqrt(2 / mpmath.pi) * (x + c * x**3))


CURVES: dict[str, Callable[[Any, Attrs], Any]] = {
    "tanh": lambda x, _: mpmath.tanh(x),
    "sigmoid": lambda x, _: _sigmoid(x),
    "atan": lambda x, _: mpmath.atan(x),
    "erf": lambda x, _: mpmath.erf(x),
    "gelu": lambda x, _: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x, _: _gelu_tanh(x),
    "silu": lambda x, _: x * _sigmoid(x),
    "softplus": lambda x, _: _softplus(x),
    "mish": lambda x, _: x * mpmath.tanh(_softplus(x)),
    "elu": lambda x, attrs: x if x >= 0 else mpmath.mpf(attrs["alpha"]) * mpmath.expm1(x),
    "exp": lambda x, _: mpmath.exp(x),
    "log": lambda x, _: mpmath.log(x),
    "sqrt": lambda x, _: mpmath.sqrt(x),
    "pow": lambda x, attrs: mpmath.power(x, mpmath.mpf(attrs["exponent"])),
    "sin": lambda x, _: mpmath.sin(x),
    "cos": lambda x, _: mpmath.cos(x),
    "tan": lambda x, _: mpmath.tan(x),
}


def exactly(x: Fraction) -> Any:
    return mpmath.mpf(x.numerator) / x.denominator


def value(node: Node, xs: list[np.ndarray], params: Mapping[str, np.ndarray]) -> np.ndarray:
    """The node's value for object arrays of Fractions: Fractions where it is rational, else mpf of the working
    precision. Within the domain only."""
    if node.op in KNOWN:
        return apply(node, xs, params)
    out = np.empty(node.shape, dtype=object)
    x = np.vectorize(exactly, otypes=[object])(xs[0]) if xs[0].size else xs[0]
    if node.op in ("softmax", "log_softmax"):
        moved, made = np.moveaxis(x, node.attrs["axis"], -1), np.empty(node.shape, dtype=object)
        view = np.moveaxis(made, node.attrs["axis"], -1)
        for place in np.ndindex(*moved.shape[:-1]):
            top = max(moved[place])
            total = mpmath.fsum(mpmath.exp(v - top) for v in moved[place])
            for k, v in enumerate(moved[place]):
                log = v - top - mpmath.log(total)
                view[(*place, k)] = log if node.op == "log_softmax" else mpmath.exp(log)
        return made
    out[...] = np.vectorize(lambda v: CURVES[node.op](v, node.attrs), otypes=[object])(x)
    return out
