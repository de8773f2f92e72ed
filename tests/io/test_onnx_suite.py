"""Real models, where the development suite is at hand: read, simplified and equal to ONNX Runtime, or refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from verinn.attack.replay import Original, agree
from verinn.errors import Unsupported
from verinn.io.onnx_reader import read_graph
from verinn.passes.replay import same
from verinn.passes.simplify import simplify

# Small products on two threads wait for each other whenever the machine is busy.
torch.set_num_threads(1)

SUITE = Path(__file__).parents[3] / "shared" / "suite"
MODELS = sorted(
    path
    for path in SUITE.glob("**/*.onnx*")
    if "acasxu-all" not in path.parts or path.name.startswith("ACASXU_run2a_1_")
)
# Operators, on values that depend on the input, that are for later.
LATER = "Cast|ConvTranspose|Mul|Pow|Sign|MatMul|Softmax|ArgMax|Sin|Cos|Resize|ScatterND|OneHot|Floor"


@pytest.mark.skipif(not MODELS, reason="the development suite isn't here")
@pytest.mark.parametrize("path", MODELS, ids=lambda path: "/".join(path.relative_to(SUITE).parts))
def test_model(path: Path) -> None:
    try:
        graph = read_graph(path)
    except Unsupported as error:
        assert re.search(rf"node '.+' \(({LATER})\): ", str(error))
        return
    simple = simplify(graph)
    same(graph, simple)
    agree(simple, Original(path))
    assert len(simple.nodes) <= len(graph.nodes)
    if path.name.startswith("ACASXU"):
        assert [node.op for node in simple.nodes] == ["reshape", *["linear", "relu"] * 6, "linear"]
