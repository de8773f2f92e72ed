"""The shipped example, the README's code, and the recipe that made them. With the real engine."""

import csv
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from face_tools import ROOT
from onnx import numpy_helper

from verinn.cli import main
from verinn.face.recheck import recheck
from verinn.io.instances import Instance, read_instances, read_truth

DIGITS = ROOT / "benchmarks" / "digits"
TRUTH = read_truth(DIGITS / "truth.csv")


def name_of(instance: Instance) -> str:
    return Path(instance.vnnlib).stem


@pytest.mark.parametrize("instance", read_instances(DIGITS), ids=name_of)
def test_the_example_gets_its_known_answers(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    model, prop = instance.model_argument, str(instance.property_path)
    assert main(["verify", model, prop, "--timeout", "600"]) == 0
    text = capsys.readouterr().out
    assert text.split("\n", 1)[0] == TRUTH[instance.key]
    if TRUTH[instance.key] == "sat":
        assert recheck(model, prop, text) == ""


def test_the_list_and_the_truth_name_the_files_that_are_there() -> None:
    listed = read_instances(DIGITS)
    assert {instance.key for instance in listed} == set(TRUTH)
    assert {path.name for path in (DIGITS / "vnnlib").iterdir()} == {Path(i.vnnlib).name for i in listed}
    with open(DIGITS / "instances.csv", newline="") as stream:
        assert all(len(row) == 3 for row in csv.reader(stream))


def test_info_tells_what_a_model_holds(capsys: pytest.CaptureFixture[str]) -> None:
    model = str(DIGITS / "onnx" / "digits_conv.onnx")
    assert main(["info", model]) == 0
    text = capsys.readouterr().out
    assert "Conv 2" in text
    assert "[1, 1, 8, 8]" in text
    assert main(["info", model, str(DIGITS / "vnnlib" / "conv_1440_unsat.vnnlib")]) == 0
    assert "conjunctions" in capsys.readouterr().out


def test_the_readmes_python_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every Python block of the README, in order, with what its last line claims to print."""
    monkeypatch.chdir(ROOT)
    pattern = r"```python\n(.*?)```\n(?:\nprints\n\n```text\n(.*?)```)?"
    blocks = re.findall(pattern, (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for code, printed in blocks:
        exec(compile(code, "README.md", "exec"), {})
        assert capsys.readouterr().out == printed


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"digits_{name}", DIGITS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def weights(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}


@pytest.mark.slow
def test_the_recipe_makes_the_networks() -> None:
    """Equal on the machine that they were made on; near it anywhere else."""
    for name, model in load("train").build().items():
        committed = weights(DIGITS / "onnx" / name)
        made = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        assert made.keys() == committed.keys()
        for key, array in made.items():
            assert np.allclose(array, committed[key], atol=1e-3), f"{name} {key}"


@pytest.mark.slow
def test_the_recipe_makes_the_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["properties.py", str(tmp_path)])
    load("properties").main()
    for path in (DIGITS / "vnnlib").iterdir():
        assert (tmp_path / "vnnlib" / path.name).read_text() == path.read_text(), path.name
    for name in ("instances.csv", "truth.csv"):
        assert (tmp_path / name).read_text() == (DIGITS / name).read_text()
