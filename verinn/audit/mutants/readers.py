"""Faults in the ONNX reader and the passes. The comparison with ONNX Runtime at load is off for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from verinn.audit.mutants.mutant import Mutant
from verinn.audit.mutants.patch import Function, Patch
from verinn.io.onnx_reader import call, windows
from verinn.io.onnx_reader.builder import Builder, Known
from verinn.io.onnx_reader.call import IMPORTERS, Call
from verinn.ir import const
from verinn.ir.graph import frozen
from verinn.passes import fuse, identities


class _Given:
    """A node's call with some attributes replaced."""

    def __init__(self, call: Call, **attributes: Any):
        self._call, self._attributes = call, attributes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def attr(self, name: str, default: Any = None) -> Any:
        return self._attributes.get(name, self._call.attr(name, default))

    def ints(self, name: str, index: int | None, what: str | None = None) -> Any:
        return self._attributes.get(name, self._call.ints(name, index, what))


def _attributes(op: str, **attributes: Any) -> Any:
    """Injects an importer that reads fixed attributes."""

    def apply(patch: Patch) -> None:
        patch.entry(IMPORTERS, op, lambda original: lambda call: original(_Given(call, **attributes)))

    return apply


def _swapped_pads(patch: Patch) -> None:
    def make(original: Function) -> Function:
        def padding(*given: Any) -> list[int]:
            pads = original(*given)
            half = len(pads) // 2
            return [*pads[half:], *pads[:half]]

        return padding

    patch.function(windows, "_padding", make)


def _no_pads_counted(patch: Patch) -> None:
    """Padding counts as part of every window of an average, whatever the file says."""

    def make(original: Function) -> Function:
        def counts(self: Any, include_pads: bool) -> np.ndarray:
            return np.full_like(original(self, include_pads), float(np.prod(self.kernel)))

        return counts

    patch.method(windows.Windows, "counts", make)


def _dilations(patch: Patch) -> None:
    """The shape stays that of the file where strides and dilations have the same reach, else reading fails."""

    def make(original: Function) -> Function:
        def conv(call: Call) -> Any:
            strides, dilations = call.ints("strides", None), call.ints("dilations", None)
            return original(_Given(call, strides=dilations, dilations=strides))

        return conv

    patch.entry(IMPORTERS, "Conv", make)


def _padded_front(patch: Patch) -> None:
    """The output padding of a transposed convolution is taken to lie at the front."""

    def make(original: Function) -> Function:
        def transposed(call: Call) -> Any:
            extra = call.ints("output_padding", None)
            if not extra:
                return original(call)
            pads = call.ints("pads", None) or [0] * (2 * len(extra))
            ends = [pads[len(extra) + axis] + more for axis, more in enumerate(extra)]
            return original(_Given(call, pads=[*(pads[axis] - more for axis, more in enumerate(extra)), *ends]))

        return transposed

    patch.entry(IMPORTERS, "ConvTranspose", make)


def _batch_norm(patch: Patch) -> None:
    """The variance is taken for the standard deviation."""
    patch.here(const, "sqrt", lambda original: lambda value: value)


def _axis(patch: Patch) -> None:
    """Negative axes count from the front."""
    patch.function(call, "axis_of", lambda original: lambda axis, rank: original(-axis - 1 if axis < 0 else axis, rank))


def _first_bias(patch: Patch) -> None:
    """Two linear maps become one, and the bias of the first is not carried through the second."""

    def make(original: Function) -> Function:
        def merged(node: Any, state: Any) -> Any:
            made = original(node, state)
            if made is None:
                return None
            params = {key: value for key, value in made[0].params.items() if key != "bias"}
            if "bias" in node.params:
                params["bias"] = node.params["bias"]
            return [replace(made[0], params=frozen(params))]

        return merged

    patch.rule(fuse, "RULES", fuse.linear_linear, make)


def _scale_order(patch: Patch) -> None:
    """An affine map and the scale after it become one, and the bias stays unscaled."""

    def make(original: Function) -> Function:
        def merged(node: Any, state: Any) -> Any:
            made = original(node, state)
            inner = state.maker(node.inputs[0])
            if made is None or node.op == "shift" or "bias" not in inner.params:
                return made
            return [replace(made[0], params=frozen({**made[0].params, "bias": inner.params["bias"]}))]

        return merged

    patch.rule(fuse, "RULES", fuse.after_affine, make)


