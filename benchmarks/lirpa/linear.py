"""Linear input constraints: pixels move by at most ε each, while the brightness of each quarter of the image stays.

The least margin of a digit classifier over the box alone, over the box cut by these constraints, and what an attack
finds between them: Frank-Wolfe steps, each a linear programme, so every point of it keeps to the constraints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from balls import margins
from scipy.optimize import linprog
from sklearn.datasets import load_digits

import verinn

MODEL = Path(__file__).resolve().parents[1] / "digits" / "onnx" / "digits_dense.onnx"
RADII = (0.06, 0.08, 0.1)
SLACK = 0.02  # by how much the mean of a quarter may change, as a share of ε


@dataclass(frozen=True)
class Margins:
    """The least of the nine margins, mean over the images: certified (box, box cut by rows), and attacked."""

    radius: float
    box: float
    cut: float
    attacked: float


def quarters() -> np.ndarray:
    """Rows (4, 1, 64): the mean over each quarter of an image of 8 × 8."""
    rows = np.zeros((4, 8, 8))
    for k in range(4):
        top, left = 4 * (k // 2), 4 * (k % 2)
        rows[k, top : top + 4, left : left + 4] = 1 / 16
    return rows.reshape(4, 1, 64)


def constrained(image: np.ndarray, radius: float) -> verinn.Polytope:
    """The images within ``radius`` of ``image`` (1, 64) and in [0, 1] whose quarters are as bright as before."""
    means = quarters()
    now = (means * image).sum((1, 2))
    rows = np.concatenate([means, -means])
    limits = np.concatenate([now, -now]) + SLACK * radius
    return verinn.Polytope(np.clip(image - radius, 0, 1), np.clip(image + radius, 0, 1), rows, limits)


def attacked(graph: object, region: verinn.Polytope, row: np.ndarray, start: np.ndarray, steps: int) -> float:
    """The least value of one margin (1, 10) that Frank-Wolfe steps from ``start`` (1, 64) come upon."""
    x, least = start, np.inf
    inside = list(zip(region.lower.ravel(), region.upper.ravel(), strict=True))
    for step in range(steps):
        point = torch.tensor(x, requires_grad=True)
        value = verinn.bounds(graph, verinn.Box(point, point), rows=row).lower.sum()  # type: ignore[operator]
        (slope,) = torch.autograd.grad(value, point)
        least = min(least, float(value.detach()))
        found = linprog(slope.numpy().ravel(), region.rows.reshape(8, 64), region.limits, bounds=inside)
        x = x + (found.x.reshape(1, 64) - x) * 2 / (step + 2)
    return least


def run(radii: tuple[float, ...] = RADII, count: int = 3, steps: int = 12) -> list[Margins]:
    """Margins of the first ``count`` test images that are classified rightly, for each radius."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images[-300:] / 16.0, labels[-300:]
    graph = verinn.load(MODEL)
    chosen = []
    for x, label in zip(images, labels, strict=True):
        image, rows = x.reshape(1, 64), margins(int(label))
        if len(chosen) < count and (verinn.bounds(graph, verinn.Box(image, image), rows=rows).lower > 0).all():
            chosen.append((image, rows))
    return [Margins(radius, *np.mean([least(graph, *one, radius, steps) for one in chosen], 0)) for radius in radii]


def least(graph: object, image: np.ndarray, rows: np.ndarray, radius: float, steps: int) -> tuple[float, float, float]:
    """The least margin certified over the box, certified over the box cut by rows, and attacked there."""
    region = constrained(image, radius)
    box = verinn.bounds(graph, verinn.Box(region.lower, region.upper), method="alpha-crown", rows=rows)  # type: ignore[operator]
    cut = verinn.bounds(graph, region, method="alpha-crown", rows=rows)  # type: ignore[operator]
    found = min(attacked(graph, region, row[None], image, steps) for row in rows)
    assert float(cut.lower.min()) <= found, "a bound above a value: unsound"
    return float(box.lower.min()), float(cut.lower.min()), found


if __name__ == "__main__":
    for one in run():
        print(
            f"ε = {one.radius:.2f}: margin at least {one.box:7.3f} over the box,"
            f" {one.cut:7.3f} with the constraints, attacked {one.attacked:7.3f}"
        )
