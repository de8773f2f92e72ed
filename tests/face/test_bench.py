"""The bench: rows, resuming, truth, crashes. Instances run in processes with the engine's stand-in."""

import csv
import sys
from pathlib import Path

import onnx
import pytest
from face_tools import HERE, ONE
from onnx import TensorProto, helper

from verinn import bench
from verinn.cli import main
from verinn.face.recheck import recheck
from verinn.face.table import faults, summaries
from verinn.io.instances import parse_models, read_instances, read_truth


def write_model(path: Path, factor: float = 2.0) -> None:
    """Y_0 = factor (X_0 + X_1): the stand-in's witness (0.5, 0.5) gives Y_0 = factor."""
    weight = helper.make_tensor("W", TensorProto.FLOAT, [2, 1], [factor, factor])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["Y"])],
        "small",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["batch", 1])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark folder whose models' names tell the stand-in what to do."""
    monkeypatch.setattr(bench, "COMMAND", [sys.executable, str(HERE / "face_fake.py")])
    (tmp_path / "vnnlib").mkdir()
    (tmp_path / "onnx").mkdir()
    (tmp_path / "vnnlib" / "p.vnnlib").write_text(ONE)
    write_model(tmp_path / "onnx" / "sat.onnx")
    rows = [f"onnx/{name}.onnx,vnnlib/p.vnnlib,5" for name in ("sat", "unsat", "unknown")]
    (tmp_path / "instances.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def truth_file(folder: Path, **expected: str) -> str:
    path = folder / "truth.csv"
    lines = [f"onnx/{name}.onnx,vnnlib/p.vnnlib,{word}" for name, word in expected.items()]
    path.write_text("onnx,vnnlib,expected\n" + "\n".join(lines) + "\n")
    return str(path)


def test_rows_and_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out.csv"
    truth = truth_file(folder, sat="sat", unsat="unsat")
    assert main(["bench", str(folder), "--out", str(out), "--truth", truth, "--jobs", "2"]) == 0
    rows = {row["onnx"]: row for row in rows_of(out)}
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "onnx/sat.onnx": "sat", "onnx/unsat.onnx": "unsat", "onnx/unknown.onnx": "unknown",
    }  # fmt: skip
    assert rows["onnx/sat.onnx"]["witness"] == "ok"
    assert rows["onnx/unknown.onnx"]["reason"] == "unknown: too hard"
    printed = capsys.readouterr().out
    assert "truth known for 2 of 3" in printed
    assert "WRONG" not in printed


def test_wrong_against_truth_is_exit_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = truth_file(folder, unsat="sat")
    assert main(["bench", str(folder / "instances.csv"), "--truth", truth, "--filter", "unsat"]) == 1
    assert "WRONG: onnx/unsat.onnx vnnlib/p.vnnlib: unsat, expected sat" in capsys.readouterr().out


def test_a_bad_witness_is_exit_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(folder / "onnx" / "sat.onnx", 0.25)  # Y_0 = 0.25, the property wants 1
    assert main(["bench", str(folder), "--filter", "/sat.onnx"]) == 1
    assert "BAD WITNESS" in capsys.readouterr().out


def test_resumes_where_it_stopped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out.csv"
    assert main(["bench", str(folder), "--out", str(out), "--filter", "unknown"]) == 0
    with open(out, "a") as stream:
        stream.write("set,onnx/unsat.onnx,vnnlib/p.vnn")  # cut off in the middle of a row
    assert main(["bench", str(folder), "--out", str(out)]) == 0
    assert [row["onnx"] for row in rows_of(out)] == [f"onnx/{name}.onnx" for name in ("unknown", "sat", "unsat")]
    assert "1 of 3 are in" in capsys.readouterr().err
    before = out.read_text()
    assert main(["bench", str(folder), "--out", str(out)]) == 0
    assert out.read_text() == before


def test_crashes_are_rows(folder: Path) -> None:
    names = ("crash", "bad", "boom", "hollow")
    (folder / "instances.csv").write_text("".join(f"onnx/{name}.onnx,vnnlib/p.vnnlib,5\n" for name in names))
    out = folder / "out.csv"
    assert main(["bench", str(folder), "--out", str(out), "--jobs", "2"]) == 0
    reasons = {Path(row["onnx"]).stem: (row["verdict"], row["reason"]) for row in rows_of(out)}
    assert {verdict for verdict, _ in reasons.values()} == {"error"}
    assert "SIGABRT" in reasons["crash"][1]
    assert "the file is odd" in reasons["bad"][1]
    assert "ZeroDivisionError" in reasons["boom"][1]
    assert "witness" in reasons["hollow"][1]


