"""Manipulations: the prefix graph is the manipulation, verdicts hold for θ that were tried, files are read strictly."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from region_brute import Net
from scipy.ndimage import map_coordinates

import verinn.region.prefix as prefix
from verinn.attack.replay import Original
from verinn.cli import main
from verinn.errors import InputError
from verinn.options import Options
from verinn.region.direct import manipulated
from verinn.region.manipulations import Family, family_from_words, family_of, load_family
from verinn.region.question import Scale
from verinn.region.transform import Composition, Replay, check_prefix, compose, loses, question_of, verify_family
from verinn.region.verdict import Kind
from verinn.result import Verdict
from verinn.search.run import solve

torch.set_num_threads(1)
MODELS = Path(__file__).parents[2] / "benchmarks" / "digits" / "onnx"


def family(*entries: dict[str, Any]) -> Family:
    return family_of({"manipulation": list(entries)})


KINDS: list[dict[str, Any]] = [
    {"kind": "brightness", "amount": [-0.1, 0.1]},
    {"kind": "contrast", "factor": [0.8, 1.2], "about": 0.4},
    {"kind": "rotation", "degrees": [-8, 4]},
    {"kind": "translation", "x": [-0.7, 1.2], "y": 0.3},
    {"kind": "scaling", "factor": [0.8, 1.3]},
    {"kind": "affine", "degrees": [80, 100], "factor": [0.9, 1.1], "x": [-1, 0.5], "y": [0, 1]},
    {"kind": "scratch", "x": [1, 3], "y": 2, "degrees": [0, 60], "length": [2, 4], "width": [0.5, 2], "colour": [0, 1]},
    {"kind": "patch", "x": [-1, 5], "y": [0, 5.5], "width": [1, 2.5], "height": 2, "colour": 0.3},
    {"kind": "blur", "amount": [0, 1], "radius": 2},
    {"kind": "haze", "amount": [0, 0.4], "colour": [0.5, 1]},
]


def image(index: int = 1440) -> np.ndarray:
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().images[index] / 16)


def made(what: Family, net: str = "dense", index: int = 1440) -> Composition:
    return compose(MODELS / f"digits_{net}.onnx", image(index), what, Scale(), None, "violate")


@pytest.mark.parametrize("entry", KINDS, ids=lambda entry: entry["kind"])
@pytest.mark.parametrize("behind", [False, True], ids=["of the image", "of a manipulated image"])
def test_the_prefix_is_the_manipulation(entry: dict[str, Any], behind: bool) -> None:
    first = [{"kind": "contrast", "factor": [0.9, 1.0], "about": 0.0}] if behind else []
    assert check_prefix(made(family(*first, entry), "conv"), 24) < 5e-6


def test_colours_and_normalisation() -> None:
    """Three planes, an input that is normalised: the composed model gets what the manipulation makes."""
    weight = np.random.default_rng(0).normal(size=(4, 3 * 6 * 5)).astype(np.float32)
    nodes = [onnx.helper.make_node("Flatten", ["x"], ["f"]), onnx.helper.make_node("Gemm", ["f", "w"], ["y"], transB=1)]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "rgb", [info("x", 1, [1, 3, 6, 5])], [info("y", 1, [1, 4])], [onnx.numpy_helper.from_array(weight, "w")]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    picture = np.random.default_rng(1).integers(0, 256, (6, 5, 3)) / 255
    scale = Scale(
        mean=tuple(map(prefix_fraction, ("0.4", "0.5", "0.6"))), std=tuple(map(prefix_fraction, ("0.2", "0.25", "0.3")))
    )
    composition = compose(model, picture, family(KINDS[2], KINDS[7]), scale, None, "violate")
    assert (composition.pixels == np.moveaxis(picture, -1, 0)).all()
    assert check_prefix(composition, 24) < 5e-6


def prefix_fraction(text: str) -> Any:
    from fractions import Fraction

    return Fraction(text)


def test_resampling_is_bilinear() -> None:
    """Against SciPy's, with nothing around the image."""
    x = image()
    rng = np.random.default_rng(2)
    for _ in range(20):
        angle, factor, dx, dy = rng.uniform([-200, 0.5, -3, -3], [200, 2, 3, 3])
        what = family({"kind": "affine", "degrees": [-360, 360], "factor": [0.1, 10], "x": [-9, 9], "y": [-9, 9]})
        turn = np.deg2rad(angle)
        i, j = np.mgrid[0:8, 0:8] - 3.5
        i, j = i - dy, j - dx
        u = 3.5 + (np.cos(turn) * j + np.sin(turn) * i) / factor
        v = 3.5 + (np.cos(turn) * i - np.sin(turn) * j) / factor
        expected = map_coordinates(x, [v, u], order=1, mode="grid-constant")
        found = manipulated(what, x[None], [angle, factor, dx, dy])[0]
        np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-12)


