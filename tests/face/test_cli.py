"""The command line around the engine, with a stand-in for the engine."""

import json
import os
from pathlib import Path

import pytest

from verinn.cli import main

pytestmark = pytest.mark.usefixtures("fake")


def outputs(capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    captured = capsys.readouterr()
    return captured.out, captured.err.splitlines()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refusal is."""
    assert main(arguments) == 2
    out, lines = outputs(capsys)
    assert out == ""
    assert len(lines) == 1, lines
    assert lines[0].startswith("verinn: error: ")
    return lines[0]


def test_unsat_is_one_line(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "unsat.onnx", one]) == 0
    assert outputs(capsys) == ("unsat\n", [])


def test_sat_shows_the_witness_as_version_1(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "sat.onnx", one]) == 0
    assert outputs(capsys)[0] == "sat\n((X_0 0.5)\n (X_1 0.5)\n (Y_0 1.0))\n"


def test_sat_shows_the_witness_as_version_2(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "sat.onnx", two]) == 0
    assert outputs(capsys)[0] == "sat\nA float32 [1,2]\n0.5\n0.5\nB float32 []\n1.0\n"


def test_unknown_tells_its_reason_and_warnings(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "unknown.onnx", one]) == 0
    out, lines = outputs(capsys)
    assert out == "unknown\n"
    assert lines == ["verinn: warning: mind the gap", "verinn: unknown: too hard"]


def test_a_defect_is_unknown_never_unsat(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (("boom", "ZeroDivisionError: an awkward defect"), ("memory", "out of memory"), ("quit", "3")):
        assert main(["verify", f"{name}.onnx", one]) == 0
        out, lines = outputs(capsys)
        assert out == "unknown\n"
        assert len(lines) == 1
        assert "internal error" in lines[0]
        assert words in lines[0]


def test_a_sat_without_witness_is_no_sat(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "hollow.onnx", one]) == 0
    out, lines = outputs(capsys)
    assert out == "unknown\n"
    assert "witness" in lines[0]


def test_traceback_only_when_verbose(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "-v", "boom.onnx", one]) == 0
    assert "Traceback" in capsys.readouterr().err


def test_verbose_tells_plan_and_statistics(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "unsat.onnx", one, "-v"]) == 0
    out, lines = outputs(capsys)
    assert out == "unsat\n"
    assert "verinn: plan: batch = 64" in lines
    assert "verinn: statistics: domains = 7" in lines


def test_files_hold_the_same_answer(one: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, record = tmp_path / "results.txt", tmp_path / "record.json"
    arguments = ["verify", "sat.onnx", one, "--results", str(results), "--json", str(record), "--timeout", "60"]
    assert main(arguments) == 0
    assert results.read_text() == capsys.readouterr().out
    data = json.loads(record.read_text())
    assert data["verdict"] == "sat"
    assert data["witness"]["X"] == [0.5, 0.5]
    assert data["statistics"] == {"domains": 7, "worst": "nan"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.vnnlib", "record.json", "results.txt"]


def test_results_may_be_a_device(one: str) -> None:
    assert main(["verify", "unsat.onnx", one, "--results", os.devnull]) == 0
    assert not Path(os.devnull).is_file()


def test_refusals_of_the_engine_are_one_line(one: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.txt"
    line = refused(capsys, "verify", "bad.onnx", one, "--results", str(results))
    assert line == "verinn: error: bad.onnx: node 3: the file is odd; do better"
    assert not results.exists()


@pytest.mark.parametrize("limit", ["0", "-5", "nan", "inf", "soon", "-0.0", "1e999"])
def test_impossible_limits(limit: str, one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "positive number of seconds" in refused(capsys, "verify", "unsat.onnx", one, f"--timeout={limit}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify"], "required"),
        (["verify", "a.onnx"], "names one file only"),
        (["verify", "a.onnx", "b", "c"], "names 3 files"),
        (["verify", "a.vnnlib", "b.onnx"], "swap"),
        (["verify", "a.onnx", "b.vnnlib", "--device", "tpu"], "tpu"),
        (["verify", "a.onnx", "b.vnnlib", "--seed", "-1"], "integer"),
        (["verify", "a.onnx", "b.vnnlib", "--what"], "--what"),
        (["verify", "[('f', 'a.onnx'", "b.vnnlib"], "b.vnnlib"),
        (["verify", "[1, 2]", "b.vnnlib"], "list of networks"),
        (["prove"], "unknown command"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(capsys, *arguments)


def test_places_are_checked_before_the_run(one: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = str(tmp_path / "none" / "results.txt")
    for option in ("--results", "--json"):
        assert nowhere in refused(capsys, "verify", "boom.onnx", one, option, nowhere)
        assert "directory" in refused(capsys, "verify", "boom.onnx", one, option, str(tmp_path))
    assert "folder" in refused(capsys, "verify", "boom.onnx", one, "--assignments", one)


def test_files_that_can_not_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "missing.vnnlib")
    assert "no such file" in refused(capsys, "verify", "unsat.onnx", missing)
    assert "directory" in refused(capsys, "verify", "unsat.onnx", str(tmp_path))


def test_without_arguments_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "usage" in capsys.readouterr().out
    assert main(["verify", "--help"]) == 0


def test_networks_as_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pair.vnnlib"
    path.write_text(
        "(vnnlib-version <2.0>)\n(declare-network f (declare-input A float32 [1]) (declare-output B float32 [1]))\n"
        "(declare-network g (declare-input C float32 [1]) (declare-output D float32 [1]))\n(assert (<= B[0] D[0]))\n"
    )
    assert main(["verify", "[('f', 'sat.onnx'), ('g', 'g.onnx')]", str(path)]) == 0
    assert outputs(capsys)[0].startswith("sat\nA float32 [1]\n0.5\n")
    line = refused(capsys, "verify", "sat.onnx", str(path))
    assert "declares 2 networks" in line
