"""Random single operators: one entry for each core operator (a test fails when one is missing)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from exact_graph import Build

from verinn.ir.graph import Const, Graph

Rng = np.random.Generator
Entry = Callable[[Rng], Graph]


def shape_of(rng: Rng, low: int = 1, high: int = 3) -> tuple[int, ...]:
    return tuple(int(k) for k in rng.integers(1, 4, rng.integers(low, high + 1)))


def whole(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Integers but never zero, so that every product counts."""
    return rng.integers(1, 6, shape) * rng.choice([-1.0, 1.0], shape)


def window(rng: Rng, spatial: int, kernel: tuple[int, ...], size: tuple[int, ...]) -> dict[str, Any]:
    """Strides, dilations and pads that leave at least one window, none of it padding alone."""
    dilations = tuple(
        int(d) if (k - 1) * d < n else 1 for d, k, n in zip(rng.integers(1, 3, spatial), kernel, size, strict=True)
    )
    pads = tuple(
        int(min(p, k - 1)) if d == 1 else 0
        for p, k, d in zip(rng.integers(0, 3, 2 * spatial), kernel * 2, dilations * 2, strict=True)
    )
    return {"strides": tuple(int(s) for s in rng.integers(1, 4, spatial)), "dilations": dilations, "pads": pads}


def linear(rng: Rng) -> Graph:
    shape = shape_of(rng)
    b, out = Build(shape), int(rng.integers(1, 5))
    params = {"weight": whole(rng, (shape[-1], out))}
    if rng.random() < 0.6:
        params["bias"] = whole(rng, (out,))
    b.add("linear", "x0", params=params)
    return b.graph()


