"""The VNN-LIB standard's command line: `verify QUERY --network`, `supports`, `--name`, `--version`."""

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from face_tools import TWO
from onnx import numpy_helper

import verinn
from verinn.cli import main
from verinn.face.supports import CAPABILITIES, ONNX_OPERATORS, PARTIAL

pytestmark = pytest.mark.usefixtures("fake")

THREE = """\
(vnnlib-version <2.0>)
(declare-network f (declare-input A float32 [2]) (declare-output B float32 [1]))
(declare-network g (equal-to f) (declare-input C float32 [2]) (declare-output D float32 [1]))
(declare-network h (isomorphic-to f) (declare-input E float32 [2]) (declare-output F float32 [1]))
(assert (<= B[0] D[0]))
(assert (<= B[0] F[0]))
"""


@pytest.fixture
def three(tmp_path: Path) -> str:
    path = tmp_path / "three.vnnlib"
    path.write_text(THREE)
    return str(path)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_verify(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "verify", two, "--network", "f=unsat.onnx", "--timeout", "5.0") == "unsat\n"
    out = answer(capsys, "verify", "--timeout", "5", "--network", "f=sat.onnx", two)
    assert out.startswith("sat\nA float32 [1,2]\n")


def test_a_time_out_has_the_standards_word(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "verify", two, "--network", "f=late.onnx", "--timeout", "1") == "timed-out\n"
    assert answer(capsys, "verify", "late.onnx", two, "--timeout", "1") == "timeout\n"


def test_equal_networks_need_no_model(three: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = answer(capsys, "verify", three, "--network", "f=sat.onnx", "--network", "h=other.onnx")
    assert re.findall(r"^[A-F] float32 \[\d\]$", out, re.M) == [
        f"{name} float32 [{size}]" for name, size in zip("ABCDEF", (2, 1) * 3, strict=True)
    ]
    assert len(out.splitlines()) == 1 + 6 + 9


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        (["f=sat.onnx"], "no model is given for the network h"),
        (["f=sat.onnx", "h=h.onnx", "k=k.onnx"], "declares no network k"),
        (["f=sat.onnx", "h=h.onnx", "g=g.onnx"], "equal-to"),
        (["f=sat.onnx", "f=other.onnx"], "given twice"),
        (["f"], "NAME=PATH"),
        (["=sat.onnx"], "NAME=PATH"),
        (["f="], "NAME=PATH"),
    ],
)
def test_too_few_and_too_many_models(
    networks: list[str], words: str, three: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [part for network in networks for part in ("--network", network)]
    assert words in refused(capsys, "verify", three, *arguments)


def test_a_model_and_networks_do_not_mix(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "only the query" in refused(capsys, "verify", "sat.onnx", two, "--network", "f=sat.onnx")


def test_version_1_takes_any_network_name(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "verify", one, "--network", "N=unsat.onnx") == "unsat\n"
    assert "error" in refused(capsys, "verify", one, "--network", "N=unsat.onnx", "--network", "M=unsat.onnx")


@pytest.mark.parametrize("option", ["--serialise-assignments", "--assignments"])
def test_assignments(option: str, two: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "folder"
    answer(capsys, "verify", two, "--network", "f=sat.onnx", option, str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["A.pb", "B.pb"]
    tensor = onnx.TensorProto.FromString((folder / "A.pb").read_bytes())
    array = numpy_helper.to_array(tensor)
    assert (tensor.name, array.shape, array.dtype.name) == ("A", (1, 2), "float32")
    assert array.tolist() == [[0.5, 0.5]]


def test_no_assignments_without_a_witness(two: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    answer(capsys, "verify", two, "--network", "f=unsat.onnx", "--assignments", str(folder))
    assert not folder.exists()


def test_name_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "--name") == "verinn\n"
    assert answer(capsys, "--version") == f"{verinn.__version__}\n"


def test_all_eleven_capabilities(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(CAPABILITIES) == 11
    for name, expected in CAPABILITIES.items():
        for command in ("supports", "capabilities"):
            assert answer(capsys, command, f"--{name}").splitlines() == list(expected)
    assert answer(capsys, "supports", "--multiple-inputs-output-theories").splitlines()[0] == "SIO"
    for name in ("optimised-disjunctive-reasoning", "serialise-assignments"):
        assert answer(capsys, "supports", f"--{name}") in ("true\n", "false\n")
    for name in ("onnx-opset-versions", "vnnlib-versions"):
        assert len(answer(capsys, "supports", f"--{name}").splitlines()) == 2


def test_supports_wants_one_capability(capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "supports")
    refused(capsys, "supports", "--onnx-operators", "--vnnlib-versions")
    refused(capsys, "supports", "--everything")


def test_supports_imports_nothing_heavy() -> None:
    program = (
        "import sys; from verinn.cli import main; main(['supports', '--onnx-operators']);"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'scipy', 'rich', 'z3'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout.split() == list(ONNX_OPERATORS)


def test_two_is_as_the_standard_writes_it() -> None:
    """The text used here is legal for the scorer's own reader."""
    vnnlib = pytest.importorskip("vnnlib")
    assert vnnlib.parse_query_string(TWO) is not None


def test_the_operators_named_are_the_readers() -> None:
    """What only folds between constants is no operator that queries with it get decided for."""
    from verinn.io.onnx_reader.call import IMPORTERS
    from verinn.io.onnx_reader.load import NEWEST, OLDEST

    both = {"Constant", "ConstantOfShape"}
    handled = {op for op, function in IMPORTERS.items() if op in both or not function.__module__.endswith(".constants")}
    assert {*ONNX_OPERATORS, *PARTIAL} == handled
    assert not set(ONNX_OPERATORS) & set(PARTIAL)
    assert list(ONNX_OPERATORS) == sorted(ONNX_OPERATORS)
    assert CAPABILITIES["onnx-opset-versions"] == (str(OLDEST), str(NEWEST))
