"""Distances: bounds on both sides of the truth, exact on small grids; covers that stop early prove nothing."""

from __future__ import annotations

import itertools
import json
import math
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from region_brute import Net, points, random_net, violates
from test_region_honesty import DIGITS, hard, image, tight

import verinn.region.cover as covers
import verinn.region.few as few
from verinn.cli import main
from verinn.errors import InputError
from verinn.options import Options
from verinn.region.distance import NORMS, DistanceSettings, smallest_change
from verinn.region.question import Scale, about_image
from verinn.region.verdict import Kind, Report

torch.set_num_threads(1)


def settings(p: float, on_grid: bool = False, seconds: float = 20.0) -> DistanceSettings:
    return DistanceSettings(Options(device="cpu", deadline=time.monotonic() + seconds), p, on_grid)


def norm(gaps: np.ndarray, p: float) -> np.ndarray:
    return (gaps != 0).sum(-1) * 1.0 if p == 0 else np.linalg.norm(gaps, p, axis=-1)


@pytest.mark.parametrize("seed", [1, 5, *[pytest.param(s, marks=pytest.mark.slow) for s in (0, 2, 3, 4)]])
def test_the_truth_lies_between(seed: int) -> None:
    """Two inputs: every grid point of a fine grid is listed; on the grid itself the bounds meet."""
    rng = np.random.default_rng(seed)
    net, reach = random_net(rng, 2), 3
    centre = rng.integers(-3, 4, 2)
    label = int(net.values(centre[None] * 1.0)[0].argmax())
    question = about_image(net.model(), centre * 1.0, Scale((Fraction(1, 2),), levels=None), Fraction(reach), label)
    if violates(net.values(centre[None] * 1.0), label, "violate")[0]:
        with pytest.raises(InputError, match="another class"):
            smallest_change(question, settings(1))
        return
    step = Fraction(1, 16)
    fine = points((centre - reach) * 16, (centre + reach) * 16, step)
    bad = fine[violates(net.values(fine), label, "violate")] - centre
    coarse = bad[(bad * 2 == np.rint(bad * 2)).all(1)]
    for p in NORMS.values():
        for on_grid, some in ((False, bad), (True, coarse)):
            report = smallest_change(question, settings(p, on_grid, 2.0))
            low, high = report.extra["at least"], float(str(report.extra["at most"]).replace("none found", "inf"))
            least = norm(some, p).min(initial=math.inf)
            assert low <= least + 1e-9 and low <= high
            if report.kind is Kind.UNSAFE:
                assert report.point is not None and violates(net.values(report.point[None] * 1.0), label, "violate")[0]
                assert norm(report.point - centre, p) <= high + 1e-9
                if on_grid:
                    assert high >= least - 1e-9
            if report.kind is Kind.SAFE_CONTINUOUS:
                assert not len(bad)


def test_subspaces_are_all_counted() -> None:
    """One input alone can't change the class, two can: L0 is two, with every subspace of one input proved."""
    question = hard(3)
    net = tight(3, 24)
    corners = 5.0 * np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    lowest = {t: (lambda y: y[:, 0] - y[:, 1])(net.values(corners[(corners != 0).sum(1) <= t])).min() for t in (1, 2)}
    shift = (lowest[1] + lowest[2]) / 2
    layers = (net.layers[0], (net.layers[1][0], net.layers[1][1] - np.array([shift, 0])))
    moved = type(net)(layers, net.bends)
    question = about_image(moved.model(), np.zeros(3), Scale((Fraction(1, 2),), levels=None), Fraction(5), 0)
    report = smallest_change(question, settings(0))
    assert report.kind is Kind.UNSAFE and report.extra["at least"] == 2 and report.extra["at most"] == "2.0"
    assert (report.covers[0].done, report.covers[0].total) == (3, 3)
    certificate = dict(report.extra["certificate"][0])
    assert sum(math.comb(len(g["of"]), g["change"]) for one in certificate.pop("cover") for g in one["groups"]) == 3
    assert certificate.pop("families") <= 3
    assert certificate == {"at least": 2.0, "subspaces": 3, "inputs": 1}


@pytest.mark.parametrize("p", [1, 2])
def test_a_ball_s_cover_can_be_checked(p: float) -> None:
    """From the certificate alone: boxes nest, halves are the whole, rows are above zero, the rest misses the ball."""
    checked = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        net, centre = random_net(rng, 2), rng.integers(-3, 4, 2) * 1.0
        y = net.values(centre[None])[0]
        label = int(y.argmax())
        if violates(y[None], label, "violate")[0]:
            continue
        question = about_image(net.model(), centre, Scale((Fraction(1, 2),), levels=None), Fraction(3), label)
        report = smallest_change(question, settings(p, seconds=2.0))
        for one in report.extra["certificate"]:
            checked += len(_checked(one, net, centre, label, p)) if "cover" in one else 0
    assert checked > 20


