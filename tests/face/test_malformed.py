"""Every malformed file of the repository through the command line, with the real engine: exit code 2, one
line on stderr, nothing on stdout, no results file."""

import json
from pathlib import Path

import pytest
from face_tools import ROOT

from verinn.cli import main

DIGITS = ROOT / "benchmarks" / "digits"
MODEL = str(DIGITS / "onnx" / "digits_dense.onnx")
PROPERTIES = ROOT / "vnnlib" / "malformed"
MODELS = ROOT / "tests" / "models" / "malformed"
# Models that are odd but legal are marked "ok" there.
REFUSED = {name: words for name, words in json.loads((MODELS / "expected.json").read_text()).items() if words != "ok"}
SQUARE = "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(assert (<= X_0 1.0))\n(assert (>= X_0 0.0))\n"


def refused(model: str, prop: str, results: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["verify", model, prop, "--timeout", "60", "--results", str(results)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("verinn: error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert not results.exists()
    return captured.err


@pytest.mark.parametrize("name", sorted(json.loads((PROPERTIES / "expected.json").read_text())))
def test_properties(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(MODEL, str(PROPERTIES / name), tmp_path / "results", capsys)
    assert name in line


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_models(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prop = tmp_path / "square.vnnlib"
    prop.write_text(SQUARE)
    line = refused(str(MODELS / name), str(prop), tmp_path / "results", capsys)
    assert name in line
    for words in REFUSED[name]:
        assert words in line
