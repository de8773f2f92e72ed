"""Lp balls: the radius up to which a digit classifier keeps its label, by the norm's own concretisation.

For each norm and each of some test images, the largest radius that is certified (bisection on CROWN's bounds of
the margins), and the one that the box around the ball would certify.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

import verinn

MODEL = Path(__file__).resolve().parents[1] / "digits" / "onnx" / "digits_dense.onnx"
NORMS = (1.0, 2.0, math.inf)


@dataclass(frozen=True)
class Radii:
    """Mean certified radii of a norm: by the ball, and by the box around it."""

    p: float
    ball: float
    box: float


def margins(label: int) -> np.ndarray:
    """Rows (9, 10): the label's output minus each other one."""
    others = [k for k in range(10) if k != label]
    rows = np.zeros((9, 10))
    rows[:, label] = 1.0
    rows[range(9), others] = -1.0
    return rows


def certified(graph: object, image: torch.Tensor, label: int, p: float, radius: float, boxed: bool) -> bool:
    """Whether CROWN proves that no point of the ball, within [0, 1], changes the label."""
    one = verinn.Ball(image, radius, p, 0.0, 1.0)
    region = verinn.Box(*one.enclosing((1, 64))) if boxed else one
    return bool((verinn.bounds(graph, region, rows=margins(label)).lower > 0).all())  # type: ignore[operator]


def largest(graph: object, image: torch.Tensor, label: int, p: float, boxed: bool, rounds: int) -> float:
    """The greatest radius found to be certified, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if certified(graph, image, label, p, middle, boxed) else (low, middle)
    return low


def run(count: int = 4, rounds: int = 7) -> list[Radii]:
    """Mean radii over the first ``count`` test images that are classified rightly."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images[-300:] / 16.0, labels[-300:]
    graph = verinn.load(MODEL)
    chosen = []
    for x, label in zip(images, labels, strict=True):
        image = torch.from_numpy(x).reshape(1, 64)
        if len(chosen) < count and certified(graph, image, int(label), 2.0, 0.0, False):
            chosen.append((image, int(label)))
    return [
        Radii(
            p,
            float(np.mean([largest(graph, image, label, p, False, rounds) for image, label in chosen])),
            float(np.mean([largest(graph, image, label, p, True, rounds) for image, label in chosen])),
        )
        for p in NORMS
    ]


if __name__ == "__main__":
    for found in run():
        print(f"p = {found.p}: radius {found.ball:.3f} by the ball, {found.box:.3f} by the box around it")
