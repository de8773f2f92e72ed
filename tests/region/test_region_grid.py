"""The grid answer against every point listed: small piecewise-linear networks with whole weights."""

from __future__ import annotations

import json
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from region_brute import Rng, points, random_net, violates

from verinn.options import Options
from verinn.region.decide import Settings, decide
from verinn.region.question import TIES, Question, Scale, about_image
from verinn.region.verdict import Cover, Kind, Report

torch.set_num_threads(1)


def question_of(rng: Rng) -> tuple[Question, np.ndarray, str]:
    """A random network and box of a grid around a random centre, and which of its points violate."""
    n = int(rng.integers(2, 5))
    net, step = random_net(rng, n), Fraction(1, int(rng.choice([1, 2, 4])))
    centre = rng.integers(-4, 5, n)
    reach = int(rng.integers(1, {2: 8, 3: 5, 4: 3}[n]))
    ties = str(rng.choice(TIES))
    values = net.values((centre * float(step))[None])[0]
    label = int(values.argmax()) if rng.random() < 0.8 else int(rng.integers(len(values)))
    scale = Scale(step=(step,), levels=None)
    question = about_image(net.model(), centre * float(step), scale, reach * step, label, ties=ties)
    every = points(centre - reach, centre + reach, step)
    return question, every[violates(net.values(every), label, ties)], ties


def agrees(seed: int) -> str:
    """One case: the verdict is the brute one, a witness is one of the bad points, and all points are counted."""
    rng = np.random.default_rng(seed)
    question, bad, _ = question_of(rng)
    leaf = int(rng.choice([1, 4, 32]))
    options = Options(device="cpu", deadline=time.monotonic() + 120, seed=seed)
    report = decide(
        question, Settings(options, leaf=leaf, batch=int(rng.choice([1, 7, 64])), engine=bool(rng.random() < 0.5))
    )
    if len(bad):
        assert report.kind is Kind.UNSAFE
        assert report.point is not None and (bad == report.point).all(1).any()
    else:
        assert report.kind is Kind.SAFE_ON_GRID
        (cover,) = report.covers
        assert cover.done == cover.total == question.points
    return report.kind.value


def test_brute_force() -> None:
    found = [agrees(seed) for seed in range(60)]
    assert min(found.count("unsafe"), found.count("safe-on-grid")) > 10


@pytest.mark.slow
def test_brute_force_thousand() -> None:
    found = [agrees(seed) for seed in range(1000)]
    assert min(found.count("unsafe"), found.count("safe-on-grid")) > 150


def test_counts_of_any_length_are_written() -> None:
    """All images of 32 × 32 × 3 bytes: more digits than Python writes out."""
    points = 256**3072
    report = Report(
        Kind.UNKNOWN, "q", "r", 3072, 3072, (Cover("grid points", 3, points),), statistics={"units": points}
    )
    record = json.loads(json.dumps(report.record()))
    assert record["covered"] == [{"what": "grid points", "done": 3, "total": "2^24576 and more"}]
    assert record["statistics"] == {"units": "2^24576 and more"} and "of 2^24576 and more" in report.lines()[4]
