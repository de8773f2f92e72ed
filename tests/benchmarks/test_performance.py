"""The performance benchmarks run, count what they say, and refuse bad input in one line."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from benchmarks.performance.__main__ import main
from benchmarks.performance.bounds import Size, boxes, layers, networks
from benchmarks.performance.climbing import CASES, SPLITS, Root, climbing
from benchmarks.performance.networks import LAYERS, NETWORKS, Builder
from benchmarks.performance.rows import Row
from benchmarks.performance.search import problems, property_of
from benchmarks.performance.tables import compact
from benchmarks.performance.timing import Settings, measure
from verinn.bounds.domain import relax
from verinn.io.vnnlib import read_query
from verinn.ops.program import Program

QUICK = Settings(dtypes=("float32",), batches=(1, 2), repeats=2, patience=0.5, search_seconds=0.5)


def only(text: str) -> Settings:
    return Settings(**{**vars(QUICK), "filter": text})


@pytest.mark.parametrize("case", [*LAYERS, *NETWORKS], ids=lambda case: case.name)
def test_networks_are_what_they_say(case: object) -> None:
    """Valid models, the same every time, and the graph computes what ONNX Runtime does."""
    model = case.make().model()  # type: ignore[attr-defined]
    onnx.checker.check_model(model, full_check=True)
    assert model == case.make().model()  # type: ignore[attr-defined]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    program = Program.prepare(case.make().graph(), torch.float64)  # type: ignore[attr-defined]
    x, _ = boxes(program, 1, 0.0)
    shape = program.graph.inputs[0].shape
    (expected,) = session.run(None, {"X": x.numpy().reshape(shape).astype(np.float32)})
    assert np.allclose(program.flat(x).numpy().ravel(), expected.ravel(), rtol=1e-3, atol=1e-3)


def test_the_conv_net_has_its_3172_relus() -> None:
    graph = NETWORKS[1].make().graph()
    assert sum(int(np.prod(node.shape)) for node in graph.nodes if node.op == "relu") == 3172


def test_layers_are_measured() -> None:
    rows = list(layers(only("linear 256")))
    assert [(row.operation, row.domains, row.rows) for row in rows] == [
        ("ibp", 1, 0), ("ibp", 2, 0), ("crown", 1, 10), ("crown", 2, 10), ("crown", 1, 1), ("crown", 1, 2),
    ]  # fmt: skip
    assert all(row.repeats >= 1 and 0 < row.fastest <= row.seconds for row in rows)
    crown = rows[3]
    assert crown.bounds_per_second == pytest.approx(20 / crown.seconds)
    assert crown.domains_per_second == pytest.approx(2 / crown.seconds)


def test_what_takes_too_long_is_left_out() -> None:
    settings = Settings(**{**vars(only("max pool")), "patience": 1e-9})
    rows = list(layers(settings))
    assert rows[0].repeats == 1
    assert any(row.note.startswith("left out: about") for row in rows)


def test_what_takes_too_much_memory_is_left_out() -> None:
    settings = Settings(**{**vars(only("tanh")), "memory": 1 << 20})
    assert "left out: too much memory" in {row.note for row in layers(settings) if row.operation == "crown"}


def test_refined_bounds_are_counted() -> None:
    rows = [row for row in networks(only("mlp")) if row.operation == "refined"]
    assert len(rows) == 2
    per_call = [row.bounds_per_second * row.seconds for row in rows]
    assert per_call[0] == pytest.approx(round(per_call[0]), abs=1e-6)
    assert per_call[0] > 10  # more than the rows of the output: some neurons were unstable


def test_climbing_is_measured() -> None:
    rows = list(climbing(only("3172")))
    assert [(row.operation, row.dtype, row.domains) for row in rows] == [
        ("evaluate", "float32", 1), ("evaluate", "float32", 2), ("certify", "float64", 1), ("certify", "float64", 2),
    ]  # fmt: skip
    assert all(row.repeats >= 1 and row.bounds_per_second == pytest.approx(row.domains / row.seconds) for row in rows)
    assert len(CASES) == 3


def test_what_is_climbed_are_bounds_of_real_domains() -> None:
    """Phases are fixed in their intervals; what is certified lies below what is evaluated, by rounding alone."""
    program = Program.prepare(Builder(6).dense(20).relu().dense(20).relu().dense(2).graph(), torch.float64)
    lower, upper = boxes(program, 1, 0.3)
    with torch.no_grad():
        root = Root.of(relax(program, lower, upper), torch.float64, lower, upper)
        rows, multipliers = root.domains(5)
        assert rows.splits.shape == (5, SPLITS)
        end = torch.where(rows.phase > 0, rows.upper.gather(1, rows.splits), rows.lower.gather(1, rows.splits))
        assert not bool(end.any())
        value, proof = root.evaluated(rows, multipliers).value, root.certified(rows, multipliers)[:, 0]
    assert bool((proof <= value).all())
    assert torch.allclose(proof, value, atol=1e-9)


def test_properties_are_open_at_their_centre(tmp_path: Path) -> None:
    for problem in problems(only("digits")):
        path = tmp_path / "p.vnnlib"
        path.write_text(property_of(problem))
        query = read_query(path)
        assert sum(variable.size for variable in query.variables) == 74
        assert property_of(problem) == path.read_text()


def test_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    quick = ["--batch", "2", "1", "--dtype", "float32", "--repeats", "1", "--patience", "0.2", "--seconds", "0.5"]
    assert main([*quick, "--filter", "digits dense", "--out", str(out)]) == 0
    assert main([*quick, "--group", "layers", "--filter", "relu", "--out", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert "layers: crown, bounds a second" in printed
    assert "leaky relu" in printed
    assert "domains a second" in printed
    with open(out, newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["group"], row["case"], row["torch"]) == ("search", "digits dense", torch.__version__)
    assert int(row["domains"]) >= 1
    assert int(row["cores"]) >= 1
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["machine"]["cpu"]
    assert {row["case"] for row in record["rows"]} == {"relu", "leaky relu"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--group", "nothing"], "nothing"),
        (["--batch", "0"], "not a number above zero"),
        (["--filter", "nothing-like-it"], "no case matches"),
        (["--out", "/no/such/folder/x.csv"], "can't be written"),
        (["--dtype", "float16"], "float16"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    assert code == 2
    assert words in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="only without a GPU")
def test_no_gpu_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    rows = list(layers(Settings(**{**vars(only("residual")), "device": "cuda"})))
    assert all(row.repeats for row in rows)


def test_slow_work_is_repeated_less() -> None:
    calls = []
    timing = measure(lambda: calls.append(1), Settings(repeats=7, warm_up=2))
    assert (timing.repeats, len(calls)) == (7, 9)
    assert measure(lambda: 5, Settings(repeats=7, patience=0.0)).repeats == 1


def test_short_numbers() -> None:
    assert [compact(x) for x in (0.5, 12.0, 1234.0, 5.6e6, 7e9)] == ["0.5", "12", "1.23k", "5.6M", "7G"]
    assert (Size(16).cells, Size(16, 10).cells) == (16, 160)
    assert Row("g", "c", "o", "float32", "cpu", 1).repeats == 0
    assert Builder(4).dense(3).inputs == 4