def test_pixels_out_of_reach_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that misses pixels is a defect, and no verdict comes of it."""
    real = prefix.reach
    monkeypatch.setattr(prefix, "reach", lambda *a: tuple(side[:, 1:] for side in real(*a)))
    with pytest.raises(RuntimeError, match="is off by"):
        check_prefix(made(family({"kind": "rotation", "degrees": [-5, 5]})))


@pytest.mark.parametrize(
    ("entries", "net", "kind"),
    [
        ([KINDS[0], KINDS[1]], "dense", Kind.SAFE_FOR_MANIPULATIONS),
        ([{"kind": "rotation", "degrees": [-3, 3]}], "dense", Kind.SAFE_FOR_MANIPULATIONS),
        ([{**KINDS[6], "degrees": 30, "length": 4, "width": 0.5, "colour": 1}], "conv", Kind.SAFE_FOR_MANIPULATIONS),
        ([{"kind": "translation", "x": [-0.5, 0.5], "y": [-0.3, 0.3]}], "dense", Kind.UNSAFE),
        ([{"kind": "patch", "x": [0, 5], "y": [0, 5], "width": 2, "height": 2}], "conv", Kind.UNSAFE),
        ([{"kind": "haze", "amount": [0, 0.4]}], "dense", Kind.UNSAFE),
        ([{"kind": "rotation", "degrees": [-4, 4], "steps": {"degrees": 0.5}}], "conv", Kind.SAFE_FOR_MANIPULATIONS),
    ],
)  # fmt: skip
def test_verdicts_hold_for_what_is_tried(entries: list[dict[str, Any]], net: str, kind: Kind) -> None:
    composition = made(family(*entries), net)
    report = verify_family(composition, Options(device="cpu", deadline=time.monotonic() + 60))
    assert report.kind is kind
    replay = Replay(composition)
    spans = composition.family.spans
    low, high = (np.array([float(getattr(s, end)) for s in spans]) for end in ("low", "high"))
    if kind is Kind.UNSAFE:
        assert report.point is not None and (report.point >= low - 1e-6).all() and (report.point <= high + 1e-6).all()
        y = Original(MODELS / f"digits_{net}.onnx").run({"X": composition.fed(report.point)})["Y"].ravel()
        assert loses(y, 5, "violate")
        return
    rng = np.random.default_rng(3)
    for theta in [*itertools.product(*zip(low, high, strict=True)), *rng.uniform(low, high, (150, len(low)))]:
        assert replay(np.array(theta)) is None


def test_no_time_is_unknown() -> None:
    composition = made(family({"kind": "rotation", "degrees": [-30, 30]}))
    report = verify_family(composition, Options(device="cpu", deadline=time.monotonic() - 1))
    assert report.kind is Kind.UNKNOWN and report.covers[0].done < report.covers[0].total


def test_a_theta_that_does_not_replay_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replay, "__call__", lambda *_: None)
    report = verify_family(made(family({"kind": "haze", "amount": [0, 0.4]})), Options(device="cpu"))
    assert report.kind is Kind.UNKNOWN and "does not in the original" in report.reason


def test_a_search_over_theta_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Stopped after one box was halved: the halves are in the state, and are what the next run begins with."""
    composition, state = made(family({"kind": "translation", "x": [-0.3, 0.3]})), tmp_path / "s.json"
    options = Options(device="cpu", deadline=time.monotonic() + 60)
    told: list[str] = []
    first = verify_family(composition, options, lambda: len(told) > 0, told.append, state)
    assert first.kind is Kind.UNKNOWN and first.covers[0].done < first.covers[0].total
    assert told == ["covered so far: 0 %, 2 boxes wait"]
    second = verify_family(composition, options, tell=told.append, state=state)
    assert second.kind is Kind.SAFE_FOR_MANIPULATIONS and second.covers[0].done == second.covers[0].total
    assert told[1:] == ["covered so far: 100 %, 0 boxes wait"]
    with pytest.raises(InputError, match="another question"):
        verify_family(made(family(KINDS[0], KINDS[1])), options, state=state)


