"""Every operator against ONNX Runtime: random attributes and opsets, of variables, of constants, after passes."""

from __future__ import annotations

import contextlib
import zlib

import numpy as np
import onnx
import onnx_cases
import onnx_control
import onnx_quantised
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_models import MAKERS

from verinn.attack.replay import Original, agree
from verinn.errors import InputError, Unsupported
from verinn.face.supports import ONNX_OPERATORS, PARTIAL
from verinn.io.onnx_reader import read_graph
from verinn.ops import evaluate
from verinn.passes.replay import same
from verinn.passes.simplify import simplify

# Small products on two threads wait for each other whenever the machine is busy.
torch.set_num_threads(1)

assert onnx_cases and onnx_control and onnx_quantised  # their imports registered makers
DRAWS = 8
MORE = 60
# Across a jump the two sides are both legal: then only ``agree``, which knows of jumps, compares.
JUMPS = {"step", "sign", "floor", "ceil", "round"}


@pytest.mark.parametrize("op", sorted(MAKERS))
def test_operator_is_what_onnx_runtime_runs(op: str) -> None:
    """Legal draws (those that ONNX Runtime runs) must be read and agree; illegal ones must be no traceback."""
    _draw(op, range(DRAWS))


@pytest.mark.slow
@pytest.mark.parametrize("op", sorted(MAKERS))
def test_operator_at_length(op: str) -> None:
    _draw(op, range(DRAWS, DRAWS + MORE))


def _draw(op: str, draws: range) -> None:
    legal = 0
    for draw in draws:
        rng = np.random.default_rng([zlib.crc32(op.encode()), draw])
        legal += _compare(MAKERS[op](rng), rng)
    assert legal >= len(draws) // 4, f"only {legal} of {len(draws)} draws of {op} were legal"


def _compare(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    try:
        original = Original(model)
        feed = {name: rng.standard_normal(shape) for name, (shape, _) in original.inputs.items()}
        feed = {name: array.astype(np.float32) for name, array in feed.items()}
        theirs = original.run(feed)
    except InputError:
        theirs = None
    if (
        theirs is None
        or not feed
        or any(array.size == 0 or not np.all(np.isfinite(array)) for array in theirs.values())
    ):
        with contextlib.suppress(InputError):
            read_graph(model)
        return False
    _agrees(model, original, feed, theirs)
    folded = of_constants(model, feed)
    try:
        original, feed = Original(folded), {"zero": np.zeros(1, np.float32)}
        theirs = original.run(feed)
    except InputError:  # ONNX Runtime folds some operators itself and finds no kernel for that
        return True
    _agrees(folded, original, feed, theirs)
    return True


def _agrees(
    model: onnx.ModelProto, original: Original, feed: dict[str, np.ndarray], theirs: dict[str, np.ndarray]
) -> None:
    shown = onnx.printer.to_text(model.graph)
    graph = read_graph(model)
    values = evaluate(graph, [torch.from_numpy(feed[value.name])[None].double() for value in graph.inputs])
    for output in graph.outputs:
        ours = values[output.value][0].numpy()
        assert ours.shape == theirs[output.name].shape, shown
        if not JUMPS & {node.op for node in graph.nodes}:
            np.testing.assert_allclose(ours, theirs[output.name], rtol=1e-4, atol=1e-4, err_msg=shown)
    agree(graph, original, 1)
    same(graph, simplify(graph))


def of_constants(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The same model with its inputs made constants, and zero, an input, added to each output."""
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.input[:]
    graph.input.add().CopyFrom(helper.make_tensor_value_info("zero", TensorProto.FLOAT, [1]))
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in feed.items())
    made = {output.name: f"{output.name}@constant" for output in graph.output}
    for node in graph.node:
        node.output[:] = [made.get(name, name) for name in node.output]
        node.input[:] = [made.get(name, name) for name in node.input]
    graph.node.extend(helper.make_node("Sum", [name, "zero"], [output]) for output, name in made.items())
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.CopyFrom(graph)
    return copy


def test_every_claimed_operator_is_drawn() -> None:
    """An operator that ``verinn supports`` names has a maker here."""
    drawn = {"Constant", "ConstantOfShape"}  # tests of their own
    for op, make in MAKERS.items():
        for draw in range(DRAWS):
            rng = np.random.default_rng([zlib.crc32(op.encode()), draw])
            drawn.update(node.op_type for node in make(rng).graph.node)
    assert {*ONNX_OPERATORS, *PARTIAL} <= drawn, sorted({*ONNX_OPERATORS, *PARTIAL} - drawn)


@pytest.mark.parametrize("op", sorted(set(ONNX_OPERATORS) - {"Constant"}))
def test_bare_nodes_are_told_in_one_line(op: str) -> None:
    """A node with a single scalar input and no attributes is read or refused, never a traceback."""
    for shape in ([], [1], [1, 2, 3]):
        info = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], name="bare")], "net", [info], [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        try:
            read_graph(model)
        except InputError as error:
            assert "\n" not in str(error)
            assert "can't be read (" not in str(error) or not isinstance(error, Unsupported)
            assert f"node 'bare' ({op})" in str(error) or "output 'y'" in str(error)
