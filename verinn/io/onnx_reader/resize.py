"""Importers of Resize and Upsample: along each axis a few entries are picked and weighed.

Coordinates and weights are computed in float32 in the order in which ONNX Runtime computes them, and
are taken as the exact numbers of the model: where a coordinate falls on a tie, its rounding decides
which pixel is meant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from verinn.errors import InputError, Unsupported
from verinn.io.onnx_reader.builder import Builder, Known, Value, limited
from verinn.io.onnx_reader.call import Call, importer
from verinn.ir.graph import Const

_F = np.float32


@dataclass(frozen=True)
class _Rule:
    """How a node resizes: mode, coordinate transformation, rounding of ``nearest``, options of ``cubic``."""

    mode: str
    transform: str
    nearest: str
    coefficient: float
    exclude: bool
    outside: float


@importer("Upsample")
def _upsample(call: Call) -> Value:
    scales = call.attr("scales") if call.opset < 9 else call.known(1, "the scales").const.value.reshape(-1).tolist()
    x = call.value()
    rule = _Rule(_mode(call), "asymmetric", "simple", -0.75, False, 0.0)
    return _resized(call.builder, x, _scaled(x, list(range(len(x.shape))), scales or []), rule, None)


@importer("Resize")
def _resize(call: Call) -> Value:
    x = call.value()
    if call.opset < 11:
        scales = call.known(1, "the scales").const.value.reshape(-1).tolist()
        rule = _Rule(_mode(call), "asymmetric", "simple", -0.75, False, 0.0)
        return _resized(call.builder, x, _scaled(x, list(range(len(x.shape))), scales), rule, None)
    if call.attr("antialias", 0):
        raise Unsupported("resizes with antialiasing", hint="export it without")
    rule = _Rule(
        _mode(call),
        str(call.attr("coordinate_transformation_mode", "half_pixel")),
        str(call.attr("nearest_mode", "round_prefer_floor")),
        float(call.attr("cubic_coeff_a", -0.75)),
        bool(call.attr("exclude_outside", 0)),
        float(call.attr("extrapolation_value", 0.0)),
    )
    axes = call.axes("axes", None, len(x.shape)) if call.opset >= 18 else None
    axes = list(range(len(x.shape))) if axes is None else axes
    region = None
    if rule.transform == "tf_crop_and_resize":
        region = call.known(1, "the region").const.value.reshape(-1).astype(_F)
        if region.size != 2 * len(axes):
            raise InputError(f"has a region of {region.size} numbers for {len(axes)} axes")
        starts, ends = np.zeros(len(x.shape), _F), np.ones(len(x.shape), _F)
        starts[axes], ends[axes] = region[: len(axes)], region[len(axes) :]
        region = np.concatenate([starts, ends])
    return _resized(call.builder, x, _targets(call, x, axes), rule, region)


def _mode(call: Call) -> str:
    mode = str(call.attr("mode", "nearest"))
    if mode not in ("nearest", "linear", "cubic", "bilinear", "trilinear"):
        raise Unsupported(f"resizes in the mode '{mode}'")
    return "linear" if mode.endswith("linear") else mode


def _scaled(x: Value, axes: list[int], scales: list[float]) -> list[tuple[int, np.float32]]:
    """For every axis the new size and the scale."""
    if len(scales) != len(axes) or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise InputError(f"resizes {list(x.shape)} by the scales {scales}")
    targets = [(size, _F(1)) for size in x.shape]
    for axis, scale in zip(axes, scales, strict=True):
        targets[axis] = (math.floor(float(_F(scale) * _F(x.shape[axis]))), _F(scale))
    return targets


def _targets(call: Call, x: Value, axes: list[int]) -> list[tuple[int, np.float32]]:
    if call.has(2) and math.prod(call.value(2).shape) > 0:
        return _scaled(x, axes, call.known(2, "the scales").const.value.reshape(-1).tolist())
    sizes = call.ints("sizes", 3, "the sizes") if call.has(3) else None
    if sizes is None or len(sizes) != len(axes) or min(sizes, default=1) < 1:
        raise InputError(f"resizes {list(x.shape)} to the sizes {sizes}")
    policy = str(call.attr("keep_aspect_ratio_policy", "stretch"))
    ratios = [_F(size) / _F(x.shape[axis]) for axis, size in zip(axes, sizes, strict=True)]
    if policy in ("not_larger", "not_smaller"):
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [ratio] * len(axes)
        sizes = [math.floor(float(ratio) * x.shape[axis] + 0.5) for axis in axes]
    elif policy != "stretch":
        raise InputError(f"has the unknown keep_aspect_ratio_policy '{policy}'")
    targets = [(size, _F(1)) for size in x.shape]
    for axis, size, ratio in zip(axes, sizes, ratios, strict=True):
        targets[axis] = (size, ratio)
    return targets


def _resized(
    builder: Builder, x: Value, targets: list[tuple[int, np.float32]], rule: _Rule, region: np.ndarray | None
) -> Value:
    limited([size for size, _ in targets])
    if any(size < 1 for size, _ in targets):
        raise InputError(f"resizes {list(x.shape)} to {[size for size, _ in targets]}", hint="nothing would be left")
    before, keeps = x.shape, []
    for axis, (size, scale) in enumerate(targets):
        span = None if region is None else (region[axis], region[len(before) + axis])
        places = _coordinates(size, before[axis], scale, rule, span)
        keeps.append((places >= 0) & (places <= before[axis] - 1) if region is not None else np.ones(size, bool))
        if size == before[axis] and scale == 1 and span in (None, (0.0, 1.0)):
            continue
        x = _along(builder, x, axis, places, scale, rule)
    if all(keep.all() for keep in keeps):
        return x
    keep = np.ones((), bool)
    for part in keeps:
        keep = keep[..., None] & part
    held = builder.mul(x, Known(Const(keep.astype(np.float64)), x.dtype))
    return builder.add(held, Known(Const(np.where(keep, 0.0, float(_F(rule.outside)))), x.dtype))


def _coordinates(
    size: int, before: int, scale: np.float32, rule: _Rule, span: tuple[np.float32, np.float32] | None
) -> np.ndarray:
    """Where each new entry lies along the old axis, in float32."""
    at, half = np.arange(size, dtype=_F), _F(0.5)
    match rule.transform:
        case "half_pixel":
            return np.asarray((at + half) / scale - half)
        case "pytorch_half_pixel":
            return np.asarray((at + half) / scale - half) if size > 1 else np.zeros(1, _F)
        case "half_pixel_symmetric":
            wanted = scale * _F(before)
            offset = _F(before) / _F(2) * (_F(1) - _F(size) / wanted)
            return np.asarray(offset + (at + half) / scale - half)
        case "asymmetric":
            return np.asarray(at / scale)
        case "tf_half_pixel_for_nn":
            return np.asarray((at + half) / scale)
        case "align_corners":
            return np.asarray(at * _F(before - 1) / _F(size - 1)) if size > 1 else np.zeros(1, _F)
        case "tf_crop_and_resize" if span is not None:
            start, end = span
            if size == 1:
                return np.full(1, half * (start + end) * _F(before - 1), _F)
            return np.asarray(start * _F(before - 1) + at * (end - start) * _F(before - 1) / _F(size - 1))
    raise Unsupported(f"has the coordinate_transformation_mode '{rule.transform}'")


def _along(builder: Builder, x: Value, axis: int, places: np.ndarray, scale: np.float32, rule: _Rule) -> Value:
    """Resize one axis: a sum of picked entries, each times a weight of its own along the axis."""
    last = x.shape[axis] - 1
    if rule.mode == "nearest":
        return builder.gather(x, axis, np.clip(_nearest(places, scale, rule.nearest), 0, last).tolist())
    taps = _linear(places, last) if rule.mode == "linear" else _cubic(places, last, rule)
    total: Value | None = None
    for indices, weights in taps:
        if not np.any(weights):
            continue
        column = weights.astype(np.float64).reshape(-1, *[1] * (len(x.shape) - axis - 1))
        part = builder.mul(builder.gather(x, axis, indices.tolist()), Known(Const(column), x.dtype))
        total = part if total is None else builder.add(total, part)
    assert total is not None
    return total


def _nearest(places: np.ndarray, scale: np.float32, rounding: str) -> np.ndarray:
    floor = np.floor(places)
    match rounding:
        case "simple":
            picked = np.ceil(places) if scale < 1 else np.trunc(places)
        case "floor":
            picked = floor
        case "ceil":
            picked = np.ceil(places)
        case "round_prefer_floor":
            picked = np.where(places == np.trunc(places) + _F(0.5), floor, np.floor(places + _F(0.5)))
        case "round_prefer_ceil":
            picked = np.where(places < 0, -np.floor(-places + _F(0.5)), np.floor(places + _F(0.5)))
        case _:
            raise Unsupported(f"has the nearest_mode '{rounding}'")
    return np.asarray(picked).astype(np.int64)


def _linear(places: np.ndarray, last: int) -> list[tuple[np.ndarray, np.ndarray]]:
    inner = np.clip(places, _F(0), _F(last))
    low = np.minimum(inner.astype(np.int64), last)
    high = np.minimum(low + 1, last)
    from_low, from_high = np.abs(inner - low.astype(_F)), np.abs(inner - high.astype(_F))
    same = low == high
    return [
        (low, np.where(same, _F(0.5), from_high).astype(_F)),
        (high, np.where(same, _F(0.5), from_low).astype(_F)),
    ]


def _cubic(places: np.ndarray, last: int, rule: _Rule) -> list[tuple[np.ndarray, np.ndarray]]:
    """Keys' kernel over four neighbours; those outside are the edge, or left out and the rest made to sum to one."""
    a, base = _F(rule.coefficient), np.floor(places)
    s = (places - base).astype(_F)
    one = _F(1)
    t = s + one
    r = one - s
    q = _F(2) - s
    weights = [
        ((a * t - 5 * a) * t + 8 * a) * t - 4 * a,
        ((a + 2) * s - (a + 3)) * s * s + one,
        ((a + 2) * r - (a + 3)) * r * r + one,
        ((a * q - 5 * a) * q + 8 * a) * q - 4 * a,
    ]
    indices = [base.astype(np.int64) + shift for shift in (-1, 0, 1, 2)]
    weights = [weight.astype(_F) for weight in weights]
    if rule.exclude:
        weights = [np.where((i < 0) | (i > last), _F(0), w) for i, w in zip(indices, weights, strict=True)]
        whole = np.sum(weights, axis=0)
        weights = [(weight / whole).astype(_F) for weight in weights]
    return [(np.clip(i, 0, last), w) for i, w in zip(indices, weights, strict=True)]
