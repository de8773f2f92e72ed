"""A replayed counterexample where none exists: by rounding alone, or because the suite is wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from verinn.audit.findings import REFUTED, ROUNDING, SOLVED, classify
from verinn.audit.instance import Suite, load_suite, save_suite
from verinn.audit.rounded import settled
from verinn.audit.runner import Claim
from verinn.audit.witness import ROUNDED, VALID, Judgement, ask
from verinn.cli import main

BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
ANSWER = f"sat\n((X_0 {BELOW_ONE!r})\n (X_1 1.0)\n (Y_0 1.0))\n"


@pytest.fixture
def edge(suite: Path) -> Suite:
    """Instance ``edge``: Y = X0 + w X1 ≥ 1 X0 a unit below 1 and w a little less than one. Rounding decides."""
    model = onnx.load(suite / "onnx" / "two.onnx")
    weight = np.float32([[1.0], [0.875 * 2.0**-24]])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "W"))
    onnx.save(model, str(suite / "onnx" / "edge.onnx"))
    text = (suite / "vnnlib" / "p.vnnlib").read_text().replace("(<= X_0 1.0)", f"(<= X_0 {BELOW_ONE!r})")
    (suite / "vnnlib" / "edge.vnnlib").write_text(text)
    before = load_suite(suite)
    truth = replace(before.truths["safe"], id="edge")
    one = replace(before.instances[0], id="edge", onnx="onnx/edge.onnx", vnnlib="vnnlib/edge.vnnlib")
    save_suite(suite, [*before.instances, one], before.relations, [*before.truths.values(), truth])
    return load_suite(suite)


def judged(suite: Suite, name: str, text: str, folder: Path) -> Judgement:
    one = next(item for item in suite.instances if item.id == name)
    seen = ask(str(suite.folder / one.onnx), str(suite.folder / one.vnnlib), text, folder)
    found = settled(suite, one, seen)
    assert found is not None
    return found


def claim(name: str, judgement: Judgement) -> Claim:
    return Claim(name, "t", "", 1.0, "sat", 0.0, 0.0, 0.0, judgement.kind, judgement.detail)


def test_rounding_alone_refutes_no_truth(edge: Suite, tmp_path: Path) -> None:
    judgement = judged(edge, "edge", ANSWER, tmp_path)
    assert judgement.kind == ROUNDED
    assert classify(claim("edge", judgement), edge.truths["edge"]) == ROUNDING


def test_an_exact_counterexample_refutes_the_suite(edge: Suite, tmp_path: Path) -> None:
    wrong = replace(edge, truths={**edge.truths, "hidden": replace(edge.truths["safe"], id="hidden")})
    judgement = judged(wrong, "hidden", "sat\n((X_0 0.5)\n (X_1 0.5))\n", tmp_path)
    assert judgement.kind == VALID
    assert classify(claim("hidden", judgement), wrong.truths["hidden"]) == REFUTED
    assert classify(claim("hidden", judged(edge, "hidden", "sat\n((X_0 0.5)\n (X_1 0.5))\n", tmp_path)),
                    edge.truths["hidden"]) == SOLVED  # fmt: skip


def test_the_command_says_so(edge: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = tmp_path / "answer"
    answer.write_text(ANSWER)
    assert main(["audit", "replay", str(edge.folder), "edge", "--answer", str(answer)]) == 0
    printed = capsys.readouterr().out
    assert "rounded" in printed and "rounding decides" in printed
