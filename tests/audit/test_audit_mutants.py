"""Mutants: that they are really active, and that a suite made by the generators catches them."""

import json
from pathlib import Path

import numpy as np
import pytest

from verinn.audit.case import Case, files, finished
from verinn.audit.instance import load_suite, save_suite
from verinn.audit.mutants.catalogue import MUTANTS
from verinn.audit.mutants.hunt import HEALTHY, Bounds, hunt
from verinn.audit.mutants.patch import Patch
from verinn.audit.numeric import rounding
from verinn.audit.query import Query, Tensor, box, linear, text
from verinn.audit.sketch import Sketch, packed
from verinn.cli import main
from verinn.face.audit_mutants import killers
from verinn.search import run

#: fast ones of several rooms; all of them run under ``slow``
SLICE = ("tolerance", "threshold", "shrunk-box", "weight-errors")


def write(cases: list[Case], folder: Path) -> Path:
    """A suite of some cases."""
    for name in ("onnx", "vnnlib"):
        (folder / name).mkdir(parents=True)
    instances, truths = [], []
    for number, case in enumerate(cases):
        instance, truth = finished(case, f"case{number}-{case.key}", 0)
        for path, model in files(case, instance.id)[1].items():
            (folder / path).write_bytes(packed(model))
        (folder / instance.vnnlib).write_text(text(case.query))
        instances.append(instance)
        truths.append(truth)
    save_suite(folder, instances, [], truths)
    return folder


def doubled() -> Case:
    """y = 2 (x0 + x1) through alpha of Gemm: at least 3 somewhere in the unit box, but not without alpha."""
    sketch = Sketch()
    weight = sketch.weight([[1.0], [1.0]])
    sketch.output(sketch.node("Gemm", sketch.input([1, 2]), weight, sketch.weight([0.0]), alpha=2.0), [1, 1])
    tensors = (Tensor("x", (1, 2), False), Tensor("y", (1, 1), True))
    asked = (*box("x", [0, 0], [1, 1]), linear({("y", 0): 1}, ">=", 3))
    point = {"x": np.ones(2, np.float32)}
    return Case(
        "gemm", {"f": sketch.model()}, Query(tensors, asked), "sat", "plain", "alpha", point, sketch.operators()
    )


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write([*rounding([3], 1), doubled()], tmp_path_factory.mktemp("mutants") / "suite")


def test_exact_arithmetic_and_a_float32_execution_agree_on_every_rounding_case(suite: Path) -> None:
    truths = load_suite(suite).truths.values()
    assert {truth.label for truth in truths} == {"sat", "unsat"}
    assert all(truth.agree for truth in truths)
    assert all(truth.runtime_label in ("sat", None) for truth in truths if truth.label == "sat")