def test_the_limit_can_be_set(folder: Path) -> None:
    (folder / "instances.csv").write_text("onnx/sleep.onnx,vnnlib/p.vnnlib,500\n")
    out = folder / "out.csv"
    assert main(["bench", str(folder), "--out", str(out), "--timeout", "1"]) == 0
    (row,) = rows_of(out)
    assert (row["verdict"], float(row["timeout"])) == ("timeout", 1.0)


def test_what_hangs_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "COMMAND", [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(bench, "GRACE", 0.2)
    (instance, *_) = read_instances(folder, 0.5)
    row = bench.run_one(bench.replace(instance, timeout=0.5))
    assert row.verdict == "error"
    assert "killed" in row.reason


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "lists no instance"), ("a.onnx\n", "row 1"), ("a.onnx,b.vnnlib,soon\n", "soon"), ("a,b,-1\n", "-1")],
)
def test_lists_that_are_none(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    assert main(["bench", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_other_refusals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(folder / "nowhere")]) == 2
    assert main(["bench", str(folder), "--filter", "nothing-like-it"]) == 2
    assert main(["bench", str(folder), "--jobs", "0"]) == 2
    assert main(["bench", str(folder), "--truth", str(folder / "instances.csv")]) == 2
    other = folder / "other.csv"
    other.write_text("precious,data\n1,2\n")
    assert main(["bench", str(folder), "--out", str(other)]) == 2
    assert other.read_text() == "precious,data\n1,2\n"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("error") == 5


def test_suites_with_a_header(tmp_path: Path) -> None:
    path = tmp_path / "suite.csv"
    path.write_text(
        "id,set,onnx,vnnlib,timeout,expected\n"
        "0,first,first/onnx/a.onnx,first/p.vnnlib,116,unsat\n1,second,second/b.onnx,q.vnnlib,,\n"
    )
    a, b = read_instances(path)
    assert (a.set, a.timeout, a.expected, a.property_path) == ("first", 116.0, "unsat", tmp_path / "first/p.vnnlib")
    assert (b.set, b.timeout, b.expected) == ("second", 60.0, "")
    assert read_truth(path) == {("first/onnx/a.onnx", "first/p.vnnlib"): "unsat"}


def test_sets_are_named_after_folders(tmp_path: Path) -> None:
    path = tmp_path / "instances.csv"
    path.write_text("onnx/a.onnx,p.vnnlib,1\nacas/onnx/b.onnx,p.vnnlib,1\nc.onnx,p.vnnlib,1\n")
    assert [instance.set for instance in read_instances(tmp_path)] == [tmp_path.name, "acas", tmp_path.name]


def test_several_networks(tmp_path: Path) -> None:
    path = tmp_path / "instances.csv"
    path.write_text("\"[('f', 'a.onnx'), ('g', 'b.onnx')]\",p.vnnlib,1\n")
    (instance,) = read_instances(path)
    assert parse_models(instance.onnx) == {"f": "a.onnx", "g": "b.onnx"}
    assert parse_models(instance.model_argument) == {"f": str(tmp_path / "a.onnx"), "g": str(tmp_path / "b.onnx")}


def test_counts() -> None:
    def row(name: str, verdict: str, seconds: float, witness: str = "") -> bench.Row:
        return bench.Row(name[0], name, "p", 60.0, verdict, seconds, witness)

    rows = [
        row("a1", "sat", 1.0, "ok"), row("a2", "sat", 2.0, "bad: no"), row("a3", "unsat", 3.0),
        row("b1", "timeout", 60.0), row("b2", "error", 0.5), row("b3", "unknown", 0.7),
    ]  # fmt: skip
    truth = {("a1", "p"): "sat", ("a3", "p"): "sat", ("b1", "p"): "unsat"}
    first, second, whole = summaries(rows, truth)
    assert (first.solved, first.sat, first.unsat, first.wrong, first.bad, first.median) == (1, 2, 1, 1, 1, 2.0)
    assert (second.solved, second.timeout, second.error, second.unknown, second.wrong) == (0, 1, 1, 1, 0)
    assert (whole.name, whole.instances, round(whole.total, 1)) == ("all", 6, 67.2)
    assert faults(rows, truth) == 2


def test_recheck_is_strict(folder: Path) -> None:
    model, prop = str(folder / "onnx" / "sat.onnx"), str(folder / "vnnlib" / "p.vnnlib")
    good = "sat\n((X_0 0.5)\n (X_1 0.5)\n (Y_0 7.0))\n"  # printed outputs are ignored
    assert recheck(model, prop, good) == ""
    assert recheck(model, prop, good.replace("X_1 0.5", "X_1 -0.0001")) != ""
    assert recheck(model, prop, good.replace("X_0 0.5", "X_0 1.0000001")) != ""
    assert recheck(model, prop, good.replace("X_0 0.5", "X_0 nan")) != ""
    assert recheck(model, prop, good.replace("0.5", "0.1")) != ""
    assert recheck(model, prop, "unsat\n") != ""
