"""The suite's records: written, read back, and the relations between instances."""

import csv
from pathlib import Path

import pytest

from verinn.audit.instance import Instance, Relation, Suite, Truth, load_suite, save_suite
from verinn.errors import InputError
from verinn.io.instances import read_instances, read_truth

INSTANCES = (
    Instance("a", "onnx/a.onnx", "vnnlib/a.vnnlib", 60.0, "planted", ("Gemm", "Relu"), 0.25, 1e-7, 1.0, quick=True),
    Instance("b", "[('f', 'onnx/f.onnx'), ('g', 'onnx/g.onnx')]", "vnnlib/b.vnnlib", 100.0, "shapes", version="2.0"),
)
TRUTHS = (
    Truth("a", "sat", "checked", witness={"X": ("0x1.8p-3",)}, exact={"Y": ("1/3..2/3",)}, attacks=({"steps": 9},)),
    Truth("b", None, "nobody knows"),
)
RELATIONS = (Relation("shrink", "implies", ("a", "b")),)


def saved(folder: Path) -> Suite:
    save_suite(folder, INSTANCES, RELATIONS, TRUTHS)
    return load_suite(folder)


def test_a_suite_comes_back_as_it_was_written(tmp_path: Path) -> None:
    suite = saved(tmp_path)
    assert suite.instances == INSTANCES
    assert suite.relations == RELATIONS
    assert suite.truths == {truth.id: truth for truth in TRUTHS}


def test_its_lists_are_those_of_bench(tmp_path: Path) -> None:
    saved(tmp_path)
    assert [row.key for row in read_instances(tmp_path)] == [row.key for row in INSTANCES]
    assert read_truth(tmp_path / "truth" / "truth.csv") == {INSTANCES[0].key: "sat"}
    with open(tmp_path / "instances.csv", newline="") as stream:
        assert [len(row) for row in csv.reader(stream)] == [3, 3]


def test_the_manifest_tells_no_truth(tmp_path: Path) -> None:
    saved(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    assert "sat" not in text
    assert "0x1.8p-3" not in text


def test_a_broken_manifest_is_one_line(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "manifest.json").write_text('{"instances": [{"id": "a", "label": "sat"}]}')
    with pytest.raises(InputError, match="holds no Instance"):
        load_suite(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        load_suite(tmp_path)


@pytest.mark.parametrize(
    ("kind", "verdicts", "broken"),
    [
        ("same", "sat sat", False),
        ("same", "sat unsat", True),
        ("same", "sat unknown", False),
        ("implies", "unsat sat", True),
        ("implies", "sat unsat", False),
        ("implies", "timeout sat", False),
        ("split", "unsat unsat sat", True),
        ("split", "sat unsat unsat", True),
        ("split", "sat unsat sat", False),
        ("split", "sat unsat unknown", False),
    ],
)
def test_relations(kind: str, verdicts: str, broken: bool) -> None:
    told = dict(zip("abc", verdicts.split(), strict=False))
    assert (Relation("r", kind, tuple(told)).broken(told) is not None) == broken
