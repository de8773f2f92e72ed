"""Networks and boxes built to provoke rounding, all seeded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from exact_graph import Build, exact

from verinn.ir.graph import Const, Graph

Rng = np.random.Generator


def f32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def spread(rng: Rng, shape: tuple[int, ...], decades: float) -> np.ndarray:
    """Numbers of either sign whose sizes cover so many decades either way."""
    return f32(rng.choice([-1.0, 1.0], shape) * 10.0 ** rng.uniform(-decades, decades, shape))


def layer(b: Build, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
    return b.add("linear", x, params={"weight": weight} if bias is None else {"weight": weight, "bias": bias})


def mixed(rng: Rng) -> Graph:
    """Huge and tiny weights side by side."""
    b = Build((5,))
    h = b.add("relu", layer(b, "x0", spread(rng, (5, 6), 6), spread(rng, (6,), 4)))
    h = b.add("relu", layer(b, h, spread(rng, (6, 6), 4), spread(rng, (6,), 4)))
    layer(b, h, spread(rng, (6, 3), 5), spread(rng, (3,), 6))
    return b.graph()


def cancelling(rng: Rng) -> Graph:
    """Long sums of large terms that cancel but for their last bits, biases too; no kink."""
    n = 48
    b = Build((n,))
    w = f32(rng.normal(size=(n // 2, 8)) * 1e3)
    h = layer(b, "x0", np.concatenate([w, f32(-w * (1 + rng.normal(size=w.shape) * 1e-6))]), spread(rng, (8,), 1))
    w = f32(rng.normal(size=(4, 4)) * 1e4)
    h = layer(b, h, np.concatenate([w, -w]), -f32(1e6 * rng.normal(size=4)))
    layer(b, h, f32(rng.normal(size=(4, 2))), f32(1e6 * rng.normal(size=2)))
    return b.graph()


def deep(rng: Rng) -> Graph:
    """Fourteen layers."""
    b = Build((3,))
    h, size = "x0", 3
    for _ in range(14):
        h = b.add("relu", layer(b, h, f32(rng.normal(size=(size, 4)) * 0.9), f32(rng.normal(size=4) * 0.3)))
        size = 4
    layer(b, h, f32(rng.normal(size=(4, 2))))
    return b.graph()


def conv(rng: Rng) -> Graph:
    b = Build((1, 2, 4, 4))
    attrs = {"strides": (1, 1), "dilations": (1, 1), "groups": 1, "pads": (1, 0, 1, 1)}
    h = b.add(
        "conv", "x0", params={"weight": f32(rng.normal(size=(3, 2, 3, 2))), "bias": spread(rng, (3,), 2)}, **attrs
    )
    h = b.add("relu", h)
    h = b.add("max_pool", h, kernel=(2, 2), strides=(1, 2), dilations=(1, 1), pads=(0, 1, 1, 0))
    attrs = {"strides": (2, 1), "dilations": (1, 2), "groups": 1, "pads": (0, 1, 1, 1)}
    h = b.add("conv", h, params={"weight": spread(rng, (2, 3, 2, 2), 2)}, **attrs)
    size = int(np.prod(b.shapes[h]))
    layer(b, b.add("reshape", h, shape=(1, size)), spread(rng, (size, 2), 1), spread(rng, (2,), 1))
    return b.graph()


def residual(rng: Rng) -> Graph:
    """Sums of a value and almost itself."""
    b = Build((4,))
    h = "x0"
    for signs in ((1, -1), (-1, 1, 1), (1, 1)):
        near = layer(b, h, f32(np.eye(4) + 1e-5 * rng.normal(size=(4, 4))), f32(rng.normal(size=4) * 1e-3))
        bent = b.add("relu", layer(b, h, f32(rng.normal(size=(4, 4))), spread(rng, (4,), 1)))
        h = b.add("sum", *(h, near, bent)[: len(signs)], signs=signs)
    layer(b, h, spread(rng, (4, 2), 4))
    return b.graph()


def subnormal(rng: Rng) -> Graph:
    """Weights near the least normal float32, then their inverse."""
    b = Build((4,))
    h = b.add("relu", layer(b, "x0", f32(rng.normal(size=(4, 4)) * 1e-38), f32(rng.normal(size=4) * 3e-38)))
    h = layer(b, h, f32(rng.normal(size=(4, 4)) * 1e19))
    layer(b, h, f32(rng.normal(size=(4, 2)) * 1e19), f32(rng.normal(size=2)))
    return b.graph()


def vanishing(rng: Rng, tiny: float, huge: float) -> Graph:
    """Products that underflow, then large factors."""
    b = Build((4,))
    h = layer(b, "x0", np.abs(rng.normal(size=(4, 4))) * tiny)
    h = b.add("scale", h, params={"factor": np.abs(rng.normal(size=4)) * tiny})
    h = b.add("scale", h, params={"factor": np.abs(rng.normal(size=4)) * huge})
    layer(b, h, rng.normal(size=(4, 2)) * huge)
    return b.graph()


def underflow(rng: Rng) -> Graph:
    return vanishing(rng, 1e-25, 1e18)


def underflow64(rng: Rng) -> Graph:
    return vanishing(rng, 1e-170, 1e150)


def charges_vanish(rng: Rng, size: float) -> Graph:
    """For boxes of the same size: what rounding may cost underflows, unless a row's coefficients are huge."""
    b = Build((4,))
    layer(b, "x0", rng.normal(size=(4, 2)) * size)
    return b.graph()


def gated(rng: Rng) -> Graph:
    """Many kinks without a weight between them: only coefficients times slopes round."""
    b = Build((6,))
    h = "x0"
    for k in range(10):
        h = b.add("relu" if k % 2 else "abs", b.add("slice", h, starts=(5,), steps=(-1,), sizes=(6,)))
        h = b.add("shift", h, params={"offset": f32(-np.abs(rng.normal(size=6)) * 1e-6)})
    return b.graph()


