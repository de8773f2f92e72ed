"""Faults in bounds: intervals, CROWN, relaxations, multipliers, regions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verinn.audit.mutants.mutant import Mutant
from verinn.audit.mutants.patch import Function, Patch
from verinn.bounds import crown, interval, region, rounding
from verinn.bounds.crown import Backward, Relaxation
from verinn.ops import activation, base, catalogue, conv, curve, pool, product, program, softmax
from verinn.ops.base import Lines
from verinn.ops.flat import Flat
from verinn.search import neurons


def _number(value: float) -> Any:
    """Makes a function that answers always the same."""
    return lambda original: lambda *given: value


def _plain_centre(original: Function) -> Function:
    return lambda lower, upper: (lower / 2 + upper / 2, (upper - lower) / 2)


def _no_rounding(patch: Patch) -> None:
    patch.function(rounding, "gamma", _number(0.0))
    patch.function(rounding, "unit", _number(0.0))
    patch.function(rounding, "tiny", _number(0.0))
    patch.function(rounding, "sum_slack", _number(1.0))
    patch.function(rounding, "centre", _plain_centre)
    patch.function(rounding, "outward", lambda original: lambda lower, upper: (lower, upper))
    patch.function(base, "ulps", lambda original: lambda x, count: torch.zeros_like(x))
    patch.value(region, "_EPS", 0.0)


def _interval_rounding(patch: Patch) -> None:
    patch.here(interval, "gamma", _number(0.0))
    patch.here(interval, "centre", _plain_centre)
    patch.here(interval, "tiny", _number(0.0))
    patch.here(interval, "outward", lambda original: lambda lower, upper: (lower, upper))


def _toll(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def free(self: Relaxation, step: Any) -> Any:
            toll = original(self, step)
            return crown.Toll(torch.zeros_like(toll.rate), torch.zeros_like(toll.base))

        return free

    patch.method(Relaxation, "_affine_toll", make)


def _weight_errors(patch: Patch) -> None:
    patch.function(program, "_round", lambda original: lambda *given: (original(*given)[0], None))


def _relu_lower(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def lines(self: Any, node: Any, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Any:
            made = original(self, node, lower, upper, alpha)
            return replace(made, lower_slope=torch.where(upper > -lower, made.lower_slope, -made.upper_slope))

        return lines

    patch.method(activation.Relu, "lines", make)


def _relu_upper(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def lines(*given: Any) -> Any:
            made = original(*given)
            return replace(made, upper_offset=torch.zeros_like(made.upper_offset))

        return lines

    patch.method(activation.Relu, "lines", make)


def _relu_outside(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def lines(self: Any, node: Any, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Any:
            middle, radius = (lower + upper) / 2, (upper - lower) / 2
            return original(self, node, middle - 0.9 * radius, middle + 0.9 * radius, alpha)

        return lines

    patch.method(activation.Relu, "lines", make)


def _bias(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def affine(self: Backward, step: Any, a: Any, debt: float) -> None:
            kept = {name: value for name, value in step.params.items() if name != step.op.bias}
            original(self, replace(step, params=kept), a, debt)

        return affine

    patch.method(Backward, "_affine", make)


def _branch_lost(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def add(self: Backward, name: str, a: Any, debt: float) -> None:
            self.pending.pop(name, None)  # what another reader of the value had put there
            original(self, name, a, debt)

        return add

    patch.method(Backward, "_add", make)


def _conv_pads(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def back(self: Any, node: Any, a: Tensor, params: Any, shapes: Any) -> Any:
            pads = node.attrs["pads"]
            half = len(pads) // 2
            turned = replace(node, attrs={**node.attrs, "pads": (*pads[half:], *pads[:half])})
            return original(self, turned, a, params, shapes)

        return back

    patch.method(conv.Conv, "back", make)
    patch.here(crown, "passes", lambda original: lambda step: step.node.op != "conv" and original(step))


def _pool_first(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def choice(self: Any, node: Any, lower: Tensor, upper: Tensor) -> Any:
            best, sole, _ = original(self, node, lower, upper)
            return best, sole, self.windows(node, upper, -torch.inf)[..., 0]

        return choice

    patch.method(pool.MaxPool, "choice", make)


def _abs_monotone(patch: Patch) -> None:
    """Values at the ends only, for intervals and lines alike: the kink is forgotten."""
    patch.method(activation.Abs, "kinks", lambda original: lambda self, node: [])


def _clip_kink(patch: Patch) -> None:
    """The chord between the ends as upper line, as if a clip were convex."""

    def make(original: Function) -> Function:
        def lines(self: Any, node: Any, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Any:
            made = original(self, node, lower, upper, alpha)
            chord = self._chord(node, lower, upper)
            return replace(made, upper_slope=chord, upper_offset=self.apply(node, lower) - chord * lower + 1e-9)

        return lines

    patch.method(activation.PiecewiseLinear, "lines", lambda original: _only(activation.Clip, original, make(original)))


def _only(owner: type, original: Function, faulty: Function) -> Function:
    """A method that is faulty for one class of those that inherit it."""

    def method(self: Any, *given: Any, **named: Any) -> Any:
        return (faulty if isinstance(self, owner) else original)(self, *given, **named)

    return method


def _flat_curves(patch: Patch) -> None:
    """Lines that are drawn again from the (faulty) interval, whatever the search would draw."""

    def lines(self: Any, node: Any, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Lines:
        low, high = self.interval(node, lower, upper)
        return Lines(torch.zeros_like(low), low, torch.zeros_like(low), high)

    for owner in _curves():
        if "lines" in vars(owner):
            patch.method(owner, "lines", lambda original: lines)


def _curves() -> list[type]:
    """All classes of scalar curves."""
    found: list[type] = []
    waiting: list[type] = [curve.Curve]
    while waiting:
        owner = waiting.pop()
        found.append(owner)
        waiting.extend(owner.__subclasses__())
    return found


def _extremes(patch: Patch) -> None:
    for owner in _curves():
        if "extremes" in vars(owner):
            patch.method(owner, "extremes", lambda original: lambda self, node, lower, upper: [])
    _flat_curves(patch)


def _midpoint_tangent(patch: Patch) -> None:
    """The tangent at the middle as upper line, whichever way the function bends."""

    def make(original: Function) -> Function:
        def lines(self: Any, node: Any, lower: Tensor, upper: Tensor, alpha: Tensor | None = None) -> Any:
            made = original(self, node, lower, upper, alpha)
            middle = ((lower + upper) / 2).detach().double()
            near = middle.abs() * 1e-6 + 1e-6
            slope = (self.value(node, middle + near) - self.value(node, middle - near)) / (2 * near)
            offset = self.value(node, middle) - slope * middle
            return replace(made, upper_slope=slope.to(lower.dtype), upper_offset=offset.to(lower.dtype) + 1e-6)

        return lines

    for owner in _curves():
        if "lines" in vars(owner):
            patch.method(owner, "lines", make)


def _corner(patch: Patch) -> None:
    """Products from two corners only."""

    def corners(x: Any, y: Any) -> Any:
        one, two = x[0] * y[0], x[1] * y[1]
        return torch.minimum(one, two), torch.maximum(one, two)

    patch.function(product, "corners", lambda original: corners)
    for owner in (product.Mul, product.Matmul):
        patch.method(owner, "planes", _flat_planes)


def _wrong_corner(patch: Patch) -> None:
    """The planes of a product pass through the value at one corner, whatever their slopes are."""

    def make(original: Function) -> Function:
        def offsets(self: Any, node: Any, boxes: Any, below: Any, above: Any) -> Any:
            x, y = boxes[0][0], boxes[1][0]
            return x * y - below[0] * x - below[1] * y, x * y - above[0] * x - above[1] * y

        return offsets

    patch.method(product.Mul, "_offsets", make)


def _tangent_side(patch: Patch) -> None:
    """Curves are taken to bend the other way: tangents lie where chords should."""

    def make(original: Function) -> Function:
        def bends(self: Any, node: Any, lower: Tensor, upper: Tensor) -> Any:
            made = original(self, node, lower, upper)
            return replace(made, signs=[-sign for sign in made.signs])

        return bends

    patch.method(curve.Curve, "_bends", make)


def _flat_planes(original: Function) -> Function:
    """Planes that are the ends of the interval."""
    return lambda self, node, boxes, alpha=None: Flat.of(self.interval(node, boxes), boxes)


def _square_ends(patch: Patch) -> None:
    """x² between its values at the ends, as if zero were never inside (x · x is read as a square, too)."""
    patch.method(catalogue.Pow, "extremes", lambda original: lambda self, node, lower, upper: [])


def _softmax_epsilon(patch: Patch) -> None:
    """1e-12 in the denominator, after all exponents were shifted by the greatest."""

    def make(original: Function) -> Function:
        def extremes(self: Any, node: Any, boxes: Any) -> Any:
            axis = node.attrs["axis"] + 1
            low, _ = original(self, node, boxes)
            lower, upper = (x.double() for x in boxes[0])
            top = upper.amax(axis, keepdim=True)
            own, least = (upper - top).exp(), (lower - top).exp()
            return low, own / (own + least.sum(axis, keepdim=True) - least + 1e-12)

        return extremes

    patch.method(softmax.Softmax, "extremes", make)
    planes = softmax.Softmax if "planes" in vars(softmax.Softmax) else softmax.LogSoftmax
    patch.method(planes, "planes", _flat_planes)


def _beta_sign(patch: Patch) -> None:
    """The phase of a split is noted the other way round, for climbing and for the certifying pass, which also forgets
    that intervals allow one sign only."""

    def make(original: Function) -> Function:
        def split(domains: Any, column: Any) -> Any:
            both = original(domains, column)
            return replace(both, phase=torch.cat([both.phase[:, :-1], -both.phase[:, -1:]], 1))

        return split

    patch.here(neurons, "split", make)
    patch.method(Relaxation, "pull", lambda original: lambda self, step: self.pulls.get(step.node.name))


def _clip_tiny(patch: Patch) -> None:
    """Boxes clipped by a/|a| with small coefficients held away from zero."""

    def make(original: Function) -> Function:
        def clip(given: region.Region, rounds: int = 2) -> region.Region:
            small = (given.a != 0) & (given.a.abs() < 1e-3)
            made = original(given, rounds)
            held = torch.where(small, given.a.sign() * 1e-3, given.a)
            other = original(region.Region(made.lower, made.upper, held, given.c), rounds)
            return region.Region(other.lower, other.upper, given.a, given.c)

        return clip

    patch.function(region, "clip", make)


def _clip_eager(patch: Patch) -> None:
    """A clipped box loses a hundredth more at each end."""

    def make(original: Function) -> Function:
        def clip(given: region.Region, rounds: int = 2) -> region.Region:
            made = original(given, rounds)
            width = (made.upper - made.lower).clamp(min=0)
            lower = torch.where(made.lower > given.lower, made.lower + 0.01 * width, made.lower)
            upper = torch.where(made.upper < given.upper, made.upper - 0.01 * width, made.upper)
            return region.Region(lower, upper, made.a, made.c)

        return clip

    patch.function(region, "clip", make)


def _separate(patch: Patch) -> None:
    """Multipliers believed where their margin is about zero."""
    patch.function(region, "weigh", lambda original: lambda given, weights: original(given, weights) + 1e-6)


def _pool_interval(patch: Patch) -> None:
    """The greatest of an interval of a sum taken at its middle: the radius |L| r is forgotten."""

    def make(original: Function) -> Function:
        def affine(step: Any, inputs: Any) -> Any:
            low, high = original(step, inputs)
            middle, radius = low / 2 + high / 2, (high - low) / 2
            return middle - 0.5 * radius, middle + 0.5 * radius

        return affine

    patch.here(interval, "_affine", make)


BOUNDS = (
    Mutant("no-rounding", "bounds", "no rounding is charged anywhere", _no_rounding, where=("rounding",)),
    Mutant(
        "interval-rounding",
        "bounds",
        "intervals of affine layers charge no rounding",
        _interval_rounding,
        where=("rounding",),
    ),
    Mutant("no-toll", "bounds", "CROWN through affine layers charges no rounding", _toll, where=("rounding",)),
    Mutant(
        "weight-errors",
        "bounds",
        "weights that merging has rounded are taken as exact",
        _weight_errors,
        where=("rounding",),
    ),
    Mutant(
        "relu-lower-slope",
        "bounds",
        "the lower line of a ReLU slopes the wrong way",
        _relu_lower,
        where=("planted", "Relu"),
    ),
    Mutant("relu-upper-offset", "bounds", "the upper line of a ReLU lacks its offset", _relu_upper, where=("Relu",)),
    Mutant(
        "relu-outside",
        "bounds",
        "the lines of a ReLU are those of nine tenths of its interval",
        _relu_outside,
        where=("Relu",),
    ),
    Mutant("interval-radius", "bounds", "intervals of affine layers have half their radius", _pool_interval),
    Mutant("bias", "bounds", "CROWN forgets the bias of affine layers", _bias, where=("planted",)),
    Mutant(
        "residual",
        "bounds",
        "coefficients of a value with two readers overwrite each other",
        _branch_lost,
        where=("residual", "Add"),
    ),
    Mutant(
        "conv-pads",
        "bounds",
        "CROWN through a convolution swaps begins and ends of its pads",
        _conv_pads,
        where=("kinks+Conv", "planted+Conv", "operators+Conv"),
    ),
    Mutant(
        "max-pool",
        "bounds",
        "the upper bound of a window's maximum is that of its first entry",
        _pool_first,
        where=("kinks+MaxPool", "operators+MaxPool"),
    ),
    Mutant(
        "abs",
        "bounds",
        "the kink of an absolute value is forgotten",
        _abs_monotone,
        where=("kinks+Abs", "operators+Abs"),
    ),
    Mutant(
        "clip-kink",
        "bounds",
        "the upper kink of a clip is forgotten: its chord is the upper line",
        _clip_kink,
        where=("kinks+Clip", "operators+Clip"),
    ),
    Mutant(
        "extremes",
        "bounds",
        "extreme values inside an interval of a curve are forgotten",
        _extremes,
        where=(
            "kinks+Cos",
            "operators+Sin",
            "operators+Cos",
            "operators+Mish",
            "operators+Gelu",
            "operators+Swish",
            "operators+Pow",
        ),
    ),
    Mutant(
        "midpoint-tangent",
        "bounds",
        "the tangent at the middle is the upper line of every curve",
        _midpoint_tangent,
        where=("kinks+Exp", "kinks+Pow", "operators+Pow", "operators+Exp"),
    ),
    Mutant(
        "product-corner",
        "bounds",
        "a product is bounded by two of its four corners",
        _corner,
        where=("kinks+Mul", "operators+Mul", "operators+MatMul"),
    ),
    Mutant(
        "mccormick-corner",
        "bounds",
        "the planes of a product pass through a corner that is not the extreme one",
        _wrong_corner,
        where=("kinks+Mul", "operators+Mul", "operators+Div"),
    ),
    Mutant(
        "tangent-side",
        "bounds",
        "tangents of curves lie on the wrong side",
        _tangent_side,
        where=("kinks+Exp", "kinks+Tanh", "operators+Tanh"),
    ),
    Mutant(
        "square",
        "bounds",
        "a square is bounded by its values at the ends",
        _square_ends,
        where=("kinks+Mul", "kinks+Pow", "operators+Pow"),
    ),
    Mutant(
        "softmax-epsilon",
        "bounds",
        "a small number is added to the denominator of softmax",
        _softmax_epsilon,
        where=("kinks+Softmax", "operators+Softmax"),
    ),
    Mutant(
        "beta-sign",
        "bounds",
        "multipliers of split ReLUs enter with the wrong sign",
        _beta_sign,
        where=("rounding+wide", "wide"),
    ),
    Mutant(
        "clip-tiny",
        "bounds",
        "a box is clipped by coefficients held away from zero",
        _clip_tiny,
        where=("rounding+tie", "shapes+tiny", "planted"),
    ),
    Mutant("clip-eager", "bounds", "a clipped box loses a hundredth too much", _clip_eager, where=("planted",)),
    Mutant(
        "separate",
        "bounds",
        "rows count as excluding each other when they nearly do",
        _separate,
        where=("touching", "shapes+or-of-and", "planted"),
    ),
)
