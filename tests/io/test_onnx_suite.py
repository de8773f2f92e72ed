"""Real models, where the development suite is at hand: read, simplified and equal to ONNX Runtime."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from verinn.attack.replay import SAMPLES, Original, agree
from verinn.io.onnx_reader import read_graph
from verinn.io.vnnlib import read_query
from verinn.passes.property import to_property
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


def property_of(path: Path) -> Path | None:
    """A property of the model that the suite lists."""
    with (SUITE / "suite.csv").open() as stream:
        for row in csv.DictReader(stream):
            if (SUITE / row["onnx"]).resolve() == path.resolve():
                return SUITE / row["vnnlib"]
    return None


@pytest.mark.skipif(not MODELS, reason="the development suite isn't here")
@pytest.mark.parametrize("path", MODELS, ids=lambda path: "/".join(path.relative_to(SUITE).parts))
def test_model(path: Path) -> None:
    listed = property_of(path)
    cases = () if listed is None else to_property(read_query(listed)).cases
    boxes = [(case.lower, case.upper) for case in cases[:1]]
    hull = None
    if boxes:
        hull = np.min([case.lower for case in cases], 0), np.max([case.upper for case in cases], 0)
    graph = read_graph(path, box=hull)
    simple = simplify(graph)
    same(graph, simple)
    # What is read for a box is right in it; without a listed property random inputs will do.
    agree(simple, Original(path), 0, boxes * SAMPLES)
    assert len(simple.nodes) <= len(graph.nodes)
    if path.name.startswith("ACASXU"):
        assert [node.op for node in simple.nodes] == ["reshape", *["linear", "relu"] * 6, "linear"]
