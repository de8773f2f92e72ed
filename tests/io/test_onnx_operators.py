"""Every operator against ONNX Runtime: random attributes, opsets and inputs; then the same after the passes."""

from __future__ import annotations

import contextlib
import zlib

import numpy as np
import onnx
import pytest
import torch
from onnx_models import MAKERS

from verinn.attack.replay import Original, agree
from verinn.errors import InputError
from verinn.io.onnx_reader import read_graph
from verinn.ops import evaluate
from verinn.passes.replay import same
from verinn.passes.simplify import simplify

# Small products on two threads wait for each other whenever the machine is busy.
torch.set_num_threads(1)

DRAWS = 25


@pytest.mark.parametrize("op", sorted(MAKERS))
def test_operator_is_what_onnx_runtime_runs(op: str) -> None:
    """Legal draws (those that ONNX Runtime runs) must be read and agree; illegal ones must be no traceback."""
    legal = 0
    for draw in range(DRAWS):
        rng = np.random.default_rng([zlib.crc32(op.encode()), draw])
        legal += _compare(MAKERS[op](rng), rng)
    assert legal >= DRAWS // 4, f"only {legal} of {DRAWS} draws of {op} were legal"


def _compare(model: onnx.ModelProto, rng: np.random.Generator) -> bool:
    shown = onnx.printer.to_text(model.graph)
    try:
        original = Original(model)
        feed = {name: rng.standard_normal(shape) for name, (shape, _) in original.inputs.items()}
        feed = {name: array.astype(np.float32) for name, array in feed.items()}
        theirs = original.run(feed)
    except InputError:
        theirs = None
    if theirs is None or any(array.size == 0 or not np.all(np.isfinite(array)) for array in theirs.values()):
        with contextlib.suppress(InputError):
            read_graph(model)
        return False
    graph = read_graph(model)
    values = evaluate(graph, [torch.from_numpy(feed[value.name])[None].double() for value in graph.inputs])
    for output in graph.outputs:
        ours = values[output.value][0].numpy()
        assert ours.shape == theirs[output.name].shape, shown
        np.testing.assert_allclose(ours, theirs[output.name], rtol=2e-5, atol=2e-5, err_msg=shown)
    agree(graph, original, 1)
    same(graph, simplify(graph))
    return True
