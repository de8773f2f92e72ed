"""g(θ; x) computed directly, in float64: what a witness is made with, and what the prefix graph is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from verinn.region.manipulations import Family


def manipulated(family: Family, image: np.ndarray, theta: Sequence[float]) -> np.ndarray:
    """The image (C, H, W), pixels 0 to 1, after all manipulations at θ; clipped to [0, 1] at the end."""
    result = image.astype(np.float64)
    for step in family.steps:
        result = _KINDS[step.kind](result, step.values(theta))
    return np.clip(result, 0.0, 1.0)


def _brightness(x: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
    return x + p["amount"]


def _contrast(x: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
    return np.asarray(p["about"] + p["factor"] * (x - p["about"]))


def _haze(x: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
    return np.asarray(x + p["amount"] * (p["colour"] - x))


def _affine(x: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
    """Bilinear, about the middle of the image, nothing (0) around it. Moves to the right and down."""
    _, height, width = x.shape
    angle = math.radians(p.get("degrees", 0.0))
    zoom = 1.0 / p.get("factor", 1.0)
    i, j = np.mgrid[0:height, 0:width].astype(np.float64)
    di, dj = i - (height - 1) / 2 - p.get("y", 0.0), j - (width - 1) / 2 - p.get("x", 0.0)
    u = (width - 1) / 2 + zoom * (math.cos(angle) * dj + math.sin(angle) * di)
    v = (height - 1) / 2 + zoom * (-math.sin(angle) * dj + math.cos(angle) * di)
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    result = np.zeros_like(x)
    for a in (0, 1):
        for b in (0, 1):
            weight = (1 - np.abs(u - (left + b))) * (1 - np.abs(v - (top + a)))
            inside = (left + b >= 0) & (left + b < width) & (top + a >= 0) & (top + a < height)
            rows, columns = np.clip(top + a, 0, height - 1), np.clip(left + b, 0, width - 1)
            result += np.where(inside, weight, 0.0) * x[:, rows, columns]
    return result


def _unit(t: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(t, 0.0, 1.0))


def _scratch(x: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
    """A segment from (x, y) in a direction: a pixel is covered as far as its middle is within half a pixel of it."""
    _, height, width = x.shape
    i, j = np.mgrid[0:height, 0:width].astype(np.float64)
    angle = math.radians(p["degrees"])
    along = (j - p["x"]) * math.cos(angle) + (i - p["y"]) * math.sin(angle)
    across = -(j - p["x"]) * math.sin(angle) + (i - p["y"]) * math.cos(angle)
    ends = _unit(np.minimum(along, p["length"] - along) + 0.5)
    cover = _unit(p["width"] / 2 + 0.5 - np.abs(across)) * ends
    return np.asarray(x + cover * (p["colour"] - x))


def _patch(x: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
    """A rectangle with its upper left corner at (x, y), pixel (i, j) being the square [j, j + 1] × [i, i + 1]."""
    _, height, width = x.shape

    def overlap(count: int, start: float, size: float) -> np.ndarray:
        k = np.arange(count)
        return np.asarray(_unit(k + 1 - start) - _unit(k + 1 - start - size))

    cover = overlap(height, p["y"], p["height"])[:, None] * overlap(width, p["x"], p["width"])[None, :]
    return np.asarray(x + cover * (p["colour"] - x))


def blurred(x: np.ndarray, radius: int) -> np.ndarray:
    """The image under a binomial kernel of 2·radius + 1 pixels in both directions, its edge continued."""
    kernel = np.array([math.comb(2 * radius, k) for k in range(2 * radius + 1)], float) / 4.0**radius
    for axis in (1, 2):
        pads = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        wide = np.pad(x, pads, mode="edge")
        size = x.shape[axis]
        x = sum(w * np.take(wide, range(k, k + size), axis) for k, w in enumerate(kernel))
    return x


def _blur(x: np.ndarray, p: Mapping[str, float]) -> np.ndarray:
    return np.asarray(x + p["amount"] * (blurred(x, int(p["radius"])) - x))


_KINDS = {
    "brightness": _brightness,
    "contrast": _contrast,
    "haze": _haze,
    "rotation": _affine,
    "translation": _affine,
    "scaling": _affine,
    "affine": _affine,
    "scratch": _scratch,
    "patch": _patch,
    "blur": _blur,
}
