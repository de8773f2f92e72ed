"""The search layer by layer: the paper's objects, its example, exact mapping back, and what may not be claimed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from region_brute import Net, random_net
from test_region_cells import truth

import verinn.region.preimages as preimages
from verinn.cli import main
from verinn.exact.smt.preimage import Found, Preimages
from verinn.exact.smt.solver import Status
from verinn.options import Options
from verinn.region.ladders import axes, corners, covering, ladders, minimal, rec, valid, variation
from verinn.region.layered import LayerSettings, search_layers
from verinn.region.layers import image, layers_of, refinement, region_at
from verinn.region.question import Question, Scale, about_image
from verinn.region.verdict import Kind
from verinn.result import Result, Verdict

torch.set_num_threads(1)
FOLDER = Path(__file__).parents[2] / "benchmarks" / "region"


def settings(**more: object) -> LayerSettings:
    return LayerSettings(Options(device="cpu", deadline=time.monotonic() + 60), **more)  # type: ignore[arg-type]


def curve() -> Question:
    x = np.load(FOLDER / "curve_x.npy")
    return about_image(FOLDER / "curve.onnx", x, Scale((Fraction(1),), levels=None), Fraction(1))


def small(seed: int, reach: int = 1) -> tuple[Question, Net, np.ndarray, int]:
    rng = np.random.default_rng(seed)
    net = random_net(rng, 2)
    net = replace(net, bends=tuple("Relu" for _ in net.bends))
    centre = rng.integers(-3, 4, 2)
    label = int(net.values(centre[None] * 1.0)[0].argmax())
    question = about_image(net.model(), centre * 1.0, Scale((Fraction(1),), levels=None), Fraction(reach), label)
    return question, net, centre, label


def test_the_papers_example() -> None:
    """Safe for the manipulations of the input layer, unsafe at layer 1, by an input of the region."""
    question = curve()
    first = search_layers(question, settings(last=0))
    assert first.kind is Kind.SAFE_FOR_MANIPULATIONS and first.covers[0].done == first.covers[0].total == 9
    second = search_layers(question, settings(last=1))
    assert second.kind is Kind.UNSAFE and second.point is not None and second.witness is not None
    assert (np.abs(second.point - question.original()) <= 1 + 1e-6).all()
    assert second.witness.values["Y"].argmax() == 1 - (question.label or 0)
    assert "found at layer 1 and mapped back" in second.replayed
    assert search_layers(question, settings(last=0, cells=True)).kind is Kind.UNSAFE


def test_the_definitions() -> None:
    low, high = (-1, -1), (1, 1)
    found = list(ladders((0, 0), axes(2), low, high))
    assert covering(found, low, high) and not covering(found[:3], low, high)
    assert all(variation(ladder, lambda level: 0) == 0 for ladder in found)
    assert max(variation(ladder, lambda level: int(level == (1, 1))) for ladder in found) == 1
    assert valid((0, 0), corners(2)) and not valid((0, 0), corners(2)[1:]) and not valid((0, 0), axes(2))
    assert rec((1, 0), (0, 3)) == ((0, 0), (1, 3))
    step = corners(2)[-1]
    assert minimal((0, 0), step, lambda level: sum(level) % 2) is False and minimal(
        (0, 0), step, lambda level: level[0]
    )


@pytest.mark.parametrize("seed", range(12))
def test_zero_variation_is_what_the_ladders_say(seed: int) -> None:
    """At the input layer: 0-variation of all ladders of single steps, by enumeration."""
    question, net, centre, label = small(seed, 2)

    def name(level: tuple[int, ...]) -> int:
        y = net.values((centre + np.array(level))[None] * 1.0)[0]
        return int((np.delete(y, label) >= y[label]).any())

    found = ladders((0, 0), axes(2), (-2, -2), (2, 2))
    flat = name((0, 0)) == 0 and all(variation(ladder, name) == 0 for ladder in found)
    report = search_layers(question, settings(last=0))
    assert (report.kind is Kind.SAFE_FOR_MANIPULATIONS) == flat


@pytest.mark.parametrize("seed", range(20, 32))
def test_all_layers_agree_with_the_truth(seed: int) -> None:
    question, net, centre, label = small(seed)
    violated = truth(net, centre - 1, centre + 1, label)
    for paths in ("all", "single"):
        report = search_layers(question, settings(cells=paths == "all", paths=paths, size=2, features=2, seconds=2.0))
        if report.kind is Kind.UNSAFE:
            assert violated and report.point is not None
            assert (np.abs(report.point - centre) <= 1).all()
            y = net.values(report.point[None].astype(np.float64))[0]
            assert (np.delete(y, label) >= y[label] - 1e-3).any()
        if report.kind is Kind.SAFE_CONTINUOUS:
            assert not violated
        if report.kind is Kind.SAFE_FOR_MANIPULATIONS:
            assert any("nothing is claimed" in text for text in report.assumptions)
            assert any("are independent" in text for text in report.assumptions) == (paths == "single")


def test_what_mapping_back_leaves_open_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search and Z3 both out of time: points that change the class stay, and nothing is called safe."""
    monkeypatch.setattr(preimages, "solve", lambda *_: Result(Verdict.TIMEOUT))
    monkeypatch.setattr(Preimages, "find", lambda *_, **__: Found(Status.UNKNOWN, reason="timeout"))
    report = search_layers(curve(), settings(first=1, last=1))
    assert report.kind is Kind.UNKNOWN and "timeout" in report.reason
    monkeypatch.setattr(Preimages, "find", lambda *_, **__: Found(Status.SAT, (Fraction(359, 100), Fraction(111, 100))))
    report = search_layers(curve(), settings(first=1, last=1))
    assert report.kind is Kind.UNKNOWN


