"""Time, memory and interrupts end in `unknown`; what was covered is kept; states are only for their own question."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from region_brute import Net

import verinn.region.search as search
from verinn.cli import main
from verinn.errors import InputError
from verinn.options import Options
from verinn.region.decide import Settings, decide
from verinn.region.question import Question, Scale, about_image
from verinn.region.verdict import Kind

torch.set_num_threads(1)
DIGITS = Path(__file__).parents[2] / "benchmarks" / "digits"


def tight(n: int, neurons: int) -> Net:
    """y_0 − y_1 is 1 at its least over [−5, 5]^n: a sum of ReLUs is convex, greatest at a corner."""
    rng = np.random.default_rng(5)
    weight = rng.integers(-4, 5, (n, neurons)) * 1.0
    corners = 5.0 * np.array(list(itertools.product((-1, 1), repeat=n)))
    most = np.maximum(corners @ weight, 0).sum(1).max()
    return Net(((weight, np.zeros(neurons)), (np.array([[0.0, 1]] * neurons), np.array([most + 1, 0]))), ("Relu",))


def hard(n: int = 4, step: Fraction = Fraction(1, 2)) -> Question:
    """A question that is safe by little, so that boxes have to be split."""
    return about_image(tight(n, 8 * n).model(), np.zeros(n), Scale((step,), levels=None), Fraction(5), 0)


def settings(**more: object) -> Settings:
    return Settings(Options(device="cpu"), engine=False, leaf=1, batch=4, **more)  # type: ignore[arg-type]


def test_hard_is_safe_and_takes_steps() -> None:
    report = decide(hard(), settings())
    assert report.kind is Kind.SAFE_ON_GRID and report.statistics["bounded"] > 20


def test_no_time() -> None:
    report = decide(hard(), Settings(Options(device="cpu", deadline=time.monotonic() - 1), engine=False))
    assert report.kind is Kind.UNKNOWN and "time" in report.reason
    assert report.covers[0].done < report.covers[0].total


def test_stopped_midway_says_what_is_covered_and_goes_on(tmp_path: Path) -> None:
    question, state = hard(), tmp_path / "state.json"
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 50

    first = decide(question, settings(stop=stop, state=state, mark="m"))
    assert first.kind is Kind.UNKNOWN and 0 < first.covers[0].done < first.covers[0].total
    second = decide(question, settings(state=state, mark="m"))
    whole = decide(question, settings())
    assert second.kind is whole.kind is Kind.SAFE_ON_GRID
    assert second.covers == whole.covers
    assert second.statistics["bounded"] == whole.statistics["bounded"]
    again = decide(question, settings(state=state, mark="m"))
    assert again.kind is Kind.SAFE_ON_GRID and again.statistics["bounded"] == whole.statistics["bounded"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_no_memory(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real, calls = search.rows, []

    def rows(*arguments: object) -> object:
        calls.append(1)
        if len(calls) > 5:
            raise error
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "rows", rows)
    report = decide(hard(), settings())
    assert report.kind is Kind.UNKNOWN and report.reason == "out of memory"
    assert report.covers[0].done < report.covers[0].total


def test_a_store_that_outgrows_its_room() -> None:
    report = decide(hard(), Settings(Options(device="cpu", memory=512), engine=False, leaf=1, batch=1))
    assert report.kind is Kind.UNKNOWN and "memory limit" in report.reason


def test_a_lost_box_is_no_proof() -> None:
    """A search whose boxes are dropped says how much is covered, and is not proved."""
    question = hard()
    (_, grid), spec = question.grids[0], next(iter(search_specs(question)))
    from verinn.ops.program import Program
    from verinn.region.spaces import Points

    task, judge = search.prepare(Program.prepare(question.problem.graph, torch.float64), spec)
    run = search.Search(task, judge, Points(grid), question.problem.confirm, search.Limits(lambda: False, 1, 1))
    run.waiting = run.waiting.part(slice(0, 0))
    assert not run.run().proved
    with pytest.raises(ValueError, match="add up"):
        run.resume(search.Counts(grid.points, covered=5), run.waiting)


def search_specs(question: Question) -> list[search.Spec]:
    from verinn.search.spec import groups

    return list(groups([question.grids[0][0]]))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"verinn region": 1}', '{"verinn region": 1, "question": "m", "parts": {"0.0": {}}}']
)
def test_broken_states(tmp_path: Path, text: str) -> None:
    state = tmp_path / "state.json"
    state.write_text(text)
    with pytest.raises(InputError, match=r"state\.json"):
        decide(hard(), settings(state=state, mark="m"))


def test_states_of_other_questions(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    decide(hard(), settings(state=state, mark="m"))
    with pytest.raises(InputError, match="another question"):
        decide(hard(), settings(state=state, mark="n"))
    record = json.loads(state.read_text())
    record["parts"]["0.0"]["counts"]["covered"] = "7"
    state.write_text(json.dumps(record))
    with pytest.raises(InputError, match="add up"):
        decide(hard(), settings(state=state, mark="m"))


def image(tmp_path: Path) -> Path:
    from sklearn.datasets import load_digits

    path = tmp_path / "digits.npy"
    np.save(path, load_digits().images[1440:1442] / 16)
    return path


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, pictures = tmp_path / "out.json", tmp_path / "pictures"
    given = [
        "region",
        "grid",
        str(DIGITS / "onnx" / "digits_dense.onnx"),
        "--image",
        str(image(tmp_path)),
        "--index",
        "0",
    ]
    given += ["--step", "1/16", "--json", str(out), "--pictures", str(pictures)]
    assert main([*given, "--radius", "2/16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "unsafe" and any(line.startswith("replayed: a grid point") for line in lines)
    record = json.loads(out.read_text())
    x = np.array(record["witness"]["X"])
    assert record["verdict"] == "unsafe" and (x * 16 == np.rint(x * 16)).all()
    assert {path.name for path in pictures.iterdir()} >= {"original.png", "adversarial.png", "difference.png"}
    assert main([*given, "--radius", "4/16", "--dims", "20,21,28-29"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "safe-on-grid" and any("4 of 64 inputs move" in line for line in lines)


def test_command_on_a_property(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(DIGITS / "onnx" / "digits_conv.onnx"), str(DIGITS / "vnnlib" / "conv_1440_unsat.vnnlib")]
    assert main(["region", "grid", *files, "--step", "1/64"]) == 0
    assert capsys.readouterr().out.startswith("safe-continuous\n")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--image", "missing.npy"], "no such file"),
        ([], "either a property or --image"),
        (["--image", "IMAGE", "--index", "9"], "holds no image 9"),
        (["--image", "IMAGE", "--index", "0", "--step", "1/7"], "not a multiple"),
        (["--image", "IMAGE", "--index", "0", "--step", "1/16", "--label", "12"], "has 10 classes"),
        (["--image", "IMAGE", "--index", "0", "--step", "1/16", "--dims", "80"], "numbered 0 to 63"),
        (["--image", "IMAGE", "--step", "1/16"], "the model takes"),
        (["--image", "IMAGE", "--index", "0", "--step", "1/16,1/8"], "fit no channel axis"),
        (["--image", "IMAGE", "--index", "0", "--step", "0"], "above zero"),
    ],
)  # fmt: skip
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str) -> None:
    path = str(image(tmp_path))
    given = [path if word == "IMAGE" else word for word in given]
    assert main(["region", "grid", str(DIGITS / "onnx" / "digits_dense.onnx"), *given]) == 2
    told = capsys.readouterr()
    assert message in told.err and told.out == "" and told.err.count("\n") == 1


def test_an_interrupted_process_answers_unknown(tmp_path: Path) -> None:
    state, model = tmp_path / "state.json", tmp_path / "hard.onnx"
    model.write_bytes(tight(5, 60).model().SerializeToString())
    np.save(tmp_path / "x.npy", np.zeros(5))
    command = [sys.executable, "-m", "verinn", "region", "grid", str(model), "--image", str(tmp_path / "x.npy"), "-v"]
    command += ["--levels", "none", "--step", "1/64", "--radius", "5", "--label", "0", "--cells", "--state", str(state)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "covered" in line
    assert out.splitlines()[0] in ("unknown", "safe-continuous")
    if out.startswith("unknown"):
        assert state.exists() and "covered: " in out