def conv(rng: Rng) -> Graph:
    spatial, groups = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    channels, out = groups * int(rng.integers(1, 3)), groups * int(rng.integers(1, 3))
    size = tuple(int(k) for k in rng.integers(3, 6 - (spatial == 3), spatial))
    kernel = tuple(int(k) for k in rng.integers(1, 4, spatial))
    b = Build((int(rng.integers(1, 3)), channels, *size))
    params = {"weight": whole(rng, (out, channels // groups, *kernel))}
    if rng.random() < 0.6:
        params["bias"] = whole(rng, (out,))
    b.add("conv", "x0", params=params, groups=groups, **window(rng, spatial, kernel, size))
    return b.graph()


def max_pool(rng: Rng) -> Graph:
    spatial = int(rng.integers(1, 3))
    size = tuple(int(k) for k in rng.integers(3, 6, spatial))
    kernel = tuple(int(k) for k in rng.integers(1, 4, spatial))
    b = Build((1, int(rng.integers(1, 3)), *size))
    b.add("max_pool", "x0", kernel=kernel, **window(rng, spatial, kernel, size))
    return b.graph()


def with_param(op: str, name: str) -> Entry:
    def make(rng: Rng) -> Graph:
        shape = shape_of(rng)
        narrow = tuple(int(n) if rng.random() < 0.6 else 1 for n in shape[int(rng.integers(0, len(shape) + 1)) :])
        b = Build(shape)
        b.add(op, "x0", params={name: whole(rng, narrow)})
        return b.graph()

    return make


def total(rng: Rng) -> Graph:
    count, shape = int(rng.integers(1, 5)), shape_of(rng)
    b = Build(*[shape] * count)
    b.add("sum", *[f"x{k}" for k in range(count)], signs=tuple(int(s) for s in rng.choice([-1, 1], count)))
    return b.graph()


def constant(rng: Rng) -> Graph:
    b = Build((1,))
    b.add("constant", params={"value": whole(rng, shape_of(rng))})
    return b.graph()


def reshape(rng: Rng) -> Graph:
    b = Build((2, 3, 2))
    b.add("reshape", "x0", shape=[(12,), (3, 4), (1, 6, 2), (2, 3, 2)][rng.integers(4)])
    return b.graph()


def transpose(rng: Rng) -> Graph:
    b = Build(shape_of(rng, 1, 4))
    b.add("transpose", "x0", perm=tuple(int(k) for k in rng.permutation(len(b.shapes["x0"]))))
    return b.graph()


def cut(rng: Rng) -> Graph:
    b = Build(tuple(int(k) for k in rng.integers(1, 6, rng.integers(1, 4))))
    starts, steps, sizes = [], [], []
    for length in b.shapes["x0"]:
        start, step = int(rng.integers(length)), int(rng.choice([-2, -1, 1, 1, 2]))
        room = (length - 1 - start) // step if step > 0 else start // -step
        starts.append(start)
        steps.append(step)
        sizes.append(int(rng.integers(1, room + 2)))
    b.add("slice", "x0", starts=tuple(starts), steps=tuple(steps), sizes=tuple(sizes))
    return b.graph()


def gather(rng: Rng) -> Graph:
    b = Build(shape_of(rng))
    shape = b.shapes["x0"]
    axis = int(rng.integers(len(shape)))
    b.add("gather", "x0", axis=axis, indices=tuple(int(k) for k in rng.integers(0, shape[axis], rng.integers(1, 6))))
    return b.graph()


def pad(rng: Rng) -> Graph:
    b = Build(shape_of(rng))
    pads = tuple(int(k) for k in rng.integers(0, 3, 2 * len(b.shapes["x0"])))
    b.add("pad", "x0", pads=pads, value=float(rng.choice([0.0, -3.0, 0.5])))
    return b.graph()


def concat(rng: Rng) -> Graph:
    shape, count = shape_of(rng), int(rng.integers(1, 4))
    axis = int(rng.integers(len(shape)))
    b = Build(*[(*shape[:axis], int(rng.integers(1, 4)), *shape[axis + 1 :]) for _ in range(count)])
    b.add("concat", *[f"x{k}" for k in range(count)], axis=axis)
    return b.graph()


def expand(rng: Rng) -> Graph:
    target = shape_of(rng, 1, 4)
    shape = tuple(n if rng.random() < 0.5 else 1 for n in target[int(rng.integers(0, len(target) + 1)) :])
    b = Build(shape)
    b.add("expand", "x0", shape=target)
    return b.graph()


def reduction(op: str) -> Entry:
    def make(rng: Rng) -> Graph:
        b = Build(shape_of(rng))
        rank = len(b.shapes["x0"])
        axes = tuple(sorted(int(k) for k in rng.choice(rank, rng.integers(1, rank + 1), replace=False)))
        b.add(op, "x0", axes=axes)
        return b.graph()

    return make


def along(op: str) -> Entry:
    def make(rng: Rng) -> Graph:
        b = Build(tuple(int(k) for k in rng.integers(1, 6, rng.integers(1, 4))))
        b.add(op, "x0", axis=int(rng.integers(len(b.shapes["x0"]))))
        return b.graph()

    return make


def mul(rng: Rng) -> Graph:
    shape = shape_of(rng)
    if rng.random() < 0.4:
        b = Build(shape)
        b.add("mul", "x0", "x0")
    else:
        b = Build(shape, shape)
        b.add("mul", "x0", "x1")
    return b.graph()


def matmul(rng: Rng) -> Graph:
    lead = tuple(int(k) for k in rng.integers(1, 3, rng.integers(0, 3)))
    m, k, n = (int(v) for v in rng.integers(1, 4, 3))
    if rng.random() < 0.2:
        b = Build((*lead, k, k))
        b.add("matmul", "x0", "x0")
    else:
        b = Build((*lead, m, k), (*lead, k, n))
        b.add("matmul", "x0", "x1")
    return b.graph()


def prelu(rng: Rng) -> Graph:
    shape = shape_of(rng)
    narrow = tuple(int(n) if rng.random() < 0.6 else 1 for n in shape[int(rng.integers(0, len(shape) + 1)) :])
    b = Build(shape)
    slope = np.asarray(rng.choice([-0.7, 0.0, 0.01, 0.25, 1 / 3, 1.0, 2.7], narrow))
    error = np.asarray(np.abs(slope) * 1e-9) if rng.random() < 0.3 else None
    b.add("prelu", "x0", params={"slope": slope if error is None else Const(slope, error)})
    return b.graph()


def elementwise(op: str, **attrs: Callable[[Rng], float]) -> Entry:
    def make(rng: Rng) -> Graph:
        b = Build(shape_of(rng))
        b.add(op, "x0", **{name: value(rng) for name, value in attrs.items()})
        return b.graph()

    return make


#: elementwise operators without attributes, beside the piecewise-linear ones
PLAIN = [
    "hard_swish",
    "atan",
    "erf",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
    "mish",
    "exp",
    "log",
    "sqrt",
    "reciprocal",
    "sin",
    "cos",
    "tan",
    "sign",
    "floor",
    "ceil",
    "round",
]

CASES: dict[str, Entry] = {
    "linear": linear,
    "conv": conv,
    "scale": with_param("scale", "factor"),
    "divide": with_param("divide", "divisor"),
    "shift": with_param("shift", "offset"),
    "sum": total,
    "constant": constant,
    "reduce_sum": reduction("reduce_sum"),
    "reshape": reshape,
    "transpose": transpose,
    "slice": cut,
    "gather": gather,
    "pad": pad,
    "concat": concat,
    "expand": expand,
    "relu": elementwise("relu"),
    "leaky_relu": elementwise("leaky_relu", alpha=lambda rng: float(rng.choice([0.0, 0.01, 0.1, 1.0, 2.7, 0.3333]))),
    "clip": elementwise(
        "clip",
        lower=lambda rng: float(rng.choice([-np.inf, -0.1, 0.0, -1e-9])),
        upper=lambda rng: float(rng.choice([np.inf, 0.7, 6.0, 0.0])),
    ),
    "abs": elementwise("abs"),
    "sigmoid": elementwise("sigmoid"),
    "tanh": elementwise("tanh"),
    "prelu": prelu,
    "elu": elementwise("elu", alpha=lambda rng: float(rng.choice([0.1, 1.0, 1.67326, 2.5]))),
    "step": elementwise("step", strict=lambda rng: bool(rng.random() < 0.5)),
    "pow": elementwise(
        "pow", exponent=lambda rng: float(rng.choice([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, -1.0, -2.0, 0.5, 1.5, -0.5, 2.7]))
    ),
    **{name: elementwise(name) for name in PLAIN},
    "mul": mul,
    "matmul": matmul,
    "max_pool": max_pool,
    "reduce_max": reduction("reduce_max"),
    "softmax": along("softmax"),
    "log_softmax": along("log_softmax"),
}