def _padded_shift(patch: Patch) -> None:
    """A shift is merged into a convolution that pads, as if the padding were shifted, too."""

    def make(original: Function) -> Function:
        def merged(node: Any, state: Any) -> Any:
            pads = node.attrs.get("pads")
            if node.op != "conv" or not any(pads):
                return original(node, state)
            made = original(replace(node, attrs=frozen({**node.attrs, "pads": (0,) * len(pads)})), state)
            return None if made is None else [replace(made[0], attrs=node.attrs)]

        return merged

    patch.rule(fuse, "RULES", fuse.before_conv, make)


def _relu_pairs(patch: Patch) -> None:
    """Two linear layers with a ReLU between them that have the shape of an identity are dropped."""

    def make(original: Function) -> Function:
        def rule(node: Any, state: Any) -> Any:
            found = original(node, state)
            if found is not None or node.op != "linear":
                return found
            relu = state.sole(node.inputs[0], "relu")
            first = None if relu is None else state.sole(relu.inputs[0], "linear")
            if first is None or state.shapes[first.inputs[0]] != node.shape:
                return None
            if np.count_nonzero(first.params["weight"].value) < first.params["weight"].value.size:
                return first.inputs[0]
            return None

        return rule

    patch.rule(identities, "RULES", identities.identity, make)


def _any_reshape(patch: Patch) -> None:
    """A transpose that moves an axis of length one is a reshape, whatever else it moves."""

    def make(original: Function) -> Function:
        return lambda shape, perm: original(shape, perm) or 1 in shape

    patch.function(identities, "_keeps_order", make)


def _turned(patch: Patch) -> None:
    """x - y is read as y - x where x is a constant."""

    def make(original: Function) -> Function:
        def add(self: Any, x: Any, y: Any, sign: int = 1) -> Any:
            return original(self, y, x, sign) if sign < 0 and isinstance(x, Known) else original(self, x, y, sign)

        return add

    patch.method(Builder, "add", make)


def _mutant(name: str, fault: str, apply: Any, *where: str) -> Mutant:
    return Mutant(name, "reader", fault, apply, unguarded=True, where=where)


READERS = (
    _mutant("gemm-trans-a", "transA of Gemm is ignored", _attributes("Gemm", transA=0), "values+Gemm"),
    _mutant("gemm-alpha", "alpha of Gemm is ignored", _attributes("Gemm", alpha=1.0), "values+Gemm"),
    _mutant("gemm-beta", "beta of Gemm is ignored", _attributes("Gemm", beta=1.0), "values+Gemm"),
    _mutant("swapped-pads", "begins and ends of pads are swapped", _swapped_pads, "values+Conv", "values+Pool"),
    _mutant("conv-dilations", "the strides of a convolution are taken for its dilations", _dilations, "values+Conv"),
    _mutant(
        "output-padding",
        "output padding of a transposed convolution lies at the front",
        _padded_front,
        "values+ConvTranspose",
    ),
    _mutant(
        "average-pads", "an average counts padding, whatever the file says", _no_pads_counted, "values+AveragePool"
    ),
    _mutant("batch-norm", "batch normalisation divides by the variance", _batch_norm, "values+BatchNormalization"),
    _mutant(
        "batch-norm-epsilon",
        "the epsilon of batch normalisation is left out",
        _attributes("BatchNormalization", epsilon=0.0),
        "values+BatchNormalization",
    ),
    _mutant(
        "negative-axis",
        "negative axes count from the front",
        _axis,
        "values+CumSum",
        "values+Softmax",
        "values",
        "operators+Softmax",
        "operators+Reduce",
        "operators+Split",
    ),
    _mutant(
        "leaky-alpha",
        "a leaky ReLU is read as the identity",
        _attributes("LeakyRelu", alpha=1.0),
        "values+LeakyRelu",
    ),
    _mutant("constant-minus", "a constant minus a value is turned round", _turned, "values+Sub", "operators+Neg"),
    _mutant("merged-bias", "merging two linear maps forgets the first bias", _first_bias, "values+Gemm"),
    _mutant(
        "merged-scale",
        "merging a scale leaves the bias as it was",
        _scale_order,
        "operators+BatchNormalization",
        "operators+Mul",
    ),
    _mutant(
        "padded-shift",
        "a shift is merged into a convolution that pads",
        _padded_shift,
        "values+Conv",
        "operators+Add",
    ),
    _mutant(
        "relu-identity",
        "stacked layers that look like an identity are dropped",
        _relu_pairs,
        "templates",
        "values+Gemm",
    ),
    _mutant("loose-transpose", "a transpose is taken for a reshape", _any_reshape, "values+Transpose"),
)