def test_what_an_attack_finds_covers_nothing() -> None:
    report = verify_family(made(family({"kind": "haze", "amount": [0, 0.4]})), Options(device="cpu"))
    assert report.kind is Kind.UNSAFE and report.covers[0].done == 0 < report.covers[0].total


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", image())
    (tmp_path / "m.toml").write_text('[[manipulation]]\nkind = "haze"\namount = [0, 0.4]\n')
    model, saved = MODELS / "digits_dense.onnx", tmp_path / "composed.onnx"
    given = ["region", "transform", str(model), "--image", str(tmp_path / "x.npy"), "--pictures", str(tmp_path / "p")]
    assert main([*given, "--manipulations", str(tmp_path / "m.toml"), "--save-model", str(saved)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("unsafe\n") and "\ntheta: 0.4" in out
    onnx.checker.check_model(onnx.load(saved), full_check=True)
    theta = float(out.split("\ntheta: ")[1].split()[0])
    assert Original(saved).run({"theta": np.array([theta], np.float32)})["Y"].argmax() != 5
    assert (tmp_path / "p" / "difference.png").exists()
    assert (
        main([*given, "--manipulate", "brightness:amount=-0.1..0.1", "--manipulate", "blur:amount=0.5,radius=1"]) == 0
    )
    assert capsys.readouterr().out.startswith("safe-for-manipulations\n")
    assert (tmp_path / "p" / "covered.png").exists()
    assert main([*given, "--manipulate", "brightness:amount=a..b"]) == 2
    assert "NAME=LOW..HIGH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "one list"),
        ({"manipulation": []}, "no manipulation"),
        ({"manipulation": [{"amount": 1}]}, "manipulation 1: has no kind"),
        ({"manipulation": [{"kind": "smoke"}]}, "unknown kind"),
        ({"manipulation": [{"kind": "haze", "amount": [0, 0.1], "colur": 1}]}, "1 (haze): unknown parameter `colur`"),
        ({"manipulation": [{"kind": "haze"}]}, "`amount` is missing"),
        ({"manipulation": [{"kind": "haze", "amount": 0.1}]}, "nothing moves"),
        ({"manipulation": [{"kind": "haze", "amount": [0.2, 0.1]}]}, "empty range"),
        ({"manipulation": [{"kind": "haze", "amount": [0.2, 1.1]}]}, "has to lie in"),
        ({"manipulation": [{"kind": "haze", "amount": [0.2]}]}, "no pair"),
        ({"manipulation": [{"kind": "haze", "amount": ["a", 1]}]}, "no number"),
        ({"manipulation": [{"kind": "haze", "amount": True}]}, "no number"),
        ({"manipulation": [{"kind": "blur", "amount": [0, 1], "radius": [1, 2]}]}, "can't be a range"),
        ({"manipulation": [{"kind": "blur", "amount": [0, 1], "radius": 1.5}]}, "whole number"),
        ({"manipulation": [{"kind": "haze", "amount": [0, 1], "steps": {"amount": 0}}]}, "not above zero"),
        ({"manipulation": [{"kind": "haze", "amount": [0, 1], "steps": {"colour": 1}}]}, "has no range"),
    ],
)  # fmt: skip
def test_files_are_read_strictly(tmp_path: Path, record: Any, message: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(record))
    with pytest.raises(InputError) as caught:
        load_family(path)
    assert message in str(caught.value) and str(caught.value).startswith(str(path))


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text("{")
    with pytest.raises(InputError, match="no TOML"):
        load_family(path)
    assert str(family_from_words(["rotation:degrees=-3..3"])) == "rotation: rotation.degrees in [-3, 3]"
    spans = family_from_words(["rotation:degrees=-3..3/0.5", "haze:amount=0..0.1"]).spans
    assert [span.step for span in spans] == [prefix_fraction("1/2"), None]
    with pytest.raises(InputError, match="/STEP"):
        family_from_words(["haze:amount=0..0.1/x"])


@pytest.mark.parametrize("entry", KINDS, ids=lambda entry: entry["kind"])
def test_files_and_words_say_the_same(entry: dict[str, Any], tmp_path: Path) -> None:
    """Every kind, with all its parameters, from TOML, from JSON and from options."""
    parameters = {name: value for name, value in entry.items() if name != "kind"}
    words = [f"{n}={v[0]}..{v[1]}" if isinstance(v, list) else f"{n}={v}" for n, v in parameters.items()]
    toml = "\n".join(["[[manipulation]]", f'kind = "{entry["kind"]}"', *(f"{n} = {v}" for n, v in parameters.items())])
    (tmp_path / "m.toml").write_text(toml)
    (tmp_path / "m.json").write_text(json.dumps({"manipulation": [entry]}))
    made_ = [load_family(tmp_path / f"m.{end}") for end in ("toml", "json")]
    assert made_[0] == made_[1] == family_from_words([f"{entry['kind']}:{','.join(words)}"]) == family(entry)


def tiny() -> Net:
    """A 3 × 3 image: class 0 as long as its middle row is brighter than the others by some margin."""
    first = np.zeros((9, 4))
    first[3:6, 0], first[[0, 1, 2, 6, 7, 8], 1] = 1.0, 0.5
    first[:, 2], first[:, 3] = 0.25, -0.25
    second = np.array([[2.0, -2.0], [-2.0, 2.0], [0.5, 0.0], [0.0, 0.5]])
    return Net(((first, np.array([0.0, 0.0, -0.5, 0.5])), (second, np.array([0.0, 0.5]))), ("Relu",))


@pytest.mark.parametrize("engine", ["auto", "boxes", "phases", "values", "smt", "milp"])
def test_any_engine_decides_over_theta(engine: str) -> None:
    pixels = np.array([[0.25, 0.25, 0.25], [0.75, 0.75, 0.75], [0.25, 0.25, 0.25]])
    found = []
    for entry in ({"kind": "contrast", "factor": [0.25, 1.0]}, {"kind": "contrast", "factor": [0.0, 1.0]}):
        composition = compose(tiny().model(), pixels, family(entry), Scale(), 0, "violate")
        options = Options(device="cpu", engine=engine, attack=False, deadline=time.monotonic() + 20)
        found.append(solve(question_of(composition).problem, options).verdict)
    assert found == [Verdict.UNSAT, Verdict.SAT]
