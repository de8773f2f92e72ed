"""The exact evaluator against ONNX Runtime, operator by operator, and its enclosures against samples."""

import math
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx_models import MAKERS

from verinn.audit import enclosure as en
from verinn.audit import smooth
from verinn.audit.enclosure import Undecided
from verinn.audit.exact import evaluate
from verinn.audit.sketch import Sketch
from verinn.errors import Unsupported


def runtime(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def feeds(model: onnx.ModelProto, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of few bits, so that ties and grid points come up."""
    made = {}
    for item in model.graph.input:
        shape = [size.dim_value for size in item.type.tensor_type.shape.dim]
        made[item.name] = (np.round(rng.standard_normal(shape) * 8) / 4).astype(np.float32)
    return made


@pytest.mark.parametrize("op", sorted(MAKERS))
def test_every_operator_agrees_with_onnx_runtime(op: str) -> None:
    compared = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        model = MAKERS[op](rng)
        feed = feeds(model, rng)
        try:
            theirs = runtime(model, feed)
        except Exception:
            continue  # no kernel for this opset
        try:
            ours = evaluate(model, feed)
        except (Undecided, Unsupported):
            continue
        compared += 1
        for value, reference in zip(ours.values(), theirs, strict=True):
            assert value.shape == reference.shape
            exact = np.asarray((value.lo + value.hi) / 2, dtype=np.float64)
            np.testing.assert_allclose(reference.astype(np.float64), exact, rtol=2e-5, atol=2e-5)
    assert compared >= 2


@pytest.mark.parametrize("name", smooth.NAMES)
def test_smooth_functions_enclose_python_s_own(name: str) -> None:
    reference = {
        "Sigmoid": lambda x: 1 / (1 + math.exp(-x)),
        "Softplus": lambda x: math.log1p(math.exp(x)),
    }.get(name) or getattr(math, name.lower())
    for x in (Fraction(1, 3), Fraction(5, 8), Fraction(1, 1 << 20), Fraction(99, 100)):
        low, high = smooth.enclose(name, x)
        assert 0 <= high - low < Fraction(1, 1 << 200)
        assert float(low) == pytest.approx(reference(float(x)), rel=1e-14)


def test_square_roots_are_exact_where_they_can_be() -> None:
    assert smooth.root(Fraction(9, 16)) == (Fraction(3, 4), Fraction(3, 4))
    low, high = smooth.root(Fraction(2))
    assert low**2 < 2 < high**2


def test_a_piecewise_linear_network_is_exact() -> None:
    """A third and a large sum that float32 gets wrong."""
    sketch = Sketch()
    x = sketch.input([1, 2])
    hidden = sketch.node("Relu", sketch.node("Gemm", x, sketch.weight([[2.0**24, 1.0], [1.0, 1.0]])))
    sketch.output(sketch.node("Gemm", hidden, sketch.weight([[1.0], [-(2.0**24)]])), [1, 1])
    value = evaluate(sketch.model(), {"x": np.array([[1.0, 1.0]], np.float32)})["y"]
    assert value.exact
    assert value.lo[0, 0] == 2**24 + 1 - 2 * 2**24


def test_boxes_are_enclosed() -> None:
    rng = np.random.default_rng(3)
    for op in ("Gemm", "Conv", "Relu", "Tanh", "MaxPool", "AveragePool", "Softmax", "LeakyRelu", "Abs"):
        if op not in MAKERS:
            continue
        model = MAKERS[op](rng)
        feed = feeds(model, rng)
        half = {name: np.abs(rng.standard_normal(value.shape)).round(1) for name, value in feed.items()}
        box = evaluate(
            model, {name: en.between(value - half[name], value + half[name]) for name, value in feed.items()}
        )
        for _ in range(5):
            point = {
                name: (value + half[name] * rng.uniform(-1, 1, value.shape)).astype(np.float32)
                for name, value in feed.items()
            }
            for inside, around in zip(evaluate(model, point).values(), box.values(), strict=True):
                assert bool(np.all(around.lo <= inside.lo))
                assert bool(np.all(inside.hi <= around.hi))


def test_open_comparisons_are_not_guessed() -> None:
    with pytest.raises(Undecided):
        en.decide(lambda a, b: a > b, en.between([0.0], [1.0]), en.of([0.5]))
    with pytest.raises(Undecided):
        en.equal(en.between([0.0], [1.0]), en.of([0.5]))
    with pytest.raises(Undecided):
        en.divide(en.of([1.0]), en.between([-1.0], [1.0]))