def test_the_catalogue() -> None:
    assert len(MUTANTS) >= 25
    assert {mutant.room for mutant in MUTANTS.values()} == {"bounds", "search", "exact", "property", "replay", "reader"}
    assert len({mutant.fault for mutant in MUTANTS.values()}) == len(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_can_be_put_in_and_taken_out(name: str) -> None:
    """What it patches is there: code that moved is noticed here."""
    with Patch() as patch:
        MUTANTS[name].apply(patch)
        changed = [(owner, key, original) for owner, key, original in patch._undo]
        assert changed
        assert all(vars(owner).get(key) is not original for owner, key, original in changed if key in vars(owner))
    assert all(vars(owner)[key] is original for owner, key, original in changed if key in vars(owner))


def test_patches_reach_every_importer_and_count_calls() -> None:
    from verinn.bounds import crown, interval
    from verinn.bounds import rounding as source

    original = source.gamma
    with Patch() as patch:
        patch.function(source, "gamma", lambda before: lambda terms, dtype: 0.0)
        assert crown.gamma is interval.gamma is source.gamma is not original
        assert (crown.gamma(3, None), patch.calls) == (0.0, 1)
    assert crown.gamma is interval.gamma is source.gamma is original


def test_what_is_gone_is_no_silent_mutant() -> None:
    with Patch() as patch, pytest.raises(AttributeError):
        patch.method(run.Run, "no_such_method", lambda before: before)


@pytest.mark.parametrize("name", SLICE)
def test_mutants_are_caught(name: str, suite: Path) -> None:
    loaded = load_suite(suite)
    small = [instance for instance in loaded.instances if "corner-2" in instance.id or "merged" in instance.id]
    catch = hunt(loaded, small, MUTANTS[name], Bounds(timeout=10.0, patience=100.0))
    assert (catch.how, catch.family) == ("unsound", "rounding"), catch
    assert catch.calls > 0


def test_the_guard_at_load_is_off_for_faults_of_the_reader(suite: Path) -> None:
    loaded = load_suite(suite)
    mine = [instance for instance in loaded.instances if instance.family == "gemm"]
    catch = hunt(loaded, mine, MUTANTS["gemm-alpha"], Bounds(timeout=10.0, patience=100.0))
    assert (catch.how, catch.family) == ("unsound", "gemm"), catch


def test_without_a_fault_and_without_luck_nothing_wrong_is_said(suite: Path) -> None:
    loaded = load_suite(suite)
    small = [instance for instance in loaded.instances if "corner-2" in instance.id]
    catch = hunt(loaded, small, HEALTHY, Bounds(timeout=2.0, patience=60.0))
    assert not catch.killed
    assert (catch.tried, catch.errors) == (1, 0)


def test_the_command(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    arguments = ["--mutant", "threshold", "--filter", "corner-2", "--timeout", "10", "--out", str(out)]
    assert main(["audit", "mutants", str(suite), *arguments]) == 0
    assert "1 of 1 mutants killed" in capsys.readouterr().out
    (record,) = json.loads(out.read_text())
    assert (record["mutant"], record["how"]) == ("threshold", "unsound")
    assert main(["audit", "mutants", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(MUTANTS)
    assert main(["audit", "mutants", str(suite), "--mutant", "no-such"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1


def test_a_survivor_is_told(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--mutant", "max-pool", "--filter", "corner-2", "--timeout", "1"]
    assert main(["audit", "mutants", str(suite), *arguments]) == 1
    assert "SURVIVED: max-pool" in capsys.readouterr().out


COMMITTED = Path(__file__).resolve().parents[2] / "soundness"


#: one of each room or family that shows it within a second or two
COMMITTED_SLICE = ("midpoint-tangent", "output-padding", "beta-sign", "input-rows", "outside-box")


def table() -> dict[str, str]:
    """The committed table: what caught each mutant."""
    if not (COMMITTED / "mutants.json").exists():
        pytest.skip("there is no committed suite")
    return killers(str(COMMITTED / "mutants.json"))


def test_the_committed_table_covers_the_catalogue() -> None:
    told, loaded = table(), load_suite(COMMITTED)
    assert list(told) == list(MUTANTS)
    families = {instance.id: instance.family for instance in loaded.instances}
    page = (COMMITTED / "MUTANTS.md").read_text(encoding="utf-8")
    for name, killer in told.items():
        assert f"| {name} | {MUTANTS[name].room} | {MUTANTS[name].fault} | {families[killer]} | {killer} |" in page


@pytest.mark.parametrize("name", COMMITTED_SLICE)
def test_what_the_table_says_is_so(name: str) -> None:
    loaded, killer = load_suite(COMMITTED), table()[name]
    mine = [instance for instance in loaded.instances if instance.id == killer]
    assert hunt(loaded, mine, MUTANTS[name], Bounds(timeout=10.0, patience=100.0)).killed


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_committed_suite_catches(name: str) -> None:
    told, loaded = table(), load_suite(COMMITTED)
    catch = hunt(loaded, loaded.instances, MUTANTS[name], Bounds(timeout=6.0, patience=240.0), told[name])
    assert catch.killed, catch