def inexact(rng: Rng) -> Graph:
    """Weights known up to an error only."""

    def known(shape: tuple[int, ...], size: float = 1.0) -> Const:
        value = rng.normal(size=shape) * size
        return Const(value, np.abs(value) * 10.0 ** rng.uniform(-17, -6, shape) * rng.integers(0, 2, shape))

    b = Build((4,))
    h = b.add("shift", b.add("scale", "x0", params={"factor": known((4,))}), params={"offset": known((1,))})
    h = b.add("relu", b.add("linear", h, params={"weight": known((4, 5)), "bias": known((5,))}))
    h = b.add("reshape", h, shape=(1, 1, 5))
    attrs = {"strides": (1,), "dilations": (1,), "groups": 1, "pads": (1, 0)}
    h = b.add("conv", h, params={"weight": known((2, 1, 3), 100), "bias": known((2,))}, **attrs)
    b.add("sum", h, b.add("constant", params={"value": known(b.shapes[h])}), signs=(1, -1))
    return b.graph()


def decimals(rng: Rng) -> Graph:
    """Scale, divide and shift by numbers that no float32 is."""
    b = Build((2, 3))
    h = b.add("shift", "x0", params={"offset": rng.normal(size=(2, 3))})
    h = b.add("divide", h, params={"divisor": rng.uniform(0.1, 3.0, (3,))})
    h = b.add("scale", h, params={"factor": rng.normal(size=(2, 1))})
    h = b.add("divide", b.add("relu", h), params={"divisor": np.asarray([3e-5, 7.0, -1e4])})
    h = b.add("shift", h, params={"offset": rng.normal(size=(3,)) * 1e4})
    b.add("reduce_sum", b.add("scale", h, params={"factor": np.asarray(1.1)}), axes=(1,))
    return b.graph()


def bent(rng: Rng) -> Graph:
    """Every piecewise-linear function, with kinks that no float32 is."""
    b = Build((6,))
    h = b.add("leaky_relu", layer(b, "x0", f32(rng.normal(size=(6, 6))), f32(rng.normal(size=6))), alpha=0.1)
    h = b.add("clip", b.add("shift", h, params={"offset": rng.normal(size=6)}), lower=-0.1, upper=0.7)
    h = b.add("abs", layer(b, h, f32(rng.normal(size=(6, 6)) * 30)))
    h = b.add("leaky_relu", layer(b, h, spread(rng, (6, 6), 2)), alpha=2.7)
    layer(b, h, f32(rng.normal(size=(6, 2))))
    return b.graph()


def leaky(rng: Rng) -> Graph:
    """A slope that no float32 is, right at the inputs: nothing else is rounded that could pay for it."""
    b = Build((6,))
    layer(b, b.add("leaky_relu", "x0", alpha=0.1), f32(rng.normal(size=(6, 2))))
    return b.graph()


def moves(rng: Rng) -> Graph:
    """Slices, repeats, pads and joins between rounding steps; two inputs and a constant."""
    b = Build((2, 3), (3,))
    h = b.add("expand", b.add("reshape", "x1", shape=(1, 3)), shape=(2, 3))
    h = b.add("sum", "x0", h, b.add("constant", params={"value": rng.normal(size=(2, 3))}), signs=(1, -1, 1))
    h = b.add("gather", h, axis=1, indices=(2, 0, 2, 2))
    h = b.add("pad", b.add("transpose", h, perm=(1, 0)), pads=(1, 0, 0, 1), value=0.3)
    h = b.add("relu", layer(b, h, spread(rng, (3, 4), 2), f32(rng.normal(size=4))))
    part = b.add("slice", h, starts=(4, 1), steps=(-2, 2), sizes=(2, 2))
    h = b.add("concat", b.add("reshape", h, shape=(20,)), b.add("reshape", part, shape=(4,)), axis=0)
    b.add("reduce_sum", b.add("reshape", h, shape=(4, 6)), axes=(0,))
    return b.graph()


NETS: dict[str, Callable[[Rng], Graph]] = {
    function.__name__: function
    for function in (
        mixed,
        cancelling,
        deep,
        conv,
        residual,
        subnormal,
        underflow,
        underflow64,
        gated,
        inexact,
        decimals,
        bent,
        leaky,
        moves,
    )
}


def boxes(rng: Rng, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (D, n) of float32 numbers: wide, unit, narrow, mixed, points, an ulp wide, subnormal-size."""
    centre = f32(rng.normal(size=(7, n)))
    width = np.abs(rng.normal(size=(7, n)))
    width[0] *= 100
    width[2] *= 1e-4
    width[3] *= 10.0 ** rng.uniform(-8, 3, n) * rng.integers(0, 2, n)
    width[4] = 0
    centre[6] = 0
    lower, upper = f32(centre - width), f32(centre + width)
    lower[5], upper[5] = centre[5], np.nextafter(centre[5].astype(np.float32), np.float32(np.inf))
    lower[6], upper[6] = f32(-1e-39 * width[6]), f32(1e-41 + 1e-39 * width[6][::-1])
    return lower, upper


def points(rng: Rng, lower: np.ndarray, upper: np.ndarray, count: int) -> list[np.ndarray]:
    """Exact points of one box (n,): corners and dyadic points inside, as object arrays of Fractions."""
    low, high = exact(lower), exact(upper)
    found = [low, high]
    for k in range(count - 2):
        part = rng.integers(0, 2, len(low)) * 64 if k % 2 else rng.integers(0, 65, len(low))
        found.append(low + (high - low) * exact(part) / 64)
    return found
