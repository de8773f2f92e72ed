"""The comparison: fake tools that are right, wrong, crash, hang, or show bad witnesses."""

import csv
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.compare.__main__ import main

FAKE = Path(__file__).with_name("fake_tool.py")
PROPERTY = """\
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (>= X_0 0.0))
(assert (<= X_0 1.0))
(assert (>= X_1 0.0))
(assert (<= X_1 1.0))
(assert (>= Y_0 1.0))
"""


def write_model(path: Path, factor: float) -> None:
    """Y_0 = factor (X_0 + X_1): at (0.5, 0.5) it is factor."""
    weight = helper.make_tensor("W", TensorProto.FLOAT, [2, 1], [factor, factor])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["Y"])],
        "small",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [1, 1])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two instances whose truth is known, and the list of them."""
    write_model(tmp_path / "yes.onnx", 2.0)
    write_model(tmp_path / "no.onnx", 0.25)
    (tmp_path / "p.vnnlib").write_text(PROPERTY)
    (tmp_path / "suite.csv").write_text(
        "set,onnx,vnnlib,timeout,expected\none,yes.onnx,p.vnnlib,20,sat\ntwo,no.onnx,p.vnnlib,20,unsat\n"
    )
    monkeypatch.setenv("FAKE_PIDS", str(tmp_path / "pid"))
    return tmp_path


def fake(mood: str, result: bool = True) -> str:
    places = "{onnx} {vnnlib} {timeout}" + (" {result}" if result else "")
    return f"{mood}={sys.executable} {FAKE} {mood} {places}"


def compare(folder: Path, *tools: str, options: tuple[str, ...] = ()) -> tuple[int, list[dict[str, str]]]:
    """The exit code and the rows."""
    out = folder / "out.csv"
    arguments = [str(folder / "suite.csv"), "--out", str(out), *options]
    for tool in tools:
        arguments += ["--tool", tool]
    code = main(arguments)
    with open(out, newline="") as stream:
        return code, list(csv.DictReader(stream))


def verdicts(rows: list[dict[str, str]]) -> dict[tuple[str, str], str]:
    return {(row["tool"], Path(row["onnx"]).stem): row["verdict"] for row in rows}


def gone(pid: int) -> bool:
    """Whether a process has ended; one that waits to be reaped has."""
    for _ in range(50):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_right_and_talkative_tools(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = compare(folder, fake("right"), fake("talk", result=False))
    assert code == 0
    assert verdicts(rows) == {
        ("right", "yes"): "sat", ("right", "no"): "unsat", ("talk", "yes"): "sat", ("talk", "no"): "unsat",
    }  # fmt: skip
    assert {(row["tool"], row["witness"]) for row in rows if row["verdict"] == "sat"} == {
        ("right", "ok"), ("talk", "none"),
    }  # fmt: skip
    assert all(float(row["seconds"]) > 0 and float(row["cpu_seconds"]) > 0 for row in rows)
    printed = capsys.readouterr().out
    assert "truth known for 2 of 2 instances; 0 alarms" in printed
    assert "fastest" in printed


def test_tools_take_turns(folder: Path) -> None:
    _, rows = compare(folder, fake("right"), fake("talk", result=False), options=("--rounds", "2"))
    assert [(row["tool"], Path(row["onnx"]).stem, row["round"]) for row in rows] == [
        ("right", "yes", "1"), ("talk", "yes", "1"), ("talk", "no", "1"), ("right", "no", "1"),
        ("talk", "yes", "2"), ("right", "yes", "2"), ("right", "no", "2"), ("talk", "no", "2"),
    ]  # fmt: skip


def test_wrong_answers_and_contradictions_are_loud(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = compare(folder, fake("right"), fake("wrong"))
    printed = capsys.readouterr().out
    assert code == 1
    assert "CONTRADICTION: yes.onnx p.vnnlib: sat by right; unsat by wrong" in printed
    assert "WRONG: yes.onnx p.vnnlib: wrong, the truth is sat" in printed
    assert "WRONG: no.onnx p.vnnlib: wrong, the truth is unsat" in printed


def test_a_replayed_witness_beats_what_is_expected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = folder / "truth.csv"
    truth.write_text("onnx,vnnlib,expected\nyes.onnx,p.vnnlib,unsat\n")
    options = ("--truth", str(truth), "--filter", "yes.onnx")
    code, _ = compare(folder, fake("right"), fake("wrong"), options=options)
    printed = capsys.readouterr().out
    assert code == 1
    assert "EXPECTATION REFUTED: yes.onnx" in printed
    assert "WRONG: yes.onnx p.vnnlib: wrong, the truth is sat" in printed


def test_bad_and_missing_witnesses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = compare(folder, fake("bad_witness"), fake("no_witness"), options=("--filter", "yes.onnx"))
    found = {(row["tool"], Path(row["onnx"]).stem): row["witness"] for row in rows}
    assert code == 1
    assert found["bad_witness", "yes"] == "bad: outside the box by 0.5; the nearest input inside violates"
    assert found["no_witness", "yes"] == "none"
    assert "BAD WITNESS: yes.onnx p.vnnlib: bad_witness" in capsys.readouterr().out


def test_crashes_are_errors(folder: Path) -> None:
    code, rows = compare(folder, fake("crash"), fake("die", result=False), options=("--filter", "no.onnx"))
    reasons = {row["tool"]: (row["verdict"], row["reason"]) for row in rows}
    assert code == 0
    assert reasons["crash"] == ("error", "ValueError: no such luck")
    assert reasons["die"][0] == "error"
    assert "SIGABRT" in reasons["die"][1]


def test_what_hangs_is_killed_with_its_children(folder: Path) -> None:
    began = time.monotonic()
    _, rows = compare(folder, fake("hang"), options=("--timeout", "1.5", "--filter", "no.onnx"))
    assert [(row["verdict"], row["reason"]) for row in rows] == [("timeout", "killed at the limit")]
    assert 1.5 <= float(rows[0]["seconds"]) < 5
    assert time.monotonic() - began < 20
    assert gone(int((folder / "pid").read_text()))


def test_what_is_left_behind_is_ended(folder: Path) -> None:
    _, rows = compare(folder, fake("leave_behind"), options=("--filter", "no.onnx"))
    assert verdicts(rows) == {("leave_behind", "no"): "unsat"}
    assert gone(int((folder / "pid").read_text()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="units of the peak differ")
def test_the_peak_of_memory(folder: Path) -> None:
    _, rows = compare(folder, fake("big"), fake("right"), options=("--filter", "no.onnx"))
    memory = {row["tool"]: float(row["memory_mb"]) for row in rows}
    assert memory["big"] >= 64
    assert memory["big"] >= memory["right"] > 1


def test_resumes_where_it_stopped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(folder, fake("right"))
    with open(folder / "out.csv", "a") as stream:
        stream.write("one,yes.onnx,p.vnn")  # cut off in the middle of a row
    _, rows = compare(folder, fake("right"), fake("talk", result=False))
    assert [row["tool"] for row in rows] == ["right", "right", "talk", "talk"]
    assert "2 of 4 runs are in" in capsys.readouterr().err


def test_a_missing_tool_is_one_line_and_the_others_go_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = f"absent={folder}/no-such-program {{onnx}} {{vnnlib}}"
    code, rows = compare(folder, fake("right"), absent, "neuralsat", options=("--python", f"neuralsat={folder}/python"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert code == 0
    assert {row["tool"] for row in rows} == {"right"}
    assert [line.split(" is left out")[0] for line in lines] == ["verinn: absent", "verinn: neuralsat"]


def test_verdicts_by_a_pattern(folder: Path) -> None:
    options = ("--verdict", r"talk=Result: (\w+)", "--filter", "no.onnx")
    _, rows = compare(folder, fake("talk", result=False), options=options)
    assert verdicts(rows) == {("talk", "no"): "unsat"}


def test_verinn_itself(folder: Path) -> None:
    code, rows = compare(folder, "verinn", options=("--filter", "yes.onnx"))
    assert code == 0
    assert [(row["verdict"], row["witness"]) for row in rows] == [("sat", "ok")]
    assert rows[0]["version"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tool", "nonsense"], "`nonsense` is not known"),
        (["--tool", "a=true {onnx}"], "is not a command with {onnx} and {vnnlib}"),
        (["--tool", "a=true {onnx} {vnnlib} {speed}"], "is not a command"),
        (["--tool", "a=true {onnx} {vnnlib} '"], "can't be read"),
        (["--tool", "a=true {onnx} {vnnlib", "--tool", "verinn"], "can't be read"),
        (["--tool", "a b=true {onnx} {vnnlib}"], "no name for a tool"),
        (["--tool", "verinn", "--tool", "verinn"], "twice"),
        (["--tool", "a=/no/such/program {onnx} {vnnlib}"], "there is no program"),
        (["--tool", "verinn", "--python", "neuralsat=python"], "none of the tools"),
        (["--tool", "verinn", "--python", "python"], "names no tool"),
        (["--tool", "verinn", "--verdict", "verinn=("], "no regular expression"),
        (["--filter", "nothing-like-it"], "no instance matches"),
        (["--rounds", "0"], "not a number above zero"),
        (["--timeout", "soon"], "soon"),
        (["--grace", "-1"], "-1"),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([str(folder / "suite.csv"), *arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    assert code == 2
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_other_files_are_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = folder / "other.csv"
    other.write_text("precious,data\n1,2\n")
    assert main([str(folder / "suite.csv"), "--tool", fake("right"), "--out", str(other)]) == 2
    assert other.read_text() == "precious,data\n1,2\n"
    assert "not a results file" in capsys.readouterr().err