def test_z3_maps_back_what_the_search_leaves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preimages, "solve", lambda *_: Result(Verdict.TIMEOUT))
    net = Net(
        ((np.eye(2) * 1.0, np.array([0.5, -0.5])), (np.array([[1.0, 0], [-1.0, 0]]), np.array([0.0, 2.75]))), ("Relu",)
    )
    question = about_image(net.model(), np.array([4.0, 0]), Scale((Fraction(1),), levels=None), Fraction(3), 0)
    report = search_layers(question, settings(first=1, last=1))
    assert report.kind is Kind.UNSAFE and report.point is not None
    y = net.values(report.point[None].astype(np.float64))[0]
    assert y[0] <= y[1] and (np.abs(report.point - [4, 0]) <= 3).all()


def test_refinement_is_checked() -> None:
    question = curve()
    graph, (_, grid) = question.problem.graph, question.grids[0]
    first, second = layers_of(graph)[:2]
    box = grid.box(grid.low, grid.high)
    x = grid.fed(np.zeros(2, np.int64))
    before = region_at(first, x, box, 2, 1, 0, "gradient")
    bounds = image(graph, first, second, *before.grid.box(before.grid.low, before.grid.high))
    program_centre = np.clip((bounds[0] + bounds[1]) / 2, 0, None).astype(np.float32)
    good = region_at(second, program_centre, bounds, 4, 2, 0, "activation")
    assert refinement(graph, before, good).covers
    narrow = tuple(program_centre + (end - program_centre) * 0.3 for end in bounds)
    bad = refinement(graph, before, region_at(second, program_centre, narrow, 4, 2, 0, "activation"))
    assert not bad.covers and bad.within < bad.checked and "NOT covered" in str(bad)


def test_selection_stays_within_the_receptive_field(tmp_path: Path) -> None:
    """One pixel moves: only what a 3 × 3 convolution with stride 2 makes of it can be chosen."""
    from sklearn.datasets import load_digits

    model = FOLDER.parent / "digits" / "onnx" / "digits_conv.onnx"
    picture = load_digits().images[1440] / 16
    question = about_image(model, picture, Scale((Fraction(1, 16),), levels=17), Fraction(1, 4), dims=[0])
    for by in ("gradient", "activation"):
        report = search_layers(question, settings(last=1, size=5, by=by))
        layers = report.record()["layers"]
        chosen = layers[1]["dimensions"]
        assert chosen and all(p % 16 == 0 for p in chosen)  # the corner place of each of six 4 × 4 maps


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["region", "layer", str(FOLDER / "curve.onnx"), "--image", str(FOLDER / "curve_x.npy")]
    given += ["--levels", "none", "--step", "1", "--radius", "1"]
    pictures = tmp_path / "pictures"
    assert main([*given, "--layers", "0-0", "--pictures", str(pictures), "--json", str(tmp_path / "r.json")]) == 0
    assert (pictures / "covered.png").exists()
    history = json.loads((tmp_path / "r.json").read_text())["statistics"]["history"]
    assert history[-1][1:] == ["points at layer 0", 1.0]
    assert capsys.readouterr().out.startswith("safe-for-manipulations\n")
    assert main([*given, "--layers", "0-9"]) == 2
    assert "layers 0 to 3" in capsys.readouterr().err
    assert main([*given, "--paths", "multi", "--size", "1", "--features", "6", "--layers", "1-1"]) == 2
    assert "orders" in capsys.readouterr().err
    assert main([*given, "--state", str(tmp_path / "s.json")]) == 2
    assert "--state" in capsys.readouterr().err


@pytest.mark.slow
def test_recipe(tmp_path: Path) -> None:
    """The committed network is what its recipe makes, up to rounding."""
    import sys

    import onnx
    from onnx import numpy_helper

    sys.path.insert(0, str(FOLDER.parents[1]))
    from benchmarks.region.curve import to_onnx, train

    made = to_onnx(train())
    for one, two in zip(made.graph.initializer, onnx.load(FOLDER / "curve.onnx").graph.initializer, strict=True):
        np.testing.assert_allclose(numpy_helper.to_array(one), numpy_helper.to_array(two), rtol=0.05, atol=0.05)
