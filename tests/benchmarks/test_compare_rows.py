"""What follows from the rows of a comparison, and how the words of others are understood."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.compare.rows import Row, contests, summaries
from benchmarks.compare.runner import plan, rotated
from verinn.audit.judge import inputs_of
from verinn.audit.process import Ended
from verinn.audit.tools import KNOWN, Tool
from verinn.audit.verdict import outcome
from verinn.errors import InputError
from verinn.io.instances import Instance
from verinn.io.vnnlib import read_query

QUERY = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(assert (<= X_0 1.0))\n"


def row(tool: str, name: str, verdict: str, seconds: float, **more: object) -> Row:
    values = {"expected": "", "version": "", "round": 1, "cpu_seconds": 0.0, "memory_mb": seconds, **more}
    return Row(
        set=name[0], onnx=name, vnnlib="p", timeout=60.0, tool=tool, verdict=verdict, seconds=seconds,
        **values,  # type: ignore[arg-type]
    )  # fmt: skip


def test_counts() -> None:
    rows = [
        row("x", "a1", "sat", 1.0, witness="ok"), row("y", "a1", "unsat", 0.5),
        row("x", "a2", "unsat", 3.0, expected="unsat"), row("y", "a2", "unsat", 2.0, expected="unsat"),
        row("x", "b1", "timeout", 60.0), row("y", "b1", "sat", 9.0, witness="bad: no"),
    ]  # fmt: skip
    found = {(part.set, part.tool): part for part in summaries(contests(rows))}
    x, y = found["a", "x"], found["a", "y"]
    assert (x.solved, x.wrong, x.fastest, x.seconds, x.memory) == (2, 0, 1, 4.0, 3.0)
    assert (y.solved, y.wrong, y.fastest, y.seconds) == (1, 1, 1, 2.5)
    assert (found["b", "x"].timeout, found["b", "y"].solved, found["b", "y"].bad) == (1, 0, 1)
    assert (found["all", "x"].instances, found["all", "x"].solved, found["all", "y"].fastest) == (3, 2, 1)


def test_the_best_round_counts_but_no_round_may_be_wrong() -> None:
    rows = [
        row("x", "a", "timeout", 60.0), row("x", "a", "unsat", 8.0, round=2), row("x", "a", "unsat", 7.0, round=3),
        row("y", "a", "unsat", 1.0), row("y", "a", "sat", 2.0, round=2, witness="none"),
    ]  # fmt: skip
    (contest,) = contests(rows)
    assert contest.cells["x"].seconds == 7.0
    assert contest.truth == ""
    assert contest.alarms == ["CONTRADICTION: a p: sat by y; unsat by x, y"]
    (known,) = contests([*rows, row("z", "a", "unsat", 3.0, expected="unsat")][::-1])
    assert known.wrong == {"y"}
    assert known.fastest == "z"


def test_turns() -> None:
    tools = [Tool(name, ()) for name in "abc"]
    assert [tool.name for tool in rotated(tools, 4)] == ["b", "c", "a"]
    instances = [Instance(name, "p", 1.0, Path(), "s") for name in ("m", "n")]
    order = [(round_, instance.onnx, tool.name) for round_, instance, tool in plan(instances, tools, 2)]
    firsts = [order[i] for i in range(0, len(order), 3)]
    assert firsts == [(0, "m", "a"), (0, "n", "b"), (1, "m", "b"), (1, "n", "c")]
    assert len(set(order)) == 12


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("unsat\n", "unsat"),
        ("UNSAT,3.25\n", "unsat"),
        ("sat\n((X_0 1)\n", "sat"),
        ("verdict: holds\n", "unsat"),
        ("Result: violated\n", "sat"),
        ("sat\nlater\nunknown\n", "unknown"),
        ("timed out\n", "timeout"),
        ("satisfied with myself\n", "error"),
        ("the verdict is sat\n", "error"),
        ("", "error"),
    ],
)
def test_words_on_stdout(text: str, verdict: str) -> None:
    tool = Tool("t", ("t", "{onnx}", "{vnnlib}"))
    assert outcome(tool, Ended(0, 1.0, 1.0, 1.0, text, ""), "")[0] == verdict


def test_results_files_exit_codes_and_patterns() -> None:
    def said(tool: Tool, code: int | None, out: str, result: str = "") -> str:
        return outcome(tool, Ended(code, 1.0, 1.0, 1.0, out, ""), result)[0]

    writer = Tool("t", ("t", "{onnx}", "{vnnlib}", "{result}"))
    assert said(writer, 1, "unsat\n", "sat\nX float32 [2]\n") == "sat"
    assert said(writer, 0, "unsat\n", "") == "error"  # what is on stdout does not count
    assert said(writer, None, "unsat\n", "unsat\n") == "timeout"
    assert said(writer, -11, "", "unsat\n") == "error"
    assert said(KNOWN["verinn"], 1, "", "unsat\n") == "error"
    assert said(KNOWN["maraboupy"], 0, "Network: a\nunsat 3 4\n") == "unsat"
    assert said(KNOWN["maraboupy"], 0, "sat\nInput assignment:\n\tx0 = 0.5\n") == "sat"
    assert said(Tool("t", ("t",), pattern=re.compile(r"answer=(\w+)")), 0, "answer=sat, answer=unsat") == "unsat"


@pytest.mark.parametrize(
    "text",
    [
        "sat\n((X_0 0.5)\n (X_1 -2.5e-1)\n (Y_0 1.0))\n",
        "sat\n((Y_0 1.0)(X_1 -.25)(X_0 +0.5))",
        "sat\nX float32 [1,2]\n0.5\n-0.25\nY float32 [1]\n3.0\n",
        "sat\nInput assignment:\n\tx0 = 0.500000\n\tx1 = -0.250000\n\nOutput:\n\ty0 = 1.0\n",
    ],
)
def test_witnesses_in_many_forms(text: str, tmp_path: Path) -> None:
    path = tmp_path / "q.vnnlib"
    path.write_text(QUERY)
    values = inputs_of(read_query(path), text)
    assert values is not None
    assert np.array_equal(values["X"], [0.5, -0.25])


def test_witnesses_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "q.vnnlib"
    path.write_text(QUERY)
    query = read_query(path)
    assert inputs_of(query, "sat\n") is None
    for text in ("sat\n((X_0 0.5))\n", "sat\nX float32 [1]\n0.5\n", "sat\n((Y_0 0.5))\n"):
        with pytest.raises(InputError, match="expected 2"):
            inputs_of(query, text)


def test_command_lines(tmp_path: Path) -> None:
    instance = Instance("m.onnx", "p.vnnlib", 1.5, tmp_path, "s")
    tool = Tool("t", ("t", "-n={onnx}", "{vnnlib}", "{timeout}", "{seconds}", "{result}"))
    command = tool.command(instance, tmp_path / "r")
    assert command == ["t", f"-n={tmp_path}/m.onnx", f"{tmp_path}/p.vnnlib", "1.5", "2", f"{tmp_path}/r"]
    several = Instance("[('f', 'a.onnx')]", "p.vnnlib", 1.0, tmp_path, "s")
    with pytest.raises(InputError, match="one network"):
        KNOWN["neuralsat"].command(several, tmp_path / "r")