def _checked(one: dict[str, object], net: Net, centre: np.ndarray, label: int, p: float) -> list[object]:
    radius, rows = float(one["ball"]), list(one["cover"])  # type: ignore[arg-type, call-overload]

    def ends(told: dict[str, list[float]]) -> np.ndarray:
        return np.array([told.get(str(i), [centre[i]] * 2) for i in range(2)])

    boxes = [ends(row["box"]) for row in rows]
    first = boxes[0]
    ball = np.stack([np.maximum(centre - radius, centre - 3), np.minimum(centre + radius, centre + 3)], 1)
    assert (first[:, 0] <= ball[:, 0] + 1e-9).all() and (first[:, 1] >= ball[:, 1] - 1e-9).all()
    for row, box in zip(rows, boxes, strict=True):
        grid = np.stack(np.meshgrid(*[np.linspace(*end, 15) for end in box]), -1).reshape(-1, 2)
        inside = norm(grid - centre, p) <= radius
        if "outside the ball" in row:
            assert not inside.any()
            continue
        values = net.values(grid)
        margins = np.delete(values[:, label : label + 1] - values, label, 1)
        if "rows at least" in row:
            assert (np.array(row["rows at least"]) > 0).all()
            assert (margins[inside] >= np.array(row["rows at least"]) - 1e-5).all()
            continue
        kept = ends(row["halved"])
        rest = inside & ~((grid >= kept[:, 0] - 1e-9) & (grid <= kept[:, 1] + 1e-9)).all(1)
        assert (margins[rest] > 0).all()
        halves = [b for b in boxes if (b[:, 0] >= kept[:, 0]).all() and (b[:, 1] <= kept[:, 1]).all()]
        axis = [b for b in halves if ((b == kept).sum(1) == 2).any() or (b == kept).any()]
        whole = math.prod(kept[:, 1] - kept[:, 0])
        assert any(math.isclose(math.prod(b[:, 1] - b[:, 0]) * 2, whole, rel_tol=1e-6, abs_tol=1e-12) for b in axis)
    return rows


def test_a_safe_box_has_no_distance() -> None:
    for p in (math.inf, 2):
        report = smallest_change(hard(2, Fraction(1)), settings(p))
        assert report.kind is Kind.SAFE_CONTINUOUS and report.extra["at most"] == "none found"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_no_memory_proves_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(covers, "rows", fails)
    monkeypatch.setattr(few, "rows", fails)
    report = smallest_change(hard(2, Fraction(1)), settings(0))
    assert report.kind is Kind.UNKNOWN and report.extra["at least"] == 1 and report.reason == "out of memory"


def test_no_time_proves_nothing() -> None:
    report = smallest_change(hard(2, Fraction(1)), settings(2, seconds=-1.0))
    assert report.kind is Kind.UNKNOWN and report.extra["at least"] == 0 and "time" in report.reason


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["region", "distance", str(DIGITS / "onnx" / "digits_dense.onnx"), "--image", str(image(tmp_path))]
    given += ["--index", "0", "--step", "1/16", "--norm", "0", "--timeout", "30", "--pictures", str(tmp_path / "p")]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert out.startswith("unsafe\n") and "\nat least: 1.0\nat most: 1.0\n" in out
    assert {path.name for path in (tmp_path / "p").iterdir()} >= {"adversarial.png", "bounds.png"}
    assert main([*given[:-2], "--state", str(tmp_path / "s.json")]) == 0
    capsys.readouterr()
    assert main([*given[:-4], "--timeout", "1", "--state", str(tmp_path / "s.json")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("unsafe\n") and "\nat least: 1.0\nat most: 1.0\n" in out
    assert main([*given[:-2], "--state", str(tmp_path / "s.json"), "--norm", "2"]) == 2
    assert "another question" in capsys.readouterr().err


def test_a_search_goes_on_from_its_state(tmp_path: Path) -> None:
    """Proved bounds are kept, witnesses are replayed again; a broken file is told."""
    question, state = hard(2, Fraction(1)), tmp_path / "s.json"

    def asked(seconds: float) -> Report:
        limit = Options(device="cpu", deadline=time.monotonic() + seconds)
        return smallest_change(question, DistanceSettings(limit, 2, state=state, mark="m"))

    first = asked(20.0)
    again = asked(-1.0)  # no time for anything new
    assert first.kind is again.kind is Kind.SAFE_CONTINUOUS
    assert again.extra["at least"] == first.extra["at least"] > 0
    assert len(again.extra["certificate"]) == len(first.extra["certificate"])
    record = json.loads(state.read_text())
    state.write_text(json.dumps({**record, "point": [0.0, 0.0], "whole": False}))
    report = asked(-1.0)  # the point doesn't violate
    assert report.kind is Kind.UNKNOWN and report.extra["at most"] == "none found"
    for broken in ({**record, "lower": "1/0"}, {**record, "certificate": 3}, {**record, "point": [1.0]}, {}, []):
        state.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"s\.json"):
            asked(1.0)
    with pytest.raises(InputError, match="another question"):
        state.write_text(json.dumps({**record, "question": "n"}))
        asked(1.0)


def test_bounds_are_told_as_they_come() -> None:
    told: list[str] = []
    limit = Options(device="cpu", deadline=time.monotonic() + 20)
    report = smallest_change(hard(2, Fraction(1)), DistanceSettings(limit, 1, tell=told.append))
    lows = [float(line.split()[2]) for text in told for line in text.splitlines() if line.startswith("at least")]
    assert lows == sorted(lows) and lows[-1] == report.extra["at least"] and len(set(lows)) > 2


def test_states_tell_images_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Many inputs, two images of one class that differ in a single pixel in the middle."""
    rng = np.random.default_rng(0)
    weight = np.stack([rng.integers(0, 4, 1200) / 4, np.zeros(1200)], 1)
    net = Net(((weight, np.array([-weight[:, 0].sum() * 0.503, 0.0])),), ())
    (tmp_path / "m.onnx").write_bytes(net.model().SerializeToString())
    images = np.full((2, 1200), 128, np.uint8)
    images[1, 600] = 129
    np.save(tmp_path / "x.npy", images)
    given = ["region", "distance", str(tmp_path / "m.onnx"), "--image", str(tmp_path / "x.npy"), "--label", "1"]
    given += ["--norm", "1", "--timeout", "20", "--state", str(tmp_path / "s.json"), "--dims", "590-609"]
    assert main([*given, "--index", "0"]) == main([*given, "--index", "0"]) == 0
    assert "at least: 0.0" not in capsys.readouterr().out
    assert main([*given, "--index", "1"]) == 2
    assert "another question" in capsys.readouterr().err
